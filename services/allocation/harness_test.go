package allocation_test

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"github.com/berth-dev/berth/pkg/app"
	attemptv1 "github.com/berth-dev/berth/pkg/gen/berth/attempt/v1"
	"github.com/berth-dev/berth/pkg/ids"
	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/pkg/rpc"
	tokenv1 "github.com/berth-dev/berth/sdk/go/gen/berth/token/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/internal/allocator"
	"github.com/berth-dev/berth/services/allocation/internal/host"
	"github.com/berth-dev/berth/services/allocation/internal/peers"
	"github.com/berth-dev/berth/services/allocation/internal/placement"
	"github.com/berth-dev/berth/services/allocation/internal/redisstore"
)

const (
	internalKey = "an-internal-key-of-at-least-32-characters"
	instance    = "6c1f9a52-6f3e-4c64-9d5c-3f0d6f3f5a10"
	gameToken   = "GAME-TOKEN-MUST-NOT-BE-SEEN"
	socialToken = "SOCIAL-TOKEN-MUST-NOT-BE-SEEN"
	claimCode   = "CLAIM-CODE-MUST-NOT-BE-SEEN"
	patience    = 20 * time.Second
	lease       = 500 * time.Millisecond
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve serves on loopback and returns a connection to it.
func serve(t testing.TB, srv *rpc.Server) *grpc.ClientConn {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	stop := mount(t, srv, ln)
	conn, err := rpc.Dial(ln.Addr().String(), internalKey)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(); stop() })
	return conn
}

// replica is one life of the allocation service, without its gRPC door.
type replica struct {
	*allocator.Service
	worker *allocator.Worker
	queue  *mortal
	cancel context.CancelFunc
	done   chan struct{}
}

// mortal is a store that a killed replica does not reach any more.
type mortal struct {
	*redisstore.Store
	dead atomic.Bool
	// on is called around each call: with "before" the effect, and with "after" it.
	on func(when, call string)
}

var errDead = errors.New("the replica is dead")

func (m *mortal) around(call string, effect func() error) error {
	if m.on != nil {
		m.on("before", call)
	}
	if m.dead.Load() {
		return errDead
	}
	err := effect()
	if m.on != nil {
		m.on("after", call)
	}
	if m.dead.Load() {
		return errDead
	}
	return err
}

func (m *mortal) Due(ctx context.Context, limit int) (ids []string, err error) {
	if m.dead.Load() {
		return nil, errDead
	}
	return m.Store.Due(ctx, limit)
}

func (m *mortal) Claim(ctx context.Context, id, owner string, lease time.Duration, force bool) (c allocator.Claimed, ok bool, err error) {
	err = m.around("claim", func() error { c, ok, err = m.Store.Claim(ctx, id, owner, lease, force); return err })
	return c, ok && err == nil, err
}

func (m *mortal) Renew(ctx context.Context, id, owner string, lease time.Duration) (bool, error) {
	if m.dead.Load() {
		return false, errDead
	}
	return m.Store.Renew(ctx, id, owner, lease)
}

func (m *mortal) Take(ctx context.Context, provider string, most int, id string) (ok bool, err error) {
	err = m.around("take", func() error { ok, err = m.Store.Take(ctx, provider, most, id); return err })
	return ok, err
}

func (m *mortal) Free(ctx context.Context, provider, id string, taken time.Time) error {
	return m.around("free", func() error { return m.Store.Free(ctx, provider, id, taken) })
}

func (m *mortal) Enter(ctx context.Context, w allocator.Waiter, turn time.Time, limit int) (ok bool, err error) {
	err = m.around("enter", func() error { ok, err = m.Store.Enter(ctx, w, turn, limit); return err })
	return ok, err
}

func (m *mortal) Leave(ctx context.Context, w allocator.Waiter) error {
	return m.around("leave", func() error { return m.Store.Leave(ctx, w) })
}

func (m *mortal) Commit(ctx context.Context, c allocator.Change) (a allocator.Allocation, err error) {
	err = m.around("commit", func() error { a, err = m.Store.Commit(ctx, c); return err })
	return a, err
}

// rig has what outlives a replica.
type rig struct {
	t     testing.TB
	redis *redisx.Store
	farm  *farm
	peer  *peer
	log   *slog.Logger
	limit int               // of the queue
	host  provider.Provider // nil: the farm
}

func newRig(t testing.TB, s *redisx.Store) *rig {
	t.Helper()
	return &rig{t: t, redis: s, farm: newFarm(), peer: newPeer(t), log: slog.New(slog.DiscardHandler), limit: 1000}
}

