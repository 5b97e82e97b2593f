package hathora_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/providers/hathora"
	"github.com/berth-dev/berth/test/hosts/standin"
)

// said is an answer of the host.
type said struct {
	status int
	body   string
}

// answer answers each kind of call, which the path names, with that; others are not found.
func answer(host *standin.Host, by map[string]said) {
	host.Answer(func(w http.ResponseWriter, r *http.Request) {
		for kind, s := range by {
			if strings.Contains(r.URL.Path, "/"+kind) {
				w.WriteHeader(s.status)
				_, _ = io.WriteString(w, s.body)
				return
			}
		}
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, `{"message": "not found"}`)
	})
}

// What is at the host under a name that is taken decides.
func TestANameThatIsTaken(t *testing.T) {
	taken := said{400, `{"message": "Room id is already in use"}`}
	for name, c := range map[string]struct {
		info, connection string
		status           int
		want             providerv1.FailureReason
		state            providerv1.ServerState
	}{
		"by no room":              {info: `{"message": "Room not found"}`, status: 404, want: provider.Invalid},
		"and the host is away":    {info: `<html>away</html>`, status: 503, want: provider.Ambiguous},
		"and something else says": {info: `<html>no backend</html>`, status: 404, want: provider.Ambiguous},
		"by one that is over":     {info: `{"roomId": "ID", "status": "destroyed"}`, status: 200, want: provider.Invalid},
		"by one that waits":       {info: `{"roomId": "ID", "status": "scheduling"}`, status: 200, state: providerv1.ServerState_SERVER_STATE_STARTING},
		"by one that runs": {
			info: `{"roomId": "ID", "status": "active"}`, connection: `{"roomId": "ID", "status": "active"}`, status: 200, state: providerv1.ServerState_SERVER_STATE_RUNNING,
		},
	} {
		t.Run(name, func(t *testing.T) {
			host, cfg := start(t)
			p, req := open(t, cfg), order("shooter", "eu")
			id := "live-" + req.GetAttemptId()
			answer(host, map[string]said{
				"create": taken, "info": {c.status, strings.ReplaceAll(c.info, "ID", id)}, "connectioninfo": {200, strings.ReplaceAll(c.connection, "ID", id)},
			})
			resp, err := p.Allocate(t.Context(), req)
			if c.state != 0 && (err != nil || resp.GetServer().GetState() != c.state || resp.GetServer().GetRegion() != "eu") {
				t.Errorf("got %v, %v", resp, err)
			}
			if c.state == 0 && (provider.ReasonOf(err) != c.want || !strings.Contains(err.Error(), "already in use")) {
				t.Errorf("got %v, %v; want %v", resp, err, c.want)
			}
		})
	}
}

func TestGet(t *testing.T) {
	for name, c := range map[string]struct {
		info, connection said
		state            providerv1.ServerState
		want             providerv1.FailureReason
	}{
		"waits":               {info: said{200, `{"roomId": "ID", "status": "scheduling"}`}, state: providerv1.ServerState_SERVER_STATE_STARTING},
		"starts":              {said{200, `{"roomId": "ID", "status": "active"}`}, said{200, `{"roomId": "ID", "status": "starting"}`}, providerv1.ServerState_SERVER_STATE_STARTING, 0},
		"ended meanwhile":     {said{200, `{"roomId": "ID", "status": "active"}`}, said{404, `{"message": "Room not found"}`}, providerv1.ServerState_SERVER_STATE_EXITED, 0},
		"away meanwhile":      {said{200, `{"roomId": "ID", "status": "active"}`}, said{404, `<html>no backend</html>`}, 0, provider.Unavailable},
		"another's address":   {said{200, `{"roomId": "ID", "status": "active"}`}, said{200, `{"roomId": "other", "status": "active"}`}, 0, provider.Unavailable},
		"another room":        {info: said{200, `{"roomId": "other", "status": "active"}`}, want: provider.Unavailable},
		"a state of no room":  {info: said{200, `{"roomId": "ID", "status": "dancing"}`}, want: provider.Unavailable},
		"over":                {info: said{200, `{"roomId": "ID", "status": "destroyed"}`}, state: providerv1.ServerState_SERVER_STATE_EXITED},
		"not there":           {info: said{404, `{"message": "Room not found"}`}, want: provider.NotFound},
		"nothing of the host": {info: said{404, `<html>no backend</html>`}, want: provider.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			host, cfg := start(t)
			attempt := order("shooter", "eu").GetAttemptId()
			own := func(s said) said { return said{s.status, strings.ReplaceAll(s.body, "ID", "live-"+attempt)} }
			answer(host, map[string]said{"info": own(c.info), "connectioninfo": own(c.connection)})
			resp, err := open(t, cfg).Get(t.Context(), &providerv1.GetRequest{AttemptId: attempt, Deployment: "live"})
			if got := provider.ReasonOf(err); resp.GetServer().GetState() != c.state || err != nil && got != c.want || (err == nil) != (c.want == 0) {
				t.Errorf("got %v, %v; want %v, %v", resp, err, c.state, c.want)
			}
		})
	}
}

