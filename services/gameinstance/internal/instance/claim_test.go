package instance_test

import (
	"slices"
	"testing"

	"github.com/berth-dev/berth/pkg/errs"
	. "github.com/berth-dev/berth/services/gameinstance/internal/instance"
)

// mine and theirs are the claims of two who have the same code.
var (
	mine   = Claim{AttemptID: attempt1, NonceHash: []byte("mine")}
	theirs = Claim{AttemptID: attempt1, NonceHash: []byte("theirs")}
)

// recorded returns the events of the last command.
func (l *life) recorded() []string {
	var events []string
	for _, h := range l.last.History {
		events = append(events, h.Event)
	}
	return events
}

func (l *life) wantRecorded(want ...string) {
	l.t.Helper()
	if got := l.recorded(); !slices.Equal(got, want) {
		l.t.Errorf("recorded %v, want %v", got, want)
	}
}

// The first nonce has the code, however often it asks and however far its server is. Asking again is no news.
func TestTheFirstNonceHasTheClaimCode(t *testing.T) {
	l := begin(t)
	l.do(mine).wantRecorded("claimed")
	l.is(Allocating)
	for _, next := range []Command{mine, allocated, mine, link, mine, ConnectPlayers{Server: me}, mine} {
		l.do(next)
		if _, again := next.(Claim); again && !l.last.Empty() {
			t.Errorf("asked again in %s, recorded %v", l.inst.State, l.recorded())
		}
	}
	l.is(Running)
	l.do(End{Server: me}).refuses(errs.StateNotAllowed, mine)
}

// Nobody can say which of two is the server, so neither is.
func TestAnotherNonceBeforeTheLinkGivesTheServerUp(t *testing.T) {
	for name, before := range map[string][]Command{"allocating": {mine}, "allocated": {mine, allocated}, "named after the claim": {allocated, mine}} {
		t.Run(name, func(t *testing.T) {
			l := begin(t).do(before...).do(theirs)
			l.wantRecorded("claimed_twice", "terminated")
			l.is(Terminated).outbox("2 " + attempt1)
			if l.inst.Reason != ClaimedTwice || l.inst.Attempts[0].Fate != Abandoned {
				t.Errorf("terminated for %d, attempts %+v", l.inst.Reason, l.inst.Attempts)
			}
			l.refuses(errs.Superseded, link)
			l.refuses(errs.Superseded, mine)
			l.refuses(errs.ClaimUsed, theirs)
		})
	}
	t.Run("another server", func(t *testing.T) {
		l := &life{t: t, now: start}
		l.do(Create{Namespace: "default", ID: id, Placement: Placement{Build: "b"}, Timeouts: all, OnLoss: OnLossReplace}, allocated, mine, theirs)
		l.wantRecorded("claimed_twice", "server_lost", "allocating")
		l.is(Allocating).outbox("2 "+attempt1, "1 "+attempt2)
		l.refuses(errs.Superseded, link)
		l.refuses(errs.Superseded, mine)
		l.refuses(errs.ClaimUsed, theirs)
		l.do(Claim{AttemptID: attempt2, NonceHash: []byte("the next one's")}, LinkServer{Server: Caller{ServerID: server2}, SessionEpoch: 1, GatewayID: "gw"}).is(Linked)
	})
}

// A match that is played is not to be stopped by who finds an old code.
func TestAnotherNonceAfterTheLinkChangesNothing(t *testing.T) {
	l := begin(t).do(mine, allocated, link)
	l.refuses(errs.ClaimUsed, theirs)
	l.do(LoseSession{ServerID: server1, SessionEpoch: 1}).refuses(errs.ClaimUsed, theirs) // also not while its server is away
	l.do(End{Server: me}).refuses(errs.ClaimUsed, theirs)
	if l.inst.Attempts[0].Fate != Accepted {
		t.Errorf("attempts %+v", l.inst.Attempts)
	}
}

func TestAClaimThatIsNotTheInstances(t *testing.T) {
	l := begin(t).do(allocated)
	l.refuses(errs.NotAssigned, Claim{AttemptID: attempt2, NonceHash: []byte("mine")})
	l.do(Terminate{}).refuses(errs.Superseded, mine)

	linked := begin(t).do(allocated, link) // with tokens, or the claim is among the writes that a store has lost
	linked.refuses(errs.ClaimUsed, mine)
	linked.is(Linked)

	late := begin(t).do(mine, allocated)
	late.now = late.now.Add(all.Link)
	late.do(Expire{}).is(Terminated)
	late.refuses(errs.Superseded, mine)
}
