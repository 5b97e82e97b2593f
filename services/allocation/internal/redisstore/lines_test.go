package redisstore_test

import (
	"slices"
	"testing"
	"time"

	"github.com/berth-dev/berth/services/allocation/internal/allocator"
	"github.com/berth-dev/berth/services/allocation/internal/redisstore"
)

func enter(t *testing.T, s *redisstore.Store, w allocator.Waiter, turn time.Time) {
	t.Helper()
	if ok, err := s.Enter(t.Context(), w, turn, 3); !ok || err != nil {
		t.Fatal(ok, err)
	}
}

func leave(t *testing.T, s *redisstore.Store, w allocator.Waiter) {
	t.Helper()
	if err := s.Leave(t.Context(), w); err != nil {
		t.Fatal(err)
	}
}

// crowdOf returns who waits for a build, its lines in order.
func crowdOf(t *testing.T, s *redisstore.Store, build string) allocator.Crowd {
	t.Helper()
	crowds, err := s.Crowds(t.Context(), []string{"nothing", build})
	if err != nil || len(crowds) != 2 || crowds[0].Waiting != 0 || crowds[0].Longest != 0 || len(crowds[0].Lines) != 0 {
		t.Fatalf("%+v, %v", crowds, err)
	}
	slices.SortFunc(crowds[1].Lines, func(a, b allocator.Line) int { return int(a.Where[0]) - int(b.Where[0]) })
	return crowds[1]
}

func TestLines(t *testing.T) {
	each(t, func(t *testing.T, s *redisstore.Store) {
		a, b := allocator.Line{Build: "demo", Where: "a"}, allocator.Line{Build: "demo", Where: "b"}
		now := time.UnixMicro(time.Now().UnixMicro())
		one := allocator.Waiter{ID: "one", Line: a, Since: now.Add(-time.Hour)}
		two := allocator.Waiter{ID: "two", Line: a, Since: now}
		enter(t, s, one, now)
		enter(t, s, two, now.Add(-time.Minute)) // comes first by its priority
		enter(t, s, allocator.Waiter{ID: "three", Line: b, Since: now}, now)
		if front, err := s.Front(t.Context(), a, 5); err != nil || !slices.Equal(front, []allocator.Waiter{two, one}) {
			t.Errorf("front: %+v, %v", front, err)
		}
		if front, err := s.Front(t.Context(), a, 1); err != nil || !slices.Equal(front, []allocator.Waiter{two}) {
			t.Errorf("the first: %+v, %v", front, err)
		}
		if ok, err := s.Enter(t.Context(), allocator.Waiter{ID: "four", Line: a, Since: now}, now, 3); ok || err != nil {
			t.Errorf("one more than may wait: %v, %v", ok, err)
		}
		if c := crowdOf(t, s, "demo"); c.Waiting != 3 || c.Longest < time.Hour || c.Longest > time.Hour+time.Minute || !slices.Equal(c.Lines, []allocator.Line{a, b}) {
			t.Errorf("who waits: %+v", c)
		}

		// Whoever was found not to wait has come back meanwhile: it stays.
		seen := one
		one.Since = now.Add(time.Second)
		enter(t, s, one, now)
		leave(t, s, seen)
		if front, err := s.Front(t.Context(), a, 5); err != nil || !slices.Equal(front, []allocator.Waiter{two, one}) {
			t.Errorf("who came back: %+v, %v", front, err)
		}
		leave(t, s, one)
		leave(t, s, allocator.Waiter{ID: "two", Line: a})
		if c := crowdOf(t, s, "demo"); c.Waiting != 1 || !slices.Equal(c.Lines, []allocator.Line{b}) {
			t.Errorf("who waits: %+v", c)
		}
		if list, err := s.Waiters(t.Context(), "demo", 0, 5); err != nil || len(list) != 1 || list[0] != (allocator.Waiter{ID: "three", Line: b, Since: now}) {
			t.Errorf("waiters: %+v, %v", list, err)
		}
	})
}
