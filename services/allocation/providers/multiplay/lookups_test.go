package multiplay_test

import (
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/providers/multiplay"
)

// gate holds lookups while it is closed.
type gate struct {
	next   http.Handler
	closed atomic.Pointer[chan struct{}]
	held   atomic.Int32
}

func (g *gate) close() (open func()) {
	c := make(chan struct{})
	g.closed.Store(&c)
	return func() { g.closed.Store(nil); close(c) }
}

func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if c := g.closed.Load(); c != nil && r.Method == http.MethodGet {
		g.held.Add(1)
		<-*c
		g.held.Add(-1)
	}
	g.next.ServeHTTP(w, r)
}

// Many lookups at once are few calls, and each has the answer that is its own.
func TestLookupsGather(t *testing.T) {
	const count, alone = 60, 4
	var g gate
	host, cfg := startBehind(t, multiplay.RocketScience, func(next http.Handler) http.Handler { g.next = next; return &g })
	p := open(t, cfg)
	orders := make([]*providerv1.AllocateRequest, count)
	external := make([]string, count)
	for n := range orders {
		orders[n] = order()
		external[n] = allocate(t, p, orders[n]).GetExternalId()
	}
	round := func(want providerv1.ServerState) {
		t.Helper()
		opened := g.close()
		var all sync.WaitGroup
		for n, req := range orders {
			all.Go(func() {
				if s := get(t, p, req); s.GetExternalId() != external[n] || s.GetAttemptId() != req.GetAttemptId() || s.GetState() != want {
					t.Errorf("Get: %v; want %v, %v", s, external[n], want)
				}
			})
		}
		until(t, func() bool { return g.held.Load() == alone && p.Waiting() == count-alone })
		opened()
		all.Wait()
	}
	round(starting) // the list does not have them yet: they are asked for alone
	before := host.Calls()
	if before.Get != count || before.List != 1 {
		t.Errorf("the first round took %+v", before)
	}
	round(running)
	if c := host.Calls(); c.Get-before.Get != alone || c.List-before.List != 1 {
		t.Errorf("the second round took %+v, after %+v", c, before)
	}
	for _, req := range orders[1:] { // one that is there, and many that have ended
		release(t, p, req)
	}
	opened := g.close()
	var all sync.WaitGroup
	for n, req := range orders {
		all.Go(func() {
			_, err := p.Get(t.Context(), &providerv1.GetRequest{AttemptId: req.GetAttemptId(), ExternalId: external[n], Deployment: "berth"})
			if n == 0 && err != nil || n > 0 && provider.ReasonOf(err) != provider.NotFound {
				t.Errorf("Get of server %d: %v", n, err)
			}
		})
	}
	until(t, func() bool { return p.Waiting() == count-alone })
	opened()
	all.Wait()
}

// A host without that list is asked for each alone.
func TestLookupsWithoutList(t *testing.T) {
	const count, alone = 20, 4
	var g gate
	host, cfg := startBehind(t, multiplay.RocketScience, func(next http.Handler) http.Handler {
		g.next = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/allocations") {
				problem(404, "no such operation")(w, r)
				return
			}
			next.ServeHTTP(w, r)
		})
		return &g
	})
	p := open(t, cfg)
	orders := make([]*providerv1.AllocateRequest, count)
	for n := range orders {
		orders[n] = order()
		allocate(t, p, orders[n])
	}
	opened := g.close()
	var all sync.WaitGroup
	for _, req := range orders {
		all.Go(func() { get(t, p, req) })
	}
	until(t, func() bool { return p.Waiting() == count-alone })
	opened()
	all.Wait()
	if c := host.Calls(); c.Get != count {
		t.Errorf("it took %+v", c)
	}
}

// Close cuts off what is under way.
func TestCloseWhileAsking(t *testing.T) {
	var g gate
	_, cfg := startBehind(t, multiplay.RocketScience, func(next http.Handler) http.Handler { g.next = next; return &g })
	p, err := multiplay.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	opened := g.close()
	defer opened()
	failed := make(chan error, 1)
	go func() {
		_, err := p.Get(t.Context(), &providerv1.GetRequest{AttemptId: order().GetAttemptId(), Deployment: "berth"})
		failed <- err
	}()
	until(t, func() bool { return g.held.Load() == 1 })
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-failed; provider.ReasonOf(err) != provider.Unavailable || !strings.Contains(err.Error(), "cut off") {
		t.Errorf("Get: %v", err)
	}
}
