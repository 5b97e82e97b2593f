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
		Quota:           {Queued, ReportFailed, Tell},
		Invalid:         {Queued, ReportFailed, Tell},
		Unauthenticated: {Queued, ReportFailed, Tell},
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
	for a.Report == ReportNone {
		if tries++; tries > 100 {
			t.Fatal("tried for ever")
		}
		a.Placed("p", "r", t0)
		a.Refused(&Failure{Kind: NoCapacity, Message: "full"}, t0)
	}
	if tries != maxNoCapacity {
		t.Errorf("tried %d times", tries)
	}
	expect(t, a, Queued, ReportFailed, Tell)
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
	expect(t, a, Queued, ReportFailed, Tell)
	a.Told(Abandoned, t0)
	expect(t, a, Failed, ReportNone, Wait)

	b := expired() // the provider may have a server: the instance says what becomes of it
	expect(t, b, Placing, ReportFailed, Tell)
	b.NotTold(t0)
	expect(t, b, Placing, ReportFailed, Wait)
	b.Told(Open, t0)
	expect(t, b, Placing, ReportFailed, Wait)
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

func expired() Allocation {
	a := queued(t0)
	a.Placed("p", "r", t0)
	a.Expired(t0)
	return a
}

// A server that linked before its provider's answer was known is never given back for that: it is looked for until the provider names it.
func TestServerThatIsLinkedAtTheDeadline(t *testing.T) {
	a := expired()
	a.Told(Accepted, t0)
	expect(t, a, Bound, ReportAllocated, Tell)
	a.Told(Accepted, t0)
	expect(t, a, Bound, ReportNone, Look)
	if a.Message != "" {
		t.Errorf("message %q", a.Message)
	}
	for range 2 * maxMissing { // the provider is still busy with it
		a.LookFailed(&Failure{Kind: NotFound}, time.Second, t0)
		expect(t, a, Bound, ReportNone, Wait)
	}
	a.Observed(Server{State: ServerRunning, ExternalID: "x", Endpoints: []Endpoint{{Name: "game", Host: "h", Port: 1}}}, time.Second, t0)
	expect(t, a, Bound, ReportAllocated, Tell)
	a.Told(Accepted, t0)
	a.Release(t0)
	expect(t, a, Releasing, ReportNone, GiveBack)
}

// The instance's release may be here before its answer to the report that it follows from.
func TestReleaseBeforeTheVerdict(t *testing.T) {
	a := queued(t0)
	a.Expired(t0)
	a.Release(t0)
	expect(t, a, Failed, ReportNone, Wait)

	b := expired()
	b.Release(t0)
	expect(t, b, Releasing, ReportNone, GiveBack)
	b.GivenBack(true, 0, t0)
	expect(t, b, Failed, ReportNone, Wait)
}

// A worker that asked a provider comes back to an allocation that others found no server of.
func TestReopen(t *testing.T) {
	a := queued(t0.Add(time.Minute))
	a.CallAt = t0.Add(time.Second)
	if !a.Reopen(t0) {
		t.Error("not reopened")
	}
	expect(t, a, Placing, ReportNone, Look)

	b := queued(t0)
	b.Expired(t0)
	b.Reopen(t0) // told of a failure or not, the instance has the word
	expect(t, b, Placing, ReportFailed, Tell)
	b.Told(Abandoned, t0)
	expect(t, b, Releasing, ReportNone, GiveBack)

	c := queued(t0)
	c.Expired(t0)
	c.Told(Abandoned, t0)
	c.Reopen(t0)
	expect(t, c, Releasing, ReportNone, GiveBack)

	for _, d := range []Allocation{placing(), ready(), expired()} {
		if d.Reopen(t0) {
			t.Errorf("%v was reopened", d.State)
		}
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
	expect(t, a, Bound, ReportExited, Tell) // no proof either that it ended: the instance is told first
	d := a
	d.NotTold(t0)
	d.Observed(Server{State: ServerRunning}, time.Second, t0)
	expect(t, d, Bound, ReportAllocated, Tell) // there it is again, in time
	c := a
	c.Told(Abandoned, t0)
	expect(t, c, Releasing, ReportNone, GiveBack)
	a.Told(Accepted, t0)
	expect(t, a, Bound, ReportNone, Wait)
	a.Release(t0)
	expect(t, a, Releasing, ReportNone, GiveBack)
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

// Whatever happens, no server goes back before the instance has let go of it or it has ended; and an allocation that is released in the end leaves
// nothing at the provider, and its instance knows how it ended.
func TestMachine(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := world{t: t, now: t0}
		w.a = queued(time.Time{})
		if rapid.Bool().Draw(t, "deadline") {
			w.a.Deadline = t0.Add(time.Duration(rapid.IntRange(0, 5000).Draw(t, "ms")) * time.Millisecond)
		}
		for range rapid.IntRange(20, 80).Draw(t, "steps") {
			if rapid.IntRange(0, 9).Draw(t, "event") == 0 {
				w.release()
			}
			w.step(true)
		}
		w.release()
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
	released  bool // the instance is done with the attempt, and the allocation knows
	endSeen   bool // the provider said that the server ended
	endKnown  bool // the instance knows how it ended
	forgotten bool
}

func (w *world) release() {
	if w.a.Report == ReportFailed {
		w.endKnown = true
	}
	w.released = w.a.Release(w.now) || w.released
}

func (w *world) fault(faults bool, label string) bool {
	return faults && rapid.IntRange(0, 2).Draw(w.t, label) == 0
}

func (w *world) step(faults bool) {
	if w.hasServer && w.fault(faults, "exits") {
		w.exited = true
	}
	if w.hasServer && !w.exited && !w.released && w.fault(faults, "links") {
		w.accepted = true
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
		if !w.released && !w.endSeen {
			w.t.Fatalf("gives a server back that the instance has not let go of: %+v", w.a)
		}
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
		if w.hasServer || !w.endKnown || !w.a.State.Final() {
			w.t.Fatalf("forgotten with a server left (%v) or unknown to the instance (%v): %+v", w.hasServer, !w.endKnown, w.a)
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
	kind := Ambiguous
	if rapid.Bool().Draw(w.t, "clear failure") {
		kind = FailureKind(rapid.IntRange(int(NoCapacity), int(Unauthenticated)).Draw(w.t, "failure"))
	} else {
		w.hasServer, w.exited = rapid.Bool().Draw(w.t, "started"), false
		if rapid.Bool().Draw(w.t, "hangs") && w.now.Before(w.a.Deadline) {
			w.now = w.a.Deadline
		}
	}
	w.a.Refused(&Failure{Kind: kind, Message: "m"}, w.now)
}

func (w *world) look(faults bool) {
	switch {
	case w.fault(faults, "look fails"):
		w.a.LookFailed(&Failure{Kind: Unavailable}, time.Second, w.now)
	case !w.hasServer:
		w.a.LookFailed(&Failure{Kind: NotFound}, time.Second, w.now)
	case w.a.State != Placing && w.fault(faults, "forgotten"):
		w.a.LookFailed(&Failure{Kind: NotFound}, time.Second, w.now)
	case w.exited:
		w.endSeen = true
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
	case w.accepted:
		verdict = Accepted
	case w.released || w.a.Report != ReportAllocated || rapid.Bool().Draw(w.t, "abandons"):
		w.released, verdict = true, Abandoned
	}
	w.endKnown = w.endKnown || w.a.Report == ReportReleased || w.a.Report == ReportExited || (w.a.Report == ReportFailed && verdict == Abandoned)
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
