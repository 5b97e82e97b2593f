package allocation_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/internal/allocator"
	"github.com/berth-dev/berth/services/allocation/internal/placement"
)

// What one provider cannot do, the next one does, and the allocation tells how it came to that.
func TestFailover(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		second := newFarm()
		rep := r.start(r.and("second", second))
		for n, reason := range []error{
			provider.Failure(provider.NoCapacity, "full"), provider.Failure(provider.Quota, "unpaid"), provider.Failure(provider.Unavailable, "away"),
			provider.Failure(provider.Invalid, "no such build"), provider.Failure(provider.Unauthenticated, "who?"), provider.Failure(provider.RateLimited, "slower"),
		} {
			r.farm.set(func(_ context.Context, call, _ string) error {
				if call != "allocate" {
					t.Errorf("%s after an answer that is certain", call)
				}
				return reason
			})
			w := wish(n)
			r.create(rep, w)
			a := r.settled(w, allocator.Bound)
			tries := a.Explanation.Candidates[0].Tries
			if a.Provider != "second" || len(tries) != 1 || tries[0].Failure != strings.TrimPrefix(provider.ReasonOf(reason).String(), "FAILURE_REASON_") {
				t.Errorf("%v: at %s after %+v", reason, a.Provider, tries)
			}
			if c := a.Explanation.Candidates[1]; len(c.Tries) != 1 || c.Tries[0].Failure != "" || c.Exclusion != placement.None {
				t.Errorf("where it is: %+v", c)
			}
		}
	})
}

// While it is not certain that a provider has nothing, no other one is asked; and when it does not say for long, its instance is told and can go elsewhere,
// and the provider is made to give back what it may have as soon as it can be spoken to.
func TestAProviderThatDoesNotSayWhetherItHasAServer(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		second := newFarm()
		also := r.and("second", second)
		rep := r.start(func(c *allocator.WorkerConfig) {
			also(c)
			c.Providers[0].Info.Timeout = 40 * time.Millisecond
		})
		r.farm.mu.Lock()
		r.farm.onAnswer = func(call, _ string) error { // it starts one, and says nothing
			if call == "allocate" {
				return context.DeadlineExceeded
			}
			return nil
		}
		r.farm.onCall = func(ctx context.Context, call, _ string) error {
			if call == "allocate" {
				return nil
			}
			<-ctx.Done()
			return ctx.Err()
		}
		r.farm.mu.Unlock()
		w := wish(1)
		w.Deadline = time.Now().Add(time.Hour)
		r.create(rep, w)
		eventually(t, func() (bool, any) { a := r.stored(w); return a.State == allocator.Releasing && a.Tries > 0, a })
		if got := r.peer.told(); got != `failed, elsewhere: provider "farm" does not say whether it has a server` {
			t.Errorf("the instance was told %q", got)
		}
		r.farm.set(nil)
		r.settled(w, allocator.Failed)
		if _, servers, started := r.farm.count("", w.ID); servers != 0 || started != 1 {
			t.Errorf("%d servers left, %d started", servers, started)
		}
		if calls, _, _ := second.count("allocate", w.ID); calls != 0 {
			t.Error("another provider was asked meanwhile")
		}
	})
}

// A provider that is away is left alone after a few calls, whatever number of allocations would like to ask it, and others have their servers.
func TestASickProviderRests(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		rep := r.start(r.and("second", newFarm()))
		r.farm.set(func(context.Context, string, string) error { return provider.Failure(provider.Unavailable, "away") })
		const many = 40
		start := time.Now()
		for n := range many {
			r.create(rep, wish(n))
			r.settled(wish(n), allocator.Bound)
		}
		probes := int(time.Since(start) / (10 * time.Second)) // on a slow machine it is tried again meanwhile
		if calls, _, _ := r.farm.count("allocate", ""); calls < 5 || calls > 5+probes {
			t.Errorf("asked %d times", calls)
		}
		if c := r.stored(wish(5)).Explanation.Candidates[0]; c.Exclusion != placement.Resting || !strings.Contains(c.Message, "away") {
			t.Errorf("why it was not asked: %+v", c)
		}
		if h := rep.worker.Health(); len(h) != 2 || h[0].Provider != "farm" || !h[0].Resting || h[1].Resting {
			t.Errorf("health: %+v", h)
		}
	})
}
