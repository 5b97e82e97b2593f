package allocation_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berth-dev/berth/services/allocation/internal/allocator"
)

// elsewhere is a wish for a server in the region of another farm than the first.
func elsewhere(n int) allocator.Wish {
	w := wish(n)
	w.Placement.Regions = []string{"us"}
	return w
}

// A provider that answers nobody holds up those who need it, and nobody else: neither servers elsewhere, nor what instances are to be told, nor the end of
// those who wait for it.
func TestAHangingProviderHoldsUpNobodyElse(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		const many, most = 500, 16
		second := newFarm()
		second.region = "us"
		also := r.and("second", second)
		rep := r.start(func(c *allocator.WorkerConfig) {
			also(c)
			c.Concurrency = most
			c.Providers[0].Info.MaxCalls, c.Providers[1].Info.MaxCalls = most, most
			c.Providers[0].Info.Timeout, c.Providers[1].Info.PollInterval = time.Hour, time.Hour
			c.Sweep, c.Lease = time.Hour, time.Minute
		})
		var hanging atomic.Int64
		r.farm.set(func(ctx context.Context, _, _ string) error {
			hanging.Add(1)
			<-ctx.Done()
			return ctx.Err()
		})
		for n := range many {
			r.create(rep, wish(n))
		}
		eventually(t, func() (bool, any) { return hanging.Load() == most, hanging.Load() })
		for n := range many {
			r.create(rep, elsewhere(many+n))
		}
		for n := range many {
			r.settled(elsewhere(many+n), allocator.Bound)
		}
		late := wish(2 * many)
		late.Deadline = time.Now().Add(200 * time.Millisecond)
		r.create(rep, late)
		r.settled(late, allocator.Failed)
		r.release(rep, wish(2*many+1)) // a tombstone: there is only something to tell
		r.settled(wish(2*many+1), allocator.Released)
		if n := hanging.Load(); n != most {
			t.Errorf("%d calls hang", n)
		}
		r.farm.set(nil)
	})
}

// What waits for a place in a lane gets it in its order, without being searched for.
func TestALaneMovesOn(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		const many, most = 60, 3
		rep := r.start(func(c *allocator.WorkerConfig) {
			c.Providers[0].Info.MaxCalls, c.Providers[0].Info.PollInterval = most, time.Hour
			c.Sweep, c.Lease = time.Hour, time.Minute
		})
		var at, top atomic.Int64
		r.farm.set(func(_ context.Context, call, _ string) error {
			n := at.Add(1)
			defer at.Add(-1)
			if n > top.Load() {
				top.Store(n)
			}
			if n > most {
				return fmt.Errorf("%d calls of %s at once", n, call)
			}
			return nil
		})
		for n := range many {
			r.create(rep, wish(n))
		}
		for n := range many {
			r.settled(wish(n), allocator.Bound)
		}
		if top.Load() > most {
			t.Errorf("%d calls at once", top.Load())
		}
	})
}
