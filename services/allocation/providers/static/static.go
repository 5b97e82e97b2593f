// Package static is the provider for warm pools: servers that started by themselves, joined a pool and wait. It starts and stops nothing: it asks
// game-instance, which knows who is in the pool, for room on one of them.
package static

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/berth-dev/berth/pkg/errs"
	poolv1 "github.com/berth-dev/berth/pkg/gen/berth/pool/v1"
	"github.com/berth-dev/berth/pkg/rpc"
	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/providers/internal/names"
)

const (
	kind         = "static"
	version      = "1"
	pollInterval = 5 * time.Second
)

// Strategies of a Config.
const (
	strategyPacked = "packed"
	strategySpread = "spread"
)

// Config configures a Provider.
type Config struct {
	// Deployment is the mark of all that is in the pool: game-instance keeps it in the store of this deployment, which no other has. Set by the service.
	Deployment string `yaml:"-"`
	// Pool is the name of the pool. Needed.
	Pool string `yaml:"pool"`
	// Strategy says which server with room gets the next instance: packed, the one with the least room left (default), or spread, the one with the fewest
	// instances.
	Strategy string `yaml:"strategy"`
	// Regions that the pool's servers are in. Default: local. A server that named no region counts for each.
	Regions []string `yaml:"regions"`
	// Builds that the pool's servers run. Needed.
	Builds []string `yaml:"builds"`
}

func (c Config) check() error {
	switch {
	case c.Pool == "":
		return errors.New("pool: the name of the pool is needed, as its servers say it when they join")
	case !names.Label(c.Pool):
		return fmt.Errorf("pool: no server can join %q: lower-case letters, digits and '-'", c.Pool)
	case len(c.Builds) == 0:
		return errors.New("builds: at least one build is needed")
	}
	if err := names.Builds(c.Builds); err != nil {
		return fmt.Errorf("builds: %w", err)
	}
	if err := names.Regions(c.Regions); err != nil {
		return fmt.Errorf("regions: %w", err)
	}
	return nil
}

// Provider implements provider.Provider. It is safe for concurrent use.
type Provider struct {
	cfg      Config
	strategy poolv1.Strategy
	pools    poolv1.PoolServiceClient
}

var _ provider.Provider = (*Provider)(nil)

// New returns a Provider that asks pools.
func New(cfg Config, pools poolv1.PoolServiceClient) (*Provider, error) {
	if len(cfg.Regions) == 0 {
		cfg.Regions = []string{"local"}
	}
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("static.%w", err)
	}
	p := &Provider{cfg: cfg, pools: pools}
	switch cmp.Or(cfg.Strategy, strategyPacked) {
	case strategyPacked:
		p.strategy = poolv1.Strategy_STRATEGY_PACKED
	case strategySpread:
		p.strategy = poolv1.Strategy_STRATEGY_SPREAD
	default:
		return nil, fmt.Errorf("static.strategy: %q is neither %s nor %s", cfg.Strategy, strategyPacked, strategySpread)
	}
	return p, nil
}

// Describe implements provider.Provider.
func (p *Provider) Describe(_ context.Context, req *providerv1.DescribeRequest) (*providerv1.DescribeResponse, error) {
	contract, err := provider.Negotiate(req)
	if err != nil {
		return nil, err
	}
	return &providerv1.DescribeResponse{
		Kind: kind, Version: version, Regions: p.cfg.Regions, Builds: p.cfg.Builds, PollInterval: durationpb.New(pollInterval), Contract: contract,
	}, nil
}

// Allocate implements provider.Provider: it takes room. The bootstrap is of no use to a server that has its own.
func (p *Provider) Allocate(ctx context.Context, req *providerv1.AllocateRequest) (*providerv1.AllocateResponse, error) {
	if refusal := p.refuse(req); refusal != nil {
		return p.had(ctx, req.GetAttemptId(), refusal)
	}
	out, err := ask(ctx, p.pools.TakeRoom, &poolv1.TakeRoomRequest{
		Pool: p.cfg.Pool, Namespace: req.GetNamespace(), InstanceId: req.GetInstanceId(), AttemptId: req.GetAttemptId(), Build: req.GetBuild(),
		Region: req.GetRegion(), Labels: req.GetLabels(), Strategy: p.strategy,
	})
	if err != nil {
		return nil, err
	}
	return &providerv1.AllocateResponse{Server: server(out.GetRoom())}, nil
}

