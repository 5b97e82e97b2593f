package reaper_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/berth-dev/berth/pkg/ids"
	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/pkg/redisx/redistest"
	"github.com/berth-dev/berth/services/allocation/internal/allocator"
	"github.com/berth-dev/berth/services/allocation/internal/reaper"
	"github.com/berth-dev/berth/services/allocation/internal/redisstore"
)

// yard is a provider with servers, two on a page.
type yard struct {
	servers  []allocator.Listed
	released []string
	fails    error
	nonsense []string // on the first page
}

func (y *yard) List(_ context.Context, page string) (allocator.Page, error) {
	if y.fails != nil {
		return allocator.Page{}, y.fails
	}
	from := 0
	_, _ = fmt.Sscan(page, &from)
	to := min(from+2, len(y.servers))
	got := allocator.Page{Servers: y.servers[from:to]}
	if from == 0 {
		got.Nonsense = y.nonsense
	}
	if to < len(y.servers) {
		got.Next = fmt.Sprint(to)
	}
	return got, nil
}

func (y *yard) Release(_ context.Context, attempt, _ string) (bool, error) {
	y.released = append(y.released, attempt)
	return true, nil
}

// add adds a server that has been there for so long as an orphan, once it is one.
func (y *yard) add(attempt string) string {
	y.servers = append(y.servers, allocator.Listed{Attempt: attempt, Server: allocator.Server{ExternalID: "vm-" + attempt, State: allocator.ServerRunning}})
	return attempt
}

// registry plays instances: those that have accepted, or not decided about, their servers. All others want none.
type registry struct {
	accepted, open map[string]bool
	lost           bool // nothing is known of any other instance
	away           error
	told           []string
}

// Ask is as Report, but nobody is told anything.
func (r *registry) Ask(_ context.Context, instance, attempt string) (allocator.Verdict, error) {
	switch {
	case r.away != nil:
		return allocator.Open, r.away
	case ids.AttemptInstance(attempt) != instance:
		return allocator.Open, fmt.Errorf("asked about %s of %s", attempt, instance)
	default:
		return r.verdict(attempt), nil
	}
}

func (r *registry) verdict(attempt string) allocator.Verdict {
	switch {
	case r.accepted[attempt]:
		return allocator.Accepted
	case r.open[attempt]:
		return allocator.Open
	case r.lost:
		return allocator.Unknown
	default:
		return allocator.Abandoned
	}
}

func (r *registry) Report(_ context.Context, a allocator.Allocation) (allocator.Verdict, error) {
	switch {
	case r.away != nil:
		return allocator.Open, r.away
	case a.Report != allocator.ReportAllocated || a.Provider != "yard" || ids.AttemptInstance(a.ID) != a.InstanceID:
		return allocator.Open, fmt.Errorf("asked about %+v", a)
	default:
		r.told = append(r.told, a.ID)
		return r.verdict(a.ID), nil
	}
}

// aged is a store for which orphans have been such for longer.
type aged struct {
	*redisstore.Store
	by time.Duration
}

func (s *aged) Since(ctx context.Context, provider string, attempts []string) ([]time.Time, time.Time, error) {
	since, now, err := s.Store.Since(ctx, provider, attempts)
	return since, now.Add(s.by), err
}

type world struct {
	*reaper.Reaper
	yard      *yard
	instances *registry
	store     *aged
	redis     *redisx.Store
}

func each(t *testing.T, test func(t *testing.T, w *world)) {
	redistest.Each(t, func(t *testing.T, r *redisx.Store) {
		w := &world{yard: &yard{}, instances: &registry{accepted: map[string]bool{}, open: map[string]bool{}}, store: &aged{Store: redisstore.New(r)}, redis: r}
		var err error
		w.Reaper, err = reaper.New(reaper.Config{
			Store: w.store, Instances: w.instances, Log: slog.New(slog.DiscardHandler), Owner: "me", Providers: []reaper.Provider{{Name: "yard", Host: w.yard}},
		})
		if err != nil {
			t.Fatal(err)
		}
		test(t, w)
	})
}

