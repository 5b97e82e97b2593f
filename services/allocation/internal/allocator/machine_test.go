package allocator

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/berth-dev/berth/pkg/errs"
)

const testInstance = "6c1f9a52-6f3e-4c64-9d5c-3f0d6f3f5a10"

var t0 = time.UnixMicro(1_700_000_000_000_000)

func queued(deadline time.Time) Allocation {
	return newAllocation(Wish{ID: testInstance + "-1", Namespace: "default", InstanceID: testInstance, Placement: Placement{Build: "b"}, Deadline: deadline}, t0)
}

func placing() Allocation {
	a := queued(time.Time{})
	a.Placed("p", "r", t0)
	return a
}

func ready() Allocation {
	a := placing()
	a.Observed(Server{State: ServerRunning, ExternalID: "x"}, time.Second, t0)
	return a
}

func expect(t *testing.T, a Allocation, state State, report Report, action Action) {
	t.Helper()
	got, _ := a.Next(t0)
	if a.State != state || a.Report != report || got != action {
		t.Errorf("state %v, report %v, action %v; want %v, %v, %v (%q)", a.State, a.Report, got, state, report, action, a.Message)
	}
}

func TestFailuresOfAllocate(t *testing.T) {
	for kind, want := range map[FailureKind]struct {
		state  State
		report Report
		action Action
	}{
		Ambiguous:       {Placing, ReportNone, Look}, // never repeated without looking
		NotFound:        {Placing, ReportNone, Look},
		NoCapacity:      {Queued, ReportNone, Wait},
		RateLimited:     {Queued, ReportNone, Wait},
		Unavailable:     {Queued, ReportNone, Wait},
		Quota:           {Failed, ReportFailed, Tell},
		Invalid:         {Failed, ReportFailed, Tell},
		Unauthenticated: {Failed, ReportFailed, Tell},
	} {
		a := placing()
		a.Refused(&Failure{Kind: kind, Message: "no such luck"}, t0)
		expect(t, a, want.state, want.report, want.action)
		if a.Message != `provider "p": no such luck` {
			t.Errorf("message %q", a.Message)
		}
	}
}

func TestNoCapacityIsTriedAFewTimes(t *testing.T) {
	a := queued(time.Time{})
	tries := 0
	for a.State == Queued {
		if tries++; tries > 100 {
			t.Fatal("tried for ever")
		}
		a.Placed("p", "r", t0)
		a.Refused(&Failure{Kind: NoCapacity, Message: "full"}, t0)
	}
	if tries != maxNoCapacity {
		t.Errorf("tried %d times", tries)
	}
	expect(t, a, Failed, ReportFailed, Tell)
}

func TestRetryAfterIsHonoured(t *testing.T) {
	a := placing()
	a.Refused(&Failure{Kind: RateLimited, RetryAfter: time.Minute}, t0)
	if action, at := a.Next(t0); action != Wait || at != t0.Add(time.Minute) {
		t.Errorf("%v until %v", action, at.Sub(t0))
	}
}

func TestDeadline(t *testing.T) {
	a := queued(t0)
	expect(t, a, Queued, ReportNone, Expire)
	a.Expired(t0)
	expect(t, a, Failed, ReportFailed, Tell)

	b := queued(t0)
	b.Placed("p", "r", t0)
	expect(t, b, Placing, ReportNone, Expire)
	b.Expired(t0) // the provider may have a server: it goes back, and the instance is told at once
	expect(t, b, Releasing, ReportFailed, GiveBack)
	b.Told(Abandoned, t0)
	expect(t, b, Releasing, ReportNone, GiveBack)
	b.GivenBack(true, 0, t0)
	expect(t, b, Failed, ReportNone, Wait)

	c := queued(t0.Add(time.Second))
	c.Postponed("no tokens", t0)
	c.CallAt = t0.Add(time.Hour)
	if action, at := c.Next(t0); action != Wait || !at.Equal(t0.Add(time.Second)) {
		t.Errorf("%v until %v: the deadline comes first", action, at.Sub(t0))
	}
	c.Expired(t0)
	if !strings.Contains(c.Message, "no tokens") {
		t.Errorf("message %q does not say what was wrong", c.Message)
	}
}

