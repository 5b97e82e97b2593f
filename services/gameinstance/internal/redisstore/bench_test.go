package redisstore_test

import (
	"context"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/pkg/redisx/redistest"
	"github.com/berth-dev/berth/services/gameinstance/internal/instance"
	"github.com/berth-dev/berth/services/gameinstance/internal/redisstore"
)

const (
	population = 100_000
	committers = 64
	namespace  = "default"
)

// populate makes 100,000 instances of four players in a real store with 256 partitions, by commits side by side, and returns their ids.
func populate(b *testing.B) (*redisstore.Store, []string) {
	if testing.Short() {
		b.Skip("makes 100,000 instances")
	}
	r, err := redisx.Open(context.Background(), redisx.Config{Addrs: []string{redistest.Server(b)}})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = r.Close() })
	s := redisstore.New(r)
	now, err := s.Now(context.Background())
	if err != nil {
		b.Fatal(err)
	}
	ids := make([]string, population)
	var all sync.WaitGroup
	for n := range committers {
		all.Go(func() {
			for i := n; i < population; i += committers {
				ids[i] = uuid.NewString()
				c, err := instance.Decide(nil, instance.Create{
					Namespace: namespace, ID: ids[i], Timeouts: timeouts, SkipAllocation: true,
					Placement: instance.Placement{Build: "b", Regions: []string{"eu"}}, Labels: map[string]string{"number": strconv.Itoa(i % 1000)},
					Players: []instance.Player{{ID: "ann"}, {ID: "bob"}, {ID: "cem"}, {ID: "player" + strconv.Itoa(i)}},
				}, "bench", now.Add(time.Duration(i-population)*time.Millisecond)) // one after the other
				if err == nil {
					_, err = s.Commit(context.Background(), c, nil)
				}
				if err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	return s, ids
}

// BenchmarkReads times reads of a store with 100,000 instances.
func BenchmarkReads(b *testing.B) {
	s, ids := populate(b)
	ctx := context.Background()
	middle, err := s.Load(ctx, ids[population/2], instance.Needs{}, nil)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("get", func(b *testing.B) {
		for n := 0; b.Loop(); n++ {
			if l, err := s.Load(ctx, ids[n*7919%population], everything, nil); err != nil || l.Instance == nil {
				b.Fatal(err)
			}
		}
	})
	page := func(name string, want int, q instance.Query) {
		b.Run(name, func(b *testing.B) {
			q.Namespace = namespace
			for b.Loop() {
				if got, _, err := s.Page(ctx, q); err != nil || len(got) < want {
					b.Fatal(len(got), err)
				}
			}
		})
	}
	after := instance.Cursor{CreateTime: middle.Instance.CreateTime, ID: middle.Instance.ID}
	page("list-50", 50, instance.Query{Limit: 50})
	page("list-50-deep", 1, instance.Query{Limit: 50, After: after})
	page("list-500", 500, instance.Query{Limit: 500})
	page("list-50-filtered-looks-at-2000", 0, instance.Query{Limit: 50, Filter: instance.Filter{Labels: map[string]string{"number": "none"}}})
	page("list-50-by-player-looks-at-2000", 0, instance.Query{Limit: 50, Filter: instance.Filter{PlayerID: "nobody"}})
	b.Run("recheck-of-nothing", func(b *testing.B) {
		for b.Loop() {
			now, err := s.Now(ctx)
			if err == nil {
				err = s.Since(ctx, now, func([]instance.Mark) error { return nil })
			}
			if err != nil {
				b.Fatal(err)
			}
		}
	})
}
