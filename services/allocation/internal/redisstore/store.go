// Package redisstore keeps allocations in Redis. The scripts' headers and keys.go describe the layout.
package redisstore

import (
	"cmp"
	"context"
	_ "embed" // the scripts
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/services/allocation/internal/allocator"
)

var (
	//go:embed scripts/commit.lua
	commitSource string
	//go:embed scripts/claim.lua
	claimSource string
	//go:embed scripts/renew.lua
	renewSource string
	//go:embed scripts/load.lua
	loadSource string
	//go:embed scripts/due.lua
	dueSource string
)

// Store is an allocator.Store and an allocator.Queue. It is safe for concurrent use.
type Store struct {
	redis   *redisx.Store
	scripts scripts
}

type scripts struct {
	commit, claim, renew, load, due, take, free, members, enter, leave *redis.Script
	front, crowd, lead, note, noted, since, settings, set              *redis.Script
}

var (
	_ allocator.Store = (*Store)(nil)
	_ allocator.Queue = (*Store)(nil)
)

// New returns the allocations in a store.
func New(s *redisx.Store) *Store {
	return &Store{redis: s, scripts: scripts{
		commit: redis.NewScript(commitSource), claim: redis.NewScript(claimSource), renew: redis.NewScript(renewSource),
		load: redis.NewScript(loadSource), due: redis.NewScript(dueSource),
		take: redis.NewScript(takeSource), free: redis.NewScript(freeSource), members: redis.NewScript(membersSource),
		enter: redis.NewScript(enterSource), leave: redis.NewScript(leaveSource), front: redis.NewScript(frontSource), crowd: redis.NewScript(crowdSource),
		lead: redis.NewScript(leadSource), note: redis.NewScript(noteSource), noted: redis.NewScript(notedSource), since: redis.NewScript(sinceSource),
		settings: redis.NewScript(settingsSource), set: redis.NewScript(setProviderSource),
	}}
}

// Load implements allocator.Store.
func (s *Store) Load(ctx context.Context, id string) (allocator.Allocation, time.Time, error) {
	reply, err := s.redis.Read(ctx, s.scripts.load, []string{recordKey(s.partition(id), id)}).Slice()
	if err != nil {
		return allocator.Allocation{}, time.Time{}, err
	}
	a, now, err := decodeReply(reply)
	if err != nil {
		return a, now, &allocator.UnreadableError{IDs: map[string]error{id: err}}
	}
	return a, now, nil
}

// decodeReply returns what a script answered with: the time, the revision and the head.
func decodeReply(reply []any) (allocator.Allocation, time.Time, error) {
	if len(reply) != 3 {
		return allocator.Allocation{}, time.Time{}, errors.New("unexpected reply")
	}
	clock, _ := reply[0].(string)
	now, err := strconv.ParseInt(clock, 10, 64)
	if err != nil {
		return allocator.Allocation{}, time.Time{}, fmt.Errorf("time: %w", err)
	}
	a, err := decodeHash(reply[1:])
	return a, time.UnixMicro(now), err
}

// decodeHash returns the allocation in the fields rev and head; the zero one if they are not there.
func decodeHash(fields []any) (allocator.Allocation, error) {
	if len(fields) != 2 || fields[0] == nil {
		return allocator.Allocation{}, nil
	}
	rev, _ := fields[0].(string)
	head, _ := fields[1].(string)
	n, err := strconv.ParseInt(rev, 10, 64)
	if err != nil {
		return allocator.Allocation{}, fmt.Errorf("stored allocation: revision: %w", err)
	}
	return decode([]byte(head), n)
}

// Save implements allocator.Store.
func (s *Store) Save(ctx context.Context, a allocator.Allocation) (allocator.Allocation, error) {
	return s.Commit(ctx, allocator.Change{Allocation: a, Write: true})
}

