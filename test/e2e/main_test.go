// Package e2e plays whole matches on real processes and sockets. One suite has two targets: the all-in-one with its embedded store, and the four services
// as processes of their own, with two gateways and a real redis-server.
package e2e

import (
	"fmt"
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
	dir, err := os.MkdirTemp("", "berth-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	binaries = dir
	if out, err := stack.Build(filepath.Join("..", ".."), dir, "./services/berth", "./services/gameinstance/cmd/...", "./services/tokenissuer/cmd/...",
		"./services/allocation/cmd/...", "./services/gateway/cmd/...", "./examples/..."); err != nil {
		fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

func binary(name string) string { return filepath.Join(binaries, name) }
