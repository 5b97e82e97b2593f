package timer_test

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/services/gameinstance/internal/instance"
	"github.com/berth-dev/berth/services/gameinstance/internal/timer"
)

// fake has three instances that are due: one is gone, one cannot be reached, one has a call to make. Its reaper hangs.
type fake struct {
	sweeps, expired atomic.Int32
	kicked          atomic.Value
}

func (f *fake) Due(context.Context, int64) ([]string, error) {
	f.sweeps.Add(1)
	return []string{"gone", "away", "calls"}, nil
}

func (f *fake) Apply(_ context.Context, _, id string, _ instance.Envelope, _ instance.Command) (*instance.Instance, error) {
	f.expired.Add(1)
	switch id {
	case "gone":
		return nil, errs.New(errs.InstanceUnknown, "gone")
	case "away":
		return nil, errs.New(errs.StoreUnavailable, "away")
	default:
		return &instance.Instance{ID: id, Outbox: []instance.Call{{}}}, nil
	}
}

func (f *fake) Kick(id string) { f.kicked.Store(id) }

func (f *fake) Reap(ctx context.Context) error  { <-ctx.Done(); return ctx.Err() }
func (f *fake) Audit(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }

// A gateway that is lost with thousands of links takes long to be seen to; deadlines do not wait for it.
func TestDeadlinesDoNotWaitForTheReaper(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{}
		ctx, cancel := context.WithCancel(context.Background())
		s := &timer.Sweeper{Store: f, Instances: f, Driver: f, Reaper: f, Log: slog.New(slog.DiscardHandler)}
		ended := make(chan error)
		go func() { ended <- s.Run(ctx) }()
		time.Sleep(10 * time.Second) // of the bubble's clock
		if got := f.sweeps.Load(); got < 30 {
			t.Errorf("%d sweeps in 10 seconds", got)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// One instance that cannot be dealt with keeps none of the others.
func TestASweepGoesThroughAllThatAreDue(t *testing.T) {
	f := &fake{}
	s := &timer.Sweeper{Store: f, Instances: f, Driver: f, Reaper: f, Log: slog.New(slog.DiscardHandler)}
	if err := s.Sweep(context.Background()); !errs.Is(err, errs.StoreUnavailable) {
		t.Errorf("sweep: %v", err)
	}
	if f.expired.Load() != 3 || f.kicked.Load() != "calls" {
		t.Errorf("%d of 3 were looked at, kicked %v", f.expired.Load(), f.kicked.Load())
	}
}
