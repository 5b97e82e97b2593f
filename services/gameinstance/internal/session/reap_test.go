package session

import (
	"testing"
	"time"
)

// After an outage of the store all leases had run out, and all sockets of all gateways were closed at once.
func TestALeaseThatNobodyCouldRenewIsNotOver(t *testing.T) {
	var r reaping
	at := time.Now()
	look := func(after time.Duration, want bool) {
		t.Helper()
		at = at.Add(after)
		if got := r.saw(at); got != want {
			t.Errorf("after another %v leases that ran out are believed: %v", after, got)
		}
	}
	looks := func(d time.Duration, want bool) {
		t.Helper()
		for range d / time.Second {
			look(time.Second, want)
		}
	}
	look(0, false) // nothing is known of what was before
	looks(leaseHold-time.Second, false)
	looks(10*time.Second, true)
	look(leaseGap, true)
	look(leaseGap+time.Millisecond, false) // the store was away
	looks(leaseHold-time.Second, false)
	look(time.Second, true)
}
