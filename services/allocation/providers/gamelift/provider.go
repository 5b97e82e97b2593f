package gamelift

import (
	"cmp"
	"context"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/gamelift"
	"github.com/aws/aws-sdk-go-v2/service/gamelift/types"
	"google.golang.org/protobuf/types/known/durationpb"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/providers/internal/attempts"
	"github.com/berth-dev/berth/services/allocation/providers/internal/hostapi"
)

const (
	kind    = "gamelift"
	version = "1"
	// soon is how often GameLift is asked about a server that comes or goes, where no event tells.
	soon = 3 * time.Second
	// listening is how often what events said is to be asked for.
	listening = time.Second
	// maxBootstrap is the limit of GameSessionData.
	maxBootstrap = 262144
)

// Provider implements provider.Provider. It is safe for concurrent use.
type Provider struct {
	cfg      Config
	soon     time.Duration
	client   *client
	book     attempts.Book
	memory   *memory
	listener *listener // nil: there are no events
	// early has by fleet the sessions, by ARN, that were coming up or ending when the newest list of it began. A list that began before has them already, or need not.
	early sync.Map
}

var _ provider.Provider = (*Provider)(nil)

// New returns a Provider. It calls nobody yet but the queue of events, which it reads until Close.
func New(ctx context.Context, cfg Config) (*Provider, error) {
	return open(ctx, cfg, hostapi.Pings())
}

func open(ctx context.Context, cfg Config, pings http.HTTP2Config) (*Provider, error) {
	if err := cfg.validate(ctx); err != nil {
		return nil, err
	}
	cfg.Sweep, cfg.StopGrace = cmp.Or(cfg.Sweep, DefaultSweep), cmp.Or(cfg.StopGrace, DefaultGrace)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	c, loaded, err := newClient(ctx, cfg, pings)
	if err != nil {
		return nil, err
	}
	p := &Provider{cfg: cfg, soon: min(soon, cfg.Sweep), client: c, memory: newMemory()}
	if cfg.Events.QueueURL != "" {
		p.listener = listen(cfg.Events, loaded, p.memory, cfg.Log) //nolint:contextcheck // it goes on until Close
	}
	return p, nil
}

// Describe implements provider.Provider.
func (p *Provider) Describe(_ context.Context, req *providerv1.DescribeRequest) (*providerv1.DescribeResponse, error) {
	poll := p.soon
	if p.listener != nil {
		poll = min(poll, listening)
	}
	return hostapi.Describe(req, p.cfg.Builds, p.cfg.Regions, &providerv1.DescribeResponse{
		Kind: kind, Version: version, MaxBootstrapBytes: maxBootstrap, PollInterval: durationpb.New(poll),
	})
}

// Allocate implements provider.Provider. The attempt is the placement's id or the session's idempotency token, so that a repeat finds what the first one made.
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
	make := p.create
	if build.Queue != "" {
		make = p.place
	}
	s, err := make(ctx, req, build, region)
	if provider.ReasonOf(err) == provider.Invalid {
		return nil, provider.Failure(provider.Invalid, "gamelift.builds.%s, in %s: %s", req.GetBuild(), region.Region, words(err))
	}
	if err != nil {
		return nil, err
	}
	s.server.Region = req.GetRegion()
	return &providerv1.AllocateResponse{Server: p.memory.put(req.GetAttemptId(), s, build.Queue == "")}, nil
}

// place asks a queue for a session.
func (p *Provider) place(ctx context.Context, req *providerv1.AllocateRequest, build Build, region Region) (sighting, error) {
	before, _ := p.memory.Get(req.GetAttemptId())
	at, err := p.aim(ctx, req.GetAttemptId(), build, region)
	if err != nil {
		return sighting{}, err
	}
	s, err := p.placeIn(ctx, req, build, region)
	p.missed(req.GetAttemptId(), at, before.target, err)
	return s, err
}

func (p *Provider) placeIn(ctx context.Context, req *providerv1.AllocateRequest, build Build, region Region) (sighting, error) {
	in := &gamelift.StartGameSessionPlacementInput{
		PlacementId: aws.String(req.GetAttemptId()), GameSessionQueueName: &build.Queue, MaximumPlayerSessionCount: aws.Int32(max(1, build.Players)),
		GameSessionData: aws.String(string(req.GetBootstrap())), GameProperties: mark(req.GetDeployment(), req.GetAttemptId()),
	}
	if region.Location != "" {
		in.PriorityConfigurationOverride = &types.PriorityConfigurationOverride{
			LocationOrder: []string{region.Location}, PlacementFallbackStrategy: types.PlacementFallbackStrategyNone,
		}
	}
	placement, err := p.client.startPlacement(ctx, region.Region, in)
	switch codeOf(err) {
	case codeInvalidRequest, codeConflict: // also what is said of an id that was used
		return p.adopt(err, func() (sighting, error) { return p.placement(ctx, region.Region, req.GetAttemptId()) })
	}
	if err != nil {
		return sighting{}, err
	}
	return ofPlacement(region.Region, placement), nil
}

