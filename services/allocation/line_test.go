package allocation_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/internal/allocator"
	"github.com/berth-dev/berth/services/allocation/internal/redisstore"
)

// full has the farm hold one server, and say that a repeat makes no sense for an hour: who gets the next one is woken because of what is given back. It
// returns who was asked for.
func (r *rig) full() (asked func() []string) {
	var mu sync.Mutex
	var list []string
	r.farm.set(func(_ context.Context, call, attempt string) error {
		if call != "allocate" {
			return nil
		}
		mu.Lock()
		defer mu.Unlock()
		list = append(list, attempt)
		if _, servers, _ := r.farm.count("", ""); servers > 0 {
			return provider.RetryAfter(provider.Failure(provider.NoCapacity, "full"), time.Hour)
		}
		return nil
	})
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(list)
	}
}

// waits waits until so many allocations stand in line.
func (r *rig) waits(want int) {
	r.t.Helper()
	eventually(r.t, func() (bool, any) {
		n, err := redisstore.New(r.redis).Waiting(r.t.Context(), "demo")
		return n == want && err == nil, n
	})
}

// Who waits for room gets it by priority, then age; those behind ask nobody, and a newcomer does not overtake them.
func TestTheLine(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		rep := r.start(func(c *allocator.WorkerConfig) { c.Sweep = time.Hour })
		asked := r.full()
		r.create(rep, wish(0))
		r.settled(wish(0), allocator.Bound)
		wishes := make(map[int]allocator.Wish)
		for waiting, n := range []int{1, 2, 3, 4, 5} {
			w := wish(n)
			w.Placement.Priority = map[int]int{3: 5, 4: -5}[n]
			wishes[n] = w
			r.create(rep, w)
			r.waits(waiting + 1)
		}
		first := asked()
		if want := []string{wish(0).ID, wish(1).ID, wish(3).ID}; !slices.Equal(first, want) { // 3 comes before all others by its priority
			t.Errorf("asked for %v, want %v", first, want)
		}
		order, before := []int{3, 1, 2, 5, 4}, wish(0)
		for left, n := range order {
			r.release(rep, before)
			r.settled(before, allocator.Released)
			a := r.settled(wishes[n], allocator.Bound)
			if !a.WaitSince.IsZero() {
				t.Errorf("%d still waits", n)
			}
			r.waits(len(order) - 1 - left)
			before = wishes[n]
		}
	})
}

// Room is found also where somebody else gave a server back.
func TestTheLineOfTwoWorkers(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		limit := func(c *allocator.WorkerConfig) { c.Providers[0].Info.MaxServers = 1 }
		one, two := r.start(limit), r.start(limit)
		r.create(one, wish(0))
		r.settled(wish(0), allocator.Bound)
		one.stop()
		for n := 1; n <= 3; n++ {
			r.create(two, wish(n))
			r.waits(n)
		}
		two.stop() // a third one knows nothing of who waits
		three := r.start(limit)
		for n := range 3 {
			r.release(three, wish(n))
			r.settled(wish(n+1), allocator.Bound)
		}
	})
}

// When as many wait as may, the next one is refused and nothing of it is stored; who waits for something else is in nobody's way.
func TestAFullLine(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		r.limit = 2
		second := newFarm()
		second.region = "us"
		rep := r.start(r.and("second", second))
		r.full()
		r.create(rep, wish(0))
		r.settled(wish(0), allocator.Bound)
		late := wish(1)
		late.Deadline = time.Now().Add(500 * time.Millisecond)
		r.create(rep, late)
		r.waits(1)
		r.create(rep, elsewhere(2))
		r.settled(elsewhere(2), allocator.Bound)
		r.create(rep, wish(3))
		a := r.settled(late, allocator.Failed)
		if want := `no server before the deadline: provider "farm" in eu: full (NO_CAPACITY)`; !strings.HasPrefix(a.Message, want) {
			t.Errorf("message %q", a.Message)
		}
		r.create(rep, wish(4))
		r.waits(2)
		_, err := rep.Create(t.Context(), wish(5))
		checked := rep.Check(t.Context(), "default", wish(5).Placement)
		for _, err := range []error{err, checked} {
			var e *errs.Error
			if !errors.As(err, &e) || e.Reason != errs.AllocationQueueFull || !strings.Contains(e.Message, "queue.limit") || e.RetryAfter == 0 {
				t.Errorf("refused with %v", err)
			}
		}
		if a := r.stored(wish(5)); a.Rev != 0 {
			t.Errorf("stored: %+v", a)
		}
		r.create(rep, wish(4)) // asking again is asking once
		r.release(rep, wish(3))
		eventually(t, func() (bool, any) {
			a := r.stored(wish(3))
			return a.State.Final() && a.Report == allocator.ReportNone, a
		})
		r.waits(1)
		r.create(rep, wish(5))
		r.waits(2)
	})
}

// Of two servers that are given back at once, the second one in line gets one, too, though the provider has told both to come back in an hour.
func TestTwoServersAtOnceServeTwo(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		rep := r.start(func(c *allocator.WorkerConfig) { c.Sweep = time.Hour })
		given, asked := make(chan struct{}), make(chan struct{})
		var tries atomic.Int64
		r.farm.set(func(_ context.Context, call, attempt string) error {
			if call == "allocate" && attempt == wish(3).ID && tries.Add(1) == 2 {
				close(asked)
				<-given // it has its server when both are there
			}
			if _, servers, _ := r.farm.count("", ""); call == "allocate" && servers >= 2 {
				return provider.RetryAfter(provider.Failure(provider.NoCapacity, "full"), time.Hour)
			}
			return nil
		})
		for n := range 2 {
			r.create(rep, wish(n))
			r.settled(wish(n), allocator.Bound)
		}
		r.create(rep, wish(2))
		r.waits(1)
		first := wish(3)
		first.Placement.Priority = 5 // comes before the other, and tries
		r.create(rep, first)
		r.waits(2)
		eventually(t, func() (bool, any) { return tries.Load() == 1, tries.Load() })
		eventually(t, func() (bool, any) { a := r.stored(first); return a.RoundAt.IsZero(), a })
		r.release(rep, wish(0))
		<-asked
		r.release(rep, wish(1))
		r.settled(wish(1), allocator.Released)
		close(given)
		r.settled(first, allocator.Bound)
		r.settled(wish(2), allocator.Bound)
	})
}
