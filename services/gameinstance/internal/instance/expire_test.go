package instance_test

import (
	"strings"
	"testing"
	"time"

	. "github.com/berth-dev/berth/services/gameinstance/internal/instance"
)

var (
	running  = []Command{allocated, link, ConnectPlayers{Server: me}}
	answered = CallAnswered{Kind: CallAllocate, AttemptID: attempt1}
	loseMine = LoseSession{ServerID: server1, SessionEpoch: 1}
)

func TestADeadlineThatPassedUnheardIsPutOffToTheEndOfTheHold(t *testing.T) {
	for name, c := range map[string]struct {
		cmds []Command
		kind DeadlineKind
		then Reason
	}{
		"allocation": {nil, DeadlineAllocation, AllocationTimeout},
		"link":       {[]Command{allocated}, DeadlineLink, LinkTimeout},
		"connect":    {[]Command{allocated, link}, DeadlineConnectPlayers, ConnectTimeout},
		"disconnect": {append(running, loseMine), DeadlineDisconnect, ServerLost},
		"lifetime":   {running, DeadlineLifetime, LifetimeExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			l := begin(t).do(answered).do(c.cmds...)
			state, passed := l.inst.State, l.inst.Deadlines[c.kind]
			if c.kind == DeadlineLifetime {
				l.now = passed
			} else {
				l.now = passed.Add(30 * time.Minute)
			}
			hold, held := l.now.Add(time.Minute), 0
			l.do(Expire{At: l.now, Hold: hold, Held: &held}).is(state)
			if got := l.inst.Deadlines[c.kind]; !got.Equal(hold) || held != 1 || !l.inst.NextDue().Equal(hold) {
				t.Errorf("put off to %s (%d), want %s", got, held, hold)
			}
			if h := l.last.History; len(h) != 1 || h[0].Event != "deadline_held" || h[0].From != state || h[0].To != state ||
				!strings.HasPrefix(h[0].Detail, c.kind.String()+", until "+hold.UTC().Format(time.RFC3339)+": no sweep ran") {
				t.Errorf("history %+v", h)
			}
			// Looking again within the hold changes nothing.
			if l.do(Expire{At: l.now, Hold: hold, Held: &held}).is(state); !l.last.Empty() || held != 0 {
				t.Errorf("held again: %d", held)
			}
			l.now = hold
			if l.do(Expire{At: hold}).is(Terminated); l.inst.Reason != c.then {
				t.Errorf("reason %d, want %d", l.inst.Reason, c.then)
			}
		})
	}
}

func TestAHoldLeavesOtherDeadlinesAlone(t *testing.T) {
	l := begin(t).do(append(running, loseMine)...)
	lifetime, disconnect := l.inst.Deadlines[DeadlineLifetime], l.inst.Deadlines[DeadlineDisconnect]
	// Nothing has passed.
	if l.do(Expire{At: l.now, Hold: l.now.Add(time.Minute)}); !l.last.Empty() || !l.inst.Deadlines[DeadlineDisconnect].Equal(disconnect) {
		t.Error("a deadline that has not passed was moved")
	}
	l.now = disconnect
	if l.do(Expire{At: l.now, Hold: l.now.Add(time.Minute)}); !l.inst.Deadlines[DeadlineLifetime].Equal(lifetime) {
		t.Error("the lifetime was moved with it")
	}
	// A server that comes back within the hold goes on.
	l.do(AttachSession{ServerID: server1, SessionEpoch: 2, GatewayID: "gw", LinkEpoch: l.inst.Link.Epoch}).is(Running).deadlines(DeadlineLifetime)
}

func TestARetentionIsNotHeld(t *testing.T) {
	l := begin(t).do(Terminate{}, CallAnswered{Kind: CallRelease, AttemptID: attempt1})
	l.now = l.now.Add(all.Retention)
	if l.do(Expire{At: l.now, Hold: l.now.Add(time.Minute)}); !l.last.Delete {
		t.Error("an instance that is over was not deleted")
	}
}

// Somebody looks, finds a call of the outbox due, and reads the instance only after an outage.
func TestADeadlineThatPassedAfterTheLookWaitsForTheNext(t *testing.T) {
	l := begin(t).do(append(running, loseMine)...)
	look := l.now
	l.now = l.now.Add(30 * time.Minute)
	if l.do(Expire{At: look}).is(Running); !l.last.Empty() {
		t.Errorf("changed %+v", l.last.History)
	}
	l.do(Expire{At: l.now}).is(Terminated)
}

func TestALossAmongManyHasItsGraceOnceMore(t *testing.T) {
	const limit = 10 * time.Minute
	l := begin(t).do(append(running, loseMine)...)
	lostAt := l.inst.Link.ChangeTime
	held, times := 0, 0
	for l.inst.State == Running {
		if l.now = l.inst.Deadlines[DeadlineDisconnect].Add(-time.Second); l.now.After(lostAt.Add(time.Hour)) {
			t.Fatal("held for ever")
		}
		age := l.now.Add(time.Second).Sub(lostAt)
		l.do(Expire{LossLimit: limit, Held: &held})
		if l.inst.State == Terminated {
			if age < limit {
				t.Errorf("terminated %s after the loss", age)
			}
			break
		}
		times++
		if want := l.now.Add(all.DisconnectGrace); held != 1 || !l.inst.Deadlines[DeadlineDisconnect].Equal(want) {
			t.Errorf("held %d, to %s, want %s", held, l.inst.Deadlines[DeadlineDisconnect], want)
		}
		if h := l.last.History; len(h) != 1 || h[0].Event != "deadline_held" || !strings.Contains(h[0].Detail, "unusually many") {
			t.Errorf("history %+v", h)
		}
	}
	if times != 2 || l.inst.Reason != ServerLost { // at 4 and at 8 minutes
		t.Errorf("held %d times, ended for reason %d", times, l.inst.Reason)
	}
}

func TestOnlyLossesAreHeldForAMassLoss(t *testing.T) {
	for _, cmds := range [][]Command{nil, {allocated}, {allocated, link}} {
		l := begin(t).do(answered).do(cmds...)
		l.now = l.inst.NextDue()
		l.do(Expire{LossLimit: time.Hour}).is(Terminated)
	}
	l := begin(t).do(append(running, loseMine)...)
	l.now = l.inst.Deadlines[DeadlineLifetime]
	if l.do(Expire{LossLimit: 24 * time.Hour}).is(Terminated); l.inst.Reason != LifetimeExceeded {
		t.Errorf("reason %d", l.inst.Reason)
	}
}
