package allocation_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/internal/allocator"
	"github.com/berth-dev/berth/services/allocation/internal/placement"
	"github.com/berth-dev/berth/services/allocation/internal/redisstore"
)

// Two workers never ask a provider for more servers than it may have, and what is given back is used again.
func TestMaxServers(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		const many, most = 24, 3
		limit := func(c *allocator.WorkerConfig) { c.Providers[0].Info.MaxServers = most }
		replicas := []*replica{r.start(limit), r.start(limit)}
		r.farm.set(func(_ context.Context, call, attempt string) error {
			if _, servers, _ := r.farm.count("", ""); call == "allocate" && servers >= most {
				t.Errorf("asked for one more, with %d servers", servers)
			}
			return nil
		})
		for n := range many {
			r.create(replicas[n%2], wish(n))
		}
		done := make(map[int]bool)
		eventually(t, func() (bool, any) {
			for n := range many {
				if a := r.stored(wish(n)); !done[n] && a.State == allocator.Bound && a.Report == allocator.ReportNone {
					r.release(replicas[n%2], wish(n))
					done[n] = true
				}
			}
			return len(done) == many, done
		})
		for n := range many {
			r.settled(wish(n), allocator.Released)
		}
		eventually(t, func() (bool, any) { n := r.slots("farm"); return n == 0, n })
		if c := r.stored(wish(many - 1)).Explanation.Candidates[0]; c.Exclusion != placement.None {
			t.Errorf("where it was: %+v", c)
		}
	})
}

// slots is how many slots of a provider are taken.
func (r *rig) slots(provider string) int {
	r.t.Helper()
	n, err := redisstore.New(r.redis).Count(context.Background(), provider)
	if err != nil {
		r.t.Fatal(err)
	}
	return n
}

// A slot is there from before the provider is asked until it is certain that it has nothing.
func TestASlotIsTakenForAsLongAsThereMayBeAServer(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		rep := r.start(r.and("second", newFarm()))
		r.farm.set(func(_ context.Context, call, _ string) error {
			if r.slots("farm") != 1 || r.slots("second") != 0 {
				t.Errorf("%s, with %d and %d slots", call, r.slots("farm"), r.slots("second"))
			}
			return nil
		})
		r.create(rep, wish(1))
		r.settled(wish(1), allocator.Bound)
		r.release(rep, wish(1))
		r.settled(wish(1), allocator.Released)
		eventually(t, func() (bool, any) { return r.slots("farm") == 0, nil })

		r.farm.set(func(context.Context, string, string) error { return provider.Failure(provider.NoCapacity, "full") })
		r.create(rep, wish(2))
		r.settled(wish(2), allocator.Bound)
		if r.slots("farm") != 0 || r.slots("second") != 1 {
			t.Errorf("elsewhere, with %d and %d slots", r.slots("farm"), r.slots("second"))
		}
	})
}

// frees looks on when slots are freed.
type frees struct {
	allocator.Slots
	before func(id string)
}

func (f frees) Free(ctx context.Context, provider, id string, taken time.Time) error {
	f.before(id)
	return f.Slots.Free(ctx, provider, id, taken)
}

// Nobody else can have taken a slot anew by the time that it is freed.
func TestASlotIsFreedUnderTheLease(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		store, freed := redisstore.New(r.redis), make(chan bool, 100)
		rep := r.start(func(c *allocator.WorkerConfig) {
			c.Slots = frees{c.Slots, func(id string) {
				_, ok, err := store.Claim(context.Background(), id, "another", lease, true)
				freed <- ok || err != nil
			}}
		})
		r.farm.set(func(context.Context, string, string) error { return provider.Failure(provider.NoCapacity, "full") })
		r.create(rep, wish(1))
		for round := range 3 { // the first one ends in a line, the others where they were
			if <-freed {
				t.Errorf("round %d: another worker could have the allocation before its slot was freed", round)
			}
		}
	})
}

// late is a provider that was away when its worker started.
type late struct{ allocator.Host }

func (late) Current(info allocator.ProviderInfo) (allocator.ProviderInfo, string) {
	info.Builds = []string{"demo"}
	return info, ""
}

// A line is audited also if the provider of its build came after the start.
func TestAuditOfALateProvidersLines(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		rep := r.start(func(c *allocator.WorkerConfig) {
			c.Providers[0].Info.Builds, c.Providers[0].Host = nil, late{c.Providers[0].Host}
		})
		store := redisstore.New(r.redis)
		if ok, err := store.Enter(t.Context(), allocator.Waiter{ID: wish(1).ID, Line: allocator.Line{Build: "demo", Where: "here"}}, time.Now(), 10); !ok || err != nil {
			t.Fatal(ok, err)
		}
		if err := rep.worker.Audit(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		if n, err := store.Waiting(t.Context(), "demo"); n != 0 || err != nil {
			t.Errorf("%d wait who are not there, %v", n, err)
		}
	})
}

// spoil makes an allocation's record one that cannot be read.
func (r *rig) spoil(id string) {
	r.t.Helper()
	key := redisx.Key(r.redis.Partition(instance), "alloc:r:"+id)
	if err := r.redis.HSet(r.t.Context(), key, "rev", "1", "head", "\xff\xff\xff").Err(); err != nil {
		r.t.Fatal(err)
	}
}

