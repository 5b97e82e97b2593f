package redisstore

import (
	"context"
	_ "embed" // the scripts
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/services/gameinstance/internal/instance"
)

// Store keeps everything that game-instance owns. It is safe for concurrent use.
type Store struct {
	redis   *redisx.Store
	scripts scripts
}

type scripts struct{ commit, ack, session, renewGateway *redis.Script }

//go:embed scripts/commit.lua
var commitSource string

//go:embed scripts/ack.lua
var ackSource string

//go:embed scripts/session.lua
var sessionSource string

//go:embed scripts/renew_gateway.lua
var renewGatewaySource string

// New returns a Store.
func New(s *redisx.Store) *Store {
	return &Store{redis: s, scripts: scripts{
		commit: redis.NewScript(commitSource), ack: redis.NewScript(ackSource),
		session: redis.NewScript(sessionSource), renewGateway: redis.NewScript(renewGatewaySource),
	}}
}

// Load implements instance.Store.
func (s *Store) Load(ctx context.Context, id, commandID string) (instance.Loaded, error) {
	p := s.redis.Partition(id)
	pipe := s.redis.Pipeline()
	fields := pipe.HGetAll(ctx, instanceKey(p, id))
	now := pipe.Time(ctx)
	var done *redis.StringCmd // read after the instance: a command that is done is in the next read at the latest
	if commandID != "" {
		done = pipe.HGet(ctx, commandsKey(p, id), commandID)
	}
	if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
		return instance.Loaded{}, redisx.Err(err)
	}
	inst, err := decodeInstance(fields.Val())
	if err != nil {
		return instance.Loaded{}, fmt.Errorf("instance %s: %w", id, err)
	}
	l := instance.Loaded{Instance: inst, Now: now.Val()}
	if done != nil && done.Err() == nil {
		l.Done = []byte(done.Val())
	}
	return l, nil
}

// Commit implements instance.Store.
func (s *Store) Commit(ctx context.Context, c *instance.Change, env instance.Envelope) (instance.Committed, error) {
	inst := c.After
	p := s.redis.Partition(inst.ID)
	keys := []string{
		instanceKey(p, inst.ID), commandsKey(p, inst.ID), orderKey(p, inst.ID), historyKey(p, inst.ID), mailboxKey(p, inst.ID),
		timersKey(p), undeliveredKey(p), indexKey(p, inst.Namespace), linksKey(p), linkedKey(p, inst.ID),
		changedKey(p), goneKey(p),
	}
	args, err := commitArgs(c, env, changesChannel(p))
	if err != nil {
		return instance.Committed{}, err
	}
	reply, err := s.scripts.commit.Run(ctx, s.redis, keys, args...).StringSlice()
	if err != nil {
		return instance.Committed{}, redisx.Err(err)
	}
	return commitReply(reply)
}

// maxMailbox and maxMailboxBytes are how many notifications may wait for a server's acknowledgement, and how large they may be together. One
// always fits.
const (
	maxMailbox      = 1000
	maxMailboxBytes = 8 << 20
)

func commitArgs(c *instance.Change, env instance.Envelope, channel string) ([]any, error) {
	set, drop, err := encodeChange(c)
	if err != nil {
		return nil, err
	}
	before := int64(0)
	if c.Before != nil {
		before = c.Before.Revision
	}
	due, gateway, mode := int64(0), "", ""
	if t := c.After.NextDue(); !t.IsZero() {
		due = t.UnixMicro()
	}
	if l := c.After.Link; l != nil && l.Connected {
		gateway = l.GatewayID
	}
	switch {
	case c.Delete:
		mode = "delete"
	case c.ClearMailbox:
		mode = "clear"
	}
	limit := maxMailbox
	if c.After.State.Final() {
		limit = 0 // the last word always fits
	}
	args := []any{c.After.ID, before, env.ID, env.Digest, due, c.After.CreateTime.UnixMicro(), gateway, mode, channel, limit, maxMailboxBytes}
	args = append(args, len(set)/2)
	args = append(args, set...)
	args = append(args, len(drop))
	args = append(args, drop...)
	args = append(args, len(c.History))
	for _, h := range c.History {
		b, err := encodeHistory(h)
		if err != nil {
			return nil, err
		}
		args = append(args, b)
	}
	args = append(args, len(c.Events))
	for _, e := range c.Events {
		b, err := encodeEvent(e)
		if err != nil {
			return nil, err
		}
		args = append(args, b)
	}
	return args, nil
}

func commitReply(reply []string) (instance.Committed, error) {
	switch {
	case len(reply) == 4 && reply[0] == "ok":
		var n [3]int64
		for i := range n {
			v, err := strconv.ParseInt(reply[i+1], 10, 64)
			if err != nil {
				return instance.Committed{}, fmt.Errorf("commit answered %q: %w", reply, err)
			}
			n[i] = v
		}
		return instance.Committed{Revision: n[0], FirstOffset: n[1], Previous: n[2]}, nil
	case len(reply) > 0 && (reply[0] == "conflict" || reply[0] == "done"):
		// A command that is done meanwhile is found by the load that follows a conflict.
		return instance.Committed{}, instance.ErrConflict
	case len(reply) == 1 && reply[0] == "full":
		return instance.Committed{}, errs.New(errs.MailboxFull, "the game server has %d notifications, or %d bytes of them, to deal with; nothing was changed, try again later", maxMailbox, maxMailboxBytes).Retry(time.Second)
	default:
		return instance.Committed{}, fmt.Errorf("commit answered %q", reply)
	}
}

// History implements instance.Store.
func (s *Store) History(ctx context.Context, id string) ([]instance.HistoryEntry, error) {
	lines, err := s.redis.LRange(ctx, historyKey(s.redis.Partition(id), id), 0, -1).Result()
	if err != nil {
		return nil, redisx.Err(err)
	}
	entries := make([]instance.HistoryEntry, 0, len(lines))
	for _, line := range lines {
		e, err := decodeHistory(line)
		if err != nil {
			return nil, fmt.Errorf("history of %s: %w", id, err)
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// Due returns up to limit instances per partition that want attention now.
func (s *Store) Due(ctx context.Context, limit int64) ([]string, error) {
	now, err := s.redis.Time(ctx).Result()
	if err != nil {
		return nil, redisx.Err(err)
	}
	return s.membersUntil(ctx, timersKey, now, limit)
}

// membersUntil reads members of one sorted set per partition up to a time, in one pipelined read.
func (s *Store) membersUntil(ctx context.Context, key func(int) string, until time.Time, limit int64) ([]string, error) {
	pipe := s.redis.Pipeline()
	cmds := make([]*redis.StringSliceCmd, s.redis.Partitions())
	for p := range cmds {
		cmds[p] = pipe.ZRangeByScore(ctx, key(p), &redis.ZRangeBy{Min: "-inf", Max: strconv.FormatInt(until.UnixMicro(), 10), Count: limit})
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, redisx.Err(err)
	}
	var out []string
	for _, cmd := range cmds {
		out = append(out, cmd.Val()...)
	}
	return out, nil
}
