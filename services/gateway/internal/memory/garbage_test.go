package memory

import (
	"runtime/debug"
	"testing"
)

func TestLittleGarbageIsKeptUnlessGOGCIsSet(t *testing.T) {
	const before = 77
	t.Cleanup(func() { debug.SetGCPercent(100) })
	for gogc, want := range map[string]int{"": garbage, "77": before, "off": before} {
		debug.SetGCPercent(before)
		t.Setenv("GOGC", gogc)
		KeepLittleGarbage()
		if got := debug.SetGCPercent(before); got != want {
			t.Errorf("with GOGC=%q: %d", gogc, got)
		}
	}
}
