package storm

import (
	"os"
	"testing"
	"time"

	"github.com/berth-dev/berth/test/stack"
)

// binaries is the folder with the services, built from this tree.
var binaries string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	return stack.Leakless(stack.Main(m, &binaries, "./services/gameinstance/cmd/...", "./services/tokenissuer/cmd/...", "./services/allocation/cmd/...", "./services/gateway/cmd/..."))
}

// scale is how large a storm is.
type scale struct {
	// servers are how many game servers are linked.
	servers int
	// pace is how long each backend and each server waits between two writes. The history keeps 1,000 entries, and the ledger needs them all.
	pace time.Duration
	// storm is how long something is away or hurt.
	storm time.Duration
	// heartbeat and lease are those of the gateways. A gateway is paused for longer than its lease.
	heartbeat, lease time.Duration
	// patience is how long it may take until all is well again.
	patience time.Duration
}

// long reports whether the long form is wanted (BERTH_STORM=long, `make storm`).
func long() bool { return os.Getenv("BERTH_STORM") == "long" }

// scaled returns the short form, for every run of the tests, or the long one, with the gateways' defaults.
func scaled() scale {
	if long() {
		return scale{servers: 300, pace: time.Second, storm: time.Minute, heartbeat: 10 * time.Second, lease: 10 * time.Second, patience: 3 * time.Minute}
	}
	return scale{servers: 40, pace: 250 * time.Millisecond, storm: 5 * time.Second, heartbeat: 2 * time.Second, lease: 3 * time.Second, patience: time.Minute}
}
