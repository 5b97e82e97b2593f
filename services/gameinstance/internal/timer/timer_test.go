package timer_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/services/gameinstance/internal/instance"
	"github.com/berth-dev/berth/services/gameinstance/internal/timer"
)

// fake is everything around a sweeper. Its reaper hangs.
type fake struct {
	mu       sync.Mutex
	looks    [][]int // the partitions of each look
	due      map[int][]string
	hold     time.Time
	links    timer.Links
	counts   int
	countErr error
	live     []string
	said     []time.Duration // the lives that were announced
	applied  map[string][]instance.Expire
	kicked   []string
	slow     map[string]bool // these are dealt with until the end
	atOnce   int
	most     int
}

const partitions = 8

func (f *fake) Partitions() int { return partitions }

func (f *fake) Sweep(_ context.Context, look timer.Look) ([]timer.Swept, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.looks = append(f.looks, look.Partitions)
	var out []timer.Swept
	for _, p := range look.Partitions {
		out = append(out, timer.Swept{Now: time.Now(), Hold: f.hold, Due: f.due[p][:min(look.Limit, len(f.due[p]))]})
	}
	return out, nil
}

func (f *fake) Announce(_ context.Context, _ string, life time.Duration) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.said = append(f.said, life)
	return f.live, nil
}

func (f *fake) CountLinks(context.Context, time.Duration) (timer.Links, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.counts++
	return f.links, f.countErr
}

// Apply knows an instance that is gone, one that cannot be reached, one with a call to make, and any number that are held if they are asked to be.
func (f *fake) Apply(ctx context.Context, _, id string, _ instance.Envelope, cmd instance.Command) (*instance.Instance, error) {
	expire := cmd.(instance.Expire)
	f.mu.Lock()
	f.applied[id] = append(f.applied[id], expire)
	f.atOnce++
	f.most = max(f.most, f.atOnce)
	slow := f.slow[id]
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.atOnce--
	}()
	if slow {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if !expire.Hold.IsZero() || expire.LossLimit > 0 {
		*expire.Held = 1
	}
	switch id {
	case "gone":
		return nil, errs.New(errs.InstanceUnknown, "gone")
	case "away":
		return nil, errs.New(errs.StoreUnavailable, "away")
	case "calls":
		return &instance.Instance{ID: id, Outbox: []instance.Call{{}}}, nil
	default:
		return &instance.Instance{ID: id}, nil
	}
}

func (f *fake) Kick(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.kicked = append(f.kicked, id)
}

func (f *fake) Reap(ctx context.Context) error  { <-ctx.Done(); return ctx.Err() }
func (f *fake) Audit(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }

// set changes the fake while it is used.
func (f *fake) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *fake) times(id string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.applied[id])
}

func newFake() *fake {
	return &fake{live: []string{"me"}, due: map[int][]string{}, applied: map[string][]instance.Expire{}, slow: map[string]bool{}}
}

func (f *fake) sweeper(log *slog.Logger, reg *prometheus.Registry) *timer.Sweeper {
	return timer.New(timer.Config{
		Store: f, Instances: f, Driver: f, Reaper: f, Servers: f, Log: log, Metrics: timer.NewMetrics(reg), Replica: "me", Gap: 5 * time.Second, Hold: time.Minute,
		MassLoss: timer.MassLoss{Share: 0.3, Min: 10, Limit: 10 * time.Minute},
	})
}

func quiet(f *fake) *timer.Sweeper {
	return f.sweeper(slog.New(slog.DiscardHandler), prometheus.NewRegistry())
}

// run runs a sweeper for a time of the bubble's clock, which do may stretch, and stops it.
func run(t *testing.T, s *timer.Sweeper, do func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- s.Run(ctx) }()
	do()
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// A gateway that is lost with thousands of links takes long to be seen to; deadlines do not wait for it.
func TestDeadlinesDoNotWaitForTheReaper(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.due[0] = []string{"any"}
		run(t, quiet(f), func() { time.Sleep(10 * time.Second) })
		if got := f.times("any"); got < 30 {
			t.Errorf("%d times in 10 seconds", got)
		}
	})
}

