package instance_test

import (
	"slices"
	"testing"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/ids"
	. "github.com/berth-dev/berth/services/gameinstance/internal/instance"
)

const pool = "0b6f0f9e-4a54-5a07-8a0e-3f1c2d3e4f50" // a registered server

var (
	byHand   = Caller{ServerID: pool}
	linkPool = LinkServer{Server: byHand, SessionEpoch: 7, GatewayID: "gw"}
)

// placed begins an instance that a registered server is to have, without a build.
func placed(t *testing.T) *life {
	l := &life{t: t, now: start}
	return l.do(Create{Namespace: "default", ID: id, ServerID: pool, Timeouts: all, Players: []Player{{ID: "ann"}}})
}

func TestAnInstanceIsPlacedOnARegisteredServer(t *testing.T) {
	l := placed(t).is(Allocating)
	l.outbox("1 " + attempt1)
	if a := l.inst.Attempt(); !a.Registered || a.ServerID != pool {
		t.Fatalf("attempt %+v", a)
	}
	l.refuses(errs.NotAssigned, link) // the server that a provider would have started
	l.do(ReportAllocated{AttemptID: attempt1, Endpoints: []Endpoint{{Host: "h", Port: 1}}}).is(Allocated)
	l.outbox("3 " + attempt1) // it is told, again and again, until it links
	l.deadlines(DeadlineLink, DeadlineLifetime)
	l.do(CallFailed{Kind: CallAssign, AttemptID: attempt1, Retry: 1}).outbox("3 " + attempt1)
	l.do(linkPool).is(Linked)
	l.outbox()
	if len(l.inst.Endpoints) != 1 {
		t.Errorf("endpoints %v", l.inst.Endpoints)
	}
	l.do(ConnectPlayers{Server: byHand}, End{Server: byHand}).is(Ended).outbox("2 " + attempt1)
	l.do(ReportReleased{AttemptID: attempt1}).outbox()
}

func TestARegisteredServerWithoutRoomIsNoServer(t *testing.T) {
	l := placed(t).do(ReportFailed{AttemptID: attempt1, Message: "full"}).is(Terminated)
	if l.inst.Reason != AllocationFailed {
		t.Errorf("reason %v", l.inst.Reason)
	}
}

func TestAServerMakesItsInstanceInOneStep(t *testing.T) {
	l := &life{t: t, now: start}
	l.do(Create{Namespace: "default", ID: id, ServerID: pool, Link: &linkPool, Timeouts: all}).is(Linked)
	var events []string
	for _, h := range l.last.History {
		events = append(events, h.Event)
	}
	if want := []string{"created", "allocating", "linked"}; !slices.Equal(events, want) {
		t.Errorf("history %v, want %v", events, want)
	}
	l.deadlines(DeadlineConnectPlayers, DeadlineLifetime)
	l.outbox("1 " + attempt1) // makes sure of its room, should that have been lost between the two steps
	l.do(ReportFailed{AttemptID: attempt1, Message: "full"}).is(Linked).outbox()
	l.do(ReportAllocated{AttemptID: attempt1}).outbox()
}

func TestWithoutABuildThereIsNoOtherServer(t *testing.T) {
	l := placed(t).do(ReportAllocated{AttemptID: attempt1}, linkPool, ConnectPlayers{Server: byHand})
	l.refuses(errs.StateNotAllowed, Replace{})
	l.do(LoseSession{ServerID: pool, SessionEpoch: 7})
	l.now = l.now.Add(all.DisconnectGrace)
	l.do(Expire{}).is(Terminated)

	l = placed(t).do(ReportAllocated{AttemptID: attempt1}, linkPool, Unlink{Server: byHand}).is(Pending)
	l.outbox("2 " + attempt1)
	l.refuses(errs.StateNotAllowed, Allocate{})
}

func TestARegisteredServerMayGetAnInstanceAgain(t *testing.T) {
	l := placed(t).do(ReportAllocated{AttemptID: attempt1}, linkPool, Replace{ServerID: pool})
	l.is(Allocating).outbox("2 "+attempt1, "1 "+attempt2)
	l.do(ReportReleased{AttemptID: attempt1}, ReportAllocated{AttemptID: attempt2}).outbox("3 " + attempt2)
	l.do(linkPool).is(Linked)

	// A provider's server takes over where there is a build, and the registered one is refused then.
	l = &life{t: t, now: start}
	l.do(Create{Namespace: "default", ID: id, ServerID: pool, Placement: Placement{Build: "b"}, OnLoss: OnLossReplace, Timeouts: all},
		ReportAllocated{AttemptID: attempt1}, linkPool, Unlink{Server: byHand}).is(Allocating)
	l.outbox("2 "+attempt1, "1 "+attempt2)
	if a := l.inst.Attempt(); a.Registered || a.ServerID != ids.Server(attempt2) {
		t.Errorf("attempt %+v", a)
	}
	l.refuses(errs.Superseded, linkPool)
}
