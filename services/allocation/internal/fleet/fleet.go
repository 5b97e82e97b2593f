// Package fleet knows the configured providers as they are now: what operators have set for them, how many servers each has, how each is. It moves what is
// left on a drained provider when its time is over.
package fleet

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/services/allocation/internal/allocator"
	"github.com/berth-dev/berth/services/allocation/internal/placement"
)

const (
	// refreshEvery is how old settings may be that allocations go by.
	refreshEvery = time.Second
	callTimeout  = 3 * time.Second
	// maxDecides bounds how often a setting is set again after a conflict.
	maxDecides = 8
)

// Setting is what operators have set for a provider. The zero value is: nothing.
type Setting struct {
	// Weight is used in the place of what the policies say; nil: theirs.
	Weight *int
	// Draining: it gets nothing new.
	Draining bool
	// MoveTime is when what is left there is moved; zero: never.
	MoveTime time.Time
	// Stored is the setting as the store holds it. Nobody else looks inside.
	Stored []byte
}

// Store keeps settings, and knows which allocations may have a server at a provider.
type Store interface {
	// Settings returns what is set, by provider, and the store's time.
	Settings(ctx context.Context) (map[string]Setting, time.Time, error)
	// SetSetting sets a setting that was read before; it fails with allocator.ErrConflict.
	SetSetting(ctx context.Context, provider string, s Setting) error
	// Count returns how many allocations may have a server at a provider.
	Count(ctx context.Context, provider string) (int, error)
	// Members returns allocations that may have had a server at a provider for longer than age, the oldest first, but for some that are skipped.
	Members(ctx context.Context, provider string, age time.Duration, skip, limit int) ([]allocator.Slot, error)
	// Load returns an allocation and the store's time. Rev is 0 when it is not there.
	Load(ctx context.Context, id string) (allocator.Allocation, time.Time, error)
	// Lead reports whether the owner may do what only one may at a time, for so long.
	Lead(ctx context.Context, what, owner string, lease time.Duration) (bool, error)
}

// Instances takes instances from their servers.
type Instances interface {
	// Move takes the instance of an allocation from its server, and has it ask for another one. If it cannot, it says why.
	Move(ctx context.Context, a allocator.Allocation, reason string) (moved bool, message string, err error)
}

// Config configures a Fleet.
type Config struct {
	// Store, Instances and Log are needed.
	Store     Store
	Instances Instances
	Log       *slog.Logger
	// Providers are the configured ones, in order.
	Providers []allocator.Provider
	// Health says how the providers do in their regions, as far as this process knows.
	Health func() []allocator.Health
	// Elsewhere returns an error unless another provider seems to have room for an allocation's instance now. Whatever it fails for is not moved; needed by Run.
	Elsewhere func(context.Context, allocator.Allocation) error
	// Check returns an error if the policy asks for what the providers do not have. A provider that answers only after the start is checked by Run; needed there.
	Check func([]placement.Provider) error
	// Owner names this process.
	Owner string
}

// Fleet is safe for concurrent use.
type Fleet struct {
	cfg    Config
	silent map[string]bool // those that had not answered at the start

	mu       sync.Mutex
	settings map[string]Setting
	asked    int             // how often settings were asked for
	known    int             // which of these times those are from
	stays    map[string]stay // by drained provider, in its last pass; only of those that this process moves from
}

// New returns a Fleet. It reads the settings once, so that nothing is placed against them; without the store it fails.
func New(ctx context.Context, cfg Config) (*Fleet, error) {
	f := &Fleet{cfg: cfg, stays: make(map[string]stay)}
	f.silent = unanswered(f.Providers())
	return f, f.refresh(ctx)
}

// Run keeps the settings fresh, and moves what has to be, until ctx ends.
func (f *Fleet) Run(ctx context.Context) error {
	var mover sync.WaitGroup
	mover.Go(func() { f.moveDue(ctx) })
	defer mover.Wait()
	silent := f.silent
	every(ctx, refreshEvery, func() {
		if err := f.refresh(ctx); err != nil && ctx.Err() == nil {
			f.cfg.Log.DebugContext(ctx, "settings of providers are not fresh", "error", err) // what waits for the store says so elsewhere
		}
		silent = f.checkAnswers(ctx, silent)
	})
	return nil
}

// checkAnswers says so when a provider that had not answered at the last look, as silent has it, turns out not to have what the policy asks of it. It returns who has
// not answered now.
func (f *Fleet) checkAnswers(ctx context.Context, silent map[string]bool) map[string]bool {
	list := f.Providers()
	now := unanswered(list)
	for name := range silent {
		if now[name] {
			continue
		}
		if err := f.cfg.Check(list); err != nil {
			f.cfg.Log.ErrorContext(ctx, "a provider has answered, and the policy asks for what is not to be had", "provider", name, "error", err)
		}
	}
	return now
}

// unanswered are the names of the providers that have not answered.
func unanswered(list []placement.Provider) map[string]bool {
	names := make(map[string]bool)
	for _, p := range list {
		if p.Unanswered {
			names[p.Name] = true
		}
	}
	return names
}

