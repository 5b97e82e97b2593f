package hostapi

import "testing"

// In no second more calls than the host allows are let through by much.
func TestBurst(t *testing.T) {
	for perSecond, want := range map[float64]int{40: 10, 10: 2, 4: 1, 1: 1, 0.1: 1} {
		op := Read("look", perSecond)
		if got := op.limiter.Burst(); got != want || float64(op.limiter.Limit()) != perSecond {
			t.Errorf("%v in a second: %d at once, then %v", perSecond, got, op.limiter.Limit())
		}
	}
}
