package redisstore

import (
	"context"
	_ "embed" // the scripts
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/services/gameinstance/internal/timer"
)

//go:embed scripts/sweep.lua
var sweepSource string

//go:embed scripts/announce.lua
var announceSource string

// Timers implements timer.Store. It is safe for concurrent use.
type Timers struct {
	redis           *redisx.Store
	sweep, announce *redis.Script
}

// NewTimers returns the timers of a keyspace.
func NewTimers(s *redisx.Store) *Timers {
	return &Timers{redis: s, sweep: redis.NewScript(sweepSource), announce: redis.NewScript(announceSource)}
}

// Partitions implements timer.Store.
func (t *Timers) Partitions() int { return t.redis.Partitions() }

// Sweep implements timer.Store: one script per partition, all in one pipelined write.
func (t *Timers) Sweep(ctx context.Context, look timer.Look) ([]timer.Swept, error) {
	replies, err := t.run(ctx, look)
	if redis.HasErrorPrefix(err, "NOSCRIPT") { // a server that was started meanwhile; looking twice is harmless
		if err := t.sweep.Load(ctx, t.redis).Err(); err != nil {
			return nil, redisx.Err(err)
		}
		replies, err = t.run(ctx, look)
	}
	out := make([]timer.Swept, 0, len(replies))
	failed := []error{redisx.Err(err)}
	for n, reply := range replies {
		if reply.Err() != nil {
			continue // it is in err
		}
		swept, err := decodeSwept(reply.Val())
		if err != nil {
			failed = append(failed, fmt.Errorf("sweep of partition %d: %w", look.Partitions[n], err))
			continue
		}
		out = append(out, swept)
	}
	return out, errors.Join(failed...)
}

// run returns the replies in the order of the partitions, and one of their errors; one that says that the script is unknown goes before others.
func (t *Timers) run(ctx context.Context, look timer.Look) ([]*redis.StringSliceCmd, error) {
	pipe := t.redis.Pipeline()
	cmds := make([]*redis.Cmd, len(look.Partitions))
	for n, p := range look.Partitions {
		cmds[n] = t.sweep.EvalSha(ctx, pipe, []string{timersKey(p), sweptKey(p)}, look.Gap.Microseconds(), look.Hold.Microseconds(), look.Limit)
	}
	_, err := pipe.Exec(ctx)
	replies := make([]*redis.StringSliceCmd, len(cmds))
	for n, cmd := range cmds {
		if redis.HasErrorPrefix(cmd.Err(), "NOSCRIPT") {
			err = cmd.Err()
		}
		replies[n] = redis.NewStringSliceResult(cmd.StringSlice())
	}
	return replies, err
}

func decodeSwept(reply []string) (timer.Swept, error) {
	if len(reply) < 2 {
		return timer.Swept{}, fmt.Errorf("answered %q", reply)
	}
	now, err := strconv.ParseInt(reply[0], 10, 64)
	if err != nil {
		return timer.Swept{}, err
	}
	hold, err := strconv.ParseInt(reply[1], 10, 64)
	if err != nil {
		return timer.Swept{}, err
	}
	return timer.Swept{Now: at(now), Hold: at(hold), Due: reply[2:]}, nil
}

// Announce implements timer.Store.
func (t *Timers) Announce(ctx context.Context, replica string, life time.Duration) ([]string, error) {
	live, err := t.announce.Run(ctx, t.redis, []string{membersKey}, replica, life.Microseconds()).StringSlice()
	return live, redisx.Err(err)
}

// CountLinks implements timer.Store.
func (t *Timers) CountLinks(ctx context.Context, within time.Duration) (timer.Links, error) {
	now, err := t.redis.Time(ctx).Result()
	if err != nil {
		return timer.Links{}, redisx.Err(err)
	}
	since := strconv.FormatInt(now.Add(-within).UnixMicro(), 10)
	pipe := t.redis.Pipeline()
	connected, lost := make([]*redis.IntCmd, t.Partitions()), make([]*redis.IntCmd, t.Partitions())
	for p := range t.Partitions() {
		connected[p], lost[p] = pipe.HLen(ctx, linksKey(p)), pipe.ZCount(ctx, lostKey(p), since, "+inf")
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return timer.Links{}, redisx.Err(err)
	}
	var sum timer.Links
	for p := range t.Partitions() {
		sum.Connected += connected[p].Val()
		sum.Lost += lost[p].Val()
	}
	return sum, nil
}
