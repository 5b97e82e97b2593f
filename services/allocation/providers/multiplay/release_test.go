package multiplay_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/services/allocation/providers/multiplay"
	multiplayhost "github.com/berth-dev/berth/test/hosts/multiplay"
	"github.com/berth-dev/berth/test/hosts/standin"
)

// A match that hangs is still on its server after its release. The next match there has a process of its own all the same, and its own document.
func TestAMatchThatHangsDoesNotGetTheNextOne(t *testing.T) {
	for _, dialect := range []string{multiplay.RocketScience, multiplay.Unity} {
		host, cfg := start(t, dialect)
		host.Resize(1)
		p, first, second := open(t, cfg), order(), order()
		allocate(t, p, first)
		becomes(t, p, first, running)
		release(t, p, first)
		if c := host.Count(); c.Running != 1 {
			t.Fatalf("%s: the host has ended what was released: %+v", dialect, c)
		}
		allocate(t, p, second)
		becomes(t, p, second, running)
		document, err := host.Bootstrap(t.Context(), second.GetAttemptId())
		if err != nil || string(document) != string(second.GetBootstrap()) {
			t.Errorf("%s: the next match's server got %q, %v", dialect, document, err)
		}
		until(t, func() bool { return host.Count().Running == 1 }) // and the first one's is gone
	}
}

// A repeat does not restart the server of a match that is under way.
func TestARepeatRestartsNothing(t *testing.T) {
	host, cfg := start(t, multiplay.RocketScience)
	p, req := open(t, cfg), order()
	allocate(t, p, req)
	becomes(t, p, req, running)
	allocate(t, open(t, cfg), req)
	if n, err := host.Started(t.Context(), req.GetAttemptId()); n != 1 || err != nil {
		t.Errorf("%d servers were started, %v", n, err)
	}
}

// What the host has queued is not done: until it says that the allocation is gone, that is stopping and known.
func TestAReleaseThatIsQueued(t *testing.T) {
	_, cfg := start(t, multiplay.RocketScience)
	p, req := open(t, cfg), order()
	allocate(t, p, req)
	becomes(t, p, req, running)
	if state := tryRelease(t, p, req); state != stopping {
		t.Fatalf("Release: %v", state)
	}
	resp, err := p.List(t.Context(), &providerv1.ListRequest{Deployment: "berth"})
	if got := resp.GetServers(); err != nil || len(got) != 1 || got[0].GetState() != stopping {
		t.Errorf("List: %v, %v", got, err)
	}
	release(t, p, req)
	if got := list(t, p); len(got) != 0 || p.Known() != 0 {
		t.Errorf("List after the release: %q; %d are known", got, p.Known())
	}
	if state := tryRelease(t, p, req); state != exited {
		t.Errorf("Release of what is gone: %v", state)
	}
}

// A host that takes an order to end what is gone by now ends the release all the same.
func TestAReleaseOfWhatIsGoneThatIsTaken(t *testing.T) {
	host, cfg := startBehind(t, multiplay.RocketScience, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodDelete {
				next.ServeHTTP(httptest.NewRecorder(), r)
				w.WriteHeader(http.StatusNoContent)
				return
			}
			next.ServeHTTP(w, r)
		})
	})
	p, req := open(t, cfg), order()
	allocate(t, p, req)
	becomes(t, p, req, running)
	release(t, p, req)
	if n := host.Allocated(); n != 0 || p.Known() != 0 {
		t.Errorf("%d allocations with servers; %d are known", n, p.Known())
	}
}

// A repeat asks the host again, for what it has queued may come to nothing.
func TestAReleaseThatComesToNothing(t *testing.T) {
	host, cfg := start(t, multiplay.RocketScience)
	host.LoseDeallocations(2)
	p, req := open(t, cfg), order()
	allocate(t, p, req)
	tryRelease(t, p, req)
	for range 3 {
		if s := get(t, p, req); s.GetState() != stopping {
			t.Errorf("Get: %v", s)
		}
	}
	if host.Allocated() != 1 {
		t.Fatal("the host has ended the allocation")
	}
	release(t, p, req)
	if n := host.Allocated(); n != 0 {
		t.Errorf("%d allocations have servers", n)
	}
}

// While a released server that waited in vain for room is ending, nobody is told that it was refused.
func TestAReleaseOfWhatWasGivenUp(t *testing.T) {
	host, cfg := start(t, multiplay.RocketScience)
	host.Resize(1)
	allocate(t, open(t, cfg), order())
	cfg.GiveUpAfter = 1
	p, req := open(t, cfg), order()
	allocate(t, p, req)
	tryRelease(t, p, req)
	if s := get(t, p, req); s.GetState() != stopping || s.GetFailure() != 0 {
		t.Errorf("Get: %v", s)
	}
}

// The stand-in is a host that leaves processes alone: one that exits ends its allocation, and one that does not has all that come after, unless they want another.
func TestStandInLeavesProcessesAlone(t *testing.T) {
	exit := make(chan struct{})
	host := multiplayhost.New(multiplayhost.Config{
		Dialect: multiplay.RocketScience, APIKey: key, Project: project, Environment: environment, Slots: 1, Regions: []string{europe},
		Fleets: map[string]map[int64]multiplayhost.Readiness{fleet: {build: false}},
		Run: func(ctx context.Context, _ []byte) {
			select {
			case <-ctx.Done():
			case <-exit:
			}
		},
	})
	url := standin.Serve(t, host, host) + "/v4/projects/" + project + "/environments/" + environment + "/fleets/" + fleet + "/allocations"
	call := func(method, path, body string) {
		t.Helper()
		r, _ := http.NewRequestWithContext(t.Context(), method, url+path, strings.NewReader(body))
		r.Header.Set("Authorization", "Bearer "+key)
		r.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
	}
	defer http.DefaultClient.CloseIdleConnections()
	allocate := func(id, name string) {
		t.Helper()
		call(http.MethodPost, "", `{"allocationId":"`+id+`","buildConfigurationId":2000012,"regionId":"`+europe+`","payload":"{\"server\":\"`+name+`\"}"}`)
	}
	allocate(keyID, "first")
	if n, _ := host.Started(t.Context(), "first"); n != 1 {
		t.Fatalf("%d servers were started for the first", n)
	}
	for host.Allocated() == 1 {
		call(http.MethodDelete, "/"+keyID, "")
	}
	allocate(secret, "second")
	if n, _ := host.Started(t.Context(), "second"); n != 0 || host.Count().Running != 1 || host.Allocated() != 1 {
		t.Errorf("%d servers were started for the second, %+v", n, host.Count())
	}
	close(exit)
	until(t, func() bool { return host.Allocated() == 0 })
}
