package allocator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"
)

// Queue is the store as workers see it: allocations with the time at which there is something to do, and leases.
type Queue interface {
	// Due returns ids of allocations that are due, at most limit of each partition.
	Due(ctx context.Context, limit int) ([]string, error)
	// Claim takes a lease on a due allocation, or on one that the owner holds already; with force, on one that is not due. ok is false when
	// somebody else has it, or there is nothing to do.
	Claim(ctx context.Context, id, owner string, lease time.Duration, force bool) (c Claimed, ok bool, err error)
	// Renew prolongs a lease, and reports false when it is the owner's no more.
	Renew(ctx context.Context, id, owner string, lease time.Duration) (bool, error)
	// Commit stores what an owner did. It fails with ErrConflict or ErrLeaseLost.
	Commit(ctx context.Context, c Change) (Allocation, error)
}

// Claimed is an allocation under a lease.
type Claimed struct {
	// Allocation is as stored.
	Allocation Allocation
	// Now is the store's time.
	Now time.Time
}

// Change is what a worker commits.
type Change struct {
	// Allocation has the revision that the change was decided on.
	Allocation Allocation
	// Owner holds the lease.
	Owner string
	// Write stores the allocation; without it only the lease and the due time change.
	Write bool
	// Delete removes the allocation.
	Delete bool
	// Keep keeps the lease. Otherwise it ends, and the allocation is due at Due.
	Keep bool
	Due  time.Time
}

// Credentials makes what a server needs to come to its instance.
type Credentials interface {
	// Bootstrap mints the credentials of the allocation's server, of the kind that the provider is to carry, and returns its bootstrap document, a secret.
	Bootstrap(ctx context.Context, a Allocation, p ProviderInfo) ([]byte, error)
}

// Instances tells instances what became of their attempts.
type Instances interface {
	// Report tells an instance what the allocation owes it.
	Report(ctx context.Context, a Allocation) (Verdict, error)
}

// WorkerConfig configures a Worker.
type WorkerConfig struct {
	// Queue, Slots, Lines, Credentials, Instances, Explain and Log are needed.
	Queue       Queue
	Slots       Slots
	Lines       Lines
	Credentials Credentials
	Instances   Instances
	// Explain says where a server may be looked for.
	Explain Explain
	Log     *slog.Logger
	// Providers are the configured providers, in order.
	Providers []Provider
	// Lease is how long an allocation stays with a worker that was lost. Default 3 s.
	Lease time.Duration
	// Sweep is how often the queue is searched for what nobody was woken for. Default 500 ms.
	Sweep time.Duration
	// ReportTimeout bounds a call to another service. Default 5 s.
	ReportTimeout time.Duration
	// Concurrency is how many allocations are worked on at once that need no provider; each provider has its own bound. Default 128.
	Concurrency int
	// QueueLimit is how many may wait for a build. Default DefaultQueueLimit.
	QueueLimit int
}

// Worker moves allocations on. Any number may work on one store; each allocation is with one at a time, and what a lost one held is taken
// up again when its lease is over. It is safe for concurrent use.
type Worker struct {
	cfg       WorkerConfig
	owner     string
	providers map[string]Provider
	schedule  *schedule
	breakers  *breakers
	keeper    *keeper
	passed    *PassedOver
}

// DefaultQueueLimit is how many may wait for a build.
const DefaultQueueLimit = 10_000

// NewWorker returns a Worker. It does nothing before Run.
func NewWorker(cfg WorkerConfig) (*Worker, error) {
	if cfg.Queue == nil || cfg.Slots == nil || cfg.Lines == nil || cfg.Credentials == nil || cfg.Instances == nil || cfg.Explain == nil || cfg.Log == nil {
		return nil, errors.New("allocator: a worker needs Queue, Slots, Lines, Credentials, Instances, Explain and Log")
	}
	cfg.Lease = orDefault(cfg.Lease, 3*time.Second)
	cfg.Sweep = orDefault(cfg.Sweep, 500*time.Millisecond)
	cfg.ReportTimeout = orDefault(cfg.ReportTimeout, 5*time.Second)
	cfg.Concurrency = orDefault(cfg.Concurrency, 128)
	cfg.QueueLimit = orDefault(cfg.QueueLimit, DefaultQueueLimit)
	w := &Worker{cfg: cfg, owner: uuid.NewString(), providers: make(map[string]Provider, len(cfg.Providers)), breakers: newBreakers(cfg.Log), passed: &PassedOver{log: cfg.Log}}
	for _, p := range cfg.Providers {
		if _, twice := w.providers[p.Info.Name]; twice {
			return nil, fmt.Errorf("allocator: two providers are named %q", p.Info.Name)
		}
		p.Info.Timeout = orDefault(p.Info.Timeout, DefaultTimeout)
		p.Info.MaxCalls = orDefault(p.Info.MaxCalls, DefaultMaxCalls)
		w.providers[p.Info.Name] = p
	}
	w.schedule = newSchedule(w.work, cfg.Concurrency, w.providers)
	w.keeper = newKeeper(cfg.Lines, w.builds, w.schedule.nudge, w.auditWaiters)
	return w, nil
}

func orDefault[T ~int | ~int64](v, def T) T {
	if v == 0 {
		return def
	}
	return v
}

// provider returns a configured provider, with what it is now.
func (w *Worker) provider(name string) (Provider, bool) {
	p, ok := w.providers[name]
	if ok {
		p.Info, _ = p.Now()
	}
	return p, ok
}

// Health says how the providers do that this process has asked for servers, in the order of their names.
func (w *Worker) Health() []Health { return w.breakers.health() }

// Lanes says how many turn to each provider in this process, in the order of their names.
func (w *Worker) Lanes() []Lane { return w.schedule.load() }

// Crowds says who waits for the builds that providers have now, as this process has seen it last: a few seconds ago. What could not be read then is left out.
func (w *Worker) Crowds() []Crowd { return w.keeper.seen() }

// PassedOver counts the records that this process has passed over.
func (w *Worker) PassedOver() *PassedOver { return w.passed }

// Wake makes the worker look at an allocation now. It never blocks.
func (w *Worker) Wake(id string) { w.schedule.wake(id) }

// Run works until ctx is cancelled, and returns when nothing of it runs any more.
func (w *Worker) Run(ctx context.Context) error {
	w.schedule.open(ctx)
	defer w.schedule.close()
	var others sync.WaitGroup
	others.Go(func() { w.sweep(ctx) })
	others.Go(func() { w.audits(ctx) })
	others.Go(func() { w.keeper.run(ctx) })
	defer others.Wait()
	w.schedule.keepTime(ctx)
	return nil
}

// sweep searches the queue: for what a lost worker left, what was scheduled elsewhere, and what a wake was dropped for.
func (w *Worker) sweep(ctx context.Context) {
	tick := time.NewTicker(w.cfg.Sweep)
	defer tick.Stop()
	down := false
	for {
		var ids []string
		var err error
		if !w.schedule.busy() { // else there is enough to do, and what is due stays so
			ids, err = w.cfg.Queue.Due(ctx, w.cfg.Concurrency)
		}
		if ctx.Err() != nil {
			return
		}
		if (err != nil) != down {
			down = err != nil
			if down {
				w.cfg.Log.WarnContext(ctx, "allocations wait for the store", "error", err)
			} else {
				w.cfg.Log.InfoContext(ctx, "the store is back")
			}
		}
		w.schedule.found(ids) //nolint:contextcheck // what is started goes by Run's own context
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
