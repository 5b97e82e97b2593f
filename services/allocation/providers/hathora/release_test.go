package hathora_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/providers/hathora"
	"github.com/berth-dev/berth/services/allocation/providers/internal/hostapi"
	hathorahost "github.com/berth-dev/berth/test/hosts/hathora"
	"github.com/berth-dev/berth/test/hosts/standin"
)

// match starts a server, and returns its attempt and document.
func match(t *testing.T, p *hathora.Provider) (attempt, document string) {
	t.Helper()
	req := order("shooter", "eu")
	if _, err := p.Allocate(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	return req.GetAttemptId(), string(req.GetBootstrap())
}

func tryRelease(t *testing.T, p *hathora.Provider, attempt string) error {
	t.Helper()
	resp, err := p.Release(t.Context(), &providerv1.ReleaseRequest{AttemptId: attempt, Deployment: "live"})
	if err == nil && resp.GetState() != providerv1.ServerState_SERVER_STATE_EXITED {
		t.Errorf("Release: %v", resp)
	}
	return err
}

func release(t *testing.T, p *hathora.Provider, attempt string) {
	t.Helper()
	if err := tryRelease(t, p, attempt); err != nil {
		t.Fatal(err)
	}
}

// destroy has a game server destroy its own room.
func destroy(t *testing.T, cfg hathora.Config, attempt string) {
	t.Helper()
	r, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, cfg.URL+"/rooms/v2/"+app+"/destroy/live-"+attempt, nil)
	r.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent {
		t.Fatal(resp.Status)
	}
}

// runs waits until that many servers run.
func runs(t *testing.T, host *standin.Host, want int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for host.Count().Running != want {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("want %d servers running: %+v", want, host.Count())
		}
	}
}

// lives fails the test unless the attempt's server starts or runs.
func lives(t *testing.T, p *hathora.Provider, attempt string) {
	t.Helper()
	resp, err := p.Get(t.Context(), &providerv1.GetRequest{AttemptId: attempt, Deployment: "live"})
	if state := resp.GetServer().GetState(); err != nil || state != providerv1.ServerState_SERVER_STATE_STARTING && state != providerv1.ServerState_SERVER_STATE_RUNNING {
		t.Errorf("Get of a server that nobody released: %v, %v", resp, err)
	}
}

// A match that hangs would be there for the next room: its release ends its process, and the next match has one of its own.
func TestAMatchThatHangsDoesNotGetTheNextOne(t *testing.T) {
	host, cfg := start(t)
	p := open(t, cfg)
	first, _ := match(t, p)
	release(t, p, first)
	second, document := match(t, p)
	if got, err := host.Bootstrap(t.Context(), second); err != nil || string(got) != document {
		t.Errorf("the next match's server got %q, %v", got, err)
	}
	runs(t, host, 1)
	release(t, p, first) // once more, as after an answer that was lost
	lives(t, p, second)
	release(t, p, second)
	runs(t, host, 0)
}

// A room that its own server has destroyed has left its process, and another match may be there: it is left alone.
func TestAReleaseLeavesTheNextRoomAlone(t *testing.T) {
	host, cfg := start(t)
	p := open(t, cfg)
	first, _ := match(t, p)
	destroy(t, cfg, first)
	second, _ := match(t, p)
	if c := host.Count(); c.Started != 1 || c.Running != 1 {
		t.Fatalf("the host has not kept the process: %+v", c)
	}
	release(t, p, first)
	lives(t, p, second)
	release(t, p, second)
	runs(t, host, 0)
}

// A process that has room for several is not stopped for one of them.
func TestAReleaseLeavesSharedProcessesAlone(t *testing.T) {
	host := hathorahost.New(hathorahost.Config{Token: token, Deployments: map[string][]string{app: {"dep-1"}}, RoomsPerProcess: 2})
	p := open(t, hathora.Config{
		URL: standin.Serve(t, host, host), TokenFile: hostapi.SecretFile(standin.SecretFile(t, token)),
		Builds: map[string]hathora.Build{"shooter": {App: app, Deployment: "dep-1"}}, Regions: map[string]string{"eu": "Frankfurt"},
	})
	first, _ := match(t, p)
	second, _ := match(t, p)
	release(t, p, first)
	lives(t, p, second)
	if got := listed(t, p, "live"); len(got) != 1 || got[0] != second {
		t.Errorf("List: %q", got)
	}
}

// While its process cannot be stopped, a room is not destroyed: nobody would know any more which process it was on.
func TestAReleaseStopsTheProcessFirst(t *testing.T) {
	for name, says := range map[string]said{
		"broken": {500, `{"message": "Internal"}`}, "a page": {200, "<html>login</html>"}, "a page that is not there": {404, "<html>no backend</html>"},
	} {
		for _, call := range []string{"/stop", "/processes/"} {
			host, cfg := start(t)
			var broken atomic.Bool
			front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if broken.Load() && strings.Contains(r.URL.Path, call) {
					w.WriteHeader(says.status)
					_, _ = w.Write([]byte(says.body))
					return
				}
				host.ServeHTTP(w, r)
			}))
			cfg.URL = front.URL
			p := open(t, cfg)
			attempt, _ := match(t, p)
			broken.Store(true)
			if err := tryRelease(t, p, attempt); err == nil {
				t.Errorf("%s for %s: it is said to be released", name, call)
			}
			lives(t, p, attempt)
			broken.Store(false)
			release(t, p, attempt)
			runs(t, host, 0)
			front.Close()
		}
	}
}

// A process that a room has left is not stopped for it, whatever the host still says about where it was.
func TestAReleaseOfARoomThatHasLeftItsProcess(t *testing.T) {
	for _, left := range []string{
		`"status": "destroyed", "currentAllocation": {"processId": "p1", "unscheduledAt": null}`,
		`"status": "active", "currentAllocation": {"processId": "p1", "unscheduledAt": "2026-01-02T03:04:05Z"}`,
	} {
		host, cfg := start(t)
		p, attempt := open(t, cfg), order("shooter", "eu").GetAttemptId()
		answer(host, map[string]said{ // it could not be stopped, either
			"info": {200, `{"roomId": "live-` + attempt + `", ` + left + `}`}, "p1": {500, `{"message": "Internal"}`}, "destroy": {204, ""},
		})
		release(t, p, attempt)
	}
}

// A room that waits for a process has none that could be looked for, and is destroyed; so is one whose process is gone.
func TestAReleaseOfARoomWithoutAProcess(t *testing.T) {
	for name, c := range map[string]struct {
		allocation string
		process    said
	}{
		"it waits": {"null", said{500, `{"message": "Internal"}`}}, "it is gone": {`{"processId": "p1"}`, said{404, `{"message": "Process not found"}`}},
	} {
		host, cfg := start(t)
		p, attempt := open(t, cfg), order("shooter", "eu").GetAttemptId()
		answers := map[string]said{
			"info":    {200, `{"roomId": "live-` + attempt + `", "status": "scheduling", "currentAllocation": ` + c.allocation + `}`},
			"destroy": {500, `{"message": "later"}`}, "processes": c.process,
		}
		answer(host, answers)
		if err := tryRelease(t, p, attempt); provider.ReasonOf(err) != provider.Ambiguous {
			t.Errorf("%s, and cannot be destroyed: %v", name, err)
		}
		answers["destroy"] = said{204, ""}
		answer(host, answers)
		if err := tryRelease(t, p, attempt); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
