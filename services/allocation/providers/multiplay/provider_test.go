package multiplay_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/providers/multiplay"
)

const (
	starting = providerv1.ServerState_SERVER_STATE_STARTING
	running  = providerv1.ServerState_SERVER_STATE_RUNNING
	stopping = providerv1.ServerState_SERVER_STATE_STOPPING
	exited   = providerv1.ServerState_SERVER_STATE_EXITED
)

func allocate(t *testing.T, p *multiplay.Provider, req *providerv1.AllocateRequest) *providerv1.Server {
	t.Helper()
	resp, err := p.Allocate(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetServer()
}

func get(t *testing.T, p *multiplay.Provider, req *providerv1.AllocateRequest) *providerv1.Server {
	t.Helper()
	resp, err := p.Get(t.Context(), &providerv1.GetRequest{AttemptId: req.GetAttemptId(), Deployment: req.GetDeployment()})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetServer()
}

// becomes asks until the server is in that state.
func becomes(t *testing.T, p *multiplay.Provider, req *providerv1.AllocateRequest, state providerv1.ServerState) *providerv1.Server {
	t.Helper()
	var s *providerv1.Server
	until(t, func() bool { s = get(t, p, req); return s.GetState() == state })
	return s
}

func until(t *testing.T, holds func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("waited in vain")
		}
	}
}

// tryRelease asks once, and returns how far the release is.
func tryRelease(t *testing.T, p *multiplay.Provider, req *providerv1.AllocateRequest) providerv1.ServerState {
	t.Helper()
	resp, err := p.Release(t.Context(), &providerv1.ReleaseRequest{AttemptId: req.GetAttemptId(), Deployment: req.GetDeployment()})
	if err != nil {
		t.Fatalf("Release: %v", err)
	}
	return resp.GetState()
}

// release asks until the server has ended.
func release(t *testing.T, p *multiplay.Provider, req *providerv1.AllocateRequest) {
	t.Helper()
	until(t, func() bool { return tryRelease(t, p, req) == exited })
}

func list(t *testing.T, p *multiplay.Provider) []string {
	t.Helper()
	resp, err := p.List(t.Context(), &providerv1.ListRequest{Deployment: "berth"})
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, s := range resp.GetServers() {
		ids = append(ids, s.GetAttemptId())
	}
	return ids
}

func TestServer(t *testing.T) {
	_, cfg := start(t, multiplay.RocketScience)
	p, req := open(t, cfg), order()
	req.Build, req.Region = "racer", "us"
	s := allocate(t, p, req)
	in, id, _ := strings.Cut(s.GetExternalId(), "/")
	if u, err := uuid.Parse(id); err != nil || u.Version() != 5 || in != otherFleet || s.GetState() != starting {
		t.Errorf("Allocate: %v", s)
	}
	s = becomes(t, p, req, running)
	if e := s.GetEndpoints(); len(e) != 1 || e[0].GetName() != "game" || !strings.HasPrefix(e[0].GetHost(), "203.0.113.") || e[0].GetPort() < 9000 || s.GetRegion() != "us" {
		t.Errorf("Get: %v", s)
	}
}

// A server that says that it is not ready has an address, and is not up.
func TestReadiness(t *testing.T) {
	_, cfg := start(t, multiplay.RocketScience)
	p, req := open(t, cfg), order()
	req.Build = "slow"
	allocate(t, p, req)
	waited := false
	until(t, func() bool {
		s := get(t, p, req)
		waited = waited || s.GetState() == starting && len(s.GetEndpoints()) == 1
		return s.GetState() == running
	})
	if !waited {
		t.Error("it was up without being ready")
	}
}

// While there is no room an allocation waits, and gets a server when there is.
func TestWaitsForRoom(t *testing.T) {
	host, cfg := start(t, multiplay.RocketScience)
	host.Resize(1)
	p, first, second := open(t, cfg), order(), order()
	allocate(t, p, first)
	becomes(t, p, first, running)
	allocate(t, p, second)
	for range 5 {
		if s := get(t, p, second); s.GetState() != starting || len(s.GetEndpoints()) != 0 {
			t.Fatalf("without a server: %v", s)
		}
	}
	release(t, p, first)
	becomes(t, p, second, running)
}

