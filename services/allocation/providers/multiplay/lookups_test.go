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

// close closes it until the returned function is called, or the test is over.
func (g *gate) close(t *testing.T) (open func()) {
	t.Helper()
	c := make(chan struct{})
	g.closed.Store(&c)
	open = sync.OnceFunc(func() { g.closed.Store(nil); close(c) })
	t.Cleanup(open)
	return open
}

// atOnce is how many lookups of a fleet there are at once; more gather.
const atOnce = 4

// gather makes lookups of which the first ones are under way, each alone, when the others come, and then has all go on.
func gather(t *testing.T, p *multiplay.Provider, g *gate, lookups []func()) {
	t.Helper()
	opened := g.close(t)
	var all sync.WaitGroup
	for n, look := range lookups {
		all.Go(look)
		if n < atOnce {
			until(t, func() bool { return g.held.Load() == int32(n+1) })
		}
	}
	until(t, func() bool { return p.Waiting() == len(lookups)-atOnce })
	opened()
	all.Wait()
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
	const count = 60
	var g gate
	host, cfg := startBehind(t, multiplay.RocketScience, func(next http.Handler) http.Handler { g.next = next; return &g })
	p := open(t, cfg)
	external := make(map[*providerv1.AllocateRequest]string)
	var orders []*providerv1.AllocateRequest
	for range count {
		req := order()
		orders, external[req] = append(orders, req), allocate(t, p, req).GetExternalId()
	}
	round := func(check func(req *providerv1.AllocateRequest, s *providerv1.Server, err error)) {
		t.Helper()
		var lookups []func()
		for _, req := range orders {
			lookups = append(lookups, func() {
				resp, err := p.Get(t.Context(), &providerv1.GetRequest{AttemptId: req.GetAttemptId(), ExternalId: external[req], Deployment: "berth"})
				check(req, resp.GetServer(), err)
			})
		}
		gather(t, p, &g, lookups)
	}
	is := func(want providerv1.ServerState) func(*providerv1.AllocateRequest, *providerv1.Server, error) {
		return func(req *providerv1.AllocateRequest, s *providerv1.Server, err error) {
			if err != nil || s.GetExternalId() != external[req] || s.GetAttemptId() != req.GetAttemptId() || s.GetState() != want {
				t.Errorf("Get: %v, %v; want %v, %v", s, err, external[req], want)
			}
		}
	}
	round(is(starting)) // the list does not have them yet: they are asked for alone
	before := host.Calls()
	if before.Get != count || before.List != 1 {
		t.Errorf("the first round took %+v", before)
	}
	round(is(running))
	if c := host.Calls(); c.Get-before.Get != atOnce || c.List-before.List != 1 {
		t.Errorf("the second round took %+v, after %+v", c, before)
	}
	last := orders[count-1]
	for _, req := range orders[:count-1] { // one is there, and all others have ended
		release(t, p, req)
	}
	round(func(req *providerv1.AllocateRequest, s *providerv1.Server, err error) {
		if req == last && err != nil || req != last && provider.ReasonOf(err) != provider.NotFound {
			t.Errorf("Get of a server that has ended, but for the last: %v, %v", s, err)
		}
	})
}

// A host without that list, or that refuses it, is asked for each alone.
func TestLookupsWithoutList(t *testing.T) {
	for _, status := range []int{http.StatusNotFound, http.StatusBadRequest} {
		t.Run(http.StatusText(status), func(t *testing.T) { lookupsWithoutList(t, status) })
	}
}

func lookupsWithoutList(t *testing.T, status int) {
	const count = 20
	var g gate
	host, cfg := startBehind(t, multiplay.RocketScience, func(next http.Handler) http.Handler {
		g.next = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/allocations") {
				problem(status, "no such operation")(w, r)
				return
			}
			next.ServeHTTP(w, r)
		})
		return &g
	})
	p := open(t, cfg)
	var lookups []func()
	for range count {
		req := order()
		allocate(t, p, req)
		lookups = append(lookups, func() {
			if _, err := p.Get(t.Context(), &providerv1.GetRequest{AttemptId: req.GetAttemptId(), Deployment: "berth"}); err != nil {
				t.Errorf("Get: %v", err)
			}
		})
	}
	gather(t, p, &g, lookups)
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
	g.close(t)
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
