package redisx

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/berth-dev/berth/pkg/errs"
)

// confirmTimeout is how long a replicated write waits for its replica.
const confirmTimeout = time.Second

// Write runs a script that may write. Its keys, at least one, belong to one partition. It is safe for concurrent use.
//
// With durability Replicated it returns once a replica has everything that the script saw and did, however it answered: also a script that found
// its work done already by an earlier call has that confirmed. If none confirms within a second, or half of the time that the context has left,
// the reply's error is STORE_UNAVAILABLE: the outcome is unknown, as after a lost connection, and a repeat with the same request id
// finds out.
//
// A script runs at most once. It is sent again only after an answer that says it did not run: that the server does not know it, or that its keys
// are on another node.
//
// The error of the reply is redis.Nil for a nil, and otherwise one for callers as Err makes them.
func (s *Store) Write(ctx context.Context, script *redis.Script, keys []string, args ...any) *redis.Cmd {
	return s.run(ctx, call{script: script, keys: keys, args: args, confirm: s.replicated})
}

// confirmScript does nothing; what is confirmed with it is everything before it.
var confirmScript = redis.NewScript("return 1")

// Confirm returns once everything that was written in a key's partition before, by whomever, is as safe as the answer to a Write promises: at once, unless
// durability is Replicated. A caller who answers from what it has read needs it: that may be from a write that was not confirmed. Errors are as of
// Write.
func (s *Store) Confirm(ctx context.Context, key string) error {
	if !s.replicated {
		return nil
	}
	return s.Write(ctx, confirmScript, []string{key}).Err()
}

// Read runs a script that only reads, on the master of its keys, and waits for nobody: what it reads may not have reached a replica yet. All else
// is as with Write.
func (s *Store) Read(ctx context.Context, script *redis.Script, keys []string, args ...any) *redis.Cmd {
	return s.run(ctx, call{script: script, keys: keys, args: args})
}

// ReadEach runs a script that only reads once for each set of keys, with the same arguments, and returns the replies in their order. Each set
// belongs to one partition and is read on its own master, so that the time a script reads there is the time its writers use. A node that is away
// fails its own replies only. The driver may repeat the script. The replies' errors are as of Write.
func (s *Store) ReadEach(ctx context.Context, script *redis.Script, keys [][]string, args ...any) []*redis.Cmd {
	replies := make([]*redis.Cmd, len(keys))
	s.readSome(ctx, replies, func(pipe redis.Pipeliner, n int) *redis.Cmd { return script.EvalSha(ctx, pipe, keys[n], args...) },
		func(*redis.Cmd) bool { return true })
	s.readSome(ctx, replies, func(pipe redis.Pipeliner, n int) *redis.Cmd { return script.Eval(ctx, pipe, keys[n], args...) },
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

// run runs a script where its keys are.
func (s *Store) run(ctx context.Context, c call) *redis.Cmd {
	switch client := s.UniversalClient.(type) {
	case *redis.ClusterClient:
		return forCallers(s.runOnCluster(ctx, client, c))
	case *redis.Client:
		return forCallers(c.runOn(ctx, client, false))
	default:
		return forCallers(failed(ctx, fmt.Errorf("redis: a %T runs no scripts", client)))
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
	if !c.confirm {
		_, _ = pipe.Exec(ctx) // each reply has its own error
		return reply
	}
	acks := redis.NewIntCmd(ctx, "wait", 1, confirmWithin(ctx).Milliseconds())
	_ = pipe.Process(ctx, acks)
	_, _ = pipe.Exec(ctx)
	if (reply.Err() == nil || errors.Is(reply.Err(), redis.Nil)) && (acks.Err() != nil || acks.Val() < 1) {
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
	return max(time.Millisecond, min(confirmTimeout, time.Until(deadline)/2))
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
