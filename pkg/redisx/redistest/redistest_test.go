package redistest_test

import (
	"context"
	"testing"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/pkg/redisx/redistest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A test finds nothing of the one before it, and has a Cluster of three masters where it says so.
func TestEachStoreIsEmpty(t *testing.T) {
	for range 2 {
		redistest.Each(t, func(t *testing.T, s *redisx.Store) {
			masters := make(map[string]bool)
			for p := range s.Partitions() {
				key := redisx.Key(p, "x")
				if n, err := s.Exists(t.Context(), key).Result(); err != nil || n != 0 {
					t.Fatalf("%s is there: %d, %v", key, n, err)
				}
				if err := s.Set(t.Context(), key, "x", 0).Err(); err != nil {
					t.Fatal(err)
				}
				if c, ok := s.UniversalClient.(*redis.ClusterClient); ok {
					m, err := c.MasterForKey(t.Context(), key)
					if err != nil {
						t.Fatal(err)
					}
					masters[m.Options().Addr] = true
				}
			}
			if keys := redistest.Keys(t, s); len(keys) != s.Partitions()+1 { // and berth:meta
				t.Errorf("keys: %v", keys)
			}
			if _, ok := s.UniversalClient.(*redis.ClusterClient); ok && len(masters) != 3 {
				t.Errorf("the partitions are on %d masters", len(masters))
			}
		})
	}
}

func TestFailover(t *testing.T) {
	c := redistest.NewCluster(t)
	s := c.Open(t, redisx.Replicated)
	was, next := c.MasterOf(t, 1), c.ReplicaOf(t, 1)
	c.Failover(t, 1)
	if c.MasterOf(t, 1) != next || c.ReplicaOf(t, 1) != was {
		t.Error("the replica did not take over")
	}
	if err := s.Set(context.Background(), redisx.Key(1, "x"), "x", 0).Err(); err != nil {
		t.Error(err)
	}
	next.Kill(t)
	c.Failover(t, 1)
	if c.MasterOf(t, 1) != was {
		t.Error("nobody took over from the dead master")
	}
	next.Restart(t)
}
