package allocation_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/berth-dev/berth/pkg/app"
	"github.com/berth-dev/berth/pkg/auth"
	"github.com/berth-dev/berth/pkg/errs"
	attemptv1 "github.com/berth-dev/berth/pkg/gen/berth/attempt/v1"
	"github.com/berth-dev/berth/pkg/ids"
	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/pkg/rpc"
	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	tokenv1 "github.com/berth-dev/berth/sdk/go/gen/berth/token/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/internal/allocator"
	"github.com/berth-dev/berth/services/allocation/internal/host"
	"github.com/berth-dev/berth/services/allocation/internal/peers"
	"github.com/berth-dev/berth/services/allocation/internal/redisstore"
)

const (
	internalKey = "an-internal-key-of-at-least-32-characters"
	instance    = "6c1f9a52-6f3e-4c64-9d5c-3f0d6f3f5a10"
	gameToken   = "GAME-TOKEN-MUST-NOT-BE-SEEN"
	socialToken = "SOCIAL-TOKEN-MUST-NOT-BE-SEEN"
	patience    = 20 * time.Second
	lease       = 200 * time.Millisecond
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// farm is a provider that remembers, in place of a host, and outlives the service.
type farm struct {
	mu       sync.Mutex
	servers  map[string]*providerv1.Server
	started  map[string]int // how many servers an attempt ever got
	calls    []string
	onCall   func(ctx context.Context, call, attempt string) error // before the effect
	onAnswer func(call, attempt string) error                      // after it: the answer gets lost
	order    *providerv1.AllocateRequest
}

func newFarm() *farm {
	return &farm{servers: make(map[string]*providerv1.Server), started: make(map[string]int)}
}

func (f *farm) before(ctx context.Context, call, attempt string) error {
	f.mu.Lock()
	f.calls = append(f.calls, call)
	on := f.onCall
	f.mu.Unlock()
	if on != nil {
		return on(ctx, call, attempt)
	}
	return nil
}

func (f *farm) after(call, attempt string) error {
	f.mu.Lock()
	on := f.onAnswer
	f.mu.Unlock()
	if on != nil {
		return on(call, attempt)
	}
	return nil
}

func (f *farm) Describe(context.Context, *providerv1.DescribeRequest) (*providerv1.DescribeResponse, error) {
	return &providerv1.DescribeResponse{Kind: "farm", Regions: []string{"eu"}, Builds: []string{"demo"}, PollInterval: durationpb.New(20 * time.Millisecond)}, nil
}

func (f *farm) Allocate(ctx context.Context, req *providerv1.AllocateRequest) (*providerv1.AllocateResponse, error) {
	if err := f.before(ctx, "allocate", req.GetAttemptId()); err != nil {
		return nil, err
	}
	f.mu.Lock()
	s, ok := f.servers[req.GetAttemptId()]
	if !ok {
		s = &providerv1.Server{
			AttemptId: req.GetAttemptId(), ExternalId: "vm-1", State: providerv1.ServerState_SERVER_STATE_RUNNING, Region: req.GetRegion(),
			Endpoints: []*typev1.Endpoint{{Name: "game", Host: "play.example.com", Port: 7777, Protocol: typev1.Protocol_PROTOCOL_UDP}},
		}
		f.servers[req.GetAttemptId()] = s
		f.started[req.GetAttemptId()]++
		f.order = req
	}
	f.mu.Unlock()
	return &providerv1.AllocateResponse{Server: s}, f.after("allocate", req.GetAttemptId())
}

func (f *farm) Get(ctx context.Context, req *providerv1.GetRequest) (*providerv1.GetResponse, error) {
	if err := f.before(ctx, "get", req.GetAttemptId()); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if s, ok := f.servers[req.GetAttemptId()]; ok {
		return &providerv1.GetResponse{Server: s}, nil
	}
	return nil, provider.Failure(provider.NotFound, "no such server")
}

func (f *farm) List(context.Context, *providerv1.ListRequest) (*providerv1.ListResponse, error) {
	return nil, errors.New("nobody lists")
}

func (f *farm) Release(ctx context.Context, req *providerv1.ReleaseRequest) (*providerv1.ReleaseResponse, error) {
	if err := f.before(ctx, "release", req.GetAttemptId()); err != nil {
		return nil, err
	}
	f.mu.Lock()
	delete(f.servers, req.GetAttemptId())
	f.mu.Unlock()
	return &providerv1.ReleaseResponse{State: providerv1.ServerState_SERVER_STATE_EXITED}, f.after("release", req.GetAttemptId())
}

// exit ends a server by itself.
func (f *farm) exit(attempt, message string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.servers[attempt] = &providerv1.Server{AttemptId: attempt, State: providerv1.ServerState_SERVER_STATE_EXITED, Message: message}
}

func (f *farm) set(onCall func(ctx context.Context, call, attempt string) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.onCall = onCall
}

// count says how often a call was made, how many servers there are, and how many the attempt ever got.
func (f *farm) count(call, attempt string) (calls, servers, started int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.calls {
		if c == call {
			calls++
		}
	}
	return calls, len(f.servers), f.started[attempt]
}

// peer plays game-instance and token-issuer, over real connections.
type peer struct {
	attemptv1.UnimplementedAttemptServiceServer
	tokenv1.UnimplementedTokenServiceServer

	mu       sync.Mutex
	reports  []*attemptv1.ReportAttemptRequest
	verdict  attemptv1.ReportAttemptResponse_Verdict
	onReport func(*attemptv1.ReportAttemptRequest) error
	onIssue  func() error
	conn     *grpc.ClientConn
}

func newPeer(t *testing.T) *peer {
	t.Helper()
	p := &peer{verdict: attemptv1.ReportAttemptResponse_VERDICT_ACCEPTED}
	authenticator, err := auth.New(auth.Config{InternalKey: internalKey}, nil)
	if err != nil {
		t.Fatal(err)
	}
	srv, err := rpc.NewServer(rpc.Config{
		Services: []string{attemptv1.AttemptService_ServiceDesc.ServiceName, tokenv1.TokenService_ServiceDesc.ServiceName},
		Auth:     authenticator, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	attemptv1.RegisterAttemptServiceServer(srv, p)
	tokenv1.RegisterTokenServiceServer(srv, p)
	p.conn = serve(t, srv)
	return p
}

func (p *peer) IssueTokenPair(_ context.Context, req *tokenv1.IssueTokenPairRequest) (*tokenv1.IssueTokenPairResponse, error) {
	p.mu.Lock()
	on := p.onIssue
	p.mu.Unlock()
	if on != nil {
		if err := on(); err != nil {
			return nil, err
		}
	}
	return &tokenv1.IssueTokenPairResponse{
		ServerId: ids.Server(req.GetAttemptId()), PairId: ids.Pair(req.GetAttemptId()), GameToken: gameToken, SocialToken: socialToken,
	}, nil
}

func (p *peer) ReportAttempt(_ context.Context, req *attemptv1.ReportAttemptRequest) (*attemptv1.ReportAttemptResponse, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.onReport != nil {
		if err := p.onReport(req); err != nil {
			return nil, err
		}
	}
	p.reports = append(p.reports, req)
	if req.GetAllocated() == nil {
		return &attemptv1.ReportAttemptResponse{Verdict: attemptv1.ReportAttemptResponse_VERDICT_ABANDONED}, nil
	}
	return &attemptv1.ReportAttemptResponse{Verdict: p.verdict}, nil
}

func (p *peer) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
}

// told returns the kinds of the reports that were answered, in order, repeats left out.
func (p *peer) told() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var kinds []string
	for _, r := range p.reports {
		kinds = append(kinds, kindOf(r))
	}
	return strings.Join(slices.Compact(kinds), " ")
}

func kindOf(r *attemptv1.ReportAttemptRequest) string {
	switch r.GetOutcome().(type) {
	case *attemptv1.ReportAttemptRequest_Allocated:
		return "allocated"
	case *attemptv1.ReportAttemptRequest_Failed:
		return "failed: " + r.GetFailed().GetMessage()
	case *attemptv1.ReportAttemptRequest_Exited:
		return "exited: " + r.GetExited().GetMessage()
	default:
		return "released"
	}
}

// serve serves on loopback and returns a connection to it.
func serve(t *testing.T, srv *rpc.Server) *grpc.ClientConn {
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

func (m *mortal) Commit(ctx context.Context, c allocator.Change) (a allocator.Allocation, err error) {
	err = m.around("commit", func() error { a, err = m.Store.Commit(ctx, c); return err })
	return a, err
}

// rig has what outlives a replica.
type rig struct {
	t     *testing.T
	redis *redisx.Store
	farm  *farm
	peer  *peer
	log   *slog.Logger
}

func newRig(t *testing.T, s *redisx.Store) *rig {
	t.Helper()
	return &rig{t: t, redis: s, farm: newFarm(), peer: newPeer(t), log: slog.New(slog.DiscardHandler)}
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
	configured, err := host.Open(ctx, "farm", r.farm, metrics)
	if err != nil {
		r.t.Fatal(err)
	}
	cfg := allocator.WorkerConfig{
		Queue: rep.queue, Log: r.log, Providers: []allocator.Provider{configured}, Lease: lease, Sweep: 50 * time.Millisecond,
		Credentials: peers.Issuer{Tokens: tokenv1.NewTokenServiceClient(r.peer.conn), Gateway: "http://127.0.0.1:7001"},
		Instances:   peers.Instances{Attempts: attemptv1.NewAttemptServiceClient(r.peer.conn)},
	}
	if change != nil {
		change(&cfg)
	}
	if rep.worker, err = allocator.NewWorker(cfg); err != nil {
		r.t.Fatal(err)
	}
	rep.Service = allocator.NewService(rep.queue.Store, rep.worker.Catalog(), rep.worker.Wake)
	go func() {
		defer close(rep.done)
		if err := rep.worker.Run(ctx); err != nil {
			r.t.Error(err)
		}
	}()
	r.t.Cleanup(rep.stop)
	return rep
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

func eventually(t *testing.T, holds func() (bool, any)) {
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

func unavailable() error { return errs.New(errs.ServiceUnavailable, "not now") }

// mount runs a server until the returned function is called.
func mount(t *testing.T, srv *rpc.Server, ln net.Listener) (stop func()) {
	t.Helper()
	return run(t, app.Module{Name: "test", Build: func(_ context.Context, b *app.Builder) error {
		srv.Mount(b, "gRPC", ln)
		return nil
	}})
}

// run runs a module until the returned function is called.
func run(t *testing.T, m app.Module) (stop func()) {
	t.Helper()
	a, err := app.New(t.Context(), app.Config{Log: slog.New(slog.DiscardHandler)}, m)
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