// create asks a fleet for a session.
func (p *Provider) create(ctx context.Context, req *providerv1.AllocateRequest, build Build, region Region) (sighting, error) {
	before, _ := p.memory.Get(req.GetAttemptId())
	if !before.target.is(build, region) && len(build.AlsoFleets) > 0 {
		if s, err := p.on(ctx, build.AlsoFleets, region, req.GetAttemptId()); provider.ReasonOf(err) != provider.NotFound {
			return s, err
		}
	}
	at, err := p.aim(ctx, req.GetAttemptId(), build, region)
	if err != nil {
		return sighting{}, err
	}
	s, err := p.createOn(ctx, req, at, build.Players)
	p.missed(req.GetAttemptId(), at, before.target, err)
	return s, err
}

func (p *Provider) createOn(ctx context.Context, req *providerv1.AllocateRequest, at target, players int32) (sighting, error) {
	in := &gamelift.CreateGameSessionInput{
		FleetId: &at.fleet, IdempotencyToken: aws.String(req.GetAttemptId()), MaximumPlayerSessionCount: aws.Int32(max(1, players)),
		GameSessionData: aws.String(string(req.GetBootstrap())), GameProperties: mark(req.GetDeployment(), req.GetAttemptId()),
	}
	if at.region.Location != "" {
		in.Location = &at.region.Location
	}
	session, err := p.client.createSession(ctx, at.region.Region, in)
	switch codeOf(err) {
	case codeOtherParameters: // the session is there from a call before, whether it is to be seen yet or not
		s, look := p.created(ctx, at.fleet, at.region, req.GetAttemptId())
		if look != nil {
			look = provider.Failure(provider.Ambiguous, "%s; and what an earlier call made is not known: %s", words(err), words(look))
		}
		return s, look
	case codeConflict, codeFleetStatus: // the session may be there from a call before
		return p.adopt(err, func() (sighting, error) { return p.created(ctx, at.fleet, at.region, req.GetAttemptId()) })
	}
	if err != nil {
		return sighting{}, err
	}
	return p.ofSession(at.region.Region, req.GetAttemptId(), session), nil
}

// adopt returns what a call before has made; if there is nothing, the refusal stands, and if nobody knows, it may not say that nothing was started.
func (p *Provider) adopt(refused error, look func() (sighting, error)) (sighting, error) {
	s, err := look()
	switch {
	case err == nil:
		return s, nil
	case provider.ReasonOf(err) == provider.NotFound:
		return sighting{}, refused
	default:
		return sighting{}, provider.Failure(provider.Ambiguous, "%s; and what an earlier call made is not known: %s", words(refused), words(err))
	}
}

// Get implements provider.Provider. AWS wants nobody to poll: it answers with what events said or GameLift did a short while ago.
func (p *Provider) Get(ctx context.Context, req *providerv1.GetRequest) (*providerv1.GetResponse, error) {
	known, ok := p.memory.Get(req.GetAttemptId())
	if ok && p.fresh(known) {
		return &providerv1.GetResponse{Server: known.server}, nil
	}
	s, direct, err := p.look(ctx, req.GetAttemptId(), req.GetExternalId(), known)
	if err != nil {
		return nil, err
	}
	return &providerv1.GetResponse{Server: p.memory.put(req.GetAttemptId(), s, direct)}, nil
}

// fresh reports whether GameLift need not be asked yet. An end is final.
func (p *Provider) fresh(r record) bool {
	pace := p.soon
	if r.state() == stateRunning || r.state() == stateStarting && !r.direct && p.listener != nil {
		pace = p.cfg.Sweep
	}
	return r.state() == stateExited || time.Since(r.seen) < pace
}

// Close ends what reads events and the connections to AWS.
func (p *Provider) Close(ctx context.Context) error {
	var err error
	if p.listener != nil {
		err = p.listener.close(ctx)
	}
	p.client.http.CloseIdleConnections()
	return err
}
