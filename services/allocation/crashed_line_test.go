package allocation_test

import (
	"context"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berth-dev/berth/pkg/redisx/redistest"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/internal/allocator"
	"github.com/berth-dev/berth/services/allocation/internal/redisstore"
)

// line is the one in which somebody waits.
func (r *rig) line() allocator.Line {
	r.t.Helper()
	waiters, err := redisstore.New(r.redis).Waiters(r.t.Context(), "demo", 0, 1)
	if err != nil || len(waiters) == 0 {
		r.t.Fatal(waiters, err)
	}
	return waiters[0].Line
}

// unreadable is the number of a wish whose record cannot be read.
const unreadable = 98

// Whoever a crash left in front of a line, and does not wait there, is in nobody's way.
func TestWhoIsNotThereHoldsUpNobody(t *testing.T) {
	for name, stale := range map[string][]int{
		"unknown":                   {99},
		"has a server":              {0},
		"cannot be read":            {unreadable},
		"many, one after the other": series(100, 400),
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, r *rig) {
				rep := r.start(func(c *allocator.WorkerConfig) { c.Sweep = time.Hour })
				r.full()
				r.create(rep, wish(0))
				r.settled(wish(0), allocator.Bound)
				r.create(rep, wish(1))
				r.waits(1)
				r.spoil(wish(unreadable).ID)
				for _, n := range stale {
					if ok, err := redisstore.New(r.redis).Enter(t.Context(), allocator.Waiter{ID: wish(n).ID, Line: r.line(), Since: time.Now()}, time.Now().Add(-time.Hour), 1000); !ok || err != nil {
						t.Fatal(ok, err)
					}
				}
				r.release(rep, wish(0))
				r.settled(wish(1), allocator.Bound)
				r.waits(0)
			})
		})
	}
}

func series(from, to int) (list []int) {
	for n := from; n < to; n++ {
		list = append(list, n)
	}
	return list
}

// Who waits is found by replicas that have never seen them, when the one that has dies: by one that starts, and by one that runs.
func TestALineOutlivesWhoWatchesIt(t *testing.T) {
	for name, started := range map[string]bool{"starts": false, "runs": true} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, r *rig) {
				var other *replica
				begin := func() { other = r.start(nil) } // its sweep takes up what the first held when it died, and finds nobody who waits
				if started {
					begin()
				}
				first := r.start(nil)
				r.full()
				r.create(first, wish(0))
				r.settled(wish(0), allocator.Bound)
				r.create(first, wish(1)) // tries, and is told to come back in an hour
				r.waits(1)
				r.create(first, wish(2)) // waits behind
				r.waits(2)
				first.kill()
				if !started {
					begin()
				}
				for n := range 2 {
					r.release(other, wish(n))
					r.settled(wish(n+1), allocator.Bound)
				}
			})
		})
	}
}

// flaky is a store that is away for some calls.
type flaky struct {
	*mortal
	fails func(call string) bool
}

func (f flaky) Claim(ctx context.Context, id, owner string, lease time.Duration, force bool) (allocator.Claimed, bool, error) {
	if force && f.fails("claim") {
		return allocator.Claimed{}, false, unavailable()
	}
	return f.mortal.Claim(ctx, id, owner, lease, force)
}

func (f flaky) Ahead(ctx context.Context, l allocator.Line, turn time.Time) (int, error) {
	if f.fails("ahead") {
		return 0, unavailable()
	}
	return f.mortal.Ahead(ctx, l, turn)
}

func (f flaky) Front(ctx context.Context, l allocator.Line, n int) ([]allocator.Waiter, error) {
	if f.fails("front") {
		return nil, unavailable()
	}
	return f.mortal.Front(ctx, l, n)
}

// That there is room is not forgotten because the store is away when the first in line is to be told.
func TestTheFirstInLineIsWokenOnceTheStoreIsBack(t *testing.T) {
	for _, call := range []string{"front", "claim", "ahead"} {
		t.Run(call, func(t *testing.T) {
			each(t, func(t *testing.T, r *rig) {
				var away, looks atomic.Int64 // how many calls are yet to fail, and how often the line was looked at
				fails := func(c string) bool {
					if c == "front" {
						looks.Add(1)
					}
					return c == call && away.Add(-1) >= 0
				}
				rep := r.start(func(c *allocator.WorkerConfig) {
					q, _ := c.Queue.(*mortal)
					f := flaky{q, fails}
					c.Queue, c.Lines, c.Sweep = f, f, time.Hour
				})
				r.full()
				r.create(rep, wish(0))
				r.settled(wish(0), allocator.Bound)
				r.create(rep, wish(1))
				r.waits(1)
				before := looks.Load()
				eventually(t, func() (bool, any) { return looks.Load() > before+1, looks.Load() }) // it is known to be the first, and has been woken for that
				eventually(t, func() (bool, any) { a := r.stored(wish(1)); return a.RoundAt.IsZero(), a })
				away.Store(2)
				r.release(rep, wish(0))
				r.settled(wish(1), allocator.Bound)
				if away.Load() > 0 {
					t.Errorf("%d calls did not fail: this test tests nothing", away.Load())
				}
			})
		})
	}
}

// A replica that is killed at any point while a line moves on leaves nobody waiting: the next one finds who is first, and whoever is in front without waiting is
// in nobody's way.
func TestALineMovesOnWhereverItsReplicaIsKilled(t *testing.T) {
	const points = 24
	var killed atomic.Int64
	t.Run("killed", func(t *testing.T) {
		for point := range points {
			t.Run(strconv.Itoa(point), func(t *testing.T) {
				t.Parallel()
				if lineKilledAt(newRig(t, redistest.Open(t, redistest.Server(t))), point+1) {
					killed.Add(1)
				}
			})
		}
	})
	if killed.Load() < points/2 {
		t.Errorf("only %d replicas were killed", killed.Load())
	}
}

// lineKilledAt has one server go through the hands of three, and kills the replica at the n-th point after the first has it. It reports whether that came.
func lineKilledAt(r *rig, n int) bool {
	r.t.Helper()
	r.farm.set(func(_ context.Context, call, _ string) error {
		if _, servers, _ := r.farm.count("", ""); call == "allocate" && servers > 0 {
			return provider.Failure(provider.NoCapacity, "full")
		}
		return nil
	})
	var left atomic.Int64
	left.Store(1 << 30)
	killed := make(chan struct{})
	first := r.start(func(c *allocator.WorkerConfig) {
		q, _ := c.Queue.(*mortal)
		q.on = func(string, string) {
			if left.Add(-1) == 0 {
				q.dead.Store(true)
				close(killed)
			}
		}
		c.Providers[0].Info.PollInterval = time.Hour
	})
	r.create(first, wish(0))
	r.settled(wish(0), allocator.Bound)
	for n := 1; n <= 2; n++ {
		r.create(first, wish(n))
		r.waits(n)
	}
	left.Store(int64(n))
	r.release(first, wish(0))
	r.settledOr(wish(1), killed, allocator.Bound)
	first.kill()
	second := r.start(nil)
	for n := 1; n <= 2; n++ {
		r.settled(wish(n), allocator.Bound)
		r.release(second, wish(n))
		r.settled(wish(n), allocator.Released)
	}
	r.waits(0)
	_, servers, started := r.farm.count("", wish(2).ID)
	if servers != 0 || started != 1 {
		r.t.Errorf("killed at point %d: %d servers are left, %d were started for the last", n, servers, started)
	}
	select {
	case <-killed:
		return true
	default:
		return false
	}
}
