package allocation_test

import (
	"context"
	"testing"

	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/internal/allocator"
	"github.com/berth-dev/berth/services/allocation/internal/fleet"
	"github.com/berth-dev/berth/services/allocation/internal/placement"
	"github.com/berth-dev/berth/services/allocation/internal/redisstore"
)

// goesBy has a replica place by what operators have set for its providers.
func (r *rig) goesBy(c *allocator.WorkerConfig) *fleet.Fleet {
	r.t.Helper()
	f, err := fleet.New(r.t.Context(), fleet.Config{
		Store: redisstore.New(r.redis), Log: r.log, Providers: c.Providers, Owner: "one", Health: func() []allocator.Health { return nil },
	})
	if err != nil {
		r.t.Fatal(err)
	}
	c.Explain = func(q placement.Request) placement.Explanation { return placement.Policy{}.Explain(q, f.Providers()) }
	return f
}

// A drained provider is asked for nothing new, neither for who comes now nor for who waits, keeps what it has, and is asked again when it is resumed.
func TestDrain(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		second := newFarm()
		also := r.and("second", second)
		var hosts *fleet.Fleet
		rep := r.start(func(c *allocator.WorkerConfig) {
			also(c)
			hosts = r.goesBy(c)
		})
		old := wish(1)
		r.create(rep, old)
		if a := r.settled(old, allocator.Bound); a.Provider != "farm" {
			t.Fatalf("before the drain at %q", a.Provider)
		}
		full := func(_ context.Context, call, _ string) error {
			if call == "allocate" {
				return provider.Failure(provider.NoCapacity, "full")
			}
			return nil
		}
		r.farm.set(full)
		second.set(full)
		waiting := wish(2)
		r.create(rep, waiting)
		eventually(t, func() (bool, any) { a := r.stored(waiting); return !a.WaitSince.IsZero(), a })

		if s, err := hosts.Drain(t.Context(), "farm", nil); err != nil || !s.Draining || s.Servers != 1 {
			t.Fatalf("drained: %+v, %v", s, err)
		}
		drained := func(w allocator.Wish) bool {
			for _, c := range r.stored(w).Explanation.Candidates {
				if c.Provider == "farm" {
					return c.Exclusion == placement.Drained
				}
			}
			return false
		}
		eventually(t, func() (bool, any) { return drained(waiting), r.stored(waiting) }) // the round that was on is over
		r.farm.set(func(_ context.Context, call, attempt string) error {
			if call == "allocate" {
				t.Errorf("the drained provider was asked for %s", attempt)
			}
			return nil
		})
		second.set(nil)
		late := wish(3)
		r.create(rep, late)
		for _, w := range []allocator.Wish{waiting, late} {
			if a := r.settled(w, allocator.Bound); a.Provider != "second" || !drained(w) {
				t.Errorf("while the first is drained: %+v", a)
			}
		}
		if a := r.stored(old); a.State != allocator.Bound || r.slots("farm") != 1 {
			t.Errorf("what it had: %+v, %d slots", a, r.slots("farm"))
		}

		r.farm.set(nil)
		if s, err := hosts.Resume(t.Context(), "farm"); err != nil || s.Draining {
			t.Fatalf("resumed: %+v, %v", s, err)
		}
		again := wish(4)
		r.create(rep, again)
		if a := r.settled(again, allocator.Bound); a.Provider != "farm" {
			t.Errorf("after the drain at %q", a.Provider)
		}
	})
}
