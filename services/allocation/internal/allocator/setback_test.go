package allocator

import (
	"slices"
	"testing"
	"time"

	"github.com/berth-dev/berth/services/allocation/internal/placement"
)

// started returns an allocation whose provider has named a server, in that state.
func started(state ServerState) Allocation {
	a := queued(time.Time{})
	a.Begin(placement.Explanation{Candidates: []placement.Candidate{{Provider: "p", Region: "eu"}, {Provider: "q"}}}, t0)
	a.Placed("p", "eu", time.Minute, t0)
	a.Answered(0, t0)
	a.Observed(Server{State: state, ExternalID: "x"}, time.Second, t0)
	return a
}

var refusedLate = Server{State: ServerExited, ExternalID: "x", Message: "no room", Failure: &Failure{Kind: NoCapacity, Message: "no room"}}

// A host that refuses a server after all has started none that could be lost: the instance is asked, and may go elsewhere.
func TestALateRefusal(t *testing.T) {
	a := started(ServerStarting)
	a.Observed(refusedLate, time.Second, t0.Add(time.Second))
	if a.State != Starting || a.Report != ReportFailed || a.Failure != "NO_CAPACITY" || a.Message != `provider "p" has refused it after all: no room` {
		t.Fatalf("%+v", a)
	}
	tries := a.Explanation.Candidates[0].Tries
	if n := len(tries); n != 2 || tries[1].Failure != "NO_CAPACITY" {
		t.Errorf("its tries are %+v", tries)
	}
	told := a.ReportAt
	a.NotTold(t0.Add(2 * time.Second))
	a.Observed(refusedLate, time.Second, t0.Add(3*time.Second))
	if a.ReportTries != 1 || a.ReportAt.Equal(told) || len(a.Explanation.Candidates[0].Tries) != 2 {
		t.Errorf("said once more, it counts once more: %+v", a)
	}
	a.Told(Abandoned, t0.Add(4*time.Second))
	if a.State != Releasing || a.End != Failed {
		t.Errorf("given up, it is %v, and ends as %v", a.State, a.End)
	}
}

// What has run did not fail to start, whatever its host calls it.
func TestALateRefusalOfWhatRanIsAnExit(t *testing.T) {
	running, linked := started(ServerRunning), started(ServerStarting)
	linked.Told(Accepted, t0)
	for name, a := range map[string]Allocation{"runs": running, "is linked": linked} {
		a.Observed(refusedLate, time.Second, t0.Add(time.Second))
		if a.State != Releasing || a.Report != ReportExited || a.Failure != "" {
			t.Errorf("%s: %+v", name, a)
		}
	}
}

// The end that an instance is being told of is not taken back by what its provider says meanwhile.
func TestAFailureStaysOwed(t *testing.T) {
	a := started(ServerStarting)
	if _, err := a.Cancel("", t0); err != nil {
		t.Fatal(err)
	}
	a.NotTold(t0)
	a.Observed(Server{State: ServerRunning, ExternalID: "x", Endpoints: []Endpoint{{Host: "h", Port: 1}}}, time.Second, t0)
	if a.Report != ReportFailed {
		t.Errorf("with addresses it owes %v", a.Report)
	}
	for range maxMissing {
		a.LookFailed(&Failure{Kind: NotFound}, time.Second, t0)
	}
	if a.Report != ReportFailed {
		t.Errorf("unknown to its provider it owes %v", a.Report)
	}
}

func TestSetbacks(t *testing.T) {
	late := func(provider, region, failure string) Setback {
		return Setback{Provider: provider, Region: region, Failure: failure, Message: "why"}
	}
	for name, c := range map[string]struct {
		setbacks []Setback
		order    []string
		refused  []string
	}{
		"none":                  {nil, []string{"p/eu", "p/us", "q/"}, nil},
		"behind the others":     {[]Setback{late("p", "eu", "NO_CAPACITY")}, []string{"p/us", "q/", "p/eu"}, nil},
		"the more the later":    {[]Setback{late("q", "", "UNAVAILABLE"), late("p", "eu", "NO_CAPACITY"), late("p", "eu", "AMBIGUOUS")}, []string{"p/us", "q/", "p/eu"}, nil},
		"everywhere":            {[]Setback{late("p", "eu", "NO_CAPACITY"), late("p", "us", "NO_CAPACITY"), late("q", "", "NO_CAPACITY")}, []string{"p/eu", "p/us", "q/"}, nil},
		"no repeat mends it":    {[]Setback{late("p", "eu", "INVALID"), late("q", "", "QUOTA")}, []string{"p/us"}, []string{"p/eu", "q/"}},
		"of no candidate":       {[]Setback{late("gone", "eu", "INVALID")}, []string{"p/eu", "p/us", "q/"}, nil},
		"once mended, once not": {[]Setback{late("p", "eu", "UNAUTHENTICATED"), late("p", "eu", "NO_CAPACITY")}, []string{"p/us", "q/"}, []string{"p/eu"}},
	} {
		a := queued(time.Time{})
		a.Setbacks = c.setbacks
		for round := range 2 {
			a.Begin(placement.Explanation{Candidates: []placement.Candidate{
				{Provider: "p", Region: "eu"}, {Provider: "p", Region: "us"}, {Provider: "q"}, {Provider: "r", Exclusion: placement.Drained},
			}}, t0)
			var order, refused []string
			for _, c := range a.Explanation.Candidates {
				switch c.Exclusion {
				case placement.None:
					order = append(order, c.Provider+"/"+c.Region)
				case placement.Refused:
					refused = append(refused, c.Provider+"/"+c.Region)
				}
			}
			if !slices.Equal(order, c.order) || !slices.Equal(refused, c.refused) {
				t.Errorf("%s, round %d: in order %v, refused %v; want %v, %v", name, round, order, refused, c.order, c.refused)
			}
		}
	}
}

// A place where an attempt has failed gets some time before the next one asks there, or ten attempts were over in a moment.
func TestASetbackNeedsTime(t *testing.T) {
	a := queued(time.Time{})
	a.Setbacks = []Setback{{Provider: "p", Failure: "NO_CAPACITY"}, {Provider: "p", Failure: "NO_CAPACITY"}}
	only := placement.Explanation{Candidates: []placement.Candidate{{Provider: "p"}}}
	a.Begin(only, t0)
	if i := a.candidate(); i >= 0 {
		t.Fatal("it is asked at once")
	}
	a.RoundOver(t0)
	if a.State != Queued || !a.CallAt.After(t0) {
		t.Fatalf("%+v", a)
	}
	a.Begin(only, a.CallAt)
	if a.candidate() != 0 {
		t.Error("it is not asked when its time has come")
	}
}

// Where every place has refused for good there is nothing left to wait for.
func TestSetbacksEverywhere(t *testing.T) {
	a := queued(time.Time{})
	a.Setbacks = []Setback{{Provider: "p", Failure: "INVALID", Message: "no such image"}}
	a.Begin(placement.Explanation{Candidates: []placement.Candidate{{Provider: "p"}}}, t0)
	a.RoundOver(t0)
	if a.Report != ReportFailed || a.Failure != "" || a.Message != `provider "p": it has refused an earlier attempt: no such image` {
		t.Errorf("%+v", a)
	}
}
