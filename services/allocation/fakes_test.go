package allocation_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/berth-dev/berth/pkg/auth"
	"github.com/berth-dev/berth/pkg/errs"
	attemptv1 "github.com/berth-dev/berth/pkg/gen/berth/attempt/v1"
	"github.com/berth-dev/berth/pkg/ids"
	"github.com/berth-dev/berth/pkg/rpc"
	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	tokenv1 "github.com/berth-dev/berth/sdk/go/gen/berth/token/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
)

// farm is a provider that remembers, in place of a host, and outlives the service.
type farm struct {
	mu       sync.Mutex
	servers  map[string]*providerv1.Server
	started  map[string]int // how many servers an attempt ever got
	calls    []string
	onCall   func(ctx context.Context, call, attempt string) error // before the effect
	onAnswer func(call, attempt string) error                      // after it: the answer gets lost
	order    *providerv1.AllocateRequest
	region   string
}

func newFarm() *farm {
	return &farm{servers: make(map[string]*providerv1.Server), started: make(map[string]int), region: "eu"}
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
	return &providerv1.DescribeResponse{Kind: "farm", Regions: []string{f.region}, Builds: []string{"demo"}, PollInterval: durationpb.New(20 * time.Millisecond)}, nil
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
	verdict  attemptv1.ReportAttemptResponse_Verdict // on a server that was named
	linked   bool                                    // the server is linked, whatever allocation knows of it
	onReport func(*attemptv1.ReportAttemptRequest) error
	onIssue  func() error
	conn     *grpc.ClientConn
}

func newPeer(t testing.TB) *peer {
	t.Helper()
	p := &peer{verdict: attemptv1.ReportAttemptResponse_VERDICT_ACCEPTED}
	authenticator, err := auth.New(auth.Config{InternalKey: internalKey}, nil, nil)
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

func (p *peer) IssueClaimCode(_ context.Context, req *tokenv1.IssueClaimCodeRequest) (*tokenv1.IssueClaimCodeResponse, error) {
	return &tokenv1.IssueClaimCodeResponse{ServerId: ids.Server(req.GetAttemptId()), Claim: claimCode}, nil
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
	if req.GetAllocated() == nil && !p.linked {
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
		if r.GetFailed().GetElsewhere() {
			return "failed, elsewhere: " + r.GetFailed().GetMessage()
		}
		return "failed: " + r.GetFailed().GetMessage()
	case *attemptv1.ReportAttemptRequest_Exited:
		return "exited: " + r.GetExited().GetMessage()
	default:
		return "released"
	}
}

func unavailable() error { return errs.New(errs.ServiceUnavailable, "not now") }
