// Package incarnation keeps the gateway's life: an id, the subscription to its channel and a lease on it. When the lease runs out, everything that was
// done in that life is over: its sockets are closed and another life begins.
package incarnation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/berth-dev/berth/pkg/errs"

	"github.com/berth-dev/berth/services/gateway/internal/metrics"
)

// Subscription is what a life listens to.
type Subscription interface {
	// Run holds the subscription of a life until ctx ends, and calls proven whenever it is known to work.
	Run(ctx context.Context, gatewayID string, proven func())
}

// Renewal is what came of a renewal.
type Renewal struct {
	// Lapsed says that the lease has run out.
	Lapsed bool
	// Known is since when the lease is known without a gap; zero: who keeps it does not say.
	Known time.Time
	// Undelivered are the instances whose mailboxes have waited too long.
	Undelivered []string
}

// Leases keeps leases.
type Leases interface {
	// Renew takes or keeps a lease.
	Renew(ctx context.Context, gatewayID string, lease time.Duration) (Renewal, error)
	// Release gives a lease back.
	Release(ctx context.Context, gatewayID string, lease time.Duration) error
}

// Config configures a Keeper.
type Config struct {
	// Subscription is what a life listens to.
	Subscription Subscription
	// Leases keeps the lease.
	Leases Leases
	// Lease is how long a lease lasts without being renewed. Default 10 s.
	Lease time.Duration
	// Interval is how often it is renewed. Default 2 s.
	Interval time.Duration
	// Remind takes the instances whose mailboxes have waited too long. It must not block.
	Remind func(instances []string)
	// Lapse ends everything that belongs to the life whose lease ran out. It must not block. What it returns may take its time; it runs beside the next life,
	// and until its context ends at the latest.
	Lapse func() (after func(context.Context))
	// Forgotten is called when the store has lost the lease: it has lost what was kept of the sockets, too. It must not block. What it returns runs beside the
	// life, until its end at the latest.
	Forgotten func() (after func(context.Context))
	// Log is where lapses are logged.
	Log *slog.Logger
	// Metrics is where they are counted.
	Metrics *metrics.Metrics
}

// Keeper keeps the life. It is safe for concurrent use.
type Keeper struct {
	cfg Config

	// held is the lease; nil while there is none. It is asked for with every frame.
	held atomic.Pointer[lease]

	mu      sync.Mutex
	failing bool // the last renewal failed
	started bool
	stop    context.CancelFunc
	stopped chan struct{} // closed when Run has ended its last life
}

// lease is one that was answered.
type lease struct {
	id      string    // of the life
	renewed time.Time // when the renewal that was last answered was sent
	known   time.Time // since when it is known to the store without a gap
}

// New returns a Keeper.
func New(cfg Config) *Keeper {
	if cfg.Lease == 0 {
		cfg.Lease = 10 * time.Second
	}
	if cfg.Interval == 0 {
		cfg.Interval = 2 * time.Second
	}
	return &Keeper{cfg: cfg, stopped: make(chan struct{})}
}

// errLapsed means that the lease ran out.
var errLapsed = errors.New("the lease ran out")

// Run lives, one life after the other, until ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	living, stop := context.WithCancel(ctx)
	defer stop()
	k.mu.Lock()
	k.started, k.stop = true, stop
	k.mu.Unlock()
	var ending sync.WaitGroup
	for living.Err() == nil {
		if err := k.live(living); errors.Is(err, errLapsed) {
			k.cfg.Log.Error("the lease of this gateway ran out; closing its sockets and starting over")
			k.cfg.Metrics.Lapses.Inc()
			after := k.cfg.Lapse()
			ending.Go(func() { after(living) })
		}
	}
	ending.Wait()
	close(k.stopped)
	<-ctx.Done() // after Release, the program is about to end; a worker that returned would look like a failure
	return nil
}

// Current returns the id of this life, or why there is none that can be relied on. It goes by this machine's monotonic clock, which does not stand still while
// the process does: one that was paused for longer than its lease knows at once when it goes on, before the store can tell.
func (k *Keeper) Current() (string, error) {
	held := k.held.Load()
	if held == nil || time.Since(held.renewed) > k.cfg.Lease {
		return "", errs.New(errs.ServiceUnavailable, "the gateway has no contact with the game-instance service").Retry(time.Second)
	}
	return held.id, nil
}

// Failing reports whether game-instance, or the store behind it, is known to be out of reach: the last renewal failed.
func (k *Keeper) Failing() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.failing
}

// Ready returns an error unless the lease is held.
func (k *Keeper) Ready(context.Context) error {
	held := k.held.Load()
	if held == nil {
		return errors.New("the lease is not held yet")
	}
	if since := time.Since(held.renewed); since > k.cfg.Lease {
		return fmt.Errorf("the lease was last renewed %v ago", since.Round(time.Second))
	}
	return nil
}

// Release ends this life and gives its lease back.
func (k *Keeper) Release(ctx context.Context) error {
	k.mu.Lock()
	started, stop := k.started, k.stop
	k.mu.Unlock()
	if !started {
		return nil
	}
	stop()
	select {
	case <-k.stopped:
	case <-ctx.Done():
		return ctx.Err()
	}
	held := k.held.Load()
	if held == nil {
		return nil
	}
	return k.cfg.Leases.Release(ctx, held.id, k.cfg.Lease)
}

// live lives one life: first the subscription is made and proven, then the lease is taken and kept. It returns errLapsed, or the end of ctx.
func (k *Keeper) live(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	id := uuid.NewString()
	k.held.Store(nil)

	var listening sync.WaitGroup
	defer listening.Wait()
	defer cancel()
	proven := make(chan struct{})
	var once sync.Once
	listening.Go(func() { k.cfg.Subscription.Run(ctx, id, func() { once.Do(func() { close(proven) }) }) })
	select {
	case <-proven:
	case <-ctx.Done():
		return ctx.Err()
	}

	tick := time.NewTicker(k.cfg.Interval)
	defer tick.Stop()
	for {
		forgotten, err := k.renew(ctx, id)
		if err != nil {
			return err
		}
		if forgotten {
			k.cfg.Log.Error("the store has lost the lease of this gateway; servers of warm pools have to join again")
			after := k.cfg.Forgotten()
			listening.Go(func() { after(ctx) })
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// renew renews the lease once, and reports whether the store had lost it. A failure is not the end of it: there is time for some more tries.
func (k *Keeper) renew(ctx context.Context, id string) (forgotten bool, err error) {
	sent := time.Now()
	callCtx, cancel := context.WithTimeout(ctx, max(k.cfg.Interval, k.cfg.Lease/4))
	defer cancel()
	r, err := k.cfg.Leases.Renew(callCtx, id, k.cfg.Lease)
	k.mu.Lock()
	k.failing = err != nil && ctx.Err() == nil
	k.mu.Unlock()
	if err != nil {
		if ctx.Err() == nil {
			k.cfg.Log.Warn("the lease could not be renewed", "error", err)
		}
		return false, nil
	}
	had := k.held.Load() // a lease that is only being taken can neither have lapsed nor been lost
	if r.Lapsed && had != nil {
		k.held.Store(nil)
		return false, errLapsed
	}
	k.held.Store(&lease{id: id, renewed: sent, known: r.Known})
	k.cfg.Remind(r.Undelivered)
	return had != nil && !had.known.IsZero() && !r.Known.IsZero() && !had.known.Equal(r.Known), nil
}
