package redisstore_test

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"

	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/pkg/redisx/redistest"
	"github.com/berth-dev/berth/services/gameinstance/internal/instance"
	"github.com/berth-dev/berth/services/gameinstance/internal/redisstore"
)

// pages reads a list to its end and returns the ids of each page.
func pages(t *testing.T, s *redisstore.Store, q instance.Query, between func()) (out [][]string) {
	t.Helper()
	for {
		page, next, err := s.Page(context.Background(), q)
		if err != nil {
			t.Fatal(err)
		}
		ids := []string{}
		for _, i := range page {
			ids = append(ids, i.ID)
			if len(i.Players) > 0 || i.GameData.Set {
				t.Errorf("listed with players or data: %+v", i)
			}
		}
		out = append(out, ids)
		if q.After = next; next == (instance.Cursor{}) {
			return out
		}
		if between != nil {
			between()
		}
	}
}

func TestListPagesNewestFirst(t *testing.T) {
	each(t, func(t *testing.T, s *redisstore.Store) {
		var want []string
		for range 25 {
			want = append([]string{created(t, s)}, want...)
		}
		for _, limit := range []int{1, 5, 10, 25, 26} {
			got := pages(t, s, instance.Query{Namespace: "default", Limit: limit}, nil)
			if all := slices.Concat(got...); !slices.Equal(all, want) {
				t.Errorf("by %d listed %v\nwant %v", limit, all, want)
			}
			if n := (len(want) + limit - 1) / limit; len(got) != n {
				t.Errorf("by %d it took %d pages, want %d", limit, len(got), n)
			}
		}
		if got := pages(t, s, instance.Query{Namespace: "other", Limit: 10}, nil); len(got[0]) != 0 {
			t.Errorf("another namespace lists %v", got)
		}
	})
}

// All of one partition and of one time: the worst that an index can be.
func TestInstancesOfOneTimeAndPartitionAreListedOnce(t *testing.T) {
	redistest.Each(t, func(t *testing.T, r *redisx.Store) {
		s, ctx := redisstore.New(r), context.Background()
		seen := map[string]int{}
		for n := 0; len(seen) < 60; n++ {
			id := uuid.NewString()
			if r.Partition(id) != 3 {
				continue
			}
			must(t, s, id, instance.Create{Namespace: "default", ID: id, Placement: instance.Placement{Build: "b"}, Timeouts: timeouts, SkipAllocation: true})
			if err := r.ZAdd(ctx, redisx.Key(3, "idx:default"), redis.Z{Score: 1e15, Member: id}).Err(); err != nil {
				t.Fatal(err)
			}
			seen[id] = 0
		}
		for _, page := range pages(t, s, instance.Query{Namespace: "default", Limit: 7}, nil) {
			for _, id := range page {
				seen[id]++
			}
		}
		for id, n := range seen {
			if n != 1 {
				t.Errorf("%s was listed %d times", id, n)
			}
		}
	})
}

// The newest instances are all of one partition, far more than its share.
func TestAPartitionWithMoreThanItsShareIsListedInOrder(t *testing.T) {
	redistest.Each(t, func(t *testing.T, r *redisx.Store) {
		s := redisstore.New(r)
		var want []string
		add := func(n int, ours func(partition int) bool) {
			for made := 0; made < n; {
				if id := uuid.NewString(); ours(r.Partition(id)) {
					must(t, s, id, instance.Create{Namespace: "default", ID: id, Placement: instance.Placement{Build: "b"}, Timeouts: timeouts, SkipAllocation: true})
					want, made = append([]string{id}, want...), made+1
				}
			}
		}
		add(30, func(p int) bool { return p != 3 })
		add(60, func(p int) bool { return p == 3 })
		for _, limit := range []int{5, 20, 40, 100} {
			got := pages(t, s, instance.Query{Namespace: "default", Limit: limit}, nil)
			if all := slices.Concat(got...); !slices.Equal(all, want) || len(got) != (90+limit-1)/limit {
				t.Errorf("by %d, in %d pages, listed %v\nwant %v", limit, len(got), all, want)
			}
		}
	})
}

func TestPagingListsWhatLastsExactlyOnce(t *testing.T) {
	each(t, func(t *testing.T, s *redisstore.Store) {
		lasting := map[string]int{}
		var passing []string
		for n := range 60 {
			if n%3 == 0 {
				passing = append(passing, created(t, s))
			} else {
				lasting[created(t, s)] = 0
			}
		}
		churn := func() {
			created(t, s)
			if len(passing) > 0 {
				must(t, s, passing[0], instance.Terminate{})
				remove(t, s, passing[0])
				passing = passing[1:]
			}
		}
		for _, page := range pages(t, s, instance.Query{Namespace: "default", Limit: 4}, churn) {
			for _, id := range page {
				if _, ok := lasting[id]; ok {
					lasting[id]++
				}
			}
		}
		for id, n := range lasting {
			if n != 1 {
				t.Errorf("%s was listed %d times", id, n)
			}
		}
	})
}

// remove deletes an instance as its retention would.
func remove(t *testing.T, s *redisstore.Store, id string) {
	t.Helper()
	inst := load(t, s, id)
	if _, err := s.Commit(context.Background(), &instance.Change{Before: inst, After: inst, Delete: true}, nil); err != nil {
		t.Fatal(err)
	}
}

func TestAFilterLooksAtABoundedNumberAndGoesOn(t *testing.T) {
	redistest.Each(t, func(t *testing.T, r *redisx.Store) {
		s, ctx := redisstore.New(r), context.Background()
		oldest := created(t, s)
		// A long way to it: entries whose instances are deleted by the time that they are read cost as much as others.
		pipe := r.Pipeline()
		for n := range 4500 {
			id := uuid.NewString()
			pipe.ZAdd(ctx, redisx.Key(r.Partition(id), "idx:default"), redis.Z{Score: 3e15 + float64(n), Member: id})
		}
		if _, err := pipe.Exec(ctx); err != nil {
			t.Fatal(err)
		}
		got := pages(t, s, instance.Query{Namespace: "default", Limit: 10, Filter: instance.Filter{PlayerID: "ann"}}, nil)
		if want := [][]string{{}, {}, {oldest}}; fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("pages %v, want %v", got, want)
		}
	})
}

func TestHeadsSayWhichPlayersAreThere(t *testing.T) {
	each(t, func(t *testing.T, s *redisstore.Store) {
		id, gone := created(t, s), uuid.NewString()
		few := []string{"ann", "eve"}
		many := append([]string{"ann"}, make([]string, 30)...)
		for n := range 30 {
			many[n+1] = fmt.Sprint("p", n)
		}
		for _, players := range [][]string{nil, few, many} {
			heads, err := s.Heads(context.Background(), []string{gone, id}, players)
			if err != nil || len(heads) != 2 || heads[0].Instance != nil || heads[0].ID != gone || heads[1].ID != id {
				t.Fatalf("heads %+v, %v", heads, err)
			}
			inst := heads[1].Instance
			for player, want := range map[string]bool{"ann": players != nil, "eve": false} {
				if has := (instance.Filter{PlayerID: player}).Matches(inst); has != want {
					t.Errorf("asked for %d players, %s is there: %v, want %v", len(players), player, has, want)
				}
			}
			if inst.Labels["a"] != "b" || inst.Revision != load(t, s, id).Revision || inst.Players["ann"].Data.Set {
				t.Errorf("head %+v", inst)
			}
		}
	})
}
