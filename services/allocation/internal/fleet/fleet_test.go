package fleet_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/goleak"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/ids"
	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/pkg/redisx/redistest"
	"github.com/berth-dev/berth/services/allocation/internal/allocator"
	"github.com/berth-dev/berth/services/allocation/internal/fleet"
	"github.com/berth-dev/berth/services/allocation/internal/redisstore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// movers remembers which allocations' instances were moved.
type movers struct {
	mu    sync.Mutex
	moved []string
	fails map[string]bool
	alone string // what nobody else can take
	each  chan struct{}
}

func (m *movers) elsewhere(_ context.Context, a allocator.Allocation) error {
	if a.ID == m.alone {
		return errs.New(errs.PlacementImpossible, "nobody else runs it")
	}
	return nil
}

func (m *movers) Move(_ context.Context, a allocator.Allocation, _ string) (bool, string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.moved = append(m.moved, a.ID)
	m.each <- struct{}{}
	if m.fails[a.ID] {
		return false, "", errors.New("game-instance is away")
	}
	return true, "", nil
}

func (m *movers) all() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.moved)
}

func open(t *testing.T, r *redisx.Store, m *movers, owner string) *fleet.Fleet {
	t.Helper()
	f, err := fleet.New(t.Context(), fleet.Config{
		Store: redisstore.New(r), Instances: m, Elsewhere: m.elsewhere, Log: slog.New(slog.DiscardHandler), Owner: owner,
		Health: func() []allocator.Health { return []allocator.Health{{Provider: "b", Region: "eu", Resting: true}} },
		Providers: []allocator.Provider{
			{Info: allocator.ProviderInfo{Name: "a", Regions: []string{"eu"}, Builds: []string{"x"}}}, {Info: allocator.ProviderInfo{Name: "b", Regions: []string{"eu"}, MaxServers: 7}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func weight(n int) *int { return &n }

func TestSettingsAreEverybodys(t *testing.T) {
	redistest.Each(t, func(t *testing.T, r *redisx.Store) {
		one := open(t, r, nil, "one")
		if _, err := one.SetWeight(t.Context(), "a", weight(5)); err != nil {
			t.Fatal(err)
		}
		minute := time.Minute
		drained, err := one.Drain(t.Context(), "a", &minute)
		if err != nil || !drained.Draining || *drained.Weight != 5 || time.Until(drained.MoveTime) > 2*time.Minute || drained.MoveTime.IsZero() {
			t.Fatalf("drained: %+v, %v", drained, err)
		}
		other := open(t, r, nil, "other") // as after a restart
		if got := other.Providers(); len(got) != 2 || !got[0].Draining || *got[0].Weight != 5 || got[0].Builds[0] != "x" || got[1].Draining || got[1].Weight != nil {
			t.Errorf("another replica has %+v", got)
		}
		store := redisstore.New(r)
		for n := range 3 {
			if ok, err := store.Take(t.Context(), "b", 0, ids.Attempt(uuid.NewString(), n+1)); err != nil || !ok {
				t.Fatal(ok, err)
			}
		}
		list, err := other.Status(t.Context())
		if err != nil || len(list) != 2 || list[0].Servers != 0 || list[1].Servers != 3 || list[1].MaxServers != 7 || len(list[0].Health) != 0 || !list[1].Health[0].Resting {
			t.Errorf("status %+v, %v", list, err)
		}
		if _, err := other.Resume(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		back, err := other.SetWeight(t.Context(), "a", nil)
		if err != nil || back.Draining || back.Weight != nil || !back.MoveTime.IsZero() {
			t.Errorf("taken back: %+v, %v", back, err)
		}
		if _, err := other.Drain(t.Context(), "c", nil); !errs.Is(err, errs.ProviderUnknown) {
			t.Errorf("a provider that is not configured: %v", err)
		}
	})
}

// Of two who set different things at once neither loses.
func TestTwoSetAtOnce(t *testing.T) {
	redistest.Each(t, func(t *testing.T, r *redisx.Store) {
		one, other := open(t, r, nil, "one"), open(t, r, nil, "other")
		var both sync.WaitGroup
		for range 5 {
			both.Go(func() {
				if _, err := one.SetWeight(t.Context(), "a", weight(9)); err != nil && !errs.Is(err, errs.Contended) {
					t.Error(err)
				}
			})
			both.Go(func() {
				if _, err := other.Drain(t.Context(), "a", nil); err != nil && !errs.Is(err, errs.Contended) {
					t.Error(err)
				}
			})
		}
		both.Wait()
		if got, err := one.Status(t.Context()); err != nil || got[0].Weight == nil || *got[0].Weight != 9 || !got[0].Draining {
			t.Errorf("%+v, %v", got, err)
		}
	})
}

// slow is a store of which an answer is late, if it is armed.
type slow struct {
	*redisstore.Store
	armed      atomic.Bool
	read, goOn chan struct{}
}

func (s *slow) Settings(ctx context.Context) (map[string]fleet.Setting, time.Time, error) {
	settings, now, err := s.Store.Settings(ctx)
	if s.armed.CompareAndSwap(true, false) {
		close(s.read)
		<-s.goOn
	}
	return settings, now, err
}

// What an operator was told is set is not forgotten for what was read before that and comes later.
func TestALateAnswerDoesNotUndoADrain(t *testing.T) {
	redistest.Each(t, func(t *testing.T, r *redisx.Store) {
		s := &slow{Store: redisstore.New(r), read: make(chan struct{}), goOn: make(chan struct{})}
		f, err := fleet.New(t.Context(), fleet.Config{
			Store: s, Log: slog.New(slog.DiscardHandler), Health: func() []allocator.Health { return nil }, Providers: []allocator.Provider{{Info: allocator.ProviderInfo{Name: "a"}}},
		})
		if err != nil {
			t.Fatal(err)
		}
		s.armed.Store(true)
		var late sync.WaitGroup
		late.Go(func() {
			if err := fleet.Refresh(f, t.Context()); err != nil {
				t.Error(err)
			}
		})
		<-s.read
		if _, err := f.Drain(t.Context(), "a", nil); err != nil {
			t.Fatal(err)
		}
		close(s.goOn)
		late.Wait()
		if !f.Providers()[0].Draining {
			t.Error("it is drained, and would be asked")
		}
	})
}

func TestWhatIsLeftIsMovedWhenItsTimeIsOver(t *testing.T) {
	redistest.Each(t, func(t *testing.T, r *redisx.Store) {
		store := redisstore.New(r)
		at := func(provider string, s allocator.State) string {
			a := allocator.Allocation{ID: ids.Attempt(uuid.NewString(), 1), Namespace: "default", State: s, Provider: provider, CreateTime: time.Now()}
			a.InstanceID = ids.AttemptInstance(a.ID)
			if _, err := store.Save(t.Context(), a); err != nil {
				t.Fatal(err)
			}
			if ok, err := store.Take(t.Context(), provider, 0, a.ID); err != nil || !ok {
				t.Fatal(ok, err)
			}
			return a.ID
		}
		bound, starting := at("a", allocator.Bound), at("a", allocator.Starting)
		at("a", allocator.Placing)
		at("a", allocator.Releasing)
		at("b", allocator.Bound)
		m := &movers{alone: at("a", allocator.Ready), fails: map[string]bool{starting: true}, each: make(chan struct{}, 100)}
		f := open(t, r, m, "one")
		now := time.Duration(0)
		if _, err := f.Drain(t.Context(), "a", &now); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Drain(t.Context(), "b", nil); err != nil { // its matches finish
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var running sync.WaitGroup
		running.Go(func() { _ = f.Run(ctx) })
		for range 4 { // twice each: the one that failed, and the other, which has not gone yet
			<-m.each
		}
		cancel()
		running.Wait()
		got := m.all()
		slices.Sort(got)
		want := []string{bound, bound, starting, starting}
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("moved %v, want %v", got, want)
		}
	})
}
