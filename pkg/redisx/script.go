package redisx

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/berth-dev/berth/pkg/errs"
)

const (
	// confirmTimeout is how long a replicated write waits for its replica.
	confirmTimeout = time.Second
	// maxReroutes is how often a script that certainly did not run is sent to another node of a Cluster.
	maxReroutes = 5
	// firstPause is how long the first repeat waits when the layout of the Cluster is not known to have changed; it doubles.
	firstPause = 20 * time.Millisecond
)

// Write runs a script that may write. Its keys, at least one, belong to one partition. It is safe for concurrent use.
//
// With durability Replicated it returns once a replica has everything that the script saw and did, however it answered: also a script that found
// its work done already by an earlier call has that confirmed. If none confirms within a second, or three quarters of the time that the context
// has left, the reply's error is STORE_UNAVAILABLE: the outcome is unknown, as after a lost connection, and a repeat with the same request id
// finds out.
//
// A script runs at most once. It is sent again only after an answer that says it did not run: that the server does not know it, or that its keys
// are on another node.
//
// The error of the reply is redis.Nil for a nil, and otherwise one for callers as Err makes them.
func (s *Store) Write(ctx context.Context, script *redis.Script, keys []string, args ...any) *redis.Cmd {
	c := call{script: script, keys: keys, args: args, confirm: s.replicated}
	switch client := s.UniversalClient.(type) {
	case *redis.ClusterClient:
		return forCallers(s.writeToCluster(ctx, client, c))
	case *redis.Client:
		return forCallers(c.runOn(ctx, client, false))
	default:
		return forCallers(failed(ctx, fmt.Errorf("redis: a %T runs no scripts", client)))
	}
}

// Read runs a script that only reads, which the server enforces, on the master of its keys. They belong to one partition. What it reads may not
// have reached a replica yet. The driver may repeat it. Its errors are as of Write.
func (s *Store) Read(ctx context.Context, script *redis.Script, keys []string, args ...any) *redis.Cmd {
	return forCallers(script.RunRO(ctx, s.UniversalClient, keys, args...))
}

// ReadEach runs a script that only reads once for each set of keys, with the same arguments, and returns the replies in their order. Each set
// belongs to one partition and is read on its own master, so that the time a script reads there is the time its writers use. A node that is away
// fails its own replies only. Their errors are as of Write.
func (s *Store) ReadEach(ctx context.Context, script *redis.Script, keys [][]string, args ...any) []*redis.Cmd {
	replies := make([]*redis.Cmd, len(keys))
	s.readSome(ctx, replies, func(pipe redis.Pipeliner, n int) *redis.Cmd { return script.EvalShaRO(ctx, pipe, keys[n], args...) },
		func(*redis.Cmd) bool { return true })
	s.readSome(ctx, replies, func(pipe redis.Pipeliner, n int) *redis.Cmd { return script.EvalRO(ctx, pipe, keys[n], args...) },
		func(r *redis.Cmd) bool { return unknownScript(r.Err()) })
	for _, r := range replies {
		forCallers(r)
	}
	return replies
}

// readSome sends, in one pipeline, those whose reply so far asks for it.
func (s *Store) readSome(ctx context.Context, replies []*redis.Cmd, send func(redis.Pipeliner, int) *redis.Cmd, wanted func(*redis.Cmd) bool) {
	pipe := s.Pipeline()
	for n, r := range replies {
		if wanted(r) {
			replies[n] = send(pipe, n)
		}
	}
	if pipe.Len() > 0 {
		_, _ = pipe.Exec(ctx) // each reply has its own error
	}
}

// call is one run of a script.
type call struct {
	script  *redis.Script
	keys    []string
	args    []any
	confirm bool
}

// runOn runs the script on a node: by its hash, or by its source where it is new. The answer NOSCRIPT says that it did not run.
func (c *call) runOn(ctx context.Context, node *redis.Client, asking bool) *redis.Cmd {
	reply := c.send(ctx, node, asking, c.script.EvalSha)
	if unknownScript(reply.Err()) {
		reply = c.send(ctx, node, asking, c.script.Eval)
	}
	return reply
}

// send sends the script and the question for replicas on one connection, because WAIT is about the writes of its own. After asking, a node that
// is just taking over a slot answers for it.
func (c *call) send(ctx context.Context, node *redis.Client, asking bool, eval func(context.Context, redis.Scripter, []string, ...any) *redis.Cmd) *redis.Cmd {
	pipe := node.Pipeline()
	if asking {
		pipe.Do(ctx, "asking")
	}
	reply := eval(ctx, pipe, c.keys, c.args...)
	acks := redis.NewIntCmd(ctx, "wait", 1, confirmWithin(ctx).Milliseconds())
	if c.confirm {
		_ = pipe.Process(ctx, acks)
	}
	_, _ = pipe.Exec(ctx) // each reply has its own error
	if c.confirm && (reply.Err() == nil || errors.Is(reply.Err(), redis.Nil)) && (acks.Err() != nil || acks.Val() < 1) {
		reply.SetErr(errs.Wrap(acks.Err(), errs.StoreUnavailable,
			"no replica of the store has confirmed the change in time; its outcome is unknown, and repeating with the same request id is safe").Retry(time.Second))
	}
	return reply
}

// confirmWithin leaves a part of the context's time for the answer to arrive. It is never 0, which would be without end.
func confirmWithin(ctx context.Context) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok {
		return confirmTimeout
	}
	return max(time.Millisecond, min(confirmTimeout, time.Until(deadline)*3/4))
}

// writeToCluster runs the script on the node that has its keys, and follows them where the answer, or that there was nobody to send it to, says
// that it did not run.
func (s *Store) writeToCluster(ctx context.Context, cluster *redis.ClusterClient, c call) *redis.Cmd {
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

func unknownScript(err error) bool { return redis.HasErrorPrefix(err, "NOSCRIPT") }

// forCallers makes the error of a reply one for callers.
func forCallers(reply *redis.Cmd) *redis.Cmd {
	var known *errs.Error
	if err := reply.Err(); err != nil && !errors.Is(err, redis.Nil) && !errors.As(err, &known) {
		reply.SetErr(Err(err))
	}
	return reply
}

func failed(ctx context.Context, err error) *redis.Cmd {
	reply := redis.NewCmd(ctx)
	reply.SetErr(err)
	return reply
}