// every calls do until ctx ends.
func every(ctx context.Context, pause time.Duration, do func()) {
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			do()
		}
	}
}

func (f *Fleet) refresh(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	f.mu.Lock()
	f.asked++
	turn := f.asked
	f.mu.Unlock()
	settings, _, err := f.cfg.Store.Settings(ctx)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if turn > f.known { // an answer that was on its way while settings were changed is not put over what was read after that
		f.settings, f.known = settings, turn
	}
	return nil
}

func (f *Fleet) setting(provider string) Setting {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.settings[provider]
}

// Providers is what a placement has to choose from now.
func (f *Fleet) Providers() []placement.Provider {
	list := make([]placement.Provider, 0, len(f.cfg.Providers))
	for _, p := range f.cfg.Providers {
		info, _ := p.Now()
		s := f.setting(info.Name)
		list = append(list, placement.Provider{
			Name: info.Name, Regions: info.Regions, Builds: info.Builds, Unanswered: info.Unanswered, Weight: s.Weight, Draining: s.Draining,
		})
	}
	return list
}

// Status is a provider and how it is.
type Status struct {
	allocator.ProviderInfo
	Setting
	// Problem is what is wrong with it as a whole, for people; empty: nothing. That instances stay on it that are to be moved knows only the process that moves.
	Problem string
	// Servers is how many allocations may have a server there.
	Servers int
	// Health says how it does, region by region.
	Health []allocator.Health
}

// Status returns all providers, in the order of the configuration, by what is stored now.
func (f *Fleet) Status(ctx context.Context) ([]Status, error) {
	settings, _, err := f.cfg.Store.Settings(ctx)
	if err != nil {
		return nil, err
	}
	health := f.cfg.Health()
	list := make([]Status, 0, len(f.cfg.Providers))
	for _, p := range f.cfg.Providers {
		s := Status{Setting: settings[p.Info.Name]}
		s.ProviderInfo, s.Problem = p.Now()
		s.Problem = strings.Join(slices.DeleteFunc([]string{s.Problem, f.stay(p.Info.Name).String()}, func(s string) bool { return s == "" }), "; ")
		if s.Servers, err = f.cfg.Store.Count(ctx, p.Info.Name); err != nil {
			return nil, err
		}
		for _, h := range health {
			if h.Provider == p.Info.Name {
				s.Health = append(s.Health, h)
			}
		}
		list = append(list, s)
	}
	return list, nil
}

// SetWeight sets a provider's weight; nil: what the policies say again.
func (f *Fleet) SetWeight(ctx context.Context, provider string, weight *int) (Status, error) {
	return f.change(ctx, provider, func(s *Setting, _ time.Time) { s.Weight = weight })
}

// Drain stops new allocations on a provider. What is left there after so long is moved; nil: never.
func (f *Fleet) Drain(ctx context.Context, provider string, moveAfter *time.Duration) (Status, error) {
	return f.change(ctx, provider, func(s *Setting, now time.Time) {
		s.Draining, s.MoveTime = true, time.Time{}
		if moveAfter != nil {
			s.MoveTime = now.Add(*moveAfter)
		}
	})
}

// Resume ends a drain.
func (f *Fleet) Resume(ctx context.Context, provider string) (Status, error) {
	return f.change(ctx, provider, func(s *Setting, _ time.Time) { s.Draining, s.MoveTime = false, time.Time{} })
}

func (f *Fleet) change(ctx context.Context, provider string, change func(*Setting, time.Time)) (Status, error) {
	if !f.has(provider) {
		return Status{}, Unknown(provider)
	}
	for range maxDecides {
		settings, now, err := f.cfg.Store.Settings(ctx)
		if err != nil {
			return Status{}, err
		}
		s := settings[provider]
		change(&s, now)
		err = f.cfg.Store.SetSetting(ctx, provider, s)
		if errors.Is(err, allocator.ErrConflict) {
			continue
		}
		if err != nil {
			return Status{}, err
		}
		f.cfg.Log.InfoContext(ctx, "provider set", "provider", provider, "weight", s.Weight, "draining", s.Draining, "move_time", s.MoveTime)
		return f.statusOf(ctx, provider)
	}
	return Status{}, errs.New(errs.Contended, "provider %q is being set by too many at once; nothing changed, try again", provider).Retry(100 * time.Millisecond)
}

func (f *Fleet) statusOf(ctx context.Context, provider string) (Status, error) {
	if err := f.refresh(ctx); err != nil {
		return Status{}, err
	}
	list, err := f.Status(ctx)
	if err != nil {
		return Status{}, err
	}
	for _, s := range list {
		if s.Name == provider {
			return s, nil
		}
	}
	return Status{}, Unknown(provider)
}

func (f *Fleet) has(provider string) bool {
	for _, p := range f.cfg.Providers {
		if p.Info.Name == provider {
			return true
		}
	}
	return false
}

// Unknown is the error for a provider that is not configured.
func Unknown(provider string) error {
	return errs.New(errs.ProviderUnknown, "provider: none is named %q in the configuration of allocation (providers)", provider)
}