// start starts a replica; change may be nil.
func (r *rig) start(change func(*allocator.WorkerConfig)) *replica {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	rep := &replica{queue: &mortal{Store: redisstore.New(r.redis)}, cancel: cancel, done: make(chan struct{})}
	metrics, err := host.NewMetrics(prometheus.NewRegistry())
	if err != nil {
		r.t.Fatal(err)
	}
	configured, err := host.Open(ctx, host.Config{Name: "farm", Provider: cmp.Or[provider.Provider](r.host, r.farm), Metrics: metrics})
	if err != nil {
		r.t.Fatal(err)
	}
	cfg := allocator.WorkerConfig{
		Queue: rep.queue, Slots: rep.queue, Lines: rep.queue, Log: r.log, Providers: []allocator.Provider{configured}, Lease: lease, Sweep: 50 * time.Millisecond,
		Credentials: peers.Issuer{Tokens: tokenv1.NewTokenServiceClient(r.peer.conn), Gateway: "http://127.0.0.1:7001"},
		Instances:   peers.Instances{Attempts: attemptv1.NewAttemptServiceClient(r.peer.conn)},
	}
	cfg.QueueLimit = r.limit
	if change != nil {
		change(&cfg)
	}
	explain := withoutPolicy(cfg.Providers)
	if cfg.Explain == nil {
		cfg.Explain = explain
	}
	if rep.worker, err = allocator.NewWorker(cfg); err != nil {
		r.t.Fatal(err)
	}
	rep.Service = allocator.NewService(rep.queue.Store, explain, r.limit, rep.worker.Wake, rep.worker.PassedOver())
	go func() {
		defer close(rep.done)
		if err := rep.worker.Run(ctx); err != nil {
			r.t.Error(err)
		}
	}()
	r.t.Cleanup(rep.stop)
	return rep
}

// withoutPolicy tries providers in their order.
func withoutPolicy(providers []allocator.Provider) allocator.Explain {
	var choices []placement.Provider
	for _, p := range providers {
		choices = append(choices, placement.Provider{Name: p.Info.Name, Regions: p.Info.Regions, Builds: p.Info.Builds})
	}
	return func(r placement.Request) placement.Explanation { return placement.Policy{}.Explain(r, choices) }
}

// and adds a provider to those of a replica, after them.
func (r *rig) and(name string, f *farm) func(*allocator.WorkerConfig) {
	return func(c *allocator.WorkerConfig) {
		metrics, err := host.NewMetrics(prometheus.NewRegistry())
		if err != nil {
			r.t.Fatal(err)
		}
		p, err := host.Open(context.Background(), host.Config{Name: name, Provider: f, Metrics: metrics})
		if err != nil {
			r.t.Fatal(err)
		}
		c.Providers = append(c.Providers, p)
	}
}

// stop ends the replica as a service ends.
func (r *replica) stop() {
	r.cancel()
	<-r.done
}

// kill ends it as kill -9 does: nothing that it was about to write is written.
func (r *replica) kill() {
	r.queue.dead.Store(true)
	r.stop()
}

func wish(n int) allocator.Wish {
	return allocator.Wish{
		ID: ids.Attempt(instance, n), Namespace: "default", InstanceID: instance,
		Placement: allocator.Placement{Build: "demo", Regions: []string{"eu"}, Labels: map[string]string{"mode": "duel"}, Latencies: map[string]time.Duration{"eu": time.Millisecond}},
	}
}

func (r *rig) create(rep *replica, w allocator.Wish) {
	r.t.Helper()
	if _, err := rep.Create(r.t.Context(), w); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) release(rep *replica, w allocator.Wish) {
	r.t.Helper()
	if _, err := rep.Release(r.t.Context(), w.Namespace, w.ID, w.InstanceID); err != nil {
		r.t.Fatal(err)
	}
}

// stored is the allocation as it lies in the store.
func (r *rig) stored(w allocator.Wish) allocator.Allocation {
	r.t.Helper()
	a, _, err := redisstore.New(r.redis).Load(context.Background(), w.ID)
	if err != nil {
		r.t.Fatal(err)
	}
	return a
}

// settled waits until the allocation has the state and owes no report.
func (r *rig) settled(w allocator.Wish, want allocator.State) allocator.Allocation {
	r.t.Helper()
	var a allocator.Allocation
	eventually(r.t, func() (bool, any) {
		a = r.stored(w)
		return a.State == want && (a.Report == allocator.ReportNone || want == allocator.Ready), a
	})
	return a
}

func eventually(t testing.TB, holds func() (bool, any)) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); ; <-tick.C {
		ok, seen := holds()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain; last seen: %+v", seen)
		}
	}
}

// mount runs a server until the returned function is called.
func mount(t testing.TB, srv *rpc.Server, ln net.Listener) (stop func()) {
	t.Helper()
	return run(t, app.Module{Name: "test", Build: func(_ context.Context, b *app.Builder) error {
		srv.Mount(b, "gRPC", ln)
		return nil
	}})
}

// run runs a module until the returned function is called.
func run(t testing.TB, m app.Module) (stop func()) {
	t.Helper()
	return runWith(t, app.Config{Log: slog.New(slog.DiscardHandler)}, m)
}

func runWith(t testing.TB, cfg app.Config, m app.Module) (stop func()) {
	t.Helper()
	a, err := app.New(t.Context(), cfg, m)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := a.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	return sync.OnceFunc(func() { cancel(); <-done })
}
