// Package kubernetes plays whole matches on a real API server of Kubernetes: the four services as processes, a real redis-server, and Pods whose command runs as
// a process of this machine. It is left out where there is no API server: `make test-kubernetes` builds one.
package kubernetes

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

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
	dir, err := os.MkdirTemp("", "berth-kubernetes-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	binaries = dir
	if out, err := stack.Build(filepath.Join("..", ".."), dir, "./services/gameinstance/cmd/...", "./services/tokenissuer/cmd/...",
		"./services/allocation/cmd/...", "./services/gateway/cmd/...", "./examples/gameserver", "./examples/matchmaker"); err != nil {
		fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
		return 1
	}
	code := m.Run()
	if err := goleak.Find(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}
