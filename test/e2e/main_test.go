// Package e2e plays whole matches on real processes and sockets. One suite has two targets: the all-in-one with its embedded store, and the four services
// as processes of their own, with two gateways and a real redis-server.
package e2e

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/berth-dev/berth/test/stack"
)

// binaries is the folder with all programs, built from this tree.
var binaries string

func TestMain(m *testing.M) {
	if os.Getenv(envPoolServer) != "" {
		os.Exit(poolServer())
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	return stack.Main(m, &binaries, "./services/berth", "./services/gameinstance/cmd/...", "./services/tokenissuer/cmd/...", "./services/allocation/cmd/...", "./services/gateway/cmd/...", "./examples/...")
}

func binary(name string) string { return filepath.Join(binaries, name) }
