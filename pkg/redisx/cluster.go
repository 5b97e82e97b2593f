package redisx

import (
	"context"
	"errors"
	"net"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// maxReroutes is how often a script that certainly did not run is sent to another node of a Cluster.
	maxReroutes = 5
	// firstPause is how long the first repeat waits when the layout of the Cluster is not known to have changed; it doubles.
	firstPause = 20 * time.Millisecond
)

// newCluster returns a client for a Cluster that reads its layout anew when a node is lost. The driver does so only when a node says that its slots
// have moved, and a dead one says nothing.
func newCluster(opts *redis.ClusterOptions) *redis.ClusterClient {
	c := redis.NewClusterClient(opts)
	c.AddHook(lossHook{c})
	return c
}

type lossHook struct{ cluster *redis.ClusterClient }

func (h lossHook) DialHook(next redis.DialHook) redis.DialHook { return next }

func (h lossHook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		if lost(err) {
			h.cluster.ReloadState(ctx)
		}
		return err
	}
}

func (h lossHook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := next(ctx, cmds)
		if slices.ContainsFunc(cmds, func(cmd redis.Cmder) bool { return lost(cmd.Err()) }) {
			h.cluster.ReloadState(ctx)
		}
		return err
	}
}

// runOnCluster runs the script on the node that has its keys, and follows them where the answer, or that there was nobody to send it to, says
// that it did not run.
func (s *Store) runOnCluster(ctx context.Context, cluster *redis.ClusterClient, c call) *redis.Cmd {
	node, err := cluster.MasterForKey(ctx, c.keys[0])
	if err != nil {
		return failed(ctx, err)
	}
	asking := false
	for n := 0; ; n++ {
		reply := c.runOn(ctx, node, asking)
		if n == maxReroutes || !notRun(reply.Err()) {
			if lost(reply.Err()) {
				cluster.ReloadState(ctx)
			}
			return reply
		}
		was := node
		if addr, ok := redis.IsAskError(reply.Err()); ok {
			node, asking = s.masterAt(ctx, cluster, addr), true
		} else {
			node, asking = s.masterAfter(ctx, cluster, c.keys[0], node, firstPause<<n), false
		}
		if node == nil || (node == was && undialled(reply.Err())) {
			return reply
		}
	}
}

// masterAfter returns the master of a key after a node has turned out not to be it. If the layout still says so, it waits for the Cluster to agree
// on another. It returns nil if the layout cannot be read.
func (s *Store) masterAfter(ctx context.Context, cluster *redis.ClusterClient, key string, not *redis.Client, pause time.Duration) *redis.Client {
	select {
	case s.reloading <- struct{}{}: // one reads the layout for all
		defer func() { <-s.reloading }()
	case <-ctx.Done():
		return nil
	}
	if node, err := cluster.MasterForKey(ctx, key); err == nil && node != not {
		return node
	}
	node := s.reload(ctx, cluster, key)
	if node != not {
		return node
	}
	select {
	case <-time.After(pause):
		return s.reload(ctx, cluster, key)
	case <-ctx.Done():
		return nil
	}
}

// reload reads the layout and returns the master of a key in it.
func (s *Store) reload(ctx context.Context, cluster *redis.ClusterClient, key string) *redis.Client {
	s.masterAt(ctx, cluster, "")
	node, err := cluster.MasterForKey(ctx, key)
	if err != nil {
		return nil
	}
	return node
}

// masterAt reads the layout and returns the master at an address, or nil.
func (s *Store) masterAt(ctx context.Context, cluster *redis.ClusterClient, addr string) *redis.Client {
	at := make(chan *redis.Client, 1)
	_ = cluster.ForEachMaster(ctx, func(_ context.Context, node *redis.Client) error {
		if node.Options().Addr == addr {
			at <- node
		}
		return nil
	})
	select {
	case node := <-at:
		return node
	default:
		return nil
	}
}

// notRun reports whether an error says for certain that the script did not run and that another node may take it.
func notRun(err error) bool {
	_, moved := redis.IsMovedError(err)
	_, ask := redis.IsAskError(err)
	return moved || ask || redis.IsReadOnlyError(err) || errors.Is(err, redis.ErrClosed) || undialled(err)
}

// undialled reports whether there was no connection to send anything on.
func undialled(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// lost reports whether the answer got lost: perhaps because the node is.
func lost(err error) bool {
	var answer redis.Error
	return err != nil && !errors.As(err, &answer)
}
