package edgegap_test

import (
	"context"
	"net/http"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/providers/edgegap"
	"github.com/berth-dev/berth/test/hosts/standin"
)

// replicas are the process that was refused, and another one that knows nothing of that.
var replicas = map[string]func(p, other *edgegap.Provider) *edgegap.Provider{
	"the same":    func(p, _ *edgegap.Provider) *edgegap.Provider { return p },
	"another one": func(_, other *edgegap.Provider) *edgegap.Provider { return other },
}

// refused has an order refused for want of room: it waits, and a deployment in error is left behind.
func refused(t *testing.T, host *standin.Host, p provider.Provider, req *providerv1.AllocateRequest) {
	t.Helper()
	_ = host.Exhaust(t.Context())
	if _, err := p.Allocate(t.Context(), req); provider.ReasonOf(err) != provider.NoCapacity {
		t.Fatalf("got %v", err)
	}
}

func list(t *testing.T, p provider.Provider) []*providerv1.Server {
	t.Helper()
	resp, err := p.List(t.Context(), &providerv1.ListRequest{Deployment: "live"})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetServers()
}

// A match that waits for room gets a server when there is some. What the refusal left behind is not taken for its server because the reaper has seen it in a list.
func TestWhatARefusalLeavesIsNotTheServer(t *testing.T) {
	for name, by := range replicas {
		t.Run(name, func(t *testing.T) {
			host, cfg := start(t)
			p, other, req := open(t, cfg), open(t, cfg), order("shooter", "eu")
			refused(t, host, p, req)
			for range 2 { // a list does not have what is new
				if servers := list(t, by(p, other)); len(servers) != 0 {
					t.Errorf("the list has %v", servers)
				}
			}
			_ = host.Heal(t.Context())
			if s := allocate(t, by(p, other), req); s.GetState() != providerv1.ServerState_SERVER_STATE_STARTING {
				t.Fatalf("got %v", s)
			}
			untilRunning(t, by(p, other), req.GetAttemptId())
			if c := host.Count(); c.Started != 1 {
				t.Errorf("%+v", c)
			}
		})
	}
}

// Nor if the reaper has seen it before the refusal came, when it still looked like one that starts.
func TestWhatIsSeenBeforeTheRefusalIsNotTheServer(t *testing.T) {
	const left, made = "a69f8e3e0555", "a69f8e3e0556"
	host, cfg := start(t)
	p, req := open(t, cfg), order("shooter", "eu")
	var orders atomic.Int32
	host.Answer(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodDelete:
			says(http.StatusOK, "", `{}`)(w, r)
		case r.Method == http.MethodPost && orders.Add(1) == 1:
			_, _ = p.List(r.Context(), &providerv1.ListRequest{Deployment: "live"})
			says(http.StatusUnprocessableEntity, "", `{"request_id": "`+left+`", "message": "No location"}`)(w, r)
		case r.Method == http.MethodPost:
			says(http.StatusAccepted, "", `{"request_id": "`+made+`"}`)(w, r)
		case r.URL.Path == "/v1/deployments":
			says(http.StatusOK, "", `{"data": [{"request_id": "`+left+`", "tags": ["berth-live", "`+req.GetAttemptId()+`"]}], "pagination": {"has_next": false}}`)(w, r)
		default: // of a host that is slow to say so
			says(http.StatusOK, "", `{"request_id": "`+strings.TrimPrefix(r.URL.Path, "/v1/status/")+`", "current_status": "Status.SEEKING"}`)(w, r)
		}
	})
	if _, err := p.Allocate(t.Context(), req); provider.ReasonOf(err) != provider.NoCapacity {
		t.Fatalf("got %v", err)
	}
	if servers := list(t, p); len(servers) != 0 {
		t.Errorf("the list has %v", servers)
	}
	if _, err := p.Get(t.Context(), &providerv1.GetRequest{AttemptId: req.GetAttemptId(), Deployment: "live"}); provider.ReasonOf(err) != provider.NotFound {
		t.Errorf("Get: %v", err)
	}
	for range 2 {
		if s := allocate(t, p, req); s.GetExternalId() != made {
			t.Errorf("got %v", s)
		}
	}
}

