package redistest

import (
	"context"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"
)

// A Cluster here has three masters, and node n+3 is the replica of node n, to begin with.
const (
	shards = 3
	nodes  = 2 * shards
	slots  = 16384
)

// formTimeout, in milliseconds, is short while a Cluster is formed, because what nodes know of each other spreads twice in that time.
const formTimeout = "500"

// node is where a server of a Cluster listens, for clients and for the other nodes.
type node struct{ addr, bus string }

// settings are those of a node, as names and values. A replica may always take over, however long a slow machine has kept it from its master; and
// it is pinged often, because nobody counts on one that has received nothing yet.
func (n node) settings() []string {
	_, bus := split(n.bus)
	return []string{
		"cluster-enabled", "yes", "cluster-config-file", "nodes.conf", "cluster-port", bus, "cluster-node-timeout", formTimeout,
		"cluster-replica-validity-factor", "0", "repl-diskless-sync-delay", "0", "repl-ping-replica-period", "1",
	}
}

// form makes one Cluster of servers that know nothing of each other, and returns when every node sees it whole and every replica follows. From then
// on, a node that is silent for the timeout, in milliseconds, counts as dead.
func form(all []node, timeout string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for n := range all {
		if err := introduce(ctx, all, n); err != nil {
			return fmt.Errorf("node %d: %w", n, err)
		}
	}
	if err := poll(func(ctx context.Context) error { return everyNode(ctx, all, "cluster_known_nodes:6") }); err != nil {
		return err
	}
	for n := range shards {
		if err := poll(func(ctx context.Context) error { return follow(ctx, all[n], all[n+shards]) }); err != nil {
			return err
		}
	}
	if err := poll(func(ctx context.Context) error { return whole(ctx, all) }); err != nil {
		return err
	}
	for _, n := range all {
		if err := ask(ctx, n.addr, "config", "set", "cluster-node-timeout", timeout).Err(); err != nil {
			return err
		}
	}
	return nil
}

// introduce gives a node its slots, if it is a master, and its acquaintance with those before it.
func introduce(ctx context.Context, all []node, n int) error {
	if err := ask(ctx, all[n].addr, "cluster", "set-config-epoch", n+1).Err(); err != nil {
		return err
	}
	if n < shards {
		if err := ask(ctx, all[n].addr, "cluster", "addslotsrange", n*slots/shards, (n+1)*slots/shards-1).Err(); err != nil {
			return err
		}
	}
	for _, other := range all[:n] {
		host, port := split(other.addr)
		_, bus := split(other.bus)
		if err := ask(ctx, all[n].addr, "cluster", "meet", host, port, bus).Err(); err != nil {
			return err
		}
	}
	return nil
}

// follow makes a node the replica of a master that it has heard of.
func follow(ctx context.Context, master, replica node) error {
	id, err := ask(ctx, master.addr, "cluster", "myid").Text()
	if err != nil {
		return err
	}
	return ask(ctx, replica.addr, "cluster", "replicate", id).Err()
}

// whole returns an error unless all nodes see all shards with their replicas, and these have caught up.
func whole(ctx context.Context, all []node) error {
	if err := everyNode(ctx, all, "cluster_state:ok"); err != nil {
		return err
	}
	for n := range shards {
		if err := caughtUp(ctx, all[n].addr, all[n+shards].addr); err != nil {
			return err
		}
	}
	for _, n := range all {
		seen, err := layout(ctx, n.addr)
		if err != nil {
			return err
		}
		for _, s := range seen {
			if len(s.Nodes) != nodes/shards {
				return fmt.Errorf("%s sees %d nodes for slot %d", n.addr, len(s.Nodes), s.Start)
			}
		}
	}
	return nil
}

// layout returns who has which slots, as the node at an address sees it: the master first. It asks as the driver does, to see the same.
func layout(ctx context.Context, addr string) ([]redis.ClusterSlot, error) {
	c := redis.NewClient(&redis.Options{Addr: addr, MaxRetries: -1, DialerRetries: 1})
	defer func() { _ = c.Close() }()
	cmd := redis.NewClusterSlotsCmd(ctx, "cluster", "slots")
	_ = c.Process(ctx, cmd) // the error is the command's
	return cmd.Result()
}

func everyNode(ctx context.Context, all []node, word string) error {
	for _, n := range all {
		reply, err := ask(ctx, n.addr, "cluster", "info").Text()
		if err != nil {
			return err
		}
		if !strings.Contains(reply, word) {
			return fmt.Errorf("%s does not say %s", n.addr, word)
		}
	}
	return nil
}

// says returns an error unless a section of the server's INFO has a word.
func says(ctx context.Context, addr, section, word string) error {
	info, err := ask(ctx, addr, "info", section).Text()
	if err != nil {
		return err
	}
	if !strings.Contains(info, word) {
		return fmt.Errorf("%s does not say %s", addr, word)
	}
	return nil
}