func TestVerdicts(t *testing.T) {
	a := ready()
	expect(t, a, Ready, ReportAllocated, Tell)
	a.Told(Open, t0)
	expect(t, a, Ready, ReportAllocated, Wait) // and asked again later
	a.Told(Accepted, t0)
	expect(t, a, Bound, ReportNone, Wait)

	b := ready()
	b.Told(Abandoned, t0)
	expect(t, b, Releasing, ReportNone, GiveBack)
	b.GivenBack(false, time.Second, t0)
	expect(t, b, Releasing, ReportNone, Wait)
	b.GivenBack(true, time.Second, t0)
	expect(t, b, Releasing, ReportReleased, Tell)
	b.NotTold(t0)
	expect(t, b, Releasing, ReportReleased, Wait)
	b.Told(Abandoned, t0)
	expect(t, b, Released, ReportNone, Wait)
	if action, _ := b.Next(t0.Add(retention)); action != Forget {
		t.Errorf("after the retention: %v", action)
	}
}

func TestRelease(t *testing.T) {
	a := queued(time.Time{})
	if !a.Release(t0) {
		t.Error("nothing changed")
	}
	expect(t, a, Cancelled, ReportReleased, Tell)
	b := placing() // a provider may be at it
	b.Release(t0)
	expect(t, b, Releasing, ReportNone, GiveBack)
	if b.Release(t0) {
		t.Error("released twice")
	}
}

func TestEndpointsThatComeLateAreTold(t *testing.T) {
	a := placing()
	a.Observed(Server{State: ServerStarting}, time.Second, t0)
	a.Told(Accepted, t0)
	expect(t, a, Bound, ReportNone, Wait)
	e := []Endpoint{{Name: "game", Host: "h", Port: 1}}
	a.Observed(Server{State: ServerRunning, Endpoints: e}, time.Second, t0)
	expect(t, a, Bound, ReportAllocated, Tell)
	a.Told(Accepted, t0)
	a.Observed(Server{State: ServerRunning, Endpoints: e}, time.Second, t0)
	expect(t, a, Bound, ReportNone, Wait)
}

func TestAServerThatTheProviderForgot(t *testing.T) {
	a := ready()
	a.Told(Accepted, t0)
	for range maxMissing - 1 {
		a.LookFailed(&Failure{Kind: NotFound}, time.Second, t0)
		expect(t, a, Bound, ReportNone, Wait) // once is no proof
	}
	b := a
	b.Observed(Server{State: ServerRunning}, time.Second, t0)
	b.LookFailed(&Failure{Kind: NotFound}, time.Second, t0)
	expect(t, b, Bound, ReportNone, Wait) // it was there in between
	a.LookFailed(&Failure{Kind: NotFound}, time.Second, t0)
	expect(t, a, Releasing, ReportExited, GiveBack)
}

func TestMessagesAreBoundedAndReadable(t *testing.T) {
	var a Allocation
	a.say(strings.Repeat("é", maxMessage) + "\xff")
	if len(a.Message) > maxMessage || strings.ContainsRune(a.Message, '\uFFFD') || a.Message == "" {
		t.Errorf("message of %d bytes", len(a.Message))
	}
	a.say("bad \xff byte")
	if a.Message != "bad \uFFFD byte" {
		t.Errorf("message %q", a.Message)
	}
}

func TestBackoffGrowsToItsTop(t *testing.T) {
	for n, last := 1, time.Duration(0); n < 200; n++ {
		d := reportAgain.after("id", n)
		if d > reportAgain.top*5/4 || d < reportAgain.base*3/4 || (n < 4 && d <= last) {
			t.Errorf("wait %d is %v after %v", n, d, last)
		}
		last = d
	}
}

// Whatever happens, an allocation that is released in the end leaves nothing at the provider, and its instance is told how it ended.
func TestMachine(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := world{t: t, now: t0}
		w.a = queued(time.Time{})
		if rapid.Bool().Draw(t, "deadline") {
			w.a.Deadline = t0.Add(time.Duration(rapid.IntRange(0, 5000).Draw(t, "ms")) * time.Millisecond)
		}
		for range rapid.IntRange(20, 80).Draw(t, "steps") {
			if rapid.IntRange(0, 9).Draw(t, "event") == 0 {
				w.released = w.a.Release(w.now) || w.released
			}
			w.step(true)
		}
		w.released = w.a.Release(w.now) || w.released
		for n := 0; !w.forgotten; n++ {
			if n > 200 {
				t.Fatalf("no end: %+v", w.a)
			}
			w.step(false)
		}
	})
}

// world is a provider and an instance that may fail at any time.
type world struct {
	t         *rapid.T
	now       time.Time
	a         Allocation
	hasServer bool
	exited    bool
	accepted  bool
	released  bool // the instance is done with the attempt
	endTold   bool
	forgotten bool
}

func (w *world) fault(faults bool, label string) bool {
	return faults && rapid.IntRange(0, 2).Draw(w.t, label) == 0
}

