package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/berth-dev/berth/pkg/redisx/redistest"
	"github.com/berth-dev/berth/test/stack"
)

// Keys of the four-process shape.
const (
	testAPIKey      = stack.APIKey
	testInternalKey = stack.InternalKey
	testSealingKey  = stack.SealingKey
)

// processes starts the four services as processes, with two gateways and a real redis-server.
func processes(t testing.TB) *berth {
	t.Helper()
	return processesOn(t, redistest.Server(t), nil)
}

// processesOn is processes with a given redis-server; gatewayRedis is another way for the gateways to it.
func processesOn(t testing.TB, redis string, gatewayRedis func(redis string) string) *berth {
	t.Helper()
	return processesWith(t, redis, gatewayRedis, nil)
}

// processesWith is processesOn with more in the environment of each binary.
func processesWith(t testing.TB, redis string, gatewayRedis func(redis string) string, more func(binary string) []string) *berth {
	t.Helper()
	dir := t.TempDir()
	cfg := stack.Config{Binaries: binaries, Redis: redis, Dir: dir, File: providers(filepath.Join(dir, "servers")), Env: more}
	if gatewayRedis != nil {
		cfg.GatewayRedis = gatewayRedis(redis)
	}
	t.Cleanup(func() { killServers(t) }) // they outlive allocation by design, so a test that failed may leave some
	s := stack.Start(t, cfg)
	return &berth{api: s.API, urls: s.URLs, edges: s.Edges, key: testAPIKey, dir: dir, procs: s.Procs, redis: redis}
}

// killServers kills the game servers that a test has left behind.
func killServers(t testing.TB) {
	exes, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		t.Fatal(err)
	}
	for _, exe := range exes {
		var pid int
		if target, err := os.Readlink(exe); err != nil || target != binary("gameserver") {
			continue
		}
		if _, err := fmt.Sscanf(exe, "/proc/%d/exe", &pid); err == nil {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}
