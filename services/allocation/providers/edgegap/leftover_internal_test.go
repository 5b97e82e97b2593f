package edgegap

import (
	"context"
	"testing"
	"time"
)

// A stop that nobody asked for ends well before the call does: the call's own answer has to get back in time.
func TestAStopThatNobodyAskedForLeavesTime(t *testing.T) {
	const limit, call = time.Minute, time.Hour
	for name, c := range map[string]struct{ aside, most time.Duration }{"much is left": {limit, limit}, "little is left": {10 * call, call / 2}} {
		ctx, cancel := context.WithTimeout(t.Context(), call)
		short, end := aside(ctx, c.aside)
		latest := time.Now().Add(c.most) // its time began before
		if at, ok := short.Deadline(); !ok || at.After(latest) {
			t.Errorf("%s: it ends at %v, want %v", name, at, latest)
		}
		end()
		cancel()
	}
}
