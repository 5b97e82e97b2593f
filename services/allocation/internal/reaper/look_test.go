package reaper_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/berth-dev/berth/pkg/ids"
	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/pkg/redisx/redistest"
	"github.com/berth-dev/berth/services/allocation/internal/allocator"
	"github.com/berth-dev/berth/services/allocation/internal/reaper"
	"github.com/berth-dev/berth/services/allocation/internal/redisstore"
)

// A dry run leaves nothing behind: not even the two minutes of an orphan begin.
func TestADryRunLeavesNothingBehind(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.yard.add(attempt())
		before := redistest.Keys(t, w.redis)
		first, _ := w.Reap(t.Context(), reaper.Options{DryRun: true})
		again, _ := w.Reap(t.Context(), reaper.Options{DryRun: true})
		if len(first) != 1 || len(again) != 1 || !again[0].Since.After(first[0].Since) {
			t.Errorf("an orphan, by a dry run, %+v, and by the next %+v", first, again)
		}
		if keys := redistest.Keys(t, w.redis); len(keys) != len(before) {
			t.Errorf("it remembers %v beside %v", keys, before)
		}
		noted, _ := w.Reap(t.Context(), reaper.Options{})
		dry, _ := w.Reap(t.Context(), reaper.Options{DryRun: true})
		if !noted[0].Since.Equal(dry[0].Since) {
			t.Errorf("an orphan since %v, and by a dry run since %v", noted[0].Since, dry[0].Since)
		}
	})
}

// broken stores a record for an attempt that cannot be read.
func broken(t *testing.T, r *redisx.Store, attempt string) {
	t.Helper()
	key := redisx.Key(r.Partition(ids.AttemptInstance(attempt)), "alloc:r:"+attempt)
	if err := r.HSet(t.Context(), key, "rev", "1", "head", "\xff\xff\xff").Err(); err != nil {
		t.Fatal(err)
	}
}

// What cannot be understood hides nothing else, is never released, and is said once.
func TestNonsenseIsPassedOver(t *testing.T) {
	redistest.Each(t, func(t *testing.T, r *redisx.Store) {
		var lines bytes.Buffer
		reg := prometheus.NewRegistry()
		y := &yard{nonsense: []string{"no state", "no port"}}
		w := &world{yard: y, instances: &registry{}, store: &aged{redisstore.New(r), 2 * time.Minute}}
		var err error
		w.Reaper, err = reaper.New(reaper.Config{
			Store: w.store, Instances: w.instances, Log: slog.New(slog.NewTextHandler(&lines, nil)), Owner: "me", Providers: []reaper.Provider{{Name: "yard", Host: y}}, Metrics: reg,
		})
		if err != nil {
			t.Fatal(err)
		}
		spoiled, lost := y.add(attempt()), y.add(attempt())
		broken(t, r, spoiled)
		for range 3 {
			found, problems := w.Reap(t.Context(), reaper.Options{})
			if len(found) != 1 || found[0].Attempt != lost || found[0].Action != reaper.Released || !strings.Contains(problems["yard"], "2 entries of its list that cannot be servers and 1 records") {
				t.Errorf("found %+v, problems %v", found, problems)
			}
		}
		if strings.Contains(strings.Join(y.released, " "), spoiled) {
			t.Error("a server was released whose record cannot be read")
		}
		if n := strings.Count(lines.String(), "servers are passed over"); n != 1 {
			t.Errorf("said %d times: %s", n, &lines)
		}
		y.nonsense = append(y.nonsense, "one more")
		w.Reap(t.Context(), reaper.Options{})
		if n := strings.Count(lines.String(), "servers are passed over"); n != 2 {
			t.Errorf("with one more said %d times", n)
		}
		if got := counted(t, reg, "berth_reaper_passed_over_total", "entry"); got != 9 {
			t.Errorf("%v entries were counted, want 2 in 3 looks and 3 in one", got)
		}
		if got := counted(t, reg, "berth_reaper_passed_over_total", "record"); got != 4 {
			t.Errorf("%v records were counted, want 1 in 4 looks", got)
		}
	})
}

// counted is a counter's value where a label has a value.
func counted(t *testing.T, reg *prometheus.Registry, name, label string) (sum float64) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if f.GetName() == name && l.GetValue() == label {
					sum += m.GetCounter().GetValue()
				}
			}
		}
	}
	return sum
}

// endless lists so many servers, a thousand on a page, and keeps none of them.
type endless struct {
	yard
	pages int
	peak  uint64
}

const perPage = 1000

func (e *endless) List(_ context.Context, page string) (allocator.Page, error) {
	n := 0
	_, _ = fmt.Sscan(page, &n)
	var got allocator.Page
	for i := range perPage {
		got.Servers = append(got.Servers, allocator.Listed{Attempt: fmt.Sprintf("by-hand-%d", n*perPage+i), Server: allocator.Server{Message: strings.Repeat("x", 500)}})
	}
	if n+1 < e.pages {
		got.Next = fmt.Sprint(n + 1)
	}
	if n%20 == 19 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		e.peak = max(e.peak, m.HeapAlloc)
	}
	return got, nil
}

func (e *endless) Release(context.Context, string, string) (bool, error) {
	e.released = append(e.released, "")
	return true, nil
}

// However many servers a provider has, all are looked at, and only a page of them is held.
func TestALookHoldsAPageAtATime(t *testing.T) {
	const pages = 110 // more servers than any look held before
	s := redisstore.New(redistest.Open(t, redistest.Server(t)))
	e := &endless{pages: pages}
	r, err := reaper.New(reaper.Config{
		Store: &aged{s, 2 * time.Minute}, Instances: &registry{}, Log: slog.New(slog.DiscardHandler), Owner: "me", Providers: []reaper.Provider{{Name: "yard", Host: e}},
	})
	if err != nil {
		t.Fatal(err)
	}
	var before runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	found, problems := r.Reap(t.Context(), reaper.Options{Force: true})
	if len(e.released) != pages*perPage {
		t.Errorf("%d of %d were released", len(e.released), pages*perPage)
	}
	if len(found) != 1000 || !strings.Contains(problems["yard"], "110000 servers are orphans, and the first 1000 are listed") {
		t.Errorf("%d found, problems %v", len(found), problems)
	}
	if grown := int64(e.peak) - int64(before.HeapAlloc); grown > 30<<20 { // all of them would be 110,000 of more than 600 bytes
		t.Errorf("the heap grew by %d MiB", grown>>20)
	}
}
