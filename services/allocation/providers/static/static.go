// Package static is the provider for warm pools: servers that started by themselves, joined a pool and wait. It starts and stops nothing: it asks
// game-instance, which knows who is in the pool, for room on one of them.
package static

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/berth-dev/berth/pkg/errs"
	poolv1 "github.com/berth-dev/berth/pkg/gen/berth/pool/v1"
	"github.com/berth-dev/berth/pkg/rpc"
	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
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

// Provider implements provider.Provider. It is safe for concurrent use.
type Provider struct {
	cfg      Config
	strategy poolv1.Strategy
	pools    poolv1.PoolServiceClient
}

var _ provider.Provider = (*Provider)(nil)

// New returns a Provider that asks pools.
func New(cfg Config, pools poolv1.PoolServiceClient) (*Provider, error) {
	if cfg.Pool == "" {
		return nil, errors.New("static.pool: the name of the pool is needed, as its servers say it when they join")
	}
	if len(cfg.Builds) == 0 {
		return nil, errors.New("static.builds: at least one build is needed")
	}
	if len(cfg.Regions) == 0 {
		cfg.Regions = []string{"local"}
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
	out, err := p.pools.TakeRoom(ctx, &poolv1.TakeRoomRequest{
		Pool: p.cfg.Pool, Namespace: req.GetNamespace(), InstanceId: req.GetInstanceId(), AttemptId: req.GetAttemptId(), Build: req.GetBuild(),
		Region: req.GetRegion(), Labels: req.GetLabels(), Strategy: p.strategy,
	})
	if err != nil {
		return nil, failure(err)
	}
	return &providerv1.AllocateResponse{Server: server(out.GetRoom())}, nil
}

// Get implements provider.Provider.
func (p *Provider) Get(ctx context.Context, req *providerv1.GetRequest) (*providerv1.GetResponse, error) {
	out, err := p.pools.GetRoom(ctx, &poolv1.GetRoomRequest{AttemptId: req.GetAttemptId()})
	if err != nil {
		return nil, failure(err)
	}
	return &providerv1.GetResponse{Server: server(out.GetRoom())}, nil
}

// List implements provider.Provider. All rooms are on one page: nobody but this deployment has any in its pools.
func (p *Provider) List(ctx context.Context, _ *providerv1.ListRequest) (*providerv1.ListResponse, error) {
	out, err := p.pools.ListRooms(ctx, &poolv1.ListRoomsRequest{Pool: p.cfg.Pool})
	if err != nil {
		return nil, failure(err)
	}
	list := &providerv1.ListResponse{Servers: make([]*providerv1.Server, 0, len(out.GetRooms()))}
	for _, room := range out.GetRooms() {
		list.Servers = append(list.Servers, server(room))
	}
	return list, nil
}

// Release implements provider.Provider: it gives the room back. The server goes on.
func (p *Provider) Release(ctx context.Context, req *providerv1.ReleaseRequest) (*providerv1.ReleaseResponse, error) {
	if _, err := p.pools.GiveRoomBack(ctx, &poolv1.GiveRoomBackRequest{AttemptId: req.GetAttemptId()}); err != nil {
		return nil, failure(err)
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

// failure turns an error of game-instance into a typed failure. Of a call that it has not refused nobody knows what became.
func failure(err error) error {
	reason := provider.Ambiguous
	switch errs.ReasonOf(rpc.FromStatus(err)) {
	case errs.GameServerFull:
		reason = provider.NoCapacity
	case errs.GameServerUnknown:
		reason = provider.NotFound
	case errs.ValidationFailed, errs.StateNotAllowed:
		reason = provider.Invalid
	default:
		if status.Code(err) == codes.Unauthenticated {
			reason = provider.Unauthenticated
		}
	}
	return provider.Failure(reason, "%s", status.Convert(err).Message())
}
