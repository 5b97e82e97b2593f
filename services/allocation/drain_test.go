package allocation_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

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

// removal remembers whose instances were moved from a drained provider.
type removal struct{ moved chan string }

func (m removal) Move(_ context.Context, a allocator.Allocation, _ string) (bool, string, error) {
	m.moved <- a.ID
	return true, "", nil
}

// An instance is moved from a drained provider only when another one seems to have room: one that finds none would end for want of a server.
func TestAnInstanceIsMovedOnlyWhereThereIsRoom(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		second := newFarm()
		also := r.and("second", second)
		var configured []allocator.Provider
		rep := r.start(func(c *allocator.WorkerConfig) {
			also(c)
			c.Providers[1].Info.MaxServers = 1
			r.goesBy(c)
			configured = c.Providers
		})
		match := wish(1)
		r.create(rep, match)
		if a := r.settled(match, allocator.Bound); a.Provider != "farm" {
			t.Fatalf("it is at %q", a.Provider)
		}
		m, looked := removal{make(chan string, 100)}, make(chan error, 1000)
		hosts, err := fleet.New(t.Context(), fleet.Config{
			Store: redisstore.New(r.redis), Instances: m, Log: r.log, Providers: configured, Owner: "one", Health: rep.worker.Health,
			Elsewhere: func(ctx context.Context, a allocator.Allocation) error {
				err := rep.worker.Elsewhere(ctx, a)
				looked <- err
				return err
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := hosts.Drain(t.Context(), "farm", new(time.Duration)); err != nil {
			t.Fatal(err)
		}
		other := wish(2)
		eventually(t, func() (bool, any) { // the replica's own settings know of the drain, too
			err := rep.worker.Elsewhere(t.Context(), r.stored(match))
			return err == nil, err
		})
		if ok, err := redisstore.New(r.redis).Take(t.Context(), "second", 0, other.ID); !ok || err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = hosts.Run(ctx) })
		defer running.Wait()
		defer cancel()
		if err := <-looked; err == nil || !strings.Contains(err.Error(), `provider "second" in eu: it has as many servers as it may have, 1`) {
			t.Errorf("with the other full: %v", err)
		}
		if err := redisstore.New(r.redis).Free(t.Context(), "second", other.ID, time.Time{}); err != nil {
			t.Fatal(err)
		}
		if id := <-m.moved; id != match.ID || len(m.moved) != 0 {
			t.Errorf("moved %s", id)
		}
	})
}

// Where others wait, and where a provider rests, there is no room either.
func TestThereIsNoRoomWhereOthersWaitOrAProviderRests(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		second := newFarm()
		also := r.and("second", second)
		rep := r.start(also)
		match := wish(1)
		match.Placement.Priority = 5 // it would overtake whoever came within two and a half minutes before it
		r.create(rep, match)
		a := r.settled(match, allocator.Bound)
		if err := rep.worker.Elsewhere(t.Context(), a); err != nil {
			t.Fatalf("the second has room: %v", err)
		}
		full := func(_ context.Context, call, _ string) error {
			if call == "allocate" {
				return provider.Failure(provider.NoCapacity, "full")
			}
			return nil
		}
		r.farm.set(full)
		second.set(full)
		r.create(rep, wish(2))
		eventually(t, func() (bool, any) {
			err := rep.worker.Elsewhere(t.Context(), a)
			return err != nil && strings.Contains(err.Error(), "1 others wait for room there"), err
		})
		r.release(rep, wish(2))
		r.settled(wish(2), allocator.Cancelled)
		eventually(t, func() (bool, any) { err := rep.worker.Elsewhere(t.Context(), a); return err == nil, err })

		for _, f := range []*farm{r.farm, second} {
			f.set(func(_ context.Context, call, _ string) error {
				if call == "allocate" {
					return provider.Failure(provider.Unavailable, "the host is away")
				}
				return nil
			})
		}
		r.create(rep, wish(3))
		eventually(t, func() (bool, any) {
			err := rep.worker.Elsewhere(t.Context(), a)
			return err != nil && strings.Contains(err.Error(), `provider "second" in eu: it rests: the host is away`), err
		})
	})
}

// Where an earlier attempt was refused for good, there is no room for the instance, whoever else has it there.
func TestAnInstanceIsNotMovedToWhereItWasRefused(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		rep := r.start(r.and("second", newFarm()))
		match := wish(2)
		r.create(rep, match)
		a := r.settled(match, allocator.Bound)
		if err := rep.worker.Elsewhere(t.Context(), a); err != nil {
			t.Fatalf("the second has room: %v", err)
		}
		a.Setbacks = []allocator.Setback{{Provider: "second", Region: "eu", Failure: "INVALID", Message: "no such image"}}
		if err := rep.worker.Elsewhere(t.Context(), a); err == nil || !strings.Contains(err.Error(), "no such image") {
			t.Errorf("with the second refused: %v", err)
		}
	})
}
