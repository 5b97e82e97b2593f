package playfab

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/providers/internal/attempts"
	"github.com/berth-dev/berth/services/allocation/providers/internal/hostapi"
)

const (
	kind         = "playfab"
	version      = "1"
	pollInterval = 2 * time.Second
	// maxBootstrap is what fits into a session's cookie, which has at most 8 KB: with either meaning of KB.
	maxBootstrap = 8000
)

// Provider implements provider.Provider. It is safe for concurrent use.
type Provider struct {
	cfg    Config
	client *client
	book   attempts.Book
	known  attempts.Known
}

var _ provider.Provider = (*Provider)(nil)

// New returns a Provider. It calls nobody yet.
func New(cfg Config) (*Provider, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	c, err := newClient(cfg)
	if err != nil {
		return nil, fmt.Errorf("playfab.url: %w", err)
	}
	return &Provider{cfg: cfg, client: c}, nil
}

// Describe implements provider.Provider.
func (p *Provider) Describe(_ context.Context, req *providerv1.DescribeRequest) (*providerv1.DescribeResponse, error) {
	return hostapi.Describe(req, p.cfg.Builds, p.cfg.Regions, &providerv1.DescribeResponse{
		Kind: kind, Version: version, MaxBootstrapBytes: maxBootstrap, PollInterval: durationpb.New(pollInterval),
	})
}

// Allocate implements provider.Provider.
func (p *Provider) Allocate(ctx context.Context, req *providerv1.AllocateRequest) (*providerv1.AllocateResponse, error) {
	build, err := hostapi.Lookup("build", p.cfg.Builds, req.GetBuild())
	if err != nil {
		return nil, err
	}
	region, err := hostapi.Lookup("region", p.cfg.Regions, req.GetRegion())
	if err != nil {
		return nil, err
	}
	unlock, err := p.book.Begin(ctx, req.GetAttemptId())
	if err != nil {
		return nil, err
	}
	defer unlock()
	o := order{BuildID: build.ID, PreferredRegions: []string{region}, SessionCookie: string(req.GetBootstrap())}
	if build.Alias != "" {
		o.BuildAliasParams = &alias{build.Alias}
	}
	s, err := p.start(ctx, req, o)
	if err != nil {
		return nil, err
	}
	s.Region = req.GetRegion() // of several that PlayFab has one name for, the one that was asked for
	return &providerv1.AllocateResponse{Server: s}, nil
}

// start starts the attempt's session, unless it is there. What PlayFab answers to a second request for one is not documented, so an attempt that was heard of
// before is looked for first, and a refusal is taken for one only if the session is not there.
func (p *Provider) start(ctx context.Context, req *providerv1.AllocateRequest, o order) (*providerv1.Server, error) {
	var before bool
	o.SessionID, before = p.learn(req)
	if before {
		s, err := p.server(ctx, o.SessionID, req.GetAttemptId())
		if err == nil {
			return alive(s)
		}
		if provider.ReasonOf(err) != provider.NotFound {
			return nil, ambiguous(req.GetAttemptId(), err)
		}
	}
	got, err := p.client.start(ctx, o)
	var refusal *doubtful
	switch {
	case errors.As(err, &refusal):
		return p.refused(ctx, o.SessionID, req.GetAttemptId(), refusal.error)
	case err != nil:
		return nil, err
	}
	return p.told(p.client.request, got, o.SessionID, req.GetAttemptId())
}

// refused is told that a request was. The attempt's session may be there all the same, of an earlier call; only if it is not, the refusal holds.
func (p *Provider) refused(ctx context.Context, id, attempt string, refusal error) (*providerv1.Server, error) {
	s, err := p.server(ctx, id, attempt)
	switch {
	case err == nil:
		return alive(s)
	case provider.ReasonOf(err) == provider.NotFound:
		return nil, refusal
	default:
		return nil, ambiguous(attempt, err)
	}
}

// ambiguous is what a call fails with that could not learn whether an earlier one for the attempt started a session.
func ambiguous(attempt string, err error) error {
	failure := provider.Failure(provider.Ambiguous, "attempt %s: whether an earlier call started a session is not known: %s", attempt, status.Convert(err).Message())
	if after := provider.RetryAfterOf(err); after > 0 {
		failure = provider.RetryAfter(failure, after)
	}
	return failure
}

// alive returns a server, unless its attempt is over: that has one server, once.
func alive(s *providerv1.Server) (*providerv1.Server, error) {
	if s.GetState() == providerv1.ServerState_SERVER_STATE_EXITED {
		return nil, provider.Failure(provider.Invalid, "attempt %s: its server has ended", s.GetAttemptId())
	}
	return s, nil
}

// learn returns the id of an attempt's session, which is known from now on, and whether it was before.
func (p *Provider) learn(of interface {
	GetDeployment() string
	GetAttemptId() string
},
) (id string, before bool) {
	id = attempts.UUID(of.GetDeployment(), of.GetAttemptId())
	return id, p.known.Learn(id, of.GetDeployment(), of.GetAttemptId())
}

// server looks a session up.
func (p *Provider) server(ctx context.Context, id, attempt string) (*providerv1.Server, error) {
	s, err := p.client.session(ctx, id)
	if err != nil {
		return nil, err
	}
	return p.told(p.client.details, s, id, attempt)
}

// told is the server that the host told of, if that makes sense.
func (p *Provider) told(op *hostapi.Operation, s session, id, attempt string) (*providerv1.Server, error) {
	state, ok := stateOf(s.State)
	if !ok {
		return nil, s.senseless(op)
	}
	if err := s.is(op, id); err != nil {
		return nil, err
	}
	return &providerv1.Server{
		AttemptId: attempt, ExternalId: id, State: state, Region: p.cfg.regionOf(s.Region), Endpoints: endpointsOf(s),
	}, nil
}

// Get implements provider.Provider.
func (p *Provider) Get(ctx context.Context, req *providerv1.GetRequest) (*providerv1.GetResponse, error) {
	id, _ := p.learn(req)
	s, err := p.server(ctx, id, req.GetAttemptId())
	if err != nil {
		return nil, err
	}
	return &providerv1.GetResponse{Server: s}, nil
}

// Release implements provider.Provider. A session that is not there is shut down nevertheless: it may be too new. So is one in a state that is not known.
func (p *Provider) Release(ctx context.Context, req *providerv1.ReleaseRequest) (*providerv1.ReleaseResponse, error) {
	unlock, err := p.book.End(ctx, req.GetAttemptId())
	if err != nil {
		return nil, err
	}
	defer unlock()
	id, _ := p.learn(req)
	s, err := p.client.session(ctx, id)
	if err == nil {
		err = s.is(p.client.details, id)
	}
	if err != nil && provider.ReasonOf(err) != provider.NotFound {
		return nil, err
	}
	if state, known := stateOf(s.State); known && over(state) {
		return &providerv1.ReleaseResponse{State: state}, nil
	}
	err = p.client.shutDown(ctx, id)
	if provider.ReasonOf(err) == provider.NotFound {
		return &providerv1.ReleaseResponse{State: providerv1.ServerState_SERVER_STATE_EXITED}, nil
	}
	if err != nil {
		return nil, err
	}
	return &providerv1.ReleaseResponse{State: providerv1.ServerState_SERVER_STATE_STOPPING}, nil
}

// Close ends the connections to the host.
func (p *Provider) Close(context.Context) error {
	p.client.close()
	return nil
}
