package allocator_test

import (
	"testing"
	"time"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/services/allocation/internal/allocator"
)

func TestCancelLeavesTheDecisionToTheInstance(t *testing.T) {
	now := time.Now()
	for _, s := range []allocator.State{allocator.Queued, allocator.Placing, allocator.Starting, allocator.Ready} {
		a := allocator.Allocation{ID: "a-1", State: s, Provider: "p"}
		changed, err := a.Cancel("not today", now)
		if err != nil || !changed || a.State != s || a.Report != allocator.ReportFailed || a.Message != "cancelled: not today" {
			t.Errorf("%s: %v, %v, %+v", s, changed, err, a)
		}
		if action, _ := a.Next(now); action != allocator.Tell {
			t.Errorf("%s: next is %v", s, action)
		}
		if again, err := a.Cancel("", now); again || err != nil {
			t.Errorf("%s: cancelled twice: %v, %v", s, again, err)
		}
		a.Told(allocator.Accepted, now) // its server was faster
		if a.State != allocator.Bound {
			t.Errorf("%s: linked, and %s", s, a.State)
		}
		if _, err := a.Cancel("", now); !errs.Is(err, errs.StateNotAllowed) {
			t.Errorf("%s: linked, and cancelled: %v", s, err)
		}
	}
	refused := allocator.Allocation{ID: "a-1", State: allocator.Starting, Provider: "p", Report: allocator.ReportFailed, Failure: "NO_CAPACITY", Message: "no room after all"}
	if changed, err := refused.Cancel("not today", now); !changed || err != nil || refused.Failure != "" || refused.Message != "cancelled: not today" {
		t.Errorf("another attempt would have been made: %v, %v, %+v", changed, err, refused)
	}
	for _, s := range []allocator.State{allocator.Releasing, allocator.Released, allocator.Failed, allocator.Cancelled} {
		a := allocator.Allocation{ID: "a-1", State: s, Provider: "p"}
		if changed, err := a.Cancel("", now); changed || err != nil {
			t.Errorf("%s: %v, %v", s, changed, err)
		}
	}
}
