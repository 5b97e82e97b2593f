// Package kubernetes plays whole matches on a real API server of Kubernetes: the four services as processes, a real redis-server, and Pods whose command runs as
// a process of this machine. It is left out where there is no API server: `make test-kubernetes` builds one.
package kubernetes

import (
	"os"
	"testing"

	"github.com/berth-dev/berth/test/hosts/kubetest"
	"github.com/berth-dev/berth/test/stack"
)

// binaries is the folder with all programs, built from this tree.
var binaries string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if os.Getenv(kubetest.Assets) == "" {
		return m.Run() // all are skipped, and say so
	}
	return stack.Leakless(stack.Main(m, &binaries, "./services/gameinstance/cmd/...", "./services/tokenissuer/cmd/...", "./services/allocation/cmd/...", "./services/gateway/cmd/...",
		"./examples/gameserver", "./examples/matchmaker"))
}
