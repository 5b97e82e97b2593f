package allocation

import (
	"context"

	"github.com/google/uuid"

	"github.com/berth-dev/berth/pkg/app"
	"github.com/berth-dev/berth/services/allocation/internal/allocator"
	"github.com/berth-dev/berth/services/allocation/internal/fleet"
	"github.com/berth-dev/berth/services/allocation/internal/peers"
	"github.com/berth-dev/berth/services/allocation/internal/placement"
	"github.com/berth-dev/berth/services/allocation/internal/reaper"
	"github.com/berth-dev/berth/services/allocation/internal/redisstore"
)

// engine is what allocates: parts that ask each other.
type engine struct {
	store     *redisstore.Store
	providers []allocator.Provider
	attempts  peers.Instances
	issuer    peers.Issuer

	worker      *allocator.Worker
	allocations *allocator.Service
	hosts       *fleet.Fleet
	orphans     *reaper.Reaper
}

// start makes the parts and has them run with the service.
func (e *engine) start(ctx context.Context, b *app.Builder, cfg Config) (err error) {
	owner := uuid.NewString()
	e.hosts, err = fleet.New(ctx, fleet.Config{
		Store: e.store, Instances: e.attempts, Log: b.Log(), Providers: e.providers, Owner: owner,
		Health:    func() []allocator.Health { return e.worker.Health() },
		Elsewhere: func(ctx context.Context, a allocator.Allocation) error { return e.worker.Elsewhere(ctx, a) },
		Check:     cfg.Placement.Check,
	})
	if err != nil {
		return err
	}
	explain, err := explainer(cfg, e.hosts)
	if err != nil {
		return err
	}
	e.worker, err = allocator.NewWorker(allocator.WorkerConfig{
		Queue: e.store, Slots: e.store, Lines: e.store, QueueLimit: cfg.Queue.Limit, Explain: explain, Providers: e.providers, Log: b.Log(),
		Instances: e.attempts, Credentials: e.issuer,
	})
	if err != nil {
		return err
	}
	if err := watch(b.Metrics(), e.worker); err != nil {
		return err
	}
	e.allocations = allocator.NewService(e.store, explain, cfg.Queue.Limit, e.worker.Wake, e.worker.PassedOver())
	e.orphans, err = reaper.New(reaper.Config{
		Store: e.store, Instances: e.attempts, Log: b.Log(), Providers: listed(e.providers), Owner: owner, Metrics: b.Metrics(),
	})
	if err != nil {
		return err
	}
	b.Run("providers' settings", e.hosts.Run)
	b.Run("reaper", e.orphans.Run)
	b.Run("allocation worker", e.worker.Run)
	return nil
}

// listed are the providers as the reaper goes through them.
func listed(configured []allocator.Provider) []reaper.Provider {
	var list []reaper.Provider
	for _, p := range configured {
		if h, ok := p.Host.(reaper.Host); ok {
			list = append(list, reaper.Provider{Name: p.Info.Name, Host: h})
		}
	}
	return list
}

// explainer makes the policy, now that the providers have said what they are. Those that have not are checked when they have.
func explainer(cfg Config, hosts *fleet.Fleet) (allocator.Explain, error) {
	if err := cfg.Placement.Check(hosts.Providers()); err != nil {
		return nil, err
	}
	policy, err := placement.New(cfg.Placement, cfg.names())
	if err != nil {
		return nil, err
	}
	return func(r placement.Request) placement.Explanation { return policy.Explain(r, hosts.Providers()) }, nil
}