// One record that cannot be read stopped the audit of its line, and hid the allocations of its whole namespace.
func TestARecordThatCannotBeReadHidesNoOther(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		var lines bytes.Buffer
		r.log = slog.New(slog.NewTextHandler(&lines, &slog.HandlerOptions{Level: slog.LevelError}))
		rep := r.start(nil)
		for n := range 3 {
			r.create(rep, wish(n))
			r.settled(wish(n), allocator.Bound)
		}
		rep.stop()
		r.spoil(wish(1).ID)
		store, l := redisstore.New(r.redis), allocator.Line{Build: "demo", Where: "nowhere"}
		for n := range 3 { // none of them waits
			if ok, err := store.Enter(t.Context(), allocator.Waiter{ID: wish(n).ID, Line: l}, time.Now(), 10); !ok || err != nil {
				t.Fatal(ok, err)
			}
		}
		if err := rep.worker.Audit(t.Context(), time.Hour); err != nil {
			t.Error(err)
		}
		if n, err := store.Waiting(t.Context(), "demo"); n != 0 || err != nil {
			t.Errorf("%d still wait, %v", n, err)
		}
		var listed []string
		for cursor, more := "", true; more; more = cursor != "" {
			page, next, err := rep.List(t.Context(), "default", 2, cursor)
			if err != nil {
				t.Fatal(err)
			}
			for _, a := range page {
				listed = append(listed, a.ID)
			}
			cursor = next
		}
		if want := []string{wish(2).ID, wish(0).ID}; !slices.Equal(listed, want) {
			t.Errorf("listed %v, want %v", listed, want)
		}
		var unreadable *allocator.UnreadableError
		if _, err := rep.Get(t.Context(), "default", wish(1).ID); !errors.As(err, &unreadable) || unreadable.IDs[wish(1).ID] == nil {
			t.Errorf("the one itself: %v", err)
		}
		if n, said := rep.worker.PassedOver().Count(), strings.Count(lines.String(), "passed over"); n != 2 || said != 1 || !strings.Contains(lines.String(), wish(1).ID) {
			t.Errorf("%d passed over, said %d times; want 2, once: %s", n, said, &lines)
		}
	})
}

// A record that cannot be read hides no other slot from an audit, and keeps its own: there may be a server.
func TestAuditPassesOverARecordThatCannotBeRead(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		rep := r.start(nil)
		r.create(rep, wish(1))
		r.settled(wish(1), allocator.Bound)
		rep.stop() // which would find that it cannot be read, again and again
		if ok, err := redisstore.New(r.redis).Take(t.Context(), "farm", 0, wish(2).ID); !ok || err != nil {
			t.Fatal(err)
		}
		r.spoil(wish(1).ID)
		if err := rep.worker.Audit(t.Context(), 0); err != nil {
			t.Error(err)
		}
		slots, err := redisstore.New(r.redis).Members(t.Context(), "farm", 0, 0, 10)
		if err != nil || len(slots) != 1 || slots[0].ID != wish(1).ID {
			t.Errorf("slots %v, %v", slots, err)
		}
	})
}

// What a crash left taken is freed, and nothing else.
func TestAudit(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		rep := r.start(nil)
		store := redisstore.New(r.redis)
		r.create(rep, wish(1))
		r.settled(wish(1), allocator.Bound)
		r.release(rep, wish(2))
		r.settled(wish(2), allocator.Released)
		const many = 1100           // more than two pages
		for n := 2; n < many; n++ { // the first is over, the others unknown
			if ok, err := store.Take(t.Context(), "farm", 0, wish(n).ID); !ok || err != nil {
				t.Fatal(err)
			}
		}
		if err := rep.worker.Audit(t.Context(), time.Hour); err != nil || r.slots("farm") != many-1 {
			t.Errorf("what was taken just now: %d, %v", r.slots("farm"), err)
		}
		if err := rep.worker.Audit(t.Context(), 0); err != nil || r.slots("farm") != 1 {
			t.Errorf("%d slots are left, %v", r.slots("farm"), err)
		}
		slots, err := store.Members(t.Context(), "farm", 0, 0, 10)
		if err != nil || len(slots) != 1 || slots[0].ID != wish(1).ID {
			t.Fatalf("slots: %v, %v", slots, err)
		}
		if _, err := store.Take(t.Context(), "farm", 0, wish(1).ID); err != nil {
			t.Fatal(err)
		}
		if err := store.Free(t.Context(), "farm", wish(1).ID, slots[0].Taken); err != nil || r.slots("farm") != 1 {
			t.Errorf("freed what was taken anew: %v", err)
		}
		l := allocator.Line{Build: "demo", Where: "nowhere"}
		for n := 1; n < many; n++ { // bound, over and unknown: none of them waits
			if ok, err := store.Enter(t.Context(), allocator.Waiter{ID: wish(n).ID, Line: l}, time.Now(), many); !ok || err != nil {
				t.Fatal(err)
			}
		}
		if err := rep.worker.Audit(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		if n, err := store.Waiting(t.Context(), "demo"); n != 0 || err != nil {
			t.Errorf("%d still wait, %v", n, err)
		}
		if ids, err := store.Front(t.Context(), l, 10); len(ids) != 0 || err != nil {
			t.Errorf("%v still wait, %v", ids, err)
		}
		for _, asks := range []struct {
			owner string
			want  bool
		}{{"one", true}, {"other", false}, {"one", true}} {
			if leads, err := store.Lead(t.Context(), "audit", asks.owner, time.Hour); err != nil || leads != asks.want {
				t.Errorf("%s leads: %v, %v", asks.owner, leads, err)
			}
		}
	})
}
