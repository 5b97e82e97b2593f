// Package reaper finds servers at the providers that no allocation knows, and releases those that no instance wants. What becomes of an allocation whose
// server is gone is not its business: the worker asks about each server anyway.
package reaper

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/berth-dev/berth/services/allocation/internal/allocator"
)

const (
	// every is the pause between two looks, and lease how long one process looks for all.
	every = time.Minute
	lease = 90 * time.Second
	// grace is how long a server has to be an orphan before it is released: a store that has lost its newest writes, or a listing that lags behind, mends.
	grace = 2 * time.Minute
	// listTimeout bounds the listing of one provider, and callTimeout any other call.
	listTimeout = 30 * time.Second
	callTimeout = 5 * time.Second
	// maxListed bounds what is looked at of one provider at once; the rest is for the next look.
	maxListed = 100_000
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
	// Held: so many at once that people must decide.
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
	// Since is when it was first seen without an allocation.
	Since time.Time
	// Action is what was done, and Message why.
	Action  Action
	Message string
}

// Store is what the reaper needs of the store.
type Store interface {
	// Load returns an allocation. Rev is 0 when it is not there.
	Load(ctx context.Context, id string) (allocator.Allocation, time.Time, error)
	// Orphans remembers which attempts of a provider are orphans now, and returns since when each is, and the store's time.
	Orphans(ctx context.Context, provider string, attempts []string) (since []time.Time, now time.Time, err error)
	// Lead reports whether the owner may do what only one may at a time, for so long.
	Lead(ctx context.Context, what, owner string, lease time.Duration) (bool, error)
}

// Host lists and releases servers of a provider.
type Host interface {
	// List returns a page of the servers that carry this deployment's mark, and the token of the next page; "" on the last.
	List(ctx context.Context, page string) ([]allocator.Listed, string, error)
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
	// Metrics is where the orphans are counted; nil: nowhere.
	Metrics prometheus.Registerer
}

// Reaper is safe for concurrent use.
type Reaper struct {
	cfg   Config
	count *prometheus.CounterVec
}

// New returns a Reaper.
func New(cfg Config) (*Reaper, error) {
	r := &Reaper{cfg: cfg, count: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "berth_reaper_orphans_total", Help: "Servers found at providers that no allocation knows, by provider and what was done: waited, released, kept, failed, held.",
	}, []string{"provider", "action"})}
	if cfg.Metrics == nil {
		return r, nil
	}
	if err := cfg.Metrics.Register(r.count); err != nil {
		return nil, fmt.Errorf("metrics of the reaper: %w", err)
	}
	return r, nil
}

// Run looks again and again, where no other process does, until ctx ends.
func (r *Reaper) Run(ctx context.Context) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if leads, err := r.cfg.Store.Lead(ctx, "reap", r.cfg.Owner, lease); err != nil || !leads {
			continue
		}
		_, problems := r.Reap(ctx, Options{})
		for provider, problem := range problems {
			r.cfg.Log.WarnContext(ctx, "the servers of a provider cannot be looked for; trying again", "provider", provider, "error", problem)
		}
	}
}

// Options say how to look.
type Options struct {
	// Provider is the only one that is looked at; empty: all.
	Provider string
	// DryRun releases nothing.
	DryRun bool
	// Force releases also what would be held.
	Force bool
}

// Has reports whether a provider is one that is looked at.
func (r *Reaper) Has(provider string) bool {
	return slices.ContainsFunc(r.cfg.Providers, func(p Provider) bool { return p.Name == provider })
}

// Reap looks once. It returns the orphans, and why providers could not be looked at.
func (r *Reaper) Reap(ctx context.Context, o Options) (found []Orphan, problems map[string]string) {
	problems = make(map[string]string)
	for _, p := range r.cfg.Providers {
		if o.Provider != "" && o.Provider != p.Name {
			continue
		}
		orphans, err := r.look(ctx, p, o)
		if err != nil {
			problems[p.Name] = err.Error()
		}
		found = append(found, orphans...)
	}
	return found, problems
}