// One instance that cannot be dealt with keeps none of the others.
func TestASweepGoesThroughAllThatAreDue(t *testing.T) {
	f := newFake()
	f.due[3] = []string{"gone", "away", "calls"}
	if err := quiet(f).Sweep(context.Background()); !errs.Is(err, errs.StoreUnavailable) {
		t.Errorf("sweep: %v", err)
	}
	if len(f.applied) != 3 || !slices.Equal(f.kicked, []string{"calls"}) {
		t.Errorf("%d of 3 were looked at, kicked %v", len(f.applied), f.kicked)
	}
}

// Some commits hang; the others that are due are dealt with meanwhile, and the next looks go on, or they would take the wait for a gap.
func TestASlowCommitHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		for n := range 12 {
			id := fmt.Sprint("slow", n)
			f.slow[id] = true
			f.due[0] = append(f.due[0], id)
		}
		for n := range 300 {
			f.due[1+n%4] = append(f.due[1+n%4], fmt.Sprint("quick", n))
		}
		run(t, quiet(f), func() {
			time.Sleep(3 * time.Second)
			f.set(func() {
				if len(f.looks) < 12 {
					t.Errorf("%d looks in 3 seconds", len(f.looks))
				}
				for n := range 12 {
					if got := len(f.applied[fmt.Sprint("slow", n)]); got != 1 {
						t.Errorf("slow %d was begun %d times", n, got)
					}
				}
				for n := range 256 { // the first 64 of each partition
					if got := len(f.applied[fmt.Sprint("quick", n)]); got < 10 {
						t.Errorf("quick %d was dealt with %d times in 3 seconds", n, got)
					}
				}
			})
		})
		if f.most > 16 || f.most < 13 {
			t.Errorf("%d at once", f.most)
		}
	})
}

func TestAReplicaSweepsItsOwnPartitionsOftenAndAllNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.live = []string{"me", "other", "third"}
		run(t, quiet(f), func() {
			time.Sleep(1100 * time.Millisecond) // until the first announcement was answered
			f.set(func() { f.looks = nil })
			time.Sleep(10 * time.Second)
			own, full := 0, 0
			f.set(func() {
				for _, p := range f.looks {
					if len(p) == partitions {
						full++
					} else if len(p) > 0 {
						own++
					}
				}
			})
			if full < 3 || full > 5 || own < 38 {
				t.Errorf("%d full sweeps and %d of its own partitions in 10 seconds", full, own)
			}
			f.set(func() { f.live = []string{"me"} }) // the others left
			time.Sleep(1600 * time.Millisecond)
			f.set(func() {
				if last := f.looks[len(f.looks)-1]; len(last) != partitions {
					t.Errorf("alone it sweeps %v", last)
				}
			})
		})
		if n := len(f.said); n < 12 || f.said[0] != 5*time.Second || f.said[n-1] != 0 {
			t.Errorf("announced %v", f.said)
		}
	})
}

func TestWhatALookKnewReachesTheDecision(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, reg := newFake(), prometheus.NewRegistry()
		f.due[1] = []string{"a"}
		f.hold = time.Now().Add(time.Minute)
		s := f.sweeper(slog.New(slog.DiscardHandler), reg)
		sweep := func() instance.Expire {
			t.Helper()
			if err := s.Sweep(t.Context()); err != nil {
				t.Fatal(err)
			}
			all := f.applied["a"]
			return all[len(all)-1]
		}
		if e := sweep(); !e.Hold.Equal(f.hold) || !e.At.Equal(time.Now()) || e.LossLimit != 0 {
			t.Errorf("with a hold: %+v", e)
		}
		f.hold, f.links = time.Time{}, timer.Links{Connected: 10, Lost: 10}
		time.Sleep(time.Second)
		if e := sweep(); !e.Hold.IsZero() || e.LossLimit != 10*time.Minute {
			t.Errorf("with a mass loss: %+v", e)
		}
		if got := metric(t, reg, "berth_deadlines_held_total", "gap"); got != 1 {
			t.Errorf("held for a gap: %v", got)
		}
		if got := metric(t, reg, "berth_deadlines_held_total", "mass_loss"); got != 1 {
			t.Errorf("held for a mass loss: %v", got)
		}
	})
}

