package redisstore

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/ids"
	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/services/gameinstance/internal/registry"
)

const (
	// givenLife is how long it is remembered that an attempt gave its room back: longer than any late call for room is under way.
	givenLife = 24 * time.Hour
	// readAtOnce is how many servers one pipeline reads.
	readAtOnce = 500
)

// JoinPool implements registry.PoolStore. The pool is entered first: a server that a crash keeps out of its record is dropped from the pool again.
func (s *Store) JoinPool(ctx context.Context, v registry.Server, most int) (registry.Server, error) {
	p := s.redis.Partition(v.Pool)
	entered, err := s.redis.Write(ctx, s.scripts.enterPool, []string{poolKey(p, v.Pool), poolsKey(p)}, v.ID, v.Pool, most).Int()
	switch {
	case err != nil:
		return registry.Server{}, err
	case entered == 0:
		return registry.Server{}, errs.New(errs.LimitExceeded, "pool: %s has %d servers already, and may not have more", v.Pool, most)
	}
	return s.register(ctx, v, joinAgain)
}

// Pools implements registry.PoolStore, in one pipelined read of all partitions.
func (s *Store) Pools(ctx context.Context) ([]string, error) {
	pipe := s.redis.Pipeline()
	parts := make([]*redis.StringSliceCmd, s.redis.Partitions())
	for p := range parts {
		parts[p] = pipe.SMembers(ctx, poolsKey(p))
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, redisx.Err(err)
	}
	var names []string
	for _, part := range parts {
		names = append(names, part.Val()...)
	}
	return names, nil
}

// PoolMembers implements registry.PoolStore.
func (s *Store) PoolMembers(ctx context.Context, pool string) ([]registry.Member, time.Time, error) {
	now, err := s.redis.Time(ctx).Result()
	if err != nil {
		return nil, time.Time{}, redisx.Err(err)
	}
	entries, err := s.redis.ZRangeWithScores(ctx, poolKey(s.redis.Partition(pool), pool), 0, -1).Result()
	if err != nil {
		return nil, time.Time{}, redisx.Err(err)
	}
	members := make([]registry.Member, 0, len(entries))
	for _, e := range entries {
		id, _ := e.Member.(string)
		members = append(members, registry.Member{ServerID: id, Seen: at(int64(e.Score))})
	}
	return members, now, nil
}

// LoadServers implements registry.PoolStore.
func (s *Store) LoadServers(ctx context.Context, ids []string) ([]registry.Server, error) {
	var out []registry.Server
	for some := range slices.Chunk(ids, readAtOnce) {
		servers, err := s.servers(ctx, some)
		if err != nil {
			return nil, err
		}
		out = append(out, servers...)
	}
	return out, nil
}

// KeepPool implements registry.PoolStore.
func (s *Store) KeepPool(ctx context.Context, pool string, there []string, gone []registry.Member) error {
	p := s.redis.Partition(pool)
	keys := []string{poolKey(p, pool), poolsKey(p)}
	for len(there) > 0 || len(gone) > 0 {
		seen, lost := there[:min(len(there), readAtOnce)], gone[:min(len(gone), readAtOnce)]
		there, gone = there[len(seen):], gone[len(lost):]
		args := []any{pool, len(seen)}
		for _, id := range seen {
			args = append(args, id)
		}
		for _, m := range lost {
			args = append(args, m.ServerID, micros(m.Seen))
		}
		if err := s.redis.Write(ctx, s.scripts.keepPool, keys, args...).Err(); err != nil {
			return err
		}
	}
	return nil
}

// ForgetServer implements registry.PoolStore.
func (s *Store) ForgetServer(ctx context.Context, v registry.Server) (bool, error) {
	p := s.redis.Partition(v.ID)
	keys := []string{serverKey(p, v.ID), serversKey(p, v.Namespace)}
	forgotten, err := s.redis.Write(ctx, s.scripts.leavePool, keys, v.ID, strconv.FormatInt(v.Epoch, 10), micros(v.JoinTime), int64(sessionLife/time.Second)).Int()
	return forgotten == 1, err
}

// Names of the states of a place, as they are stored: NAME:SERVER.
const (
	placeAsked = "asked"
	placeHad   = "had"
	placeGiven = "given"
)

// LoadPlaces implements registry.Store.
func (s *Store) LoadPlaces(ctx context.Context, attemptIDs []string) ([]registry.Place, error) {
	places := make([]registry.Place, 0, len(attemptIDs))
	for some := range slices.Chunk(attemptIDs, readAtOnce) {
		pipe := s.redis.Pipeline()
		reads := make([]*redis.StringCmd, len(some))
		for n, id := range some {
			reads[n] = pipe.Get(ctx, s.placeOf(id))
		}
		_, _ = pipe.Exec(ctx) // each has its own error
		for n, read := range reads {
			text, err := read.Result()
			if err != nil && err != redis.Nil { //nolint:errorlint // the driver returns it as it is
				return nil, redisx.Err(err)
			}
			place, err := decodePlace(text)
			if err != nil {
				return nil, fmt.Errorf("place of attempt %s: %w", some[n], err)
			}
			places = append(places, place)
		}
	}
	return places, nil
}

// SetPlace implements registry.Store.
func (s *Store) SetPlace(ctx context.Context, attemptID string, was, place registry.Place) (registry.Place, bool, error) {
	life := 0
	if place.State == registry.Given {
		life = int(givenLife / time.Second)
	}
	reply, err := s.redis.Write(ctx, s.scripts.setPlace, []string{s.placeOf(attemptID)}, encodePlace(was), encodePlace(place), life).Slice()
	if err != nil {
		return registry.Place{}, false, err
	}
	if len(reply) != 2 {
		return registry.Place{}, false, fmt.Errorf("set_place answered %d values", len(reply))
	}
	text, _ := reply[1].(string)
	now, err := decodePlace(text)
	return now, reply[0] == int64(1), err
}

// placeOf returns the key of an attempt's place, which is in its instance's partition.
func (s *Store) placeOf(attemptID string) string {
	return placeKey(s.redis.Partition(ids.AttemptInstance(attemptID)), attemptID)
}

func encodePlace(p registry.Place) string {
	switch p.State {
	case registry.Asked:
		return placeAsked + ":" + p.ServerID
	case registry.Had:
		return placeHad + ":" + p.ServerID
	case registry.Given:
		return placeGiven + ":" + p.ServerID
	default:
		return ""
	}
}

func decodePlace(text string) (registry.Place, error) {
	state, server, _ := strings.Cut(text, ":")
	switch state {
	case "":
		return registry.Place{}, nil
	case placeAsked:
		return registry.Place{State: registry.Asked, ServerID: server}, nil
	case placeHad:
		return registry.Place{State: registry.Had, ServerID: server}, nil
	case placeGiven:
		return registry.Place{State: registry.Given, ServerID: server}, nil
	default:
		return registry.Place{}, fmt.Errorf("%q is none", text)
	}
}