// An order that got no answer is looked for until it is found. What an earlier refusal left behind, which is in the list before it, is not the answer.
func TestAnOrderWithoutAnAnswerAfterARefusal(t *testing.T) {
	for name, by := range replicas {
		t.Run(name, func(t *testing.T) {
			host, cfg := start(t)
			p, other, req := open(t, cfg), open(t, cfg), order("shooter", "eu")
			refused(t, host, p, req)
			list(t, p) // from now on it is in the list
			_ = host.LoseReply(t.Context())
			if _, err := by(p, other).Allocate(t.Context(), req); provider.ReasonOf(err) != provider.Ambiguous {
				t.Fatalf("got %v", err)
			}
			_ = host.Heal(t.Context())
			if s := allocate(t, by(p, other), req); s.GetState() != providerv1.ServerState_SERVER_STATE_STARTING {
				t.Errorf("got %v", s)
			}
			if c := host.Count(); c.Started != 1 {
				t.Errorf("%+v", c)
			}
		})
	}
}

// An attempt whose only deployment is in error when the list can be believed has that one, and no other is started.
func TestADeploymentInErrorIsTheAnswerInTheEnd(t *testing.T) {
	host, cfg := start(t)
	req := order("shooter", "eu")
	refused(t, host, open(t, cfg), req)
	_ = host.Heal(t.Context())
	if s := get(t, open(t, cfg), req.GetAttemptId(), ""); s.GetState() != providerv1.ServerState_SERVER_STATE_EXITED {
		t.Errorf("got %v", s)
	}
}

// stuck is a host that has no room, and stops nothing until it is told to.
type stuck struct {
	mu      sync.Mutex
	refused []string // the deployments that it left behind
	stopped map[string]bool
	freed   chan struct{}
}

// answer is what it answers.
func (s *stuck) answer(w http.ResponseWriter, r *http.Request) {
	switch r.Method {
	case http.MethodPost:
		s.mu.Lock()
		id := []string{"a69f8e3e0555", "a69f8e3e0556"}[len(s.refused)]
		s.refused = append(s.refused, id)
		s.mu.Unlock()
		says(http.StatusUnprocessableEntity, "", `{"request_id": "`+id+`", "message": "No location"}`)(w, r)
	case http.MethodDelete:
		select {
		case <-s.freed:
		default: // for ever
			<-r.Context().Done()
			return
		}
		s.mu.Lock()
		s.stopped[strings.TrimPrefix(r.URL.Path, "/v1/stop/")] = true
		s.mu.Unlock()
		says(http.StatusOK, "", `{}`)(w, r)
	default:
		says(http.StatusNotFound, "", `{"message": "Not found"}`)(w, r)
	}
}

func (s *stuck) left() (ids []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range s.refused {
		if !s.stopped[id] {
			ids = append(ids, id)
		}
	}
	return ids
}

// That there is no room is said while there is time, also if what was left behind cannot be stopped. That is stopped later.
func TestAStopThatHangsAfterARefusal(t *testing.T) {
	for name, later := range map[string]func(ctx context.Context, p provider.Provider, req *providerv1.AllocateRequest) error{
		"the next try": func(ctx context.Context, p provider.Provider, req *providerv1.AllocateRequest) error {
			if _, err := p.Allocate(ctx, req); provider.ReasonOf(err) != provider.NoCapacity {
				return err
			}
			return nil
		},
		"a release": func(ctx context.Context, p provider.Provider, req *providerv1.AllocateRequest) error {
			_, err := p.Release(ctx, &providerv1.ReleaseRequest{AttemptId: req.GetAttemptId(), Deployment: "live"})
			if provider.ReasonOf(err) == provider.Unavailable { // there is no list
				return nil
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			host, cfg := start(t)
			p, req := open(t, cfg), order("shooter", "eu")
			s := &stuck{stopped: make(map[string]bool), freed: make(chan struct{})}
			host.Answer(s.answer)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			if _, err := p.Allocate(ctx, req); provider.ReasonOf(err) != provider.NoCapacity {
				t.Errorf("got %v", err)
			}
			if ctx.Err() != nil {
				t.Fatal("the stop took all of the call's time")
			}
			if left := s.left(); len(left) != 1 {
				t.Fatalf("left are %v", left)
			}
			close(s.freed)
			if err := later(t.Context(), p, req); err != nil {
				t.Error(err)
			}
			if left := s.left(); len(left) != 0 {
				t.Errorf("there is still %v", left)
			}
		})
	}
}

