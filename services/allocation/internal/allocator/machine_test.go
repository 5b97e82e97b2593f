package allocator

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/berth-dev/berth/services/allocation/internal/placement"
)

const testInstance = "6c1f9a52-6f3e-4c64-9d5c-3f0d6f3f5a10"

var t0 = time.UnixMicro(1_700_000_000_000_000)

func queued(deadline time.Time) Allocation {
	return newAllocation(Wish{ID: testInstance + "-1", Namespace: "default", InstanceID: testInstance, Placement: Placement{Build: "b"}, Deadline: deadline}, t0)
}

// candidates is an explanation of two providers that can be tried, and one that cannot.
func candidates() placement.Explanation {
	return placement.Explanation{Rule: "rule", Candidates: []placement.Candidate{
		{Provider: "p", Region: "r"}, {Provider: "q", Region: "r"}, {Provider: "z", Exclusion: placement.Build, Message: "it does not run build b"},
	}}
}

// chosen begins a round if none is on, and places at the next candidate.
func chosen(a *Allocation) {
	if a.RoundAt.IsZero() {
		a.Begin(candidates(), t0)
	}
	c := a.Explanation.Candidates[a.candidate()]
	a.Placed(c.Provider, c.Region, time.Minute, t0)
}

func placing() Allocation {
	a := queued(time.Time{})
	chosen(&a)
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
		NoCapacity:      {Queued, ReportNone, Place}, // at the next candidate
		RateLimited:     {Queued, ReportNone, Place},
		Unavailable:     {Queued, ReportNone, Place},
		Quota:           {Queued, ReportNone, Place},
		Invalid:         {Queued, ReportNone, Place},
		Unauthenticated: {Queued, ReportNone, Place},
	} {
		a := placing()
		a.Refused(&Failure{Kind: kind, Message: "no such luck"}, time.Second, t0)
		expect(t, a, want.state, want.report, want.action)
		if a.Message != `provider "p": no such luck` {
			t.Errorf("message %q", a.Message)
		}
		if stays := a.Provider == "p"; stays != (want.state == Placing) {
			t.Errorf("%v: at %q", kind, a.Provider)
		}
		if try := a.Explanation.Candidates[0].Tries; len(try) != 1 || try[0].Failure != kind.String() || try[0].Message != "no such luck" || try[0].Took != time.Second {
			t.Errorf("%v: tries %v", kind, try)
		}
	}
}

// What one candidate refuses, the next one is asked; what will not do anywhere fails, and what may yet do waits.
func TestFailover(t *testing.T) {
	for name, test := range map[string]struct {
		kinds  [2]FailureKind
		report Report
		action Action
		says   string
	}{
		"for good":       {[2]FailureKind{Invalid, Quota}, ReportFailed, Tell, `provider "p" in r: m (INVALID); provider "q" in r: m (QUOTA); provider "z": it does not run build b`},
		"for now":        {[2]FailureKind{NoCapacity, Unavailable}, ReportNone, Wait, `provider "p" in r: m (NO_CAPACITY); provider "q" in r: m (UNAVAILABLE)`},
		"one may yet do": {[2]FailureKind{Unauthenticated, NoCapacity}, ReportNone, Wait, `(UNAUTHENTICATED)`},
	} {
		a := queued(time.Time{})
		for _, kind := range test.kinds {
			chosen(&a)
			a.Refused(&Failure{Kind: kind, Message: "m"}, 0, t0)
		}
		if a.candidate() >= 0 {
			t.Fatalf("%s: a third candidate", name)
		}
		a.RoundOver(t0)
		expect(t, a, Queued, test.report, test.action)
		if !strings.Contains(a.Message, test.says) || a.WaitSince.IsZero() != (test.report == ReportFailed) || a.Provider != "" {
			t.Errorf("%s: %+v", name, a)
		}
	}
}

// What refused an allocation for good is not asked again in the next round; what had no room is.
func TestTheNextRound(t *testing.T) {
	a := queued(t0.Add(time.Hour))
	chosen(&a)
	a.Refused(&Failure{Kind: Invalid, Message: "no"}, 0, t0)
	chosen(&a)
	a.Refused(&Failure{Kind: NoCapacity, Message: "full", RetryAfter: time.Minute}, 0, t0)
	a.RoundOver(t0)
	action, at := a.Next(t0)
	if action != Wait || !at.Equal(t0.Add(time.Minute)) {
		t.Fatalf("%v until %v", action, at.Sub(t0))
	}
	a.Begin(candidates(), t0.Add(time.Second))
	if a.candidate() >= 0 {
		t.Error("asked before it wants to be")
	}
	a.RoundOver(t0.Add(time.Second))
	a.Begin(candidates(), at)
	if i := a.candidate(); i != 1 {
		t.Errorf("candidate %d", i)
	}
	a.Expired(t0.Add(time.Hour))
	if want := `no server before the deadline: provider "p" in r: no (INVALID); provider "q" in r: full (NO_CAPACITY); provider "z": it does not run build b`; a.Message != want {
		t.Errorf("message %q", a.Message)
	}
}

