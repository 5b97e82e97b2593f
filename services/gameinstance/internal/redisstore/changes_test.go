package redisstore_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
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
	must(t, s, id, instance.Create{Namespace: "default", ID: id, Placement: instance.Placement{Build: "b"}, Timeouts: instance.Timeouts{Retention: time.Microsecond}, SkipAllocation: true})
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
		if err := r.ZScore(ctx, redisx.Key(r.Partition(gone), "changed"), gone).Err(); !errors.Is(err, redis.Nil) {
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
				if err := r.ZScore(ctx, redisx.Key(r.Partition(id), "gone"), member).Err(); !errors.Is(err, want) {
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

// marks returns what is found since a time: the newest of each instance.
func marks(t *testing.T, s *redisstore.Store, since time.Time) map[string]int64 {
	t.Helper()
	out := map[string]int64{}
	err := s.Since(context.Background(), since, func(found []instance.Mark) error {
		for _, m := range found {
			out[m.ID] = m.Revision
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestChangesSinceATimeAreFound(t *testing.T) {
	each(t, func(t *testing.T, s *redisstore.Store) {
		before := created(t, s)
		since, err := s.Now(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		id, gone := created(t, s), deleted(t, s)
		_, done := must(t, s, id, instance.UpdateGameData{})
		if got, want := marks(t, s, since), map[string]int64{id: done.Revision, gone: 0}; !maps.Equal(got, want) {
			t.Errorf("changed since: %v, want %v", got, want)
		}
		if got := marks(t, s, time.Time{}); len(got) != 3 || got[before] == 0 {
			t.Errorf("changed ever: %v", got)
		}
		for id, want := range map[string]bool{gone: true, id: false, uuid.NewString(): false} {
			if is, err := s.Deleted(context.Background(), id); err != nil || is != want {
				t.Errorf("%s is deleted: %v, %v; want %v", id, is, err, want)
			}
		}
	})
}

func TestManyChangesAreReadInParts(t *testing.T) {
	redistest.Each(t, func(t *testing.T, r *redisx.Store) {
		s := redisstore.New(r)
		var entries []redis.Z
		for n := range 3500 { // 500 of each revision
			entries = append(entries, redis.Z{Score: float64(1000 + n/500), Member: fmt.Sprint(n)})
		}
		same := make([]redis.Z, 1200)
		for n := range same { // as many of one revision as there never are
			same[n] = redis.Z{Score: 1, Member: fmt.Sprint("same", n)}
		}
		for key, entries := range map[string][]redis.Z{redisx.Key(2, "changed"): entries, redisx.Key(5, "gone"): same} {
			if err := r.ZAdd(context.Background(), key, entries...).Err(); err != nil {
				t.Fatal(err)
			}
		}
		got := marks(t, s, time.UnixMicro(1000))
		if len(got) != 3500 || got["3499"] != 1006 {
			t.Errorf("%d changes are found", len(got))
		}
		if got := marks(t, s, time.UnixMicro(1)); len(got) != 4500 { // it ends, although not with all
			t.Errorf("%d changes and deletions are found", len(got))
		}
	})
}
