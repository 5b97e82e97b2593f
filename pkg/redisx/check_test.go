package redisx_test

import (
	"context"
	"strings"
	"testing"

	"github.com/alicebob/miniredis/v2"

	"github.com/berth-dev/berth/pkg/freeport"
	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/pkg/redisx/redistest"
)

// refused fails the test unless the store is refused with all of the words.
func refused(t *testing.T, cfg redisx.Config, words ...string) {
	t.Helper()
	s, err := redisx.Open(context.Background(), cfg)
	if err == nil {
		_ = s.Close()
		t.Fatal("it was opened")
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q does not say %q", err, w)
		}
	}
}

func TestAStoreThatMayEvictIsRefused(t *testing.T) {
	for _, policy := range []string{"allkeys-lru", "volatile-ttl"} {
		p := redistest.Start(t, t.TempDir(), freeport.Addr(t), "--maxmemory-policy", policy)
		refused(t, redisx.Config{Addrs: []string{p.Addr}}, policy, "set maxmemory-policy noeviction")
		if n := redistest.Node(t, p.Addr).DBSize(t.Context()).Val(); n != 0 {
			t.Errorf("%d keys were written into it", n)
		}
	}
}

// One master of many is enough to lose matches.
func TestAClusterWithOneMasterThatMayEvictIsRefused(t *testing.T) {
	c := redistest.NewCluster(t)
	for _, master := range c.Nodes[:3] {
		if err := redistest.Node(t, master.Addr).ConfigSet(t.Context(), "maxmemory-policy", "allkeys-random").Err(); err != nil {
			t.Fatal(err)
		}
		refused(t, redisx.Config{Addrs: c.Addrs()[:1]}, master.Addr, "allkeys-random")
		if err := redistest.Node(t, master.Addr).ConfigSet(t.Context(), "maxmemory-policy", "noeviction").Err(); err != nil {
			t.Fatal(err)
		}
	}
	c.Open(t, redisx.Fast)
}

func TestReplicatedWithoutAReplicaIsRefused(t *testing.T) {
	refused(t, redisx.Config{Addrs: []string{redistest.Server(t)}, Durability: redisx.Replicated}, "no replica is connected", "BERTH_REDIS_DURABILITY")
	refused(t, redisx.Config{Addrs: []string{miniredis.RunT(t).Addr()}, Durability: redisx.Replicated}, "no replica is connected")
	refused(t, redisx.Config{Addrs: []string{"127.0.0.1:1"}, Durability: "best"}, "BERTH_REDIS_DURABILITY", `"best"`)
}

func TestAStoreWithoutAppendOnlyFileIsWarnedAbout(t *testing.T) {
	p := redistest.Start(t, t.TempDir(), freeport.Addr(t), "--appendonly", "no")
	if w := redistest.Open(t, p.Addr).Warnings(); len(w) != 1 || !strings.Contains(w[0], "set appendonly yes") || !strings.Contains(w[0], p.Addr) {
		t.Errorf("warnings: %q", w)
	}
	if w := redistest.Open(t, redistest.Server(t)).Warnings(); len(w) != 0 {
		t.Errorf("warnings: %q", w)
	}
}