// One that gets none in time has been refused, and stays as it is until it is released: then nothing comes of it any more.
func TestGivesUp(t *testing.T) {
	host, cfg := start(t, multiplay.RocketScience)
	host.Resize(1)
	patient, there, req := open(t, cfg), order(), order()
	allocate(t, patient, there)
	cfg.GiveUpAfter = time.Nanosecond
	p := open(t, cfg)
	allocate(t, p, req)
	s := get(t, p, req)
	if s.GetState() != exited || s.GetFailure() != provider.NoCapacity || !strings.Contains(s.GetMessage(), "multiplay.give_up_after") {
		t.Errorf("Get: %v", s)
	}
	if n := host.Calls().Deallocate; n != 0 {
		t.Errorf("Get has ended allocations: %d calls", n)
	}
	if got := list(t, p); len(got) != 1 {
		t.Errorf("List: %q", got)
	}
	release(t, p, req)
	host.Resize(0)
	if got := list(t, p); len(got) != 0 {
		t.Errorf("List after the release: %q", got)
	}
	if n, _ := host.Started(t.Context(), req.GetAttemptId()); n != 0 {
		t.Errorf("%d servers were started for it", n)
	}
	becomes(t, patient, there, running)
}

// One that was given up, and gets its server after all before anybody has released it, may be linked by now: it runs.
func TestAServerThatComesAfterItWasGivenUp(t *testing.T) {
	host, cfg := start(t, multiplay.RocketScience)
	host.Resize(1)
	allocate(t, open(t, cfg), order())
	cfg.GiveUpAfter = time.Nanosecond
	p, req := open(t, cfg), order()
	first := allocate(t, p, req)
	if s := get(t, p, req); s.GetState() != exited {
		t.Fatalf("Get: %v", s)
	}
	host.Resize(0)
	if s := becomes(t, p, req, running); len(s.GetEndpoints()) != 1 || s.GetFailure() != 0 || s.GetMessage() != "" {
		t.Errorf("Get of the server that came: %v", s)
	}
	if again := allocate(t, p, req); again.GetExternalId() != first.GetExternalId() {
		t.Errorf("Allocate once more: %v, want %v", again, first)
	}
	if n, _ := host.Started(t.Context(), req.GetAttemptId()); n != 1 || host.Calls().Deallocate != 0 {
		t.Errorf("%d servers were started for it, %+v", n, host.Calls())
	}
}

// A server that has come is not given up because of an answer that is older than that.
func TestAnOldAnswerGivesNothingUp(t *testing.T) {
	host, cfg := start(t, multiplay.RocketScience)
	cfg.GiveUpAfter = time.Minute
	p, req := open(t, cfg), order()
	_, id, _ := strings.Cut(allocate(t, p, req).GetExternalId(), "/")
	becomes(t, p, req, running)
	p.AgeMemory(2 * time.Minute)
	host.Answer(says(200, "application/json", `{"allocationId": "`+id+`", "fulfilled": ""}`))
	if s := get(t, p, req); s.GetState() != starting {
		t.Errorf("Get: %v", s)
	}
}

// The time begins when the host has it, not when it was first asked and refused.
func TestGivesTimeFromTheAllocation(t *testing.T) {
	host, cfg := start(t, multiplay.RocketScience)
	host.Resize(1)
	p, req := open(t, cfg), order()
	allocate(t, p, order())
	host.Answer(problem(503, "Later"))
	if _, err := p.Allocate(t.Context(), req); provider.ReasonOf(err) != provider.Unavailable {
		t.Fatalf("Allocate: %v", err)
	}
	p.AgeMemory(2 * time.Minute)
	if err := host.Heal(t.Context()); err != nil {
		t.Fatal(err)
	}
	allocate(t, p, req)
	if s := get(t, p, req); s.GetState() != starting {
		t.Errorf("Get: %v", s)
	}
	p.AgeMemory(2 * time.Minute)
	if s := get(t, p, req); s.GetState() != exited {
		t.Errorf("Get two minutes later: %v", s)
	}
}

// A server that runs is not given up, however long ago it was asked for.
func TestKeepsWhatRuns(t *testing.T) {
	_, cfg := start(t, multiplay.RocketScience)
	first, req := open(t, cfg), order()
	allocate(t, first, req)
	becomes(t, first, req, running)
	cfg.GiveUpAfter = time.Nanosecond
	later := open(t, cfg)
	for range 2 {
		if s := get(t, later, req); s.GetState() != running {
			t.Errorf("Get: %v", s)
		}
	}
}