// A page of something on the way says nothing of a room.
func TestReleaseNeedsTheHostsWord(t *testing.T) {
	for _, s := range []said{{200, "<html>login</html>"}, {404, "<html>no backend</html>"}, {200, `{"message": "later"}`}} {
		host, cfg := start(t)
		answer(host, map[string]said{"destroy": s})
		if resp, err := open(t, cfg).Release(t.Context(), &providerv1.ReleaseRequest{AttemptId: order("shooter", "eu").GetAttemptId(), Deployment: "live"}); err == nil {
			t.Errorf("%v: %v", s, resp)
		}
	}
}

// listed returns the attempts of the whole list of a deployment. One that does not end fails the test.
func listed(t *testing.T, p *hathora.Provider, deployment string) []string {
	t.Helper()
	var found []string
	token := ""
	for range 20 {
		resp, err := p.List(t.Context(), &providerv1.ListRequest{Deployment: deployment, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range resp.GetServers() {
			found = append(found, s.GetAttemptId())
		}
		if token = resp.GetNextPageToken(); token == "" {
			slices.Sort(found)
			return found
		}
	}
	t.Fatalf("the list does not end; its next page is %q", token)
	return nil
}

// allocated starts servers, and returns their attempts.
func allocated(t *testing.T, p *hathora.Provider, build string, n int) []string {
	t.Helper()
	var all []string
	for range n {
		req := order(build, "eu")
		if _, err := p.Allocate(t.Context(), req); err != nil {
			t.Fatal(err)
		}
		all = append(all, req.GetAttemptId())
	}
	slices.Sort(all)
	return all
}

// Wherever a page ends, each server is in the list once: also where it ends between two processes of one millisecond.
func TestListHasEachOnce(t *testing.T) {
	for n := range 7 {
		_, cfg := start(t)
		p := open(t, cfg)
		if want, got := allocated(t, p, "racer", n), listed(t, p, "live"); !slices.Equal(got, want) {
			t.Errorf("got %q; want %q", got, want)
		}
	}
}

// A list goes on past processes that are gone, and past an application that is: servers of others would never be reaped.
func TestListGoesOn(t *testing.T) {
	for name, gone := range map[string]func(r *http.Request) bool{
		"processes without rooms": func(r *http.Request) bool { return strings.Contains(r.URL.Path, other+"/list/") },
		"no application":          func(r *http.Request) bool { return strings.Contains(r.URL.Path, other) },
	} {
		t.Run(name, func(t *testing.T) {
			host, cfg := start(t)
			front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodGet && gone(r) {
					w.WriteHeader(http.StatusNotFound)
					_, _ = io.WriteString(w, `{"message": "not found"}`)
					return
				}
				host.ServeHTTP(w, r)
			}))
			defer front.Close()
			cfg.URL = front.URL
			p := open(t, cfg)
			allocated(t, p, "racer", 5)
			if want, got := allocated(t, p, "shooter", 1), listed(t, p, "live"); !slices.Equal(got, want) {
				t.Errorf("got %q; want %q", got, want)
			}
		})
	}
}