// The reaper's list stops it too.
func TestAListStopsWhatARefusalLeft(t *testing.T) {
	host, cfg := start(t)
	p, req := open(t, cfg), order("shooter", "eu")
	var stops atomic.Int32
	host.Answer(func(w http.ResponseWriter, r *http.Request) {
		switch r.Method {
		case http.MethodPost:
			says(http.StatusUnprocessableEntity, "", `{"request_id": "a69f8e3e0555", "message": "No location"}`)(w, r)
		case http.MethodDelete:
			if stops.Add(1) == 1 {
				says(http.StatusInternalServerError, "", `{"message": "Oops"}`)(w, r)
				return
			}
			says(http.StatusOK, "", `{}`)(w, r)
		default:
			says(http.StatusOK, "", `{"data": [{"request_id": "a69f8e3e0555", "tags": ["berth-live", "`+req.GetAttemptId()+`"]}], "pagination": {"has_next": false}}`)(w, r)
		}
	})
	if _, err := p.Allocate(t.Context(), req); provider.ReasonOf(err) != provider.NoCapacity {
		t.Fatalf("got %v", err)
	}
	for range 2 {
		if servers := list(t, p); len(servers) != 0 {
			t.Errorf("the list has %v", servers)
		}
	}
	if n := stops.Load(); n != 2 {
		t.Errorf("it was told to stop %d times; want once in vain, and once", n)
	}
}

// One whose status cannot be had hides no others from the reaper.
func TestADeploymentWithoutAStatusHidesNoOthers(t *testing.T) {
	host, cfg := start(t)
	p := open(t, cfg)
	one, two := order("shooter", "eu"), order("shooter", "eu")
	entry := func(id, attempt string) string {
		return `{"request_id": "` + id + `", "tags": ["berth-live", "` + attempt + `"]}`
	}
	host.Answer(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/v1/deployments":
			says(http.StatusOK, "", `{"data": [`+entry("a69f8e3e0555", one.GetAttemptId())+`, `+entry("b69f8e3e0555", two.GetAttemptId())+`], "pagination": {"has_next": false}}`)(w, r)
		case "/v1/status/a69f8e3e0555":
			says(http.StatusInternalServerError, "", `{"message": "Oops"}`)(w, r)
		default:
			says(http.StatusOK, "", `{"request_id": "b69f8e3e0555", "current_status": "Status.READY", "running": true, "fqdn": "b.example.com", "ports": {}}`)(w, r)
		}
	})
	if servers := list(t, p); len(servers) != 2 {
		t.Errorf("the list has %v", servers)
	}
}

// What a refusal left is stopped beside the server, and not in its place.
func TestALeftoverThatCannotBeStoppedKeepsNoServer(t *testing.T) {
	host, cfg := start(t)
	p, req := open(t, cfg), order("shooter", "eu")
	orders, stops := 0, map[string]int{}
	host.Answer(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodPost && orders == 0:
			orders++
			says(http.StatusUnprocessableEntity, "", `{"request_id": "a69f8e3e0555", "message": "No location"}`)(w, r)
		case r.Method == http.MethodPost:
			says(http.StatusOK, "", `{"request_id": "b69f8e3e0555"}`)(w, r)
		case r.Method == http.MethodDelete:
			id := path.Base(r.URL.Path)
			stops[id]++
			if id == "a69f8e3e0555" {
				says(http.StatusInternalServerError, "", `{"message": "Oops"}`)(w, r)
				return
			}
			says(http.StatusOK, "", `{}`)(w, r)
		case r.URL.Path == "/v1/deployments":
			says(http.StatusOK, "", `{"data": [], "pagination": {"has_next": false}}`)(w, r)
		default:
			says(http.StatusOK, "", `{"request_id": "b69f8e3e0555", "current_status": "Status.READY", "running": true, "fqdn": "b.example.com", "ports": {}}`)(w, r)
		}
	})
	if _, err := p.Allocate(t.Context(), req); provider.ReasonOf(err) != provider.NoCapacity {
		t.Fatalf("got %v", err)
	}
	made, err := p.Allocate(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	got, err := p.Release(t.Context(), &providerv1.ReleaseRequest{Deployment: "live", AttemptId: req.GetAttemptId(), ExternalId: made.GetServer().GetExternalId()})
	if err != nil || stops["b69f8e3e0555"] != 1 || got.GetState() != providerv1.ServerState_SERVER_STATE_STOPPING {
		t.Errorf("%v, %v after stops %v", got, err, stops)
	}
}

