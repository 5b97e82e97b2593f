// Package reaper finds servers at the providers that no allocation knows, and releases those that no instance wants. What becomes of an allocation whose
// server is gone is not its business: the worker asks about each server anyway.
package reaper

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/berth-dev/berth/services/allocation/internal/allocator"
)

const (
	// every is the pause between two looks by default, and lease how long one process looks for all.
	every = time.Minute
	lease = 90 * time.Second
	// grace is how long a server has to be an orphan before it is released: a store that has lost its newest writes, or a listing that lags behind, mends.
	grace = 2 * time.Minute
	// lookTimeout bounds a look at one provider, pageTimeout one page of its list, and callTimeout any other call.
	lookTimeout = 10 * time.Minute
	pageTimeout = 30 * time.Second
	callTimeout = 5 * time.Second
	// chunk is how many servers are looked up at once, whatever the size of a page, and maxFound how many orphans of a provider are returned. All are dealt with.
	chunk    = 500
	maxFound = 1000
	// fewOrphans may always be released. More are held back when they are more than half of what the provider has.
	fewOrphans = 10
)

// Action is what was done with an orphan. The numbers are those of berth.allocation.v1.Orphan.Action.
type Action int

// The actions.
const (
	// Waited: nothing yet, or nothing in a dry run.
	Waited Action = iota + 1
	// Released: given back to the provider.
	Released
	// Kept: its instance has accepted it, or may.
	Kept
	// Failed: it is tried again.
	Failed
	// Held: people must decide, as so many are orphans at once, or its instance is not known at all.
	Held
)

// String returns the action's name in metrics and logs.
func (a Action) String() string {
	return [...]string{"", "waited", "released", "kept", "failed", "held"}[a]
}

// Orphan is a server that no allocation knows.
type Orphan struct {
	Provider string
	allocator.Listed
	// elsewhere: its allocation is not over, and at another provider.
	elsewhere bool
	// Since is when it was first seen without an allocation.
	Since time.Time
	// Action is what was done, and Message why.
	Action  Action
	Message string
}

// Store is what the reaper needs of the store.
type Store interface {
	// Loads returns allocations in the order of their ids; Rev is 0 of those that are not there. With an allocator.UnreadableError it returns all others.
	Loads(ctx context.Context, ids []string) ([]allocator.Allocation, error)
	// Note notes for a look that these attempts of a provider are orphans; those that were before stay so since then. It counts when Noted is called.
	Note(ctx context.Context, provider, look string, attempts []string) error
	// Noted ends a look: which attempts are orphans, and since when, is what has been noted for it, and nothing else.
	Noted(ctx context.Context, provider, look string) error
	// Since returns since when attempts are orphans, by the last look that has ended, and the store's time, which it is for those that are none.
	Since(ctx context.Context, provider string, attempts []string) (since []time.Time, now time.Time, err error)
	// Lead reports whether the owner may do what only one may at a time, for so long.
	Lead(ctx context.Context, what, owner string, lease time.Duration) (bool, error)
}

// Host lists and releases servers of a provider.
type Host interface {
	// List returns a page of the servers that carry this deployment's mark; the first one for "".
	List(ctx context.Context, page string) (allocator.Page, error)
	// Release gives a server back and reports whether it is gone.
	Release(ctx context.Context, attempt, externalID string) (gone bool, err error)
}

// Provider is a provider to look at.
type Provider struct {
	Name string
	Host Host
}

// Instances says what becomes of servers.
type Instances interface {
	// Report tells an instance what the allocation owes it.
	Report(ctx context.Context, a allocator.Allocation) (allocator.Verdict, error)
	// Ask asks an instance about an attempt, and changes nothing.
	Ask(ctx context.Context, instance, attempt string) (allocator.Verdict, error)
}

// Config configures a Reaper.
type Config struct {
	// Store, Instances and Log are needed.
	Store     Store
	Instances Instances
	Log       *slog.Logger
	// Providers are looked at.
	Providers []Provider
	// Owner names this process.
	Owner string
	// Every is the pause between two looks; 0: a minute. Tests are in more of a hurry.
	Every time.Duration
	// Metrics is where the orphans are counted; nil: nowhere.
	Metrics prometheus.Registerer
}

// Reaper is safe for concurrent use.
type Reaper struct {
	cfg    Config
	count  *prometheus.CounterVec
	passed *prometheus.CounterVec

	mu   sync.Mutex
	said map[string]int // by provider: how much was passed over in the last look
}

// New returns a Reaper.
func New(cfg Config) (*Reaper, error) {
	r := &Reaper{
		cfg: cfg, said: make(map[string]int),
		count: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "berth_reaper_orphans_total", Help: "Servers found at providers that no allocation knows, by provider and what was done: waited, released, kept, failed, held.",
		}, []string{"provider", "action"}),
		passed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "berth_reaper_passed_over_total", Help: "What the reaper passed over, by provider and what it was: an entry of its list that cannot be a server, or a record that cannot be read.",
		}, []string{"provider", "what"}),
	}
	r.cfg.Every = cmp.Or(cfg.Every, every)
	if cfg.Metrics == nil {
		return r, nil
	}
	if err := errors.Join(cfg.Metrics.Register(r.count), cfg.Metrics.Register(r.passed)); err != nil {
		return nil, fmt.Errorf("metrics of the reaper: %w", err)
	}
	return r, nil
}

// Run looks again and again, where no other process does, until ctx ends. Each provider is looked at by itself: one that hangs does not hold up the others.
func (r *Reaper) Run(ctx context.Context) error {
	var running sync.WaitGroup
	for _, p := range r.cfg.Providers {
		running.Go(func() { r.watch(ctx, p) })
	}
	running.Wait()
	return nil
}

// watch looks at a provider until ctx ends.
func (r *Reaper) watch(ctx context.Context, p Provider) {
	tick := time.NewTicker(r.cfg.Every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if !r.leads(ctx) {
			continue
		}
		if _, err := r.look(ctx, p, Options{goOn: r.leads}); err != nil && ctx.Err() == nil {
			r.cfg.Log.WarnContext(ctx, "the servers of a provider cannot be looked for; trying again", "provider", p.Name, "error", err)
		}
	}
}

// leads reports whether this process is the one that looks, and stays it for a lease.
func (r *Reaper) leads(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	leads, err := r.cfg.Store.Lead(ctx, "reap", r.cfg.Owner, lease)
	return err == nil && leads
}

// Options say how to look.
type Options struct {
	// Provider is the only one that is looked at; empty: all.
	Provider string
	// DryRun changes nothing: no server is released, no instance told of one, and nothing is remembered.
	DryRun bool
	// Force releases also what would be held.
	Force bool
	// goOn is asked before each page of a provider's list whether to go on; nil: yes.
	goOn func(context.Context) bool
}

// Has reports whether a provider is one that is looked at.
func (r *Reaper) Has(provider string) bool {
	return slices.ContainsFunc(r.cfg.Providers, func(p Provider) bool { return p.Name == provider })
}

// Reap looks once. It returns the orphans, at most maxFound of each provider, and why providers could not be looked at, or not wholly.
func (r *Reaper) Reap(ctx context.Context, o Options) (found []Orphan, problems map[string]string) {
	problems = make(map[string]string)
	for _, p := range r.cfg.Providers {
		if o.Provider != "" && o.Provider != p.Name {
			continue
		}
		seen, err := r.look(ctx, p, o)
		found = append(found, seen.found...)
		if problem := seen.problem(err); problem != "" {
			problems[p.Name] = problem
		}
	}
	return found, problems
}
