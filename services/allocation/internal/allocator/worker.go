package allocator

import (
	"container/heap"
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
	// Queue, Credentials, Instances and Log are needed.
	Queue       Queue
	Credentials Credentials
	Instances   Instances
	Log         *slog.Logger
	// Providers are the configured providers, in order.
	Providers []Provider
	// Lease is how long an allocation stays with a worker that was lost. Default 3 s.
	Lease time.Duration
	// Sweep is how often the queue is searched for what nobody was woken for. Default 500 ms.
	Sweep time.Duration
	// CallTimeout bounds a call to a provider, ReportTimeout one to another service. Defaults 30 s and 5 s.
	CallTimeout, ReportTimeout time.Duration
	// Concurrency is how many allocations are worked on at once. Default 128.
	Concurrency int
}

// Worker moves allocations on. Any number may work on one store; each allocation is with one at a time, and what a lost one held is taken
// up again when its lease is over. It is safe for concurrent use.
type Worker struct {
	cfg       WorkerConfig
	owner     string
	catalog   Catalog
	providers map[string]Provider
	wakes     chan string
	swept     chan []string
	done      chan ended
}

// ended is what a run says at its end.
type ended struct {
	id    string
	again time.Time // local time of the next thing to do; zero: not known here
}

// NewWorker returns a Worker. It does nothing before Run.
func NewWorker(cfg WorkerConfig) (*Worker, error) {
	if cfg.Queue == nil || cfg.Credentials == nil || cfg.Instances == nil || cfg.Log == nil {
		return nil, errors.New("allocator: a worker needs Queue, Credentials, Instances and Log")
	}
	cfg.Lease = orDefault(cfg.Lease, 3*time.Second)
	cfg.Sweep = orDefault(cfg.Sweep, 500*time.Millisecond)
	cfg.CallTimeout = orDefault(cfg.CallTimeout, 30*time.Second)
	cfg.ReportTimeout = orDefault(cfg.ReportTimeout, 5*time.Second)
	cfg.Concurrency = orDefault(cfg.Concurrency, 128)
	w := &Worker{
		cfg: cfg, owner: uuid.NewString(), providers: make(map[string]Provider, len(cfg.Providers)),
		wakes: make(chan string, 1024), // overflow: dropped; the next sweep finds it
		swept: make(chan []string),
		done:  make(chan ended),
	}
	for _, p := range cfg.Providers {
		if _, twice := w.providers[p.Info.Name]; twice {
			return nil, fmt.Errorf("allocator: two providers are named %q", p.Info.Name)
		}
		w.providers[p.Info.Name] = p
		w.catalog = append(w.catalog, p.Info)
	}
	return w, nil
}

func orDefault[T ~int | ~int64](v, def T) T {
	if v == 0 {
		return def
	}
	return v
}

// Catalog returns the configured providers.
func (w *Worker) Catalog() Catalog { return w.catalog }

// Wake makes the worker look at an allocation now. It never blocks.
func (w *Worker) Wake(id string) {
	select {
	case w.wakes <- id:
	default:
	}
}

// Run works until ctx is cancelled, and returns when nothing of it runs any more.
func (w *Worker) Run(ctx context.Context) error {
	var sweeper sync.WaitGroup
	sweeper.Go(func() { w.sweep(ctx) })
	defer sweeper.Wait()

	s := schedule{w: w, ctx: ctx, running: make(map[string]bool)}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		if at, ok := s.later.next(); ok {
			timer.Reset(time.Until(at))
		}
		select {
		case <-ctx.Done():
		case e := <-w.done:
			s.ended(e)
		case id := <-w.wakes:
			s.start(id, true)
		case ids := <-w.swept:
			for _, id := range ids {
				s.start(id, false)
			}
		case now := <-timer.C:
			for _, id := range s.later.due(now) {
				s.start(id, false)
			}
		}
	}
	for range s.running {
		<-w.done
	}
	return nil
}

// schedule is what Run keeps between its events.
type schedule struct {
	w       *Worker
	ctx     context.Context // Run's own, for the length of Run
	running map[string]bool // the allocations that are worked on, and whether they were woken meanwhile
	later   agenda
}

func (s *schedule) start(id string, woken bool) {
	switch _, busy := s.running[id]; {
	case busy:
		s.running[id] = s.running[id] || woken
	case len(s.running) >= s.w.cfg.Concurrency:
		s.later.add(id, time.Now().Add(s.w.cfg.Sweep/4))
	default:
		s.running[id] = false
		go func() { s.w.done <- ended{id, s.w.work(s.ctx, id)} }() // owned: Run receives one message of each
	}
}

func (s *schedule) ended(e ended) {
	woken := s.running[e.id]
	delete(s.running, e.id)
	switch {
	case woken:
		s.start(e.id, false)
	case !e.again.IsZero() && time.Until(e.again) < horizon:
		s.later.add(e.id, e.again)
	}
}

// sweep searches the queue: for what a lost worker left, what was scheduled elsewhere, and what a wake was dropped for.
func (w *Worker) sweep(ctx context.Context) {
	tick := time.NewTicker(w.cfg.Sweep)
	defer tick.Stop()
	down := false
	for {
		ids, err := w.cfg.Queue.Due(ctx, w.cfg.Concurrency)
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
		select {
		case w.swept <- ids:
		case <-ctx.Done():
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

const (
	// maxAgenda bounds an agenda. Overflow: dropped; the sweep finds what is due.
	maxAgenda = 1 << 16
	// horizon is how far ahead an agenda looks; the rest is the sweep's.
	horizon = time.Minute
)

// agenda knows when allocations that this worker saw are due next, so that nothing has to wait for a sweep.
type agenda struct{ entries entries }

type entry struct {
	id string
	at time.Time
}

func (g *agenda) add(id string, at time.Time) {
	if len(g.entries) < maxAgenda {
		heap.Push(&g.entries, entry{id, at})
	}
}

func (g *agenda) next() (time.Time, bool) {
	if len(g.entries) == 0 {
		return time.Time{}, false
	}
	return g.entries[0].at, true
}

func (g *agenda) due(now time.Time) []string {
	var ids []string
	for len(g.entries) > 0 && !g.entries[0].at.After(now) {
		if e, ok := heap.Pop(&g.entries).(entry); ok {
			ids = append(ids, e.id)
		}
	}
	return ids
}

type entries []entry

func (e entries) Len() int           { return len(e) }
func (e entries) Less(i, j int) bool { return e[i].at.Before(e[j].at) }
func (e entries) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }
func (e *entries) Push(x any) {
	if v, ok := x.(entry); ok {
		*e = append(*e, v)
	}
}

func (e *entries) Pop() any {
	old := *e
	last := old[len(old)-1]
	*e = old[:len(old)-1]
	return last
}
