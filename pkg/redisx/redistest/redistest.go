// Package redistest gives tests a store: the embedded one always, and a real redis-server wherever one is on the PATH.
package redistest

import (
	"bufio"
	"context"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/berth-dev/berth/pkg/freeport"
	"github.com/berth-dev/berth/pkg/redisx"
)

// partitions is small, so that tests which walk all partitions stay quick.
const partitions = 8

// Each runs a test on the embedded store and on a real one.
func Each(t *testing.T, test func(t *testing.T, s *redisx.Store)) {
	t.Run("embedded", func(t *testing.T) { test(t, Embedded(t)) })
	t.Run("redis-server", func(t *testing.T) { test(t, Open(t, Server(t))) })
}

// Embedded returns a store in this process, on a clock that runs.
func Embedded(tb testing.TB) *redisx.Store {
	tb.Helper()
	m := miniredis.RunT(tb)
	return Open(tb, m.Addr())
}

// Open returns the store at an address.
func Open(tb testing.TB, addr string) *redisx.Store {
	tb.Helper()
	s, err := redisx.Open(context.Background(), redisx.Config{Addrs: []string{addr}, Partitions: partitions})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = s.Close() })
	return s
}

// Server starts a real redis-server for the test and returns its address. Without one on the PATH the test is skipped, or fails if REQUIRE_REDIS
// is set.
func Server(tb testing.TB) string {
	tb.Helper()
	return Start(tb, tb.TempDir(), freeport.Addr(tb)).Addr
}

// Process is a running redis-server.
type Process struct {
	// Addr is its address.
	Addr string
	// Cmd is the process, for tests that kill or pause it.
	Cmd *exec.Cmd
}

// Start starts a real redis-server at an address, which keeps its append-only file in dir, so that a test can start another one in its place.
func Start(tb testing.TB, dir, addr string) *Process {
	tb.Helper()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		tb.Fatal(err)
	}
	path, err := exec.LookPath("redis-server")
	if err != nil {
		if os.Getenv("REQUIRE_REDIS") != "" {
			tb.Fatal("REQUIRE_REDIS is set and there is no redis-server on the PATH")
		}
		tb.Skip("no redis-server on the PATH")
	}
	cmd := exec.Command(path, "--port", port, "--bind", "127.0.0.1", "--dir", dir, "--save", "", "--appendonly", "yes", "--daemonize", "no")
	out, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	ready := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		said := false
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if !said && strings.Contains(lines.Text(), "Ready to accept connections") {
				said = true
				close(ready)
			}
		}
	}()
	tb.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-done
		_ = cmd.Wait()
	})
	select {
	case <-ready:
	case <-done:
		tb.Fatal("redis-server ended at once")
	case <-time.After(10 * time.Second):
		tb.Fatal("redis-server does not get ready")
	}
	return &Process{Addr: addr, Cmd: cmd}
}
