// Package redistest gives tests a store: the embedded one always, and real ones, alone, replicated and as a Cluster, wherever a redis-server is on
// the PATH. Without one such a test is skipped, or fails if REQUIRE_REDIS is set.
package redistest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/berth-dev/berth/pkg/freeport"
	"github.com/berth-dev/berth/pkg/redisx"
)

// partitions is small, so that tests which walk all partitions stay quick. They are spread over all masters of a Cluster.
const partitions = 8

// Each runs a test on the embedded store, on a real server, and, with writes that wait for their replica, on a real Cluster of three masters with
// a replica each. The Cluster is started once for the test binary and emptied for each test; a test inside Each does not call Each.
func Each(t *testing.T, test func(t *testing.T, s *redisx.Store)) {
	t.Run("embedded", func(t *testing.T) { test(t, Embedded(t)) })
	t.Run("redis-server", func(t *testing.T) { test(t, Open(t, Server(t))) })
	t.Run("redis-cluster", func(t *testing.T) {
		test(t, OpenWith(t, redisx.Config{Addrs: sharedCluster(t), Durability: redisx.Replicated}))
	})
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
	return OpenWith(tb, redisx.Config{Addrs: []string{addr}})
}

// OpenWith returns a store until the end of the test. It has few partitions unless the configuration says how many.
func OpenWith(tb testing.TB, cfg redisx.Config) *redisx.Store {
	tb.Helper()
	if cfg.Partitions == 0 {
		cfg.Partitions = partitions
	}
	s, err := redisx.Open(context.Background(), cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = s.Close() })
	return s
}

// Node returns a client for the one server at an address, whatever it belongs to, for what a test wants to do behind the store's back.
func Node(tb testing.TB, addr string) *redis.Client {
	tb.Helper()
	c := redis.NewClient(&redis.Options{Addr: addr})
	tb.Cleanup(func() { _ = c.Close() })
	return c
}

// Keys returns all keys of a store, which on a Cluster no single node knows.
func Keys(tb testing.TB, s *redisx.Store) []string {
	tb.Helper()
	var all []string
	for p := range shardsOf(tb, s) {
		keys, err := p.Keys(context.Background(), "*").Result()
		if err != nil {
			tb.Fatal(err)
		}
		all = append(all, keys...)
	}
	return all
}

// shardsOf returns the servers of a store that take writes.
func shardsOf(tb testing.TB, s *redisx.Store) map[*redis.Client]bool {
	tb.Helper()
	var mu sync.Mutex
	all := make(map[*redis.Client]bool)
	switch c := s.UniversalClient.(type) {
	case *redis.Client:
		all[c] = true
	case *redis.ClusterClient:
		err := c.ForEachMaster(context.Background(), func(_ context.Context, m *redis.Client) error {
			mu.Lock()
			defer mu.Unlock()
			all[m] = true
			return nil
		})
		if err != nil {
			tb.Fatal(err)
		}
	}
	return all
}

// Server starts a real redis-server for the test and returns its address.
func Server(tb testing.TB) string {
	tb.Helper()
	return Start(tb, tb.TempDir(), freeport.Addr(tb)).Addr
}

// Replicated starts a server and one replica of it, which has caught up.
func Replicated(tb testing.TB) (master, replica *Process) {
	tb.Helper()
	master = Start(tb, tb.TempDir(), freeport.Addr(tb), "--repl-diskless-sync-delay", "0")
	host, port := split(master.Addr)
	replica = Start(tb, tb.TempDir(), freeport.Addr(tb), "--replicaof", host, port)
	until(tb, "the replica catches up", func(ctx context.Context) error { return caughtUp(ctx, master.Addr, replica.Addr) })
	return master, replica
}

// caughtUp returns an error unless the replica follows its master.
func caughtUp(ctx context.Context, master, replica string) error {
	if err := says(ctx, replica, "replication", "master_link_status:up"); err != nil {
		return err
	}
	return says(ctx, master, "replication", "state=online")
}

func redisServer(tb testing.TB) string {
	tb.Helper()
	path, err := exec.LookPath("redis-server")
	if err != nil {
		if os.Getenv("REQUIRE_REDIS") != "" {
			tb.Fatal("REQUIRE_REDIS is set and there is no redis-server on the PATH")
		}
		tb.Skip("no redis-server on the PATH")
	}
	return path
}

// patience is how long anything here may take on a machine that is busy with other tests.
const patience = 60 * time.Second

// until waits for a condition.
func until(tb testing.TB, what string, met func(context.Context) error) {
	tb.Helper()
	if err := poll(met); err != nil {
		tb.Fatalf("%s: %v", what, err)
	}
}

// poll asks again and again until there is no error, or patience is over.
func poll(met func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := met(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("not within %v: %w", patience, err)
		}
	}
}

// ask sends one command to the server at an address, whatever its role.
func ask(ctx context.Context, addr string, command ...any) *redis.Cmd {
	c := redis.NewClient(&redis.Options{Addr: addr, MaxRetries: -1, DialerRetries: 1, DialTimeout: time.Second, ReadTimeout: time.Second})
	defer func() { _ = c.Close() }()
	return c.Do(ctx, command...)
}
