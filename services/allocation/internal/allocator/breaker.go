package allocator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sony/gobreaker/v2"
)

const (
	// restAfter is how many calls in a row a provider fails in a region before it rests there.
	restAfter = 5
	// restFor is how long it rests before one call finds out whether it is well again.
	restFor = 10 * time.Second
	// fairChance is how long a call must have had for its time-out to say something about the provider.
	fairChance = time.Second
)

// The states of a breaker, by name.
const (
	// BreakerClosed: the provider is asked.
	BreakerClosed = "closed"
	// BreakerOpen: it rests.
	BreakerOpen = "open"
	// BreakerHalfOpen: one call at a time finds out whether it is well again.
	BreakerHalfOpen = "half-open"
)

// Health says how a provider does in a region, as this process knows it.
type Health struct {
	// Provider and Region say where.
	Provider, Region string
	// Resting: it failed too often, and one call at a time finds out whether it is well again.
	Resting bool
	// Message is the last failure that counted; empty: none since it was last well.
	Message string
	// Breaker is the state of its breaker there.
	Breaker string
}

// errNotAsked says of a call that it says nothing about the provider.
var errNotAsked = errors.New("not asked")

// breakers rest providers that fail, region by region. They are safe for concurrent use.
type breakers struct {
	log *slog.Logger
	mu  sync.Mutex
	of  map[site]*breaker // one for each configured provider and region that was asked
}

type breaker struct {
	*gobreaker.TwoStepCircuitBreaker[struct{}]
	failure string // guarded by breakers.mu
}

func newBreakers(log *slog.Logger) *breakers { return &breakers{log: log, of: make(map[site]*breaker)} }

func (b *breakers) at(s site) *breaker {
	b.mu.Lock()
	defer b.mu.Unlock()
	if known, ok := b.of[s]; ok {
		return known
	}
	b.of[s] = &breaker{TwoStepCircuitBreaker: gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		MaxRequests: 1, Timeout: restFor,
		ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= restAfter },
		IsExcluded:  func(err error) bool { return errors.Is(err, errNotAsked) },
		OnStateChange: func(_ string, from, to gobreaker.State) {
			b.log.Info("a provider's health changed", keyProvider, s.provider, keyRegion, s.region, keyFrom, from.String(), keyTo, to.String())
		},
	})}
	return b.of[s]
}

// enter asks whether a provider may be asked for a server. done says what came of it; it must be called, and once.
func (b *breakers) enter(s site) (done func(error), resting string) {
	known := b.at(s)
	report, err := known.Allow()
	if err != nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		return nil, fmt.Sprintf("it rests after %d failures in a row, the last: %s", restAfter, known.failure)
	}
	return func(err error) {
		report(err)
		if errors.Is(err, errNotAsked) {
			return
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		if known.failure = ""; err != nil {
			known.failure = bounded(err.Error(), maxTryMessage)
		}
	}, ""
}

func (b *breakers) health() []Health {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := make([]Health, 0, len(b.of))
	for s, known := range b.of {
		state := known.State()
		all = append(all, Health{Provider: s.provider, Region: s.region, Resting: state != gobreaker.StateClosed, Message: known.failure, Breaker: state.String()})
	}
	slices.SortFunc(all, func(x, y Health) int {
		return strings.Compare(x.Provider+"\x00"+x.Region, y.Provider+"\x00"+y.Region)
	})
	return all
}

// symptom is what a call says about the provider's health: nil, that it is well, as it is whenever it answers. The context is the call's.
func symptom(ctx context.Context, err error, took time.Duration, timeout time.Duration) error {
	var f *Failure
	switch {
	case err == nil:
		return nil
	case errors.Is(ctx.Err(), context.DeadlineExceeded) && took >= min(fairChance, timeout):
		return err
	case errors.As(err, &f) && f.Kind == Unavailable:
		return err
	case ctx.Err() != nil:
		return errNotAsked
	default:
		return nil
	}
}