// List has what a process knows, and a process learns from Get too.
func TestListLearns(t *testing.T) {
	_, cfg := start(t, multiplay.RocketScience)
	first, second, req := open(t, cfg), open(t, cfg), order()
	s := allocate(t, first, req)
	if got := list(t, first); len(got) != 1 || got[0] != req.GetAttemptId() {
		t.Errorf("the process that asked for it lists %q", got)
	}
	if got := list(t, second); len(got) != 0 {
		t.Errorf("one that never heard of it lists %q", got)
	}
	if found := get(t, second, req); found.GetExternalId() != s.GetExternalId() {
		t.Errorf("Get in another process: %v, want %v", found, s)
	}
	if got := list(t, second); len(got) != 1 {
		t.Errorf("one that was asked about it lists %q", got)
	}
	release(t, first, req)
	if got := list(t, second); len(got) != 0 {
		t.Errorf("after the release it lists %q", got)
	}
}

// What has ended is forgotten, also if another process ended it; and what is not heard of any more.
func TestForgets(t *testing.T) {
	host, cfg := start(t, multiplay.RocketScience)
	first, second, req, other := open(t, cfg), open(t, cfg), order(), order()
	allocate(t, first, req)
	get(t, second, req)
	release(t, first, req)
	if first.Known() != 0 || second.Known() != 1 {
		t.Errorf("after the release: %d and %d are known", first.Known(), second.Known())
	}
	list(t, second)
	if second.Known() != 0 {
		t.Errorf("after List: %d are known", second.Known())
	}
	req = order()
	allocate(t, first, req)
	get(t, second, req)
	before := host.Calls()
	second.AgeMemory(9 * time.Minute)
	if got := list(t, second); len(got) != 1 {
		t.Errorf("after 9 minutes it lists %q", got)
	}
	second.AgeMemory(9 * time.Minute) // List heard of it
	if got := list(t, second); len(got) != 1 {
		t.Errorf("after 9 minutes more it lists %q", got)
	}
	second.AgeMemory(11 * time.Minute)
	allocate(t, second, other)
	if second.Known() != 1 {
		t.Errorf("after 11 minutes: %d are known", second.Known())
	}
	if c := host.Calls(); c.Get+c.List-before.Get-before.List != 2 {
		t.Errorf("it took %+v, after %+v", c, before)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	if n, first := multiplay.Memorize(20_010); n != 20_000 || first {
		t.Errorf("%d are known, the first: %v", n, first)
	}
}

// A server that comes after the release of its attempt is listed, so that the reaper finds it.
func TestLateServerIsListed(t *testing.T) {
	host, cfg := start(t, multiplay.RocketScience)
	p, req := open(t, cfg), order()
	if err := host.Late(t.Context(), 300*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := p.Allocate(ctx, req); provider.ReasonOf(err) != provider.Ambiguous {
		t.Fatalf("Allocate: %v", err)
	}
	if err := host.Heal(t.Context()); err != nil {
		t.Fatal(err)
	}
	release(t, p, req)
	until(t, func() bool { return len(list(t, p)) == 1 }) // it is looked for again and again
	release(t, p, req)
	if got, c := list(t, p), host.Count(); len(got) != 0 || c.Started != 1 {
		t.Errorf("after its release: %q, %+v", got, c)
	}
	if n := host.Allocated(); n != 0 {
		t.Errorf("%d allocations have servers", n)
	}
}

// Pages of List have each server once.
func TestListPages(t *testing.T) {
	_, cfg := start(t, multiplay.RocketScience)
	p := open(t, cfg)
	want := make(map[string]bool)
	for range 150 {
		req := order()
		allocate(t, p, req)
		want[req.GetAttemptId()] = true
	}
	token, pages := "", 0
	for {
		resp, err := p.List(t.Context(), &providerv1.ListRequest{Deployment: "berth", PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range resp.GetServers() {
			if !want[s.GetAttemptId()] {
				t.Errorf("%s is listed twice, or was never asked for", s.GetAttemptId())
			}
			delete(want, s.GetAttemptId())
		}
		pages++
		if token = resp.GetNextPageToken(); token == "" {
			break
		}
	}
	if len(want) != 0 || pages != 2 {
		t.Errorf("%d servers are missing in %d pages", len(want), pages)
	}
}
