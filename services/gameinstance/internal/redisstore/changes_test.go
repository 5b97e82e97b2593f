package redisstore_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/pkg/redisx/redistest"
	"github.com/berth-dev/berth/services/gameinstance/internal/instance"
	"github.com/berth-dev/berth/services/gameinstance/internal/redisstore"
)

// deleted returns the id of an instance that was made and deleted.
func deleted(t *testing.T, s *redisstore.Store) string {
	t.Helper()
	id := uuid.NewString()
	must(t, s, id, instance.Create{Namespace: "default", ID: id, Timeouts: instance.Timeouts{Retention: time.Microsecond}, SkipAllocation: true})
	must(t, s, id, instance.Terminate{})
	must(t, s, id, instance.Expire{})
	return id
}

func TestChangesAreIndexedByRevisionUntilTheInstanceIsGone(t *testing.T) {
	redistest.Each(t, func(t *testing.T, r *redisx.Store) {
		s, ctx := redisstore.New(r), context.Background()
		id := created(t, s)
		for range 3 {
			_, done := must(t, s, id, instance.UpdateGameData{})
			score, err := r.ZScore(ctx, redisx.Key(r.Partition(id), "changed"), id).Result()
			if err != nil || int64(score) != done.Revision {
				t.Errorf("indexed at %d, %v; committed %d", int64(score), err, done.Revision)
			}
		}
		before := time.Now()
		gone := deleted(t, s)
		if err := r.ZScore(ctx, redisx.Key(r.Partition(gone), "changed"), gone).Err(); err != redis.Nil {
			t.Errorf("a deleted instance's entry: %v", err)
		}
		score, err := r.ZScore(ctx, redisx.Key(r.Partition(gone), "gone"), gone).Result()
		if at := time.UnixMicro(int64(score)); err != nil || at.Before(before.Add(-time.Second)) || at.After(time.Now().Add(time.Second)) {
			t.Errorf("tombstone of %v, %v", at, err)
		}
	})
}

func TestTombstonesAreBoundedByAgeAndNumber(t *testing.T) {
	redistest.Each(t, func(t *testing.T, r *redisx.Store) {
		s, ctx := redisstore.New(r), context.Background()
		now := float64(time.Now().UnixMicro())
		seed := func(tombstones ...redis.Z) {
			for p := range r.Partitions() {
				if err := r.ZAdd(ctx, redisx.Key(p, "gone"), tombstones...).Err(); err != nil {
					t.Fatal(err)
				}
			}
		}
		check := func(id string, want map[string]error) {
			t.Helper()
			for member, want := range want {
				if err := r.ZScore(ctx, redisx.Key(r.Partition(id), "gone"), member).Err(); err != want {
					t.Errorf("tombstone %s: %v, want %v", member, err, want)
				}
			}
		}
		seed(redis.Z{Score: now - 25*3600e6, Member: "old"}, redis.Z{Score: now - 23*3600e6, Member: "young"})
		id := deleted(t, s)
		check(id, map[string]error{id: nil, "old": redis.Nil, "young": nil})

		many := make([]redis.Z, 10_005)
		for n := range many {
			many[n] = redis.Z{Score: now - 1e6 + float64(n), Member: n}
		}
		seed(many...)
		id = deleted(t, s)
		if n, err := r.ZCard(ctx, redisx.Key(r.Partition(id), "gone")).Result(); err != nil || n != 10_000 {
			t.Errorf("%d tombstones are kept, %v", n, err)
		}
		check(id, map[string]error{id: nil, "4": redis.Nil, "10004": nil})
	})
}
