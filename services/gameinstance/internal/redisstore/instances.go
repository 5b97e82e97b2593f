package redisstore

import (
	"context"
	"embed"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/services/gameinstance/internal/instance"
)

// Store keeps everything that game-instance owns. It is safe for concurrent use.
type Store struct {
	redis   *redisx.Store
	scripts scripts
}

// scripts are the programs that run at the store.
type scripts struct {
	load, commit, ack, ackMessages                        *redis.Script
	session, loadSession                                  *redis.Script
	register, assign, unassign                            *redis.Script
	enterPool, keepPool, leavePool, setPlace              *redis.Script
	renewGateway, gateways, condemnGateway, forgetGateway *redis.Script
}

//go:embed scripts/*.lua
var sources embed.FS

// New returns a Store.
func New(s *redisx.Store) *Store {
	script := func(name string) *redis.Script {
		source, err := sources.ReadFile("scripts/" + name + ".lua")
		if err != nil {
			panic(err) // it is built in
		}
		return redis.NewScript(string(source))
	}
	return &Store{redis: s, scripts: scripts{
		load: script("load"), commit: script("commit"), ack: script("ack"), ackMessages: script("ack_messages"),
		session: script("session"), loadSession: script("load_session"),
		register: script("register"), assign: script("assign"), unassign: script("unassign"),
		enterPool: script("enter_pool"), keepPool: script("keep_pool"), leavePool: script("leave_pool"), setPlace: script("set_place"),
		renewGateway: script("renew_gateway"), gateways: script("gateways"), condemnGateway: script("condemn_gateway"), forgetGateway: script("forget_gateway"),
	}}
}

// Load implements instance.Store.
func (s *Store) Load(ctx context.Context, id string, needs instance.Needs, commands []instance.CommandID) (instance.Loaded, error) {
	p := s.redis.Partition(id)
	keys := []string{instanceKey(p, id), commandsKey(p, id), linkedKey(p, id), mailboxKey(p, id), goneKey(p)}
	names, session, numbers := split(commands)
	args := append([]any{id}, wanted(needs)...)
	args = append(append(args, len(names)), names...)
	args = append(append(args, session), numbers...)
	reply, err := s.redis.Read(ctx, s.scripts.load, keys, args...).Slice()
	if err != nil {
		return instance.Loaded{}, err
	}
	l, err := readLoaded(reply, commands)
	if err != nil {
		return instance.Loaded{}, fmt.Errorf("instance %s: %w", id, err)
	}
	return l, nil
}

// wanted returns load.lua's arguments for the fields that are needed.
func wanted(n instance.Needs) []any {
	if n.Everything || n.AllPlayers {
		return []any{"*", 0}
	}
	fields := make([]any, 0, len(n.Players)+2)
	for _, id := range n.Players {
		fields = append(fields, playerPrefix+id)
	}
	if n.GameData {
		fields = append(fields, fieldData)
	}
	if n.Result {
		fields = append(fields, fieldResult)
	}
	return append([]any{"", len(fields)}, fields...)
}

// split returns the names of backends' commands, and session and numbers of those over the link. An instance has one linked server, so commands that wait
// together come from one session; of another one nothing is kept.
func split(commands []instance.CommandID) (names []any, session string, numbers []any) {
	for _, c := range commands {
		switch {
		case c.Name != "":
			names = append(names, c.Name)
		case session == "" || session == c.Session:
			session = c.Session
			numbers = append(numbers, c.Number)
		}
	}
	return names, session, numbers
}

// Commit implements instance.Store.
func (s *Store) Commit(ctx context.Context, c *instance.Change, commands []instance.Kept) (instance.Committed, error) {
	inst := c.After
	p := s.redis.Partition(inst.ID)
	keys := []string{
		instanceKey(p, inst.ID), commandsKey(p, inst.ID), orderKey(p, inst.ID), historyKey(p, inst.ID), mailboxKey(p, inst.ID),
		timersKey(p), undeliveredKey(p), indexKey(p, inst.Namespace), linksKey(p), linkedKey(p, inst.ID), lostKey(p), changedKey(p), goneKey(p),
		saidKey(p, inst.ID), talkKey(p, inst.Namespace),
	}
	args, err := commitArgs(c, commands, changesChannel(p))
	if err != nil {
		return instance.Committed{}, err
	}
	reply, err := s.redis.Write(ctx, s.scripts.commit, keys, args...).StringSlice()
	if err != nil {
		return instance.Committed{}, err
	}
	return commitReply(reply)
}

