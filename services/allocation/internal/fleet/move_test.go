package fleet_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/berth-dev/berth/pkg/ids"
	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/pkg/redisx/redistest"
	"github.com/berth-dev/berth/services/allocation/internal/allocator"
	"github.com/berth-dev/berth/services/allocation/internal/fleet"
	"github.com/berth-dev/berth/services/allocation/internal/redisstore"
)

// changer has operators change their minds while the first instance is being moved.
type changer struct {
	change func()
	moved  int
}

func (c *changer) Move(context.Context, allocator.Allocation, string) (bool, string, error) {
	if c.moved++; c.moved == 1 {
		c.change()
	}
	return true, "", nil
}

func TestAMoveEndsWhenItIsTakenBackOrPutOff(t *testing.T) {
	hour := time.Hour
	for name, later := range map[string]*time.Duration{"never": nil, "later": &hour} {
		t.Run(name, func(t *testing.T) {
			redistest.Each(t, func(t *testing.T, r *redisx.Store) {
				store, c := redisstore.New(r), &changer{}
				for range 3 {
					a := allocator.Allocation{ID: ids.Attempt(uuid.NewString(), 1), Namespace: "default", State: allocator.Bound, Provider: "a", CreateTime: time.Now()}
					a.InstanceID = ids.AttemptInstance(a.ID)
					if _, err := store.Save(t.Context(), a); err != nil {
						t.Fatal(err)
					}
					if ok, err := store.Take(t.Context(), "a", 0, a.ID); err != nil || !ok {
						t.Fatal(ok, err)
					}
				}
				f, err := fleet.New(t.Context(), fleet.Config{
					Store: store, Instances: c, Owner: "one", Log: slog.New(slog.DiscardHandler), Providers: []allocator.Provider{{Info: allocator.ProviderInfo{Name: "a"}}},
					Health: func() []allocator.Health { return nil }, Elsewhere: func(context.Context, allocator.Allocation) error { return nil },
				})
				if err != nil {
					t.Fatal(err)
				}
				drain := func(after *time.Duration) fleet.Status {
					s, err := f.Drain(t.Context(), "a", after)
					if err != nil {
						t.Error(err)
					}
					return s
				}
				c.change = func() { drain(later) }
				fleet.Empty(f, t.Context(), "a", drain(new(time.Duration)).MoveTime)
				if c.moved != 1 {
					t.Errorf("%d instances were moved, want the 1 before the drain was changed", c.moved)
				}
			})
		})
	}
}

// What has to stay is said once, and in the provider's status until it can go or may stay.
func TestThatInstancesStayIsSaidOnce(t *testing.T) {
	redistest.Each(t, func(t *testing.T, r *redisx.Store) {
		store, c := redisstore.New(r), &changer{change: func() {}}
		for range 2 {
			a := allocator.Allocation{ID: ids.Attempt(uuid.NewString(), 1), Namespace: "default", State: allocator.Bound, Provider: "a", CreateTime: time.Now()}
			a.InstanceID = ids.AttemptInstance(a.ID)
			if _, err := store.Save(t.Context(), a); err != nil {
				t.Fatal(err)
			}
			if ok, err := store.Take(t.Context(), "a", 0, a.ID); err != nil || !ok {
				t.Fatal(ok, err)
			}
		}
		var lines bytes.Buffer
		asked := make(chan struct{}, 1000)
		f, err := fleet.New(t.Context(), fleet.Config{
			Store: store, Instances: c, Owner: "one", Log: slog.New(slog.NewTextHandler(&lines, nil)), Providers: []allocator.Provider{{Info: allocator.ProviderInfo{Name: "a"}}},
			Health: func() []allocator.Health { return nil },
			Elsewhere: func(context.Context, allocator.Allocation) error {
				asked <- struct{}{}
				return errors.New("b has no room")
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		problem := func() string {
			list, err := f.Status(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return list[0].Problem
		}
		if _, err := f.Drain(t.Context(), "a", new(time.Duration)); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = f.Run(ctx) })
		for range 5 { // two passes are over when the third has begun
			<-asked
		}
		if got := problem(); got != "2 instances stay, as they cannot be moved; trying again; the first: b has no room" {
			t.Errorf("while they stay: %q", got)
		}
		if _, err := f.Resume(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		for tick := time.NewTicker(10 * time.Millisecond); problem() != ""; <-tick.C { // the next pass finds that nothing has to go
			if t.Context().Err() != nil {
				t.Fatal("it is still said")
			}
		}
		cancel()
		running.Wait()
		if n := strings.Count(lines.String(), "instances stay on a drained provider"); n != 1 || c.moved != 0 {
			t.Errorf("said %d times, and %d were moved: %s", n, c.moved, &lines)
		}
	})
}
