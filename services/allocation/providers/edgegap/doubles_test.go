package edgegap_test

import (
	"net/http"
	"strings"
	"sync"
	"testing"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
)

// doubled has two deployments for one attempt, of which the provider knows the younger, and returns both.
func doubled(t *testing.T) (p, other provider.Provider, req *providerv1.AllocateRequest, cfg config, older, younger string) {
	t.Helper()
	host, cfg := start(t)
	p, other, req = open(t, cfg), open(t, cfg), order("shooter", "eu")
	_ = host.Duplicate(t.Context())
	younger = allocate(t, p, req).GetExternalId()
	_ = host.Heal(t.Context())
	both := active(t, cfg, req.GetAttemptId())
	if len(both) != 2 || both[1].ID != younger {
		t.Fatalf("at the host: %v, answered: %s", both, younger)
	}
	return p, other, req, cfg, both[0].ID, younger
}

// one checks that the older alone is left.
func one(t *testing.T, cfg config, req *providerv1.AllocateRequest, older string) {
	t.Helper()
	if left := active(t, cfg, req.GetAttemptId()); len(left) != 1 || left[0].ID != older {
		t.Errorf("at the host: %v; want %s alone", left, older)
	}
}

// Before it is said to run.
func TestGetKeepsTheOldest(t *testing.T) {
	p, other, req, cfg, older, younger := doubled(t)
	for range 10 {
		s := get(t, p, req.GetAttemptId(), younger)
		if s.GetState() == providerv1.ServerState_SERVER_STATE_RUNNING && s.GetExternalId() == younger {
			t.Fatalf("the younger is said to run")
		}
	}
	one(t, cfg, req, older)
	if s := untilRunning(t, p, req.GetAttemptId()); s.GetExternalId() != older {
		t.Errorf("got %v", s)
	}
	// Another process that was told of the younger one comes to the same.
	if s := get(t, other, req.GetAttemptId(), younger); s.GetExternalId() != older {
		t.Errorf("another process: %v", s)
	}
}

// By a process that knows one of them, and by one that knows none.
func TestListKeepsTheOldest(t *testing.T) {
	for name, by := range map[string]func(p, other provider.Provider) provider.Provider{
		"the same":  func(p, _ provider.Provider) provider.Provider { return p },
		"a new one": func(_, other provider.Provider) provider.Provider { return other },
	} {
		t.Run(name, func(t *testing.T) {
			p, other, req, cfg, older, _ := doubled(t)
			for range 2 { // with a mark that is not seen by others
				resp, err := by(p, other).List(t.Context(), &providerv1.ListRequest{Deployment: "live"})
				if err != nil {
					t.Fatal(err)
				}
				if len(resp.GetServers()) != 1 || resp.GetServers()[0].GetExternalId() != older {
					t.Errorf("got %v; want %s", resp.GetServers(), older)
				}
			}
			one(t, cfg, req, older)
		})
	}
}

func TestReleaseEndsAll(t *testing.T) {
	p, _, req, cfg, _, _ := doubled(t)
	for range 10 {
		resp, err := p.Release(t.Context(), &providerv1.ReleaseRequest{AttemptId: req.GetAttemptId(), Deployment: "live"})
		if err != nil {
			t.Fatal(err)
		}
		if resp.GetState() == providerv1.ServerState_SERVER_STATE_EXITED {
			break
		}
	}
	if left := active(t, cfg, req.GetAttemptId()); len(left) != 0 {
		t.Errorf("there is still %v", left)
	}
}

// A process that ended before it got the answer is followed by one that asks, at once: the list does not have the deployment yet.
func TestAnotherProcessFindsWhatTheListDoesNotHaveYet(t *testing.T) {
	_, cfg := start(t)
	req := order("shooter", "eu")
	made := allocate(t, open(t, cfg), req)
	if s := get(t, open(t, cfg), req.GetAttemptId(), ""); s.GetExternalId() != made.GetExternalId() {
		t.Errorf("got %v; want %s", s, made.GetExternalId())
	}
	req = order("shooter", "eu")
	allocate(t, open(t, cfg), req)
	resp, err := open(t, cfg).Release(t.Context(), &providerv1.ReleaseRequest{AttemptId: req.GetAttemptId(), Deployment: "live"})
	if err != nil || resp.GetState() != providerv1.ServerState_SERVER_STATE_STOPPING {
		t.Errorf("a release of what the list does not have yet: %v, %v", resp, err)
	}
}

// While it is not known what came of a call, nothing is repeated, and a release does not say that nothing is left.
func TestInDoubt(t *testing.T) {
	host, cfg := start(t)
	p, req := open(t, cfg), order("shooter", "eu")
	host.Answer(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	if _, err := p.Allocate(t.Context(), req); provider.ReasonOf(err) != provider.Ambiguous {
		t.Fatalf("got %v", err)
	}
	if _, err := p.Allocate(t.Context(), req); provider.ReasonOf(err) != provider.Ambiguous || !strings.Contains(err.Error(), "an earlier call") {
		t.Errorf("a repeat that cannot look: %v", err)
	}
	_ = host.Heal(t.Context())
	resp, err := p.Release(t.Context(), &providerv1.ReleaseRequest{AttemptId: req.GetAttemptId(), Deployment: "live"})
	if err != nil || resp.GetState() != providerv1.ServerState_SERVER_STATE_STOPPING {
		t.Errorf("a release: %v, %v", resp, err)
	}
}

// A server that runs and is alone is not looked at each time.
func TestRunningServersAreNotAskedForEachTime(t *testing.T) {
	host, cfg := start(t)
	p, req := open(t, cfg), order("shooter", "eu")
	allocate(t, p, req)
	untilRunning(t, p, req.GetAttemptId())
	get(t, p, req.GetAttemptId(), "") // now the list has it, alone
	_ = host.Down(t.Context())
	if s := get(t, p, req.GetAttemptId(), ""); len(s.GetEndpoints()) != 2 {
		t.Errorf("got %v", s)
	}
}

// Two replicas that look at the same time, told of the younger ones, come to the same servers, and nothing else is left.
func TestReplicasKeepTheSame(t *testing.T) {
	host, cfg := start(t)
	a, b := open(t, cfg), open(t, cfg)
	_ = host.Duplicate(t.Context())
	var attempts, younger []string
	for range 10 {
		req := order("shooter", "eu")
		attempts, younger = append(attempts, req.GetAttemptId()), append(younger, allocate(t, a, req).GetExternalId())
	}
	_ = host.Heal(t.Context())
	var all sync.WaitGroup
	for n, attempt := range attempts {
		for _, p := range []provider.Provider{a, b} {
			all.Go(func() {
				for range 20 {
					_, _ = p.Get(t.Context(), &providerv1.GetRequest{AttemptId: attempt, ExternalId: younger[n], Deployment: "live"})
					_, _ = p.List(t.Context(), &providerv1.ListRequest{Deployment: "live"})
				}
			})
		}
	}
	all.Wait()
	left := active(t, cfg, "")
	if len(left) != len(attempts) {
		t.Fatalf("%d are left: %v", len(left), left)
	}
	for n, attempt := range attempts {
		if one, other := get(t, a, attempt, younger[n]), get(t, b, attempt, younger[n]); one.GetExternalId() != left[n].ID || other.GetExternalId() != left[n].ID {
			t.Errorf("the replicas have %s and %s; there is %s", one.GetExternalId(), other.GetExternalId(), left[n].ID)
		}
	}
}