func attempt() string { return ids.Attempt(uuid.NewString(), 1) }

// known stores an allocation for a server.
func (w *world) known(t *testing.T, attempt, provider string, s allocator.State) {
	t.Helper()
	a := allocator.Allocation{ID: attempt, Namespace: "default", InstanceID: ids.AttemptInstance(attempt), State: s, Provider: provider, CreateTime: time.Now()}
	if _, err := w.store.Save(t.Context(), a); err != nil {
		t.Fatal(err)
	}
}

// actions is what a look does, by attempt.
func (w *world) actions(t *testing.T, o reaper.Options) map[string]reaper.Action {
	t.Helper()
	found, problems := w.Reap(t.Context(), o)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	got := map[string]reaper.Action{}
	for _, f := range found {
		if f.Provider != "yard" || f.ExternalID != "vm-"+f.Attempt || f.Message == "" || f.Since.IsZero() {
			t.Errorf("found %+v", f)
		}
		got[f.Attempt] = f.Action
	}
	return got
}

func TestOnlyWhatBelongsToNobodyIsReleased(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		bound, releasing := w.yard.add(attempt()), w.yard.add(attempt())
		w.known(t, bound, "yard", allocator.Bound)
		w.known(t, releasing, "yard", allocator.Releasing)
		lost, failed, elsewhere, strange := w.yard.add(attempt()), w.yard.add(attempt()), w.yard.add(attempt()), w.yard.add("by-hand")
		w.known(t, failed, "yard", allocator.Failed)
		w.known(t, elsewhere, "other", allocator.Bound)
		accepted, undecided := w.yard.add(attempt()), w.yard.add(attempt())
		w.instances.accepted[accepted], w.instances.open[undecided] = true, true

		orphans := []string{lost, failed, elsewhere, strange, accepted, undecided}
		young := w.actions(t, reaper.Options{})
		for _, a := range orphans {
			if young[a] != reaper.Waited {
				t.Errorf("a young orphan was %v", young[a])
			}
		}
		if len(young) != len(orphans) || len(w.yard.released) != 0 {
			t.Errorf("found %v, released %v", young, w.yard.released)
		}
		w.store.by = 2 * time.Minute
		dry := w.actions(t, reaper.Options{DryRun: true})
		if dry[lost] != reaper.Waited || dry[accepted] != reaper.Kept || dry[undecided] != reaper.Kept || len(w.yard.released) != 0 {
			t.Errorf("a dry run: %v, released %v", dry, w.yard.released)
		}
		if len(w.instances.told) != 0 {
			t.Errorf("a dry run told instances of %v", w.instances.told)
		}
		old := w.actions(t, reaper.Options{Provider: "yard"})
		for _, a := range []string{lost, failed, elsewhere, strange} {
			if old[a] != reaper.Released || !slices.Contains(w.yard.released, a) {
				t.Errorf("an old orphan was %v", old[a])
			}
		}
		if old[accepted] != reaper.Kept || old[undecided] != reaper.Kept || len(w.yard.released) != 4 {
			t.Errorf("wanted ones: %v; released %v", old, w.yard.released)
		}
		if !slices.Contains(w.instances.told, undecided) {
			t.Error("who has not decided was not told of its server")
		}
		if slices.Contains(w.instances.told, elsewhere) {
			t.Error("whose server is at another provider was told of this one")
		}
	})
}

// An allocation that turns up again makes its server young again.
func TestAnOrphanThatIsNoneForAWhileBeginsAnew(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		a := w.yard.add(attempt())
		first, _ := w.Reap(t.Context(), reaper.Options{})
		again, _ := w.Reap(t.Context(), reaper.Options{})
		if !first[0].Since.Equal(again[0].Since) {
			t.Errorf("an orphan since %v and since %v", first[0].Since, again[0].Since)
		}
		w.yard.servers = nil
		w.actions(t, reaper.Options{})
		w.yard.add(a)
		if later, _ := w.Reap(t.Context(), reaper.Options{}); !later[0].Since.After(first[0].Since) {
			t.Errorf("it was away, and an orphan since %v all the same", later[0].Since)
		}
	})
}