// look deals with one provider.
func (r *Reaper) look(ctx context.Context, p Provider, o Options) ([]Orphan, error) {
	listed, err := r.list(ctx, p)
	if err != nil {
		return nil, err
	}
	orphans, err := r.orphans(ctx, p, listed)
	if err != nil {
		return nil, err
	}
	attempts := make([]string, len(orphans))
	for n := range orphans {
		attempts[n] = orphans[n].Attempt
	}
	since, now, err := r.cfg.Store.Orphans(ctx, p.Name, attempts)
	if err != nil {
		return nil, err
	}
	held := !o.Force && len(orphans) > fewOrphans && len(orphans) > len(listed)/2
	for n := range orphans {
		orphans[n].Since = since[n]
		r.decide(ctx, p, &orphans[n], now, o.DryRun, held)
		r.count.WithLabelValues(p.Name, orphans[n].Action.String()).Inc()
	}
	return orphans, nil
}

func (r *Reaper) list(ctx context.Context, p Provider) ([]allocator.Listed, error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	var all []allocator.Listed
	for page := ""; ; {
		servers, next, err := p.Host.List(ctx, page)
		if err != nil {
			return nil, err
		}
		if all = append(all, servers...); next == "" || len(all) >= maxListed {
			return all, nil
		}
		page = next
	}
}

// orphans returns those that no allocation knows, or only one that is done with them.
func (r *Reaper) orphans(ctx context.Context, p Provider, listed []allocator.Listed) ([]Orphan, error) {
	var orphans []Orphan
	for _, s := range listed {
		a, _, err := r.load(ctx, s.Attempt)
		switch {
		case err != nil:
			return nil, err
		case a.Rev == 0:
			orphans = append(orphans, Orphan{Provider: p.Name, Listed: s, Message: "no allocation is known for it"})
		case a.State.Final():
			orphans = append(orphans, Orphan{Provider: p.Name, Listed: s, Message: "its allocation is " + a.State.String()})
		case a.Provider != p.Name:
			orphans = append(orphans, Orphan{Provider: p.Name, Listed: s, Message: fmt.Sprintf("its allocation is at provider %q", a.Provider)})
		}
	}
	return orphans, nil
}

func (r *Reaper) load(ctx context.Context, attempt string) (allocator.Allocation, time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return r.cfg.Store.Load(ctx, attempt)
}

// decide does with an orphan what has to be done.
func (r *Reaper) decide(ctx context.Context, p Provider, o *Orphan, now time.Time, dryRun, held bool) {
	if now.Sub(o.Since) < grace {
		o.set(Waited, "it is released when it has been an orphan for "+grace.String())
		return
	}
	verdict, err := r.ask(ctx, p.Name, o)
	switch {
	case err != nil:
		o.set(Failed, "its instance cannot be asked: "+err.Error())
	case verdict != allocator.Abandoned:
		o.set(Kept, "its instance wants it")
	case held:
		o.set(Held, "so many are orphans at once that their records may be what is lost")
		r.cfg.Log.ErrorContext(ctx, "so many servers belong to nobody that people must decide whether they are released", "provider", p.Name, "attempt", o.Attempt)
	case dryRun:
		o.set(Waited, "it would be released")
	default:
		r.release(ctx, p, o)
	}
}

// ask asks the instance whether it wants the server. If it has not decided, it is told of the server by that, and may yet have it.
func (r *Reaper) ask(ctx context.Context, provider string, o *Orphan) (allocator.Verdict, error) {
	a, ok := allocator.Found(provider, o.Listed)
	if !ok {
		return allocator.Abandoned, nil // no attempt of any instance has such an id
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return r.cfg.Instances.Report(ctx, a)
}

func (r *Reaper) release(ctx context.Context, p Provider, o *Orphan) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	gone, err := p.Host.Release(ctx, o.Attempt, o.ExternalID)
	switch {
	case err != nil:
		o.set(Failed, "it cannot be released: "+err.Error())
		r.cfg.Log.WarnContext(ctx, "a server that belongs to nobody cannot be released; trying again", "provider", p.Name, "attempt", o.Attempt, "external_id", o.ExternalID, "error", err)
		return
	case gone:
		o.set(Released, "it is gone")
	default:
		o.set(Released, "it is stopping")
	}
	r.cfg.Log.WarnContext(ctx, "a server that belonged to nobody was released", "provider", p.Name, "attempt", o.Attempt, "external_id", o.ExternalID, "reason", o.Message)
}

// set says what was done, after why it is an orphan.
func (o *Orphan) set(a Action, why string) { o.Action, o.Message = a, o.Message+"; "+why }
