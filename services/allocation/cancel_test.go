package allocation_test

import (
	"context"
	"testing"

	"github.com/berth-dev/berth/pkg/errs"
	attemptv1 "github.com/berth-dev/berth/pkg/gen/berth/attempt/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/internal/allocator"
)

// unheard keeps an instance from being told that there is a server: it may have linked, and allocation does not know.
func (p *peer) unheard() {
	p.set(func() {
		p.onReport = func(r *attemptv1.ReportAttemptRequest) error {
			if r.GetAllocated() != nil {
				return unavailable()
			}
			return nil
		}
	})
}

func (r *rig) giveUp(rep *replica, w allocator.Wish, reason string) {
	r.t.Helper()
	if _, err := rep.Cancel(r.t.Context(), w.Namespace, w.ID, reason); err != nil {
		r.t.Fatal(err)
	}
}

// Whatever has not linked can be given up: the instance is told why, and nothing is left at the provider.
func TestCancel(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		rep := r.start(nil)
		r.peer.unheard()
		started := wish(1)
		r.create(rep, started)
		r.settled(started, allocator.Ready)
		r.giveUp(rep, started, "the map is broken")
		r.giveUp(rep, started, "again")
		if a := r.settled(started, allocator.Failed); a.Message != "cancelled: the map is broken" {
			t.Errorf("failed: %+v", a)
		}
		if _, servers, n := r.farm.count("", started.ID); servers != 0 || n != 1 {
			t.Errorf("%d servers of %d are left", servers, n)
		}
		eventually(t, func() (bool, any) { n := r.slots("farm"); return n == 0, n })

		r.farm.set(func(context.Context, string, string) error { return provider.Failure(provider.NoCapacity, "full") })
		waiting := wish(2)
		r.create(rep, waiting)
		eventually(t, func() (bool, any) { a := r.stored(waiting); return !a.WaitSince.IsZero(), a })
		r.giveUp(rep, waiting, "")
		if a := r.settled(waiting, allocator.Failed); a.Message != "cancelled" {
			t.Errorf("failed: %+v", a)
		}
		if got := r.peer.told(); got != "failed: cancelled: the map is broken failed: cancelled" {
			t.Errorf("the instances were told %q", got)
		}
		if _, err := rep.Cancel(t.Context(), "other", waiting.ID, ""); !errs.Is(err, errs.AllocationUnknown) {
			t.Errorf("one of another namespace: %v", err)
		}
	})
}

// A server that linked before the instance heard of the cancelling stays, and cannot be cancelled.
func TestALinkIsFasterThanACancel(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		rep := r.start(nil)
		r.peer.unheard()
		w := wish(1)
		r.create(rep, w)
		r.settled(w, allocator.Ready)
		r.peer.set(func() { r.peer.linked = true })
		r.giveUp(rep, w, "too late")
		eventually(t, func() (bool, any) { a := r.stored(w); return a.State == allocator.Bound, a })
		r.peer.set(func() { r.peer.onReport = nil })
		if a := r.settled(w, allocator.Bound); a.Message != "" {
			t.Errorf("linked: %+v", a)
		}
		if _, err := rep.Cancel(t.Context(), w.Namespace, w.ID, "once more"); !errs.Is(err, errs.StateNotAllowed) {
			t.Errorf("cancelled although linked: %v", err)
		}
		if releases, servers, _ := r.farm.count("release", w.ID); releases != 0 || servers != 1 {
			t.Errorf("released %d times, and %d servers are left", releases, servers)
		}
	})
}