func (w *world) step(faults bool) {
	if w.hasServer && w.fault(faults, "exits") {
		w.exited = true
	}
	switch action, at := w.a.Next(w.now); action {
	case Wait:
		if !at.After(w.now) {
			w.t.Fatalf("waits for the past: %+v", w.a)
		}
		w.now = at
	case Expire:
		w.a.Expired(w.now)
	case Place:
		w.place(faults)
	case Look:
		w.look(faults)
	case GiveBack:
		if w.fault(faults, "give back fails") {
			w.a.GiveBackFailed(&Failure{Kind: Unavailable}, w.now)
			return
		}
		gone := w.exited || !w.hasServer || !faults || rapid.Bool().Draw(w.t, "gone")
		if gone {
			w.hasServer = false
		}
		w.a.GivenBack(gone, time.Second, w.now)
	case Tell:
		w.tell(faults)
	case Forget:
		w.forgotten = true
		if w.hasServer || !w.endTold || !w.a.State.Final() {
			w.t.Fatalf("forgotten with a server left (%v) or unknown to the instance (%v): %+v", w.hasServer, !w.endTold, w.a)
		}
	}
}

func (w *world) place(faults bool) {
	if w.released || w.hasServer {
		w.t.Fatalf("asked for a server, released %v, with a server %v: %+v", w.released, w.hasServer, w.a)
	}
	if w.fault(faults, "no tokens") {
		w.a.Postponed("no tokens", w.now)
		return
	}
	w.a.Placed("p", "r", w.now)
	if !w.fault(faults, "allocate fails") {
		w.hasServer, w.exited = true, false
		w.a.Observed(Server{State: ServerRunning, ExternalID: "x"}, time.Second, w.now)
		return
	}
	kind := FailureKind(rapid.IntRange(int(Ambiguous), int(Unauthenticated)).Draw(w.t, "failure"))
	w.hasServer = kind == Ambiguous && rapid.Bool().Draw(w.t, "started")
	w.a.Refused(&Failure{Kind: kind, Message: "m"}, w.now)
}

func (w *world) look(faults bool) {
	switch {
	case w.fault(faults, "look fails"):
		w.a.LookFailed(&Failure{Kind: Unavailable}, time.Second, w.now)
	case !w.hasServer:
		w.a.LookFailed(&Failure{Kind: NotFound}, time.Second, w.now)
	case w.exited:
		w.a.Observed(Server{State: ServerExited}, time.Second, w.now)
	default:
		w.a.Observed(Server{State: ServerRunning}, time.Second, w.now)
	}
}

func (w *world) tell(faults bool) {
	if w.fault(faults, "report fails") {
		w.a.NotTold(w.now)
		return
	}
	verdict := Open
	switch {
	case w.a.Report != ReportAllocated:
		w.endTold, verdict = true, Abandoned
	case w.released:
		verdict = Abandoned
	case w.accepted || rapid.Bool().Draw(w.t, "accepts"):
		w.accepted, verdict = true, Accepted
	case rapid.Bool().Draw(w.t, "abandons"):
		w.released, verdict = true, Abandoned
	}
	w.a.Told(verdict, w.now)
}

func TestCatalog(t *testing.T) {
	c := Catalog{
		{Name: "first", Regions: []string{"eu"}, Builds: []string{"demo", "old"}},
		{Name: "second", Regions: []string{"us", "eu"}, Builds: []string{"demo"}},
	}
	for _, test := range []struct {
		placement Placement
		want      string
	}{
		{Placement{Build: "demo"}, "first eu"},
		{Placement{Build: "demo", Regions: []string{"eu"}}, "first eu"},
		{Placement{Build: "demo", Regions: []string{"us", "eu"}}, "second us"}, // the better region counts more than the order of providers
		{Placement{Build: "demo", Regions: []string{"mars", "eu"}}, "first eu"},
		{Placement{Build: "old", Regions: []string{"us", "eu"}}, "first eu"},
	} {
		provider, region, err := c.Place(test.placement)
		if got := fmt.Sprint(provider, " ", region); err != nil || got != test.want {
			t.Errorf("%+v: %s, %v; want %s", test.placement, got, err, test.want)
		}
	}
	_, _, err := c.Place(Placement{Build: "new"})
	if !errs.Is(err, errs.BuildUnknown) || !strings.Contains(err.Error(), "demo, old") {
		t.Errorf("an unknown build: %v", err)
	}
	_, _, err = c.Place(Placement{Build: "old", Regions: []string{"us"}})
	if !errs.Is(err, errs.BuildUnknown) || !strings.Contains(err.Error(), "it is in eu") {
		t.Errorf("an unknown region: %v", err)
	}
}
