package allocator

import (
	"context"
	"slices"
	"strconv"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// However often one is nudged before it is looked at, it is looked at once for all of them, and each provider is said once.
func TestNudgesBecomeOne(t *testing.T) {
	started, goOn := make(chan *run, 10), make(chan struct{})
	s := newSchedule(func(_ context.Context, r *run) time.Time {
		started <- r
		<-goOn
		return time.Time{}
	}, 1, nil)
	s.open(t.Context())
	defer s.close()
	if s.wake("busy"); (<-started).id != "busy" {
		t.Fatal("somebody else runs")
	}
	for range 10_000 {
		for _, p := range []string{"one", "two"} {
			if !s.nudge("waits", nudge{Line{Build: "demo"}, []string{p}}) || !s.nudge("busy", nudge{Line{Build: "demo"}, []string{p}}) {
				t.Fatal("there is no place for it")
			}
		}
	}
	s.mu.Lock()
	if n := len(s.nudges["waits"].from); n != 2 {
		t.Errorf("%d providers are kept", n)
	}
	s.mu.Unlock()
	close(goOn)
	for range 2 {
		if r := <-started; r.nudge == nil || !slices.Equal(r.nudge.from, []string{"one", "two"}) {
			t.Errorf("%s is not nudged with both, nudged: %v", r.id, r.nudge != nil)
		}
	}
	s.close()
	if len(started) != 0 || len(s.nudges) != 0 {
		t.Errorf("%d more runs, %d nudges are left", len(started), len(s.nudges))
	}
}

// A nudge for which there is no place is not kept, and said to be lost.
func TestANudgeWithoutAPlaceIsNotKept(t *testing.T) {
	goOn := make(chan struct{})
	s := newSchedule(func(context.Context, *run) time.Time { <-goOn; return time.Time{} }, 1, nil)
	if s.nudge("early", nudge{}) || len(s.nudges) != 0 {
		t.Error("nudged before anything runs")
	}
	s.open(t.Context())
	s.wake("busy")
	s.mu.Lock()
	for n := range maxParked {
		s.common.parked[strconv.Itoa(n)] = time.Time{}
	}
	s.mu.Unlock()
	if s.nudge("late", nudge{}) || len(s.nudges) != 0 {
		t.Errorf("a place was found; %d nudges are kept", len(s.nudges))
	}
	close(goOn)
	s.close()
}