// Whatever the host makes of before, a list comes to an end, with nothing twice and without what is over.
func TestListEnds(t *testing.T) {
	const at = `"createdAt": "2026-01-02T03:04:05.006Z"`
	for name, c := range map[string]struct {
		processes string
		want      int
	}{
		"always the same page":     {`[{"processId": "p1", ` + at + `}, {"processId": "p2", "createdAt": "2026-01-02T03:04:04Z"}]`, 2},
		"always one millisecond":   {`[{"processId": "p1", ` + at + `}, {"processId": "p2", ` + at + `}]`, 2},
		"the oldest process first": {`[{"processId": "p1", "createdAt": "2026-01-02T03:04:04Z"}, {"processId": "p2", ` + at + `}]`, 2},
		"one process":              {`[{"processId": "p1", ` + at + `}]`, 1},
	} {
		t.Run(name, func(t *testing.T) {
			host, cfg := start(t)
			delete(cfg.Builds, "racer")
			p := open(t, cfg)
			attempt := order("shooter", "eu").GetAttemptId()
			host.Answer(func(w http.ResponseWriter, r *http.Request) {
				if strings.Contains(r.URL.Path, "/processes/") {
					_, _ = io.WriteString(w, c.processes)
					return
				}
				one := strings.Split(r.URL.Path, "/")[5]
				fmt.Fprintf(w, `[{"roomId": "live-%s%s", "status": "active"}, {"roomId": "live-%s9", "status": "destroyed"}]`, attempt, one[1:], attempt)
			})
			if got := listed(t, p, "live"); len(got) != c.want || len(slices.Compact(got)) != c.want {
				t.Errorf("got %q", got)
			}
		})
	}
	host, cfg := start(t)
	answer(host, map[string]said{"processes": {200, `[{"processId": "p1"}]`}})
	if _, err := open(t, cfg).List(t.Context(), &providerv1.ListRequest{Deployment: "live"}); provider.ReasonOf(err) != provider.Unavailable {
		t.Errorf("a process without a time: %v", err)
	}
}

func TestTokensOfPages(t *testing.T) {
	_, cfg := start(t)
	for _, token := range []string{"x", "0", "0/1", "5/0/", "-1/0/", "0/x/", "x/0/"} {
		if _, err := open(t, cfg).List(t.Context(), &providerv1.ListRequest{Deployment: "live", PageToken: token}); provider.ReasonOf(err) != provider.Invalid {
			t.Errorf("%q: %v", token, err)
		}
	}
}

// The names of rooms have room for 100 characters, whatever the name of the deployment; those of one deployment are not taken for another's.
func TestDeploymentsWithLongNames(t *testing.T) {
	_, cfg := start(t)
	p := open(t, cfg)
	long := strings.Repeat("a", 62)
	for _, deployment := range []string{strings.Repeat("d", 51), strings.Repeat("d", 52), long + "x", long + "y"} {
		instance := uuid.NewString()
		attempt := instance + "-12345678901" // as long as one may be
		req := order("shooter", "eu")
		req.AttemptId, req.InstanceId, req.Deployment = attempt, instance, deployment
		if _, err := p.Allocate(t.Context(), req); err != nil {
			t.Fatalf("%s: %v", deployment, err)
		}
		if _, err := p.Get(t.Context(), &providerv1.GetRequest{AttemptId: attempt, Deployment: deployment}); err != nil {
			t.Errorf("%s: %v", deployment, err)
		}
		if got := listed(t, p, deployment); !slices.Equal(got, []string{attempt}) {
			t.Errorf("%s: %q", deployment, got)
		}
		if _, err := p.Release(t.Context(), &providerv1.ReleaseRequest{AttemptId: attempt, Deployment: deployment}); err != nil {
			t.Errorf("%s: %v", deployment, err)
		}
	}
}
