package redistest

import (
	"context"
	"fmt"
	"testing"

	"github.com/berth-dev/berth/pkg/freeport"
	"github.com/berth-dev/berth/pkg/redisx"
)

// nodeTimeout, in milliseconds, is after how long a Cluster that tests may hurt takes a silent node for dead.
const nodeTimeout = "1500"

// Cluster is a Redis Cluster of three masters with a replica each, for one test, which may hurt its nodes. Its methods are for one goroutine, that
// of the test.
type Cluster struct {
	// Nodes are the processes. Node n and node n+3 are a shard, the first of them its master to begin with.
	Nodes []*Process
}

// NewCluster starts a Cluster for the test. It takes some seconds: tests that only want to run on a Cluster use Each.
func NewCluster(tb testing.TB) *Cluster {
	tb.Helper()
	c := new(Cluster)
	var all []node
	for range nodes {
		n := node{addr: freeport.Addr(tb), bus: freeport.Addr(tb)}
		var args []string
		for i, word := range n.settings() {
			if i%2 == 0 {
				word = "--" + word
			}
			args = append(args, word)
		}
		c.Nodes = append(c.Nodes, Start(tb, tb.TempDir(), n.addr, args...))
		all = append(all, n)
	}
	if err := form(all, nodeTimeout); err != nil {
		tb.Fatalf("the Cluster is not formed: %v", err)
	}
	return c
}

// Addrs returns the addresses of all nodes.
func (c *Cluster) Addrs() []string {
	var addrs []string
	for _, n := range c.Nodes {
		addrs = append(addrs, n.Addr)
	}
	return addrs
}

// Open returns a store on the Cluster with a durability.
func (c *Cluster) Open(tb testing.TB, durability string) *redisx.Store {
	tb.Helper()
	return OpenWith(tb, redisx.Config{Addrs: c.Addrs(), Durability: durability})
}

// MasterOf returns the master of a partition, dead or alive, as the first node that answers sees it.
func (c *Cluster) MasterOf(tb testing.TB, partition int) *Process {
	tb.Helper()
	for _, n := range c.Nodes {
		if n.answers() {
			master, err := c.owner(context.Background(), n.Addr, partition)
			if err != nil {
				tb.Fatal(err)
			}
			return c.Nodes[master]
		}
	}
	tb.Fatal("no node answers")
	return nil
}

// ReplicaOf returns the other node of a partition's shard, dead or alive.
func (c *Cluster) ReplicaOf(tb testing.TB, partition int) *Process {
	tb.Helper()
	master := c.MasterOf(tb, partition)
	for n := range c.Nodes {
		if c.Nodes[n] == master {
			return c.Nodes[(n+shards)%nodes]
		}
	}
	return nil
}

// Failover makes the replica of a partition's shard its master, and returns when all nodes that answer know it and serve all slots. Where the master
// is dead or paused, it waits for the Cluster to do so by itself.
func (c *Cluster) Failover(tb testing.TB, partition int) {
	tb.Helper()
	to := c.ReplicaOf(tb, partition)
	if c.MasterOf(tb, partition).answers() {
		if err := ask(context.Background(), to.Addr, "cluster", "failover").Err(); err != nil {
			tb.Fatal(err)
		}
	}
	until(tb, "the replica takes over", func(ctx context.Context) error { return c.agreed(ctx, partition, to) })
}

// agreed returns an error unless all nodes that answer see the same master and a Cluster that works.
func (c *Cluster) agreed(ctx context.Context, partition int, on *Process) error {
	for _, n := range c.Nodes {
		if !n.answers() {
			continue
		}
		master, err := c.owner(ctx, n.Addr, partition)
		if err != nil {
			return err
		}
		if c.Nodes[master] != on {
			return fmt.Errorf("%s takes %s for the master", n.Addr, c.Nodes[master].Addr)
		}
		if err := everyNode(ctx, []node{{addr: n.Addr}}, "cluster_state:ok"); err != nil {
			return err
		}
	}
	return nil
}

// owner returns which node is the master of a partition, as the one at an address sees it.
func (c *Cluster) owner(ctx context.Context, addr string, partition int) (int, error) {
	slot, err := ask(ctx, addr, "cluster", "keyslot", redisx.Key(partition, "")).Int()
	if err != nil {
		return 0, err
	}
	seen, err := layout(ctx, addr)
	if err != nil {
		return 0, err
	}
	for _, s := range seen {
		if s.Start > slot || slot > s.End {
			continue
		}
		for n := range c.Nodes {
			if c.Nodes[n].Addr == s.Nodes[0].Addr {
				return n, nil
			}
		}
	}
	return 0, fmt.Errorf("%s knows no master of slot %d", addr, slot)
}