// metric returns a metric's value, the one with a label if there is one.
func metric(t *testing.T, reg *prometheus.Registry, name, label string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && (label == "" || m.GetLabel()[0].GetValue() == label) {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return -1
}

func TestAMassLossIsSaidOnceWhenItBeginsAndOnceWhenItEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		f, reg := newFake(), prometheus.NewRegistry()
		f.links = timer.Links{Connected: 100, Lost: 9}
		f.due[0] = []string{"a"} // each look wants to know
		run(t, f.sweeper(slog.New(slog.NewTextHandler(&out, nil)), reg), func() {
			for _, step := range []struct {
				links timer.Links
				want  float64
			}{
				{timer.Links{Connected: 5, Lost: 9}, 0},    // too few
				{timer.Links{Connected: 70, Lost: 30}, 0},  // not more than the share
				{timer.Links{Connected: 69, Lost: 31}, 1},  // it begins
				{timer.Links{Connected: 0, Lost: 100}, 1},  // and goes on
				{timer.Links{Connected: 100, Lost: 20}, 0}, // and ends
			} {
				f.set(func() { f.links = step.links })
				time.Sleep(5 * time.Second)
				if got := metric(t, reg, "berth_mass_loss", ""); got != step.want {
					t.Errorf("%+v: gauge %v, want %v", step.links, got, step.want)
				}
			}
		})
		if began, over := strings.Count(out.String(), "level=ERROR msg=\"mass loss:"), strings.Count(out.String(), "level=INFO msg=\"the mass loss is over\""); began != 1 || over != 1 {
			t.Errorf("said %d and %d times:\n%s", began, over, out.String())
		}
		if f.counts > 26 {
			t.Errorf("counted %d times in 25 seconds", f.counts)
		}
	})
}

// Whether a loss is one of many has to be known before a server is given up.
func TestNobodyIsGivenUpWithoutACount(t *testing.T) {
	f := newFake()
	f.due[0], f.countErr = []string{"a"}, errs.New(errs.StoreUnavailable, "away")
	s := quiet(f)
	if err := s.Sweep(context.Background()); !errs.Is(err, errs.StoreUnavailable) || f.times("a") != 0 {
		t.Errorf("sweep: %v, dealt with %d", err, f.times("a"))
	}
	f.countErr = nil
	if err := s.Sweep(context.Background()); err != nil || f.times("a") != 1 {
		t.Errorf("sweep: %v, dealt with %d", err, f.times("a"))
	}
}

func TestAHoldIsSaidWhenItBeginsAndWhenItEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		f, reg := newFake(), prometheus.NewRegistry()
		f.live = []string{"me", "other"}
		f.hold = time.Now().Add(time.Minute)
		run(t, f.sweeper(slog.New(slog.NewTextHandler(&out, nil)), reg), func() {
			time.Sleep(10 * time.Second)
			if got := metric(t, reg, "berth_partitions_held", ""); got != partitions {
				t.Errorf("%v partitions held", got)
			}
			f.set(func() { f.hold = time.Time{} })
			time.Sleep(10 * time.Second)
		})
		if began, over := strings.Count(out.String(), "level=WARN msg=\"no sweep ran"), strings.Count(out.String(), "level=INFO msg=\"the hold is over"); began != 1 || over != 1 {
			t.Errorf("said %d and %d times:\n%s", began, over, out.String())
		}
	})
}