// Confirm implements instance.Store.
func (s *Store) Confirm(ctx context.Context, id string) error {
	return s.redis.Confirm(ctx, instanceKey(s.redis.Partition(id), id))
}

// linkWindow is how many requests over the link are kept: at least as many as a server may have under way, and no more than Redis keeps packed, which
// takes a fraction of the memory.
const linkWindow = 128

func commitArgs(c *instance.Change, commands []instance.Kept, channel string) ([]any, error) {
	set, drop, err := encodeChange(c)
	if err != nil {
		return nil, err
	}
	inst := c.After
	if c.ClearMailbox { // what the mailbox has from now on is for this link and those that resume it, or for the next one
		epoch := inst.LastLinkEpoch
		if inst.Link != nil {
			epoch = inst.Link.Epoch
		}
		set = append(set, fenceField, epoch)
	}
	before, due, gateway, lost, mode := int64(0), int64(0), "", int64(0), ""
	if c.Before != nil {
		before = c.Before.Revision
	}
	if t := inst.NextDue(); !t.IsZero() {
		due = t.UnixMicro()
	}
	switch l := inst.Link; {
	case l != nil && l.Connected:
		gateway = l.GatewayID
	case l != nil && !inst.State.Final():
		lost = micros(l.ChangeTime)
	}
	switch {
	case c.Delete:
		mode = "delete"
	case c.ClearMailbox:
		mode = "clear"
	case c.DropNotifications:
		mode = "drop"
	}
	ids := make([]instance.CommandID, len(commands))
	for n, k := range commands {
		ids[n] = k.ID
	}
	_, session, _ := split(ids)
	args := []any{inst.ID, before, mode, due, inst.CreateTime.UnixMicro(), gateway, lost, channel, c.RevisionFloor, inst.LastOffset, session, linkWindow}
	args = append(append(args, len(set)/2), set...)
	args = append(append(args, len(drop)), drop...)
	args = append(args, len(c.History))
	for _, h := range c.History {
		b, err := encodeHistory(h)
		if err != nil {
			return nil, err
		}
		args = append(args, foldKey(h), micros(h.FirstTime), b)
	}
	args = append(args, len(c.Events))
	for _, e := range c.Events {
		b, err := encodeEvent(e)
		if err != nil {
			return nil, err
		}
		args = append(args, b)
	}
	args = append(args, len(c.Said))
	for _, m := range c.Said {
		b, err := encodeSaid(m)
		if err != nil {
			return nil, err
		}
		args = append(args, b)
	}
	return append(args, keptArgs(commands, session)...), nil
}

// keptArgs returns commit.lua's two lists of commands.
func keptArgs(commands []instance.Kept, session string) []any {
	var named, numbered []any
	for _, k := range commands {
		switch {
		case k.ID.Name != "":
			named = append(named, k.ID.Name, k.Digest)
		case k.ID.Session == session:
			numbered = append(numbered, k.ID.Number, k.Digest)
		}
	}
	return slices.Concat([]any{len(named) / 2}, named, []any{len(numbered) / 2}, numbered)
}

func commitReply(reply []string) (instance.Committed, error) {
	if len(reply) == 1 && reply[0] == "conflict" {
		return instance.Committed{}, instance.ErrConflict
	}
	if len(reply) != 5 || reply[0] != "ok" {
		return instance.Committed{}, fmt.Errorf("commit answered %q", reply)
	}
	var n [4]int64
	for i := range n {
		v, err := strconv.ParseInt(reply[i+1], 10, 64)
		if err != nil {
			return instance.Committed{}, fmt.Errorf("commit answered %q: %w", reply, err)
		}
		n[i] = v
	}
	return instance.Committed{Revision: n[0], FirstOffset: n[1], Previous: n[2], FirstSaid: n[3]}, nil
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