func TestSoManyAtOnceAreHeld(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.store.by = 2 * time.Minute
		for range 11 {
			w.yard.add(attempt())
		}
		for a, got := range w.actions(t, reaper.Options{}) {
			if got != reaper.Held {
				t.Errorf("%s was %v", a, got)
			}
		}
		if len(w.yard.released) != 0 {
			t.Fatalf("released %v", w.yard.released)
		}
		w.actions(t, reaper.Options{Force: true})
		if len(w.yard.released) != 11 {
			t.Errorf("by force %d of 11 were released", len(w.yard.released))
		}
		w.yard.released = nil
		for range 11 { // as many that are in order
			w.known(t, w.yard.add(attempt()), "yard", allocator.Bound)
		}
		w.actions(t, reaper.Options{})
		if len(w.yard.released) != 11 {
			t.Errorf("of half %d were released", len(w.yard.released))
		}
	})
}

// A match whose record is lost is played to its end, however many others come meanwhile, unless people say otherwise.
func TestServersOfLostInstancesAreHeld(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.store.by = 2 * time.Minute
		w.instances.lost = true
		lost := w.yard.add(attempt())
		for range 11 {
			w.known(t, w.yard.add(attempt()), "yard", allocator.Bound)
		}
		for _, dry := range []bool{false, true} {
			if got := w.actions(t, reaper.Options{DryRun: dry}); got[lost] != reaper.Held || len(w.yard.released) != 0 {
				t.Errorf("dry run %v: %v, released %v", dry, got, w.yard.released)
			}
		}
		if got := w.actions(t, reaper.Options{Force: true}); got[lost] != reaper.Released || len(w.yard.released) != 1 {
			t.Errorf("by force: %v, released %v", got, w.yard.released)
		}
	})
}

// hanging is a provider whose list hangs until the look ends.
type hanging struct{ yard }

func (hanging) List(ctx context.Context, _ string) (allocator.Page, error) {
	<-ctx.Done()
	return allocator.Page{}, ctx.Err()
}

// One provider that hangs does not hold up the looks at the others.
func TestAHangingProviderHoldsUpNobody(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.store.by = 2 * time.Minute
		released := make(chan string, 1)
		w.yard.add(attempt())
		r, err := reaper.New(reaper.Config{
			Store: w.store, Instances: w.instances, Log: slog.New(slog.DiscardHandler), Owner: "me", Every: time.Millisecond,
			Providers: []reaper.Provider{{Name: "hangs", Host: &hanging{}}, {Name: "yard", Host: telling{w.yard, released}}},
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = r.Run(ctx) })
		<-released
		cancel()
		running.Wait()
	})
}

// telling says what is released.
type telling struct {
	*yard
	released chan string
}

func (y telling) Release(_ context.Context, attempt, _ string) (bool, error) {
	select {
	case y.released <- attempt:
	default:
	}
	return true, nil
}

func TestWhoCannotBeAskedLosesNothing(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.store.by = 2 * time.Minute
		a := w.yard.add(attempt())
		w.instances.away = errors.New("game-instance is away")
		if got := w.actions(t, reaper.Options{}); got[a] != reaper.Failed || len(w.yard.released) != 0 {
			t.Errorf("%v, released %v", got, w.yard.released)
		}
		w.yard.fails = errors.New("the host is away")
		found, problems := w.Reap(t.Context(), reaper.Options{})
		if len(found) != 0 || !strings.Contains(problems["yard"], "away") {
			t.Errorf("found %v, problems %v", found, problems)
		}
	})
}
