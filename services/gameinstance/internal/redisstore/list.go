package redisstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/services/gameinstance/internal/instance"
)

const (
	// maxLook bounds how many instances one page with a filter looks at.
	maxLook = 2000
	// lookAtOnce is how many of them are read in one round.
	lookAtOnce = 500
)

// Page implements instance.Pages, in rounds of one pipelined read of all partitions' indexes and one of the heads. A filter is applied to what was
// read: there is no index by state, label or player.
func (s *Store) Page(ctx context.Context, q instance.Query) (page []*instance.Instance, next instance.Cursor, err error) {
	at := q.After
	for looked := 0; ; {
		want := q.Limit - len(page)
		if !q.Filter.Empty() {
			want = min(lookAtOnce, maxLook-looked)
		}
		entries, more, err := s.index(ctx, func(p int) string { return indexKey(p, q.Namespace) }, want, at)
		if err != nil {
			return nil, next, err
		}
		heads, err := s.Heads(ctx, idsOf(entries), q.Filter.Players())
		if err != nil {
			return nil, next, err
		}
		for n, h := range heads {
			if h.Err != nil {
				return nil, next, h.Err
			}
			// The place comes from the index: an instance may be deleted before its head is read.
			at = entries[n].cursor()
			if h.Instance == nil || !q.Filter.Matches(h.Instance) {
				continue
			}
			h.Instance.Players = nil
			if page = append(page, h.Instance); len(page) == q.Limit {
				if more || n < len(heads)-1 {
					next = at
				}
				return page, next, nil
			}
		}
		if !more {
			return page, instance.Cursor{}, nil
		}
		if looked += len(entries); looked >= maxLook {
			return page, at, nil
		}
	}
}

// listed is an entry of an index.
type listed struct {
	micros int64
	id     string
}

func (l listed) cursor() instance.Cursor {
	return instance.Cursor{CreateTime: time.UnixMicro(l.micros), ID: l.id}
}

// compare orders newest first and, of one time, as Redis does when it reads backwards: a partition's part that was cut off is then cut off in the
// order of the whole.
func (l listed) compare(other listed) int {
	return cmp.Or(cmp.Compare(other.micros, l.micros), strings.Compare(other.id, l.id))
}

func idsOf(entries []listed) []string {
	ids := make([]string, len(entries))
	for n, e := range entries {
		ids[n] = e.id
	}
	return ids
}

// index returns 1 to limit entries of an index, which has a part in each partition, that come after the cursor, and whether there are more; none at the end. Ids spread evenly over the partitions, so
// that a small part of each is enough; where it is not, the entries that are certain make a shorter answer.
func (s *Store) index(ctx context.Context, key func(partition int) string, limit int, after instance.Cursor) (entries []listed, more bool, err error) {
	for count := 4 + 4*limit/s.redis.Partitions(); ; count *= 2 {
		all, horizon, err := s.parts(ctx, key, count, after)
		if err != nil {
			return nil, false, err
		}
		slices.SortFunc(all, listed.compare)
		if horizon != nil {
			certain, found := slices.BinarySearchFunc(all, *horizon, listed.compare)
			if found {
				certain++
			}
			if all = all[:certain]; len(all) == 0 {
				continue // more instances of one time than were asked for
			}
		}
		if len(all) > limit {
			return all[:limit], true, nil
		}
		return all, horizon != nil, nil
	}
}

// parts reads up to count entries of each partition. What comes after the horizon is not known in full; nil: everything is.
func (s *Store) parts(ctx context.Context, key func(partition int) string, count int, after instance.Cursor) (all []listed, horizon *listed, err error) {
	upTo, from := "+inf", listed{after.CreateTime.UnixMicro(), after.ID}
	if !after.CreateTime.IsZero() {
		upTo = strconv.FormatInt(from.micros, 10)
	}
	pipe := s.redis.Pipeline()
	parts := make([]*redis.ZSliceCmd, s.redis.Partitions())
	for p := range parts {
		parts[p] = pipe.ZRevRangeByScoreWithScores(ctx, key(p), &redis.ZRangeBy{Min: "-inf", Max: upTo, Count: int64(count)})
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, nil, redisx.Err(err)
	}
	for _, part := range parts {
		var last listed
		for _, z := range part.Val() {
			id, _ := z.Member.(string)
			last = listed{int64(z.Score), id}
			if after.CreateTime.IsZero() || from.compare(last) < 0 {
				all = append(all, last)
			}
		}
		if len(part.Val()) == count && (horizon == nil || last.compare(*horizon) < 0) {
			horizon = &last
		}
	}
	return all, horizon, nil
}

// askEach is up to how many players are asked after one by one; of more, the names of all fields are read instead: an instance has 1,000 players at
// most, and their data stays where it is.
const askEach = 16

// Heads reads many instances at once, in the order of ids, and of each whether it has the players.
func (s *Store) Heads(ctx context.Context, ids, players []string) ([]instance.Head, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	pipe := s.redis.Pipeline()
	reads := make([]headRead, len(ids))
	for n, id := range ids {
		key := instanceKey(s.redis.Partition(id), id)
		reads[n].head = pipe.HMGet(ctx, key, fieldRevision, fieldHead)
		if len(players) > askEach {
			reads[n].fields = pipe.HKeys(ctx, key)
			continue
		}
		for _, player := range players {
			reads[n].has = append(reads[n].has, pipe.HExists(ctx, key, playerPrefix+player))
		}
	}
	if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
		return nil, redisx.Err(err)
	}
	out := make([]instance.Head, len(ids))
	for n, id := range ids {
		out[n] = reads[n].decode(id, players)
	}
	return out, nil
}

// headRead is what was asked about one instance.
type headRead struct {
	head   *redis.SliceCmd
	has    []*redis.BoolCmd      // player by player, or
	fields *redis.StringSliceCmd // the names of all fields
}

func (r headRead) decode(id string, players []string) instance.Head {
	v := r.head.Val()
	rev, ok1 := v[0].(string)
	head, ok2 := v[1].(string)
	if !ok1 || !ok2 {
		return instance.Head{ID: id}
	}
	inst, err := decodeInstance(map[string]string{fieldRevision: rev, fieldHead: head})
	if err != nil {
		return instance.Head{ID: id, Err: fmt.Errorf("instance %s: %w", id, err)}
	}
	for n, has := range r.has {
		if has.Val() {
			inst.Players[players[n]] = instance.Player{ID: players[n]}
		}
	}
	if r.fields != nil {
		for _, field := range r.fields.Val() {
			if player, ok := strings.CutPrefix(field, playerPrefix); ok {
				inst.Players[player] = instance.Player{ID: player}
			}
		}
	}
	return instance.Head{ID: id, Instance: inst}
}