// What is in error, and of which nobody here knows, is stopped after a while: it counts at Edgegap. Not at once: whoever asked for it has to see why.
func TestADeploymentInErrorIsStoppedAfterAWhile(t *testing.T) {
	for name, c := range map[string]struct {
		open  func(edgegap.Config) (*edgegap.Provider, error)
		stops int32
	}{"at first": {edgegap.NewQuick, 0}, "later": {edgegap.NewGravedigger, 2}} {
		t.Run(name, func(t *testing.T) {
			host, cfg := start(t)
			req := order("shooter", "eu")
			p, err := c.open(cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = p.Close(context.Background()) }()
			var stops atomic.Int32
			host.Answer(func(w http.ResponseWriter, r *http.Request) {
				switch {
				case r.Method == http.MethodDelete:
					stops.Add(1)
					says(http.StatusOK, "", `{}`)(w, r)
				case r.URL.Path == "/v1/deployments":
					says(http.StatusOK, "", `{"data": [{"request_id": "a69f8e3e0555", "tags": ["berth-live", "`+req.GetAttemptId()+`"]}], "pagination": {"has_next": false}}`)(w, r)
				default:
					says(http.StatusOK, "", `{"request_id": "a69f8e3e0555", "current_status": "Status.ERROR", "error": true}`)(w, r)
				}
			})
			for range 2 {
				if servers := list(t, p); len(servers) != 0 {
					t.Errorf("the list has %v", servers)
				}
			}
			if n := stops.Load(); n != c.stops {
				t.Errorf("it was told to stop %d times; want %d", n, c.stops)
			}
		})
	}
}

// A list that is not there says nothing of a server, and a release stops what it knows of without one.
func TestAListThatIsNotThere(t *testing.T) {
	host, cfg := start(t)
	p, req := open(t, cfg), order("shooter", "eu")
	made := allocate(t, p, req)
	stopped := make(chan string, 1) // there is one to stop
	host.Answer(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodDelete {
			stopped <- strings.TrimPrefix(r.URL.Path, "/v1/stop/")
			says(http.StatusOK, "", `{}`)(w, r)
			return
		}
		says(http.StatusNotFound, "", `{"message": "Not found"}`)(w, r)
	})
	if _, err := p.List(t.Context(), &providerv1.ListRequest{Deployment: "live"}); provider.ReasonOf(err) != provider.Unavailable {
		t.Errorf("List: %v", err)
	}
	if _, err := open(t, cfg).Get(t.Context(), &providerv1.GetRequest{AttemptId: req.GetAttemptId(), Deployment: "live"}); provider.ReasonOf(err) != provider.Unavailable {
		t.Errorf("Get: %v", err)
	}
	if _, err := p.Release(t.Context(), &providerv1.ReleaseRequest{AttemptId: req.GetAttemptId(), Deployment: "live"}); provider.ReasonOf(err) != provider.Unavailable {
		t.Errorf("Release: %v", err)
	}
	select {
	case id := <-stopped:
		if id != made.GetExternalId() {
			t.Errorf("stopped was %q; want %s", id, made.GetExternalId())
		}
	default:
		t.Error("nothing was stopped")
	}
}