// Commit implements allocator.Queue.
func (s *Store) Commit(ctx context.Context, c allocator.Change) (allocator.Allocation, error) {
	a := c.Allocation
	var head []byte
	if c.Write && !c.Delete {
		var err error
		if head, err = encode(&a); err != nil {
			return a, err
		}
	}
	p := s.partition(a.ID)
	reply, err := s.redis.Write(ctx, s.scripts.commit, []string{recordKey(p, a.ID), dueKey(p), leaseKey(p), indexKey(p, a.Namespace)},
		a.ID, a.Rev, c.Owner, word(c.Keep, "keep"), c.Due.UnixMicro(), head, word(c.Delete, "delete"), indexMember(&a)).StringSlice()
	switch {
	case err != nil:
		return a, err
	case len(reply) == 1 && reply[0] == "CONFLICT":
		return a, allocator.ErrConflict
	case len(reply) == 1 && reply[0] == "LOST":
		return a, allocator.ErrLeaseLost
	case len(reply) != 2:
		return a, fmt.Errorf("commit of allocation %s: unexpected reply", a.ID)
	}
	if c.Write && !c.Delete {
		a.Stored = head
	}
	a.Rev, err = strconv.ParseInt(reply[1], 10, 64)
	return a, err
}

func word(set bool, w string) string {
	if set {
		return w
	}
	return ""
}

// Due implements allocator.Queue. With a part of a Cluster away it returns what is due in the rest, and the error.
func (s *Store) Due(ctx context.Context, limit int) ([]string, error) {
	keys := make([][]string, s.redis.Partitions())
	for p := range keys {
		keys[p] = []string{dueKey(p)}
	}
	var ids []string
	var failed error
	for _, reply := range s.redis.ReadEach(ctx, s.scripts.due, keys, limit) {
		due, err := reply.StringSlice()
		if err != nil {
			failed = err
		}
		ids = append(ids, due...)
	}
	return ids, failed
}

// Claim implements allocator.Queue.
func (s *Store) Claim(ctx context.Context, id, owner string, lease time.Duration, force bool) (allocator.Claimed, bool, error) {
	p := s.partition(id)
	reply, err := s.redis.Write(ctx, s.scripts.claim, []string{recordKey(p, id), dueKey(p), leaseKey(p)}, id, owner, lease.Microseconds(), word(force, "force")).Slice()
	if errors.Is(err, redis.Nil) {
		return allocator.Claimed{}, false, nil
	}
	if err != nil {
		return allocator.Claimed{}, false, err
	}
	a, now, err := decodeReply(reply)
	if err != nil {
		return allocator.Claimed{}, false, fmt.Errorf("claim of allocation %s: %w", id, err)
	}
	return allocator.Claimed{Allocation: a, Now: now}, true, nil
}

// Renew implements allocator.Queue.
func (s *Store) Renew(ctx context.Context, id, owner string, lease time.Duration) (bool, error) {
	p := s.partition(id)
	n, err := s.redis.Write(ctx, s.scripts.renew, []string{leaseKey(p), dueKey(p)}, id, owner, lease.Microseconds()).Int()
	return n == 1, err
}

// List implements allocator.Store. Each partition gives its newest, which are merged.
func (s *Store) List(ctx context.Context, namespace string, size int, cursor string) ([]allocator.Allocation, string, error) {
	from := "+"
	if cursor != "" {
		from = "(" + cursor
	}
	members, err := s.newest(ctx, namespace, from, size+1)
	if err != nil {
		return nil, "", err
	}
	next := ""
	if len(members) > size {
		members = members[:size]
		next = members[size-1]
	}
	list, err := s.loadAll(ctx, members)
	return list, next, err
}

// newest returns up to n members of the namespace's index, newest first.
func (s *Store) newest(ctx context.Context, namespace, from string, n int) ([]string, error) {
	pipe := s.redis.Pipeline()
	found := make([]*redis.StringSliceCmd, s.redis.Partitions())
	for p := range found {
		found[p] = pipe.ZRevRangeByLex(ctx, indexKey(p, namespace), &redis.ZRangeBy{Min: "-", Max: from, Count: int64(n)})
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, redisx.Err(err)
	}
	var members []string
	for _, f := range found {
		members = append(members, f.Val()...)
	}
	slices.SortFunc(members, func(a, b string) int { return cmp.Compare(b, a) })
	return members[:min(n, len(members))], nil
}

func (s *Store) loadAll(ctx context.Context, members []string) ([]allocator.Allocation, error) {
	ids := make([]string, len(members))
	for i, m := range members {
		ids[i] = memberID(m)
	}
	list, err := s.Loads(ctx, ids)
	return slices.DeleteFunc(list, func(a allocator.Allocation) bool { return a.Rev == 0 }), err // those were deleted between the two reads
}