// refuse says why no server of the pool can ever do, if there is a reason. Game-instance only knows which servers are there now.
func (p *Provider) refuse(req *providerv1.AllocateRequest) error {
	switch {
	case !slices.Contains(p.cfg.Builds, req.GetBuild()):
		return provider.Failure(provider.Invalid, "static.builds: build %q is not among them", req.GetBuild())
	case req.GetRegion() != "" && !slices.Contains(p.cfg.Regions, req.GetRegion()):
		return provider.Failure(provider.Invalid, "static.regions: region %q is not among them", req.GetRegion())
	case req.GetDeployment() != p.cfg.Deployment:
		return provider.Failure(provider.Invalid, "deployment: pool %s is one of deployment %q, not of %q", p.cfg.Pool, p.cfg.Deployment, req.GetDeployment())
	}
	return nil
}

// had returns the room that an attempt was given before the settings were changed, and fails with the refusal if it has none.
func (p *Provider) had(ctx context.Context, attempt string, refusal error) (*providerv1.AllocateResponse, error) {
	got, err := p.Get(ctx, &providerv1.GetRequest{AttemptId: attempt})
	switch {
	case err == nil:
		return &providerv1.AllocateResponse{Server: got.GetServer()}, nil
	case provider.ReasonOf(err) == provider.NotFound:
		return nil, refusal
	}
	return nil, err
}

// Get implements provider.Provider.
func (p *Provider) Get(ctx context.Context, req *providerv1.GetRequest) (*providerv1.GetResponse, error) {
	out, err := ask(ctx, p.pools.GetRoom, &poolv1.GetRoomRequest{AttemptId: req.GetAttemptId()})
	if err != nil {
		return nil, err
	}
	return &providerv1.GetResponse{Server: server(out.GetRoom())}, nil
}

// List implements provider.Provider. All rooms are on one page.
func (p *Provider) List(ctx context.Context, req *providerv1.ListRequest) (*providerv1.ListResponse, error) {
	if req.GetDeployment() != p.cfg.Deployment {
		return &providerv1.ListResponse{}, nil
	}
	out, err := ask(ctx, p.pools.ListRooms, &poolv1.ListRoomsRequest{Pool: p.cfg.Pool})
	if err != nil {
		return nil, err
	}
	list := &providerv1.ListResponse{Servers: make([]*providerv1.Server, 0, len(out.GetRooms()))}
	for _, room := range out.GetRooms() {
		list.Servers = append(list.Servers, server(room))
	}
	return list, nil
}

// Release implements provider.Provider: it gives the room back. The server goes on.
func (p *Provider) Release(ctx context.Context, req *providerv1.ReleaseRequest) (*providerv1.ReleaseResponse, error) {
	if _, err := ask(ctx, p.pools.GiveRoomBack, &poolv1.GiveRoomBackRequest{AttemptId: req.GetAttemptId()}); err != nil {
		return nil, err
	}
	return &providerv1.ReleaseResponse{State: providerv1.ServerState_SERVER_STATE_EXITED}, nil
}

// Close ends nothing: the pool's servers go on.
func (p *Provider) Close(context.Context) error { return nil }

// server is an attempt's room as a server: it runs for as long as the attempt has the room. Whether it is connected is what its instance looks at.
func server(room *poolv1.Room) *providerv1.Server {
	return &providerv1.Server{
		AttemptId: room.GetAttemptId(), ExternalId: room.GetServerId(), ServerId: room.GetServerId(), Region: room.GetRegion(), Endpoints: room.GetEndpoints(),
		State: providerv1.ServerState_SERVER_STATE_RUNNING,
	}
}

// ask calls game-instance, and makes a failure of an error.
func ask[Req, Resp any](ctx context.Context, method func(context.Context, Req, ...grpc.CallOption) (Resp, error), req Req) (Resp, error) {
	var at peer.Peer // filled in once the call is on a connection
	resp, err := method(ctx, req, grpc.Peer(&at))
	if err != nil {
		return resp, failure(err, at.Addr != nil)
	}
	return resp, nil
}

// failure turns an error of game-instance into a typed failure. Of a call that was sent, and that it has not refused, nobody knows what became.
func failure(err error, sent bool) error {
	reason := provider.Ambiguous
	switch errs.ReasonOf(rpc.FromStatus(err)) {
	case errs.GameServerFull:
		reason = provider.NoCapacity
	case errs.GameServerUnknown:
		reason = provider.NotFound
	case errs.ValidationFailed, errs.StateNotAllowed:
		reason = provider.Invalid
	default:
		switch code := status.Code(err); {
		case code == codes.Unauthenticated:
			reason = provider.Unauthenticated
		case code == codes.Unavailable && !sent:
			return provider.Failure(provider.Unavailable, "game-instance was not reached: %s", status.Convert(err).Message())
		}
	}
	return provider.Failure(reason, "%s", status.Convert(err).Message())
}
