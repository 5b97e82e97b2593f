package allocator

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/berth-dev/berth/services/allocation/internal/placement"
)

// Whatever happens, no server goes back before the instance has let go of it or it has ended; no two providers may have one at a time; the allocation
// does not fail while one may have one; and an allocation that is released in the end leaves nothing at any provider, and its instance knows how it ended.
func TestMachine(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := world{t: t, now: t0, may: make(map[string]bool)}
		w.a = queued(time.Time{})
		if rapid.Bool().Draw(t, "deadline") {
			w.a.Deadline = t0.Add(time.Duration(rapid.IntRange(0, 5000).Draw(t, "ms")) * time.Millisecond)
		}
		for range rapid.IntRange(20, 120).Draw(t, "steps") {
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

// world is a few providers and an instance that may fail at any time.
type world struct {
	t         *rapid.T
	now       time.Time
	a         Allocation
	doubt     bool            // a call to who may have one went without a certain answer: it may yet start one
	may       map[string]bool // who may have a server, as far as an answer or the lack of one says: also one that starts late
	server    string          // who has one
	exited    bool
	ran       bool // the host has said that it runs
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
	w.check()
}

func (w *world) fault(faults bool, label string) bool {
	return faults && rapid.IntRange(0, 2).Draw(w.t, label) == 0
}

// check holds after each step.
func (w *world) check() {
	for p := range w.may {
		switch {
		case len(w.may) > 1:
			w.t.Fatalf("%v may have a server: %+v", w.may, w.a)
		case w.a.Provider != p:
			w.t.Fatalf("%s may have a server, and the allocation does not know: %+v", p, w.a)
		case w.a.State.Final():
			w.t.Fatalf("over, and %s may have a server: %+v", p, w.a)
		}
	}
}

func (w *world) step(faults bool) {
	if w.server != "" && w.fault(faults, "exits") {
		w.exited = true
	}
	if w.doubt && w.server == "" && len(w.may) > 0 && w.fault(faults, "comes late") {
		for p := range w.may {
			w.server, w.exited = p, false
		}
	}
	if w.server != "" && !w.exited && !w.released && w.fault(faults, "links") {
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
		w.giveBack(faults)
	case Tell:
		w.tell(faults)
	case Forget:
		w.forgotten = true
		if w.server != "" || !w.endKnown || !w.a.State.Final() {
			w.t.Fatalf("forgotten with a server left (%v) or unknown to the instance (%v): %+v", w.server, !w.endKnown, w.a)
		}
	}
	w.check()
}

func (w *world) giveBack(faults bool) {
	if !w.released && !w.endSeen {
		w.t.Fatalf("gives a server back that the instance has not let go of: %+v", w.a)
	}
	if w.fault(faults, "give back fails") {
		w.a.GiveBackFailed(&Failure{Kind: Unavailable}, w.now)
		return
	}
	gone := w.exited || w.server == "" || !faults || rapid.Bool().Draw(w.t, "gone")
	if gone {
		w.server, w.doubt = "", false
		clear(w.may)
	}
	w.a.GivenBack(gone, time.Second, w.now)
}

// world's policy: what is tried may change from round to round.
func (w *world) explain(faults bool) placement.Explanation {
	var e placement.Explanation
	for _, provider := range []string{"p", "q", "r"} {
		c := placement.Candidate{Provider: provider, Region: "eu"}
		if w.fault(faults, "drained") {
			c.Exclusion, c.Message = placement.Drained, "it is drained"
		}
		e.Candidates = append(e.Candidates, c)
	}
	return e
}

func (w *world) place(faults bool) {
	if w.released || w.server != "" && w.a.Provider != w.server {
		w.t.Fatalf("asked for a server, released %v, with a server at %q: %+v", w.released, w.server, w.a)
	}
	provider, region := w.a.Provider, w.a.Region
	if provider == "" {
		if w.a.RoundAt.IsZero() {
			w.a.Begin(w.explain(faults), w.now)
		}
		i := w.a.candidate()
		switch {
		case i < 0:
			w.a.RoundOver(w.now)
			return
		case w.fault(faults, "full"):
			w.a.Exclude(i, placement.Full, "full")
			return
		}
		provider, region = w.a.Explanation.Candidates[i].Provider, w.a.Explanation.Candidates[i].Region
	}
	if w.fault(faults, "no tokens") {
		w.a.Postponed("no tokens", w.now)
		return
	}
	w.a.Placed(provider, region, time.Second, w.now)
	w.may[provider] = true
	if w.fault(faults, "the worker is lost") { // and whoever goes on knows no answer
		w.doubt = true
		return
	}
	w.allocate(provider, faults)
}

func (w *world) allocate(provider string, faults bool) {
	if w.server != "" || !w.fault(faults, "allocate fails") { // a repeat finds the server that is there
		if w.server == "" {
			w.server, w.exited = provider, false
		}
		w.a.Answered(0, w.now)
		if w.exited {
			w.endSeen = true
			w.a.Observed(Server{State: ServerExited}, time.Second, w.now)
			return
		}
		w.observe(faults)
		return
	}
	kind := Ambiguous
	if rapid.Bool().Draw(w.t, "clear failure") {
		kind = FailureKind(rapid.IntRange(int(NoCapacity), int(Unauthenticated)).Draw(w.t, "failure"))
		if !w.doubt {
			delete(w.may, provider)
		}
	} else {
		w.doubt = true
		if rapid.Bool().Draw(w.t, "started") {
			w.server, w.exited = provider, false
		}
		if rapid.Bool().Draw(w.t, "hangs") && w.now.Before(w.a.Deadline) {
			w.now = w.a.Deadline
		}
	}
	w.a.Refused(&Failure{Kind: kind, Message: "m"}, 0, w.now)
}

func (w *world) look(faults bool) {
	if w.a.State == Placing && w.server == "" && w.fault(faults, "starts late") {
		w.server, w.exited = w.a.Provider, false
	}
	switch {
	case w.fault(faults, "look fails"):
		w.a.LookFailed(&Failure{Kind: Unavailable}, time.Second, w.now)
	case w.server == "":
		w.a.LookFailed(&Failure{Kind: NotFound}, time.Second, w.now)
		if w.fault(faults, "starts after all") && w.may[w.a.Provider] {
			w.server, w.exited = w.a.Provider, false
		}
	case w.a.State != Placing && w.fault(faults, "forgotten"):
		w.a.LookFailed(&Failure{Kind: NotFound}, time.Second, w.now)
	case w.exited:
		w.endSeen = true
		w.a.Observed(Server{State: ServerExited}, time.Second, w.now)
	default:
		w.observe(faults)
	}
}

// observe has the host say of a server that it comes, that it runs or, as long as it did not say that, that it will not come after all; which may be a lie.
func (w *world) observe(faults bool) {
	said := Server{State: ServerRunning, ExternalID: "x"}
	switch {
	case !w.ran && w.fault(faults, "refuses after all"):
		kind := FailureKind(rapid.IntRange(int(NoCapacity), int(Unauthenticated)).Draw(w.t, "failure"))
		said.State, said.Failure = ServerExited, &Failure{Kind: kind, Message: "m"}
		w.endSeen = w.endSeen || w.a.State > Starting // of one that is linked it is its end
	case !w.ran && w.fault(faults, "comes"):
		said.State = ServerStarting
	default:
		w.ran = true
	}
	if w.fault(faults, "has an address") {
		said.Endpoints = []Endpoint{{Host: "h", Port: uint32(1 + rapid.IntRange(0, 1).Draw(w.t, "port"))}}
	}
	w.a.Observed(said, time.Second, w.now)
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