func TestTriesAreBounded(t *testing.T) {
	a := queued(time.Time{})
	for n := range 2 * maxTries {
		a.Begin(placement.Explanation{Candidates: candidates().Candidates[:1]}, t0.Add(time.Duration(n)*time.Hour))
		a.Placed("p", "r", time.Minute, t0)
		before := a
		a.Refused(&Failure{Kind: NoCapacity, Message: fmt.Sprint(n)}, 0, t0)
		if before.same(&a) {
			t.Fatal("a change reaches the copy that it is compared with")
		}
		a.RoundOver(t0)
	}
	tries := a.Explanation.Candidates[0].Tries
	if len(tries) != maxTries || tries[maxTries-1].Message != fmt.Sprint(2*maxTries-1) {
		t.Errorf("tries: %v", tries)
	}
}

// A provider that does not say for long whether it has a server does not hold its instance up: that is told, and decides. Looking without finding
// anything does not lead to another provider, where there would be a second server if this one is only late.
func TestAnAnswerThatDoesNotCome(t *testing.T) {
	a := placing()
	a.Refused(&Failure{Kind: Ambiguous, Message: "no answer in time"}, 0, t0)
	expect(t, a, Placing, ReportNone, Look)
	late := t0.Add(time.Minute)
	b := a
	a.LookFailed(&Failure{Kind: Unavailable}, time.Second, t0)
	a.CallAt = t0.Add(time.Hour)
	if action, at := a.Next(t0); action != Wait || !at.Equal(late) {
		t.Errorf("%v until %v", action, at.Sub(t0))
	}
	if action, _ := a.Next(late); action != Expire {
		t.Errorf("%v", action)
	}
	a.Expired(late)
	if action, _ := a.Next(late); a.Report != ReportFailed || a.Failure != "AMBIGUOUS" || action != Tell || a.Message != `provider "p" does not say whether it has a server` {
		t.Errorf("%v: %+v", action, a)
	}
	a.Told(Abandoned, late)
	if a.State != Releasing || a.End != Failed || a.Provider != "p" {
		t.Errorf("%+v", a)
	}

	b.LookFailed(&Failure{Kind: NotFound}, time.Second, t0)
	if b.State != Queued || b.Provider != "p" || !b.GiveUpAt.Equal(late) {
		t.Errorf("%+v", b)
	}
	b.Placed("p", "r", time.Minute, t0.Add(time.Second))
	if !b.GiveUpAt.Equal(late) {
		t.Errorf("asked again, it has until %v", b.GiveUpAt)
	}
	b.LookFailed(&Failure{Kind: NotFound}, time.Second, t0)
	b.Release(t0)
	if b.State != Releasing { // it said that it has nothing, and is made to
		t.Errorf("%+v", b)
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
	chosen(&a)
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
	if !a.Reopen("p", "r", t0) {
		t.Error("not reopened")
	}
	expect(t, a, Placing, ReportNone, Look)

	b := queued(t0)
	b.Expired(t0)
	b.Reopen("p", "r", t0) // told of a failure or not, the instance has the word
	expect(t, b, Placing, ReportFailed, Tell)
	b.Told(Abandoned, t0)
	expect(t, b, Releasing, ReportNone, GiveBack)

	c := queued(t0)
	c.Expired(t0)
	c.Told(Abandoned, t0)
	c.Reopen("p", "r", t0)
	expect(t, c, Releasing, ReportNone, GiveBack)

	for _, d := range []Allocation{placing(), ready(), expired()} {
		if d.Reopen("p", "r", t0) {
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

// What a provider says of a server that lives is there to be read for as long as it says so, stored once; a server that is given back, or was refused, keeps why.
func TestWhatAProviderSaysOfALiveServer(t *testing.T) {
	words := strings.Repeat("x", maxMessage+3)
	t1 := t0.Add(time.Second)
	a := ready()
	a.Told(Accepted, t0)
	a.Observed(Server{State: ServerRunning, Message: words}, time.Second, t1)
	a.Observed(Server{State: ServerRunning, Message: words}, time.Second, t1.Add(time.Hour))
	if a.Message != words[:maxMessage] || !a.UpdateTime.Equal(t1) {
		t.Errorf("%q, %v", a.Message, a.UpdateTime)
	}
	a.Observed(Server{State: ServerRunning}, time.Second, t1)
	if a.Message != "" {
		t.Errorf("it says so no longer: %q", a.Message)
	}
	r := placing()
	r.Observed(Server{State: ServerStarting}, time.Second, t0)
	r.Observed(Server{State: ServerExited, Failure: &Failure{Kind: NoCapacity, Message: "no node has room"}}, time.Second, t0)
	refused := r.Message
	r.Observed(Server{State: ServerRunning, Message: "up"}, time.Second, t0)
	if r.Message != refused || !strings.Contains(refused, "no node has room") {
		t.Errorf("refused: %q, then %q", refused, r.Message)
	}
	a.Told(Abandoned, t1)
	was := a.Message
	a.Observed(Server{State: ServerStopping, Message: "stopping"}, time.Second, t1)
	if a.Message != was {
		t.Errorf("given back: %q", a.Message)
	}
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
