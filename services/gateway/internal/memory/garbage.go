package memory

import (
	"os"
	"runtime/debug"
)

// garbage is how much garbage may come, in percent of what is in use, before it is collected. Idle links are most of what a gateway holds, and they make next to
// none; Go's own 100 would let the heap grow to twice their size all the same, and not give it back.
const garbage = 50

// KeepLittleGarbage has garbage collected earlier than Go does by default, unless the variable GOGC says how often. It is for a process that is a gateway and
// nothing else.
func KeepLittleGarbage() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(garbage)
	}
}
