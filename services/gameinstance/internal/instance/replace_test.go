package instance_test

import (
	"testing"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/ids"
	. "github.com/berth-dev/berth/services/gameinstance/internal/instance"
)

var (
	attempt2 = ids.Attempt(id, 2)
	server2  = ids.Server(attempt2)
)

// replacing begins an instance that is to get another server when it loses one, and runs it.
func replacing(t *testing.T) *life {
	l := &life{t: t, now: start}
	l.do(Create{Namespace: "default", ID: id, Placement: Placement{Build: "b"}, Timeouts: all, OnLoss: OnLossReplace, Players: []Player{{ID: "ann"}, {ID: "bob"}}})
	return l.do(CallAnswered{Kind: CallAllocate, AttemptID: attempt1}, allocated, link, ConnectPlayers{Server: me},
		UpdatePlayers{Server: me, Updates: []PlayerUpdate{{ID: "ann", Presence: Present}}}, UpdateGameData{Server: me, Data: Update{Data: jsonData(`{"round":3}`)}})
}

func (l *life) wantsAnother(t *testing.T) {
	t.Helper()
	l.is(Allocating).outbox("2 "+attempt1, "1 "+attempt2)
	l.deadlines(DeadlineAllocation, DeadlineLifetime)
	i := l.inst
	if i.Link != nil || len(i.Endpoints) != 0 || len(i.Attempts) != 2 || i.Attempts[0].Fate != Abandoned || i.Attempts[1].Fate != Open {
		t.Errorf("link %v, endpoints %v, attempts %+v", i.Link, i.Endpoints, i.Attempts)
	}
	if p := i.Players["ann"]; len(i.Players) != 2 || p.Connectable || p.Presence != PresenceUnknown || string(i.GameData.JSON) != `{"round":3}` {
		t.Errorf("players %+v and data %s should be kept, and closed", i.Players, i.GameData.JSON)
	}
	l.refuses(errs.Superseded, UpdateGameData{Server: me})
	l.refuses(errs.Superseded, link)
	l.refuses(errs.Superseded, AttachSession{ServerID: server1, SessionEpoch: 9})
}

func TestALostServerIsReplaced(t *testing.T) {
	for name, lose := range map[string]func(l *life){
		"exited": func(l *life) { l.do(ReportExited{AttemptID: attempt1, Message: "exit status 1"}) },
		"away": func(l *life) {
			l.do(LoseSession{ServerID: server1, SessionEpoch: 1})
			l.now = l.now.Add(all.DisconnectGrace)
			l.do(Expire{})
		},
		"replaced": func(l *life) { l.do(Replace{Message: "bad host"}) },
		"unlinked": func(l *life) { l.do(Unlink{Server: me, Message: "done here"}) },
	} {
		t.Run(name, func(t *testing.T) {
			l := replacing(t)
			lose(l)
			l.wantsAnother(t)
			told := len(l.last.Events) == 1 && l.last.Events[0].Superseded != nil
			if told == (name == "unlinked") { // who unlinks knows
				t.Errorf("told %+v", l.last.Events)
			}
			// The next server takes over where the last one was, and news of the last one change nothing.
			next := Caller{ServerID: server2}
			l.do(ReportReleased{AttemptID: attempt1}, ReportExited{AttemptID: attempt1}, LoseSession{ServerID: server1, SessionEpoch: 1})
			l.do(LinkServer{Server: next, SessionEpoch: 1, GatewayID: "gw"}, ConnectPlayers{Server: next}).is(Running)
			l.do(End{Server: next}).is(Ended)
		})
	}
}

func TestAnAttemptThatHangsIsMadeAnew(t *testing.T) {
	l := &life{t: t, now: start}
	hangs := ReportFailed{AttemptID: attempt1, Message: "provider p does not answer", Elsewhere: true, Provider: "p", Region: "eu", Failure: "AMBIGUOUS"}
	l.do(Create{Namespace: "default", ID: id, Placement: Placement{Build: "b"}, Timeouts: all}, hangs).is(Allocating).outbox("2 "+attempt1, "1 "+attempt2)
	if a := l.inst.Attempts; len(a) != 2 || a[0].Fate != Abandoned || a[1].Fate != Open {
		t.Errorf("attempts %+v", a)
	}
	if a := l.inst.Attempts[0]; a.Provider != "p" || a.Region != "eu" || a.Failure != "AMBIGUOUS" || a.Message != "provider p does not answer" {
		t.Errorf("it failed as %+v", a)
	}
	l.do(hangs) // told twice
	if len(l.inst.Attempts) != 2 {
		t.Errorf("attempts %+v", l.inst.Attempts)
	}
	for n := 2; n <= ids.MaxAttempts; n++ {
		l.do(ReportFailed{AttemptID: ids.Attempt(id, n), Elsewhere: true})
	}
	l.is(Terminated)
}

func TestAServerIsMovedFrom(t *testing.T) {
	l := replacing(t)
	move := Move{AttemptID: attempt1, Message: "provider drained"}
	l.do(move)
	l.wantsAnother(t)
	l.do(move) // it is not where the instance is any more
	if len(l.inst.Attempts) != 2 || l.inst.Attempts[1].Fate != Open {
		t.Errorf("a repeat changed the instance: attempts %+v", l.inst.Attempts)
	}
	l.do(Terminate{}, Move{AttemptID: attempt2}).is(Terminated)
}

func TestAServerThatNeverLinksIsReplaced(t *testing.T) {
	l := &life{t: t, now: start}
	l.do(Create{Namespace: "default", ID: id, Placement: Placement{Build: "b"}, Timeouts: all, OnLoss: OnLossReplace}, allocated)
	l.now = l.now.Add(all.Link)
	l.do(Expire{}).is(Allocating)
	if len(l.inst.Attempts) != 2 {
		t.Errorf("attempts %+v", l.inst.Attempts)
	}
}

func TestAnInstanceWearsOutSoManyServers(t *testing.T) {
	l := &life{t: t, now: start}
	l.do(Create{Namespace: "default", ID: id, Placement: Placement{Build: "b"}, Timeouts: all, OnLoss: OnLossReplace})
	for n := 1; n < ids.MaxAttempts; n++ {
		l.do(ReportExited{AttemptID: ids.Attempt(id, n)}).is(Allocating)
	}
	l.refuses(errs.LimitExceeded, Replace{})
	l.do(ReportExited{AttemptID: ids.Attempt(id, ids.MaxAttempts)}).is(Terminated)
	if l.inst.Reason != ServerExited {
		t.Errorf("reason %d", l.inst.Reason)
	}
}

func TestUnlinkWaitsForSomebodyToAskAgain(t *testing.T) {
	l := begin(t)
	l.refuses(errs.StateNotAllowed, Unlink{Server: me})
	l.do(link, Unlink{Server: me}).is(Pending).deadlines(DeadlineLifetime)
	l.refuses(errs.StateNotAllowed, Replace{}) // there is none to replace
	l.do(Allocate{}).is(Allocating)
	if len(l.inst.Attempts) != 2 {
		t.Errorf("attempts %+v", l.inst.Attempts)
	}
}

// A store that lost its last writes must not hand out what was handed out before, and must not take the server's word for a link that it does not know.
func TestAServerThatKnowsMoreThanTheStore(t *testing.T) {
	for name, hello := range map[string]func(i *Instance) AttachSession{
		"link": func(i *Instance) AttachSession {
			return AttachSession{LinkEpoch: i.LastLinkEpoch + 5, LastOffset: i.LastOffset}
		},
		"offset": func(i *Instance) AttachSession {
			return AttachSession{LinkEpoch: i.LastLinkEpoch, LastOffset: i.LastOffset + 5}
		},
		"revision": func(i *Instance) AttachSession {
			return AttachSession{LinkEpoch: i.LastLinkEpoch, LastOffset: i.LastOffset, Revision: i.Revision + 5}
		},
		"request": func(i *Instance) AttachSession {
			return AttachSession{LinkEpoch: i.LastLinkEpoch, LastOffset: i.LastOffset, Session: "s", LastRequest: 8}
		},
		"request of a session that is not known": func(i *Instance) AttachSession {
			return AttachSession{LinkEpoch: i.LastLinkEpoch, LastOffset: i.LastOffset, Session: "other", LastRequest: 1}
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := begin(t).do(link, ConnectPlayers{Server: me})
			l.inst.LastSession, l.inst.LastRequest = "s", 7
			cmd := hello(l.inst)
			cmd.ServerID, cmd.SessionEpoch, cmd.GatewayID = server1, 2, "gw"
			l.refuses(errs.StateRolledBack, UpdateGameData{Server: Caller{ServerID: server1, LinkEpoch: l.inst.LastLinkEpoch + 1, OverLink: true}})
			l.refuses(errs.StateRolledBack, UpdateGameData{Server: Caller{ServerID: server1, LinkEpoch: l.inst.LastLinkEpoch, OverLink: true, Session: "s", LastRequest: 8}})
			l.do(UpdateGameData{Server: Caller{ServerID: server1, LinkEpoch: l.inst.LastLinkEpoch, OverLink: true, Session: "s", LastRequest: 7}})
			l.do(cmd)
			i := l.inst
			if i.Link.SessionEpoch != 1 || l.last.RevisionFloor != cmd.Revision || i.LastOffset < cmd.LastOffset || i.LastLinkEpoch < cmd.LinkEpoch {
				t.Errorf("attached, or a number may be used again: link %+v, floor %d, offset %d, link epoch %d", i.Link, l.last.RevisionFloor, i.LastOffset, i.LastLinkEpoch)
			}
			if h := l.last.History; len(h) != 1 || h[0].Event != "state_rolled_back" {
				t.Errorf("history %+v", h)
			}
			i.Revision, cmd.LastRequest = cmd.Revision, 0
			l.refuses(errs.StaleLinkEpoch, cmd) // said again, it is told to link
			l.do(LinkServer{Server: me, SessionEpoch: 2, GatewayID: "gw"})
			if got := l.inst.Link.Epoch; got <= cmd.LinkEpoch {
				t.Errorf("link epoch %d after one of %d", got, cmd.LinkEpoch)
			}
		})
	}
}

func TestTheTableHasWhatHappens(t *testing.T) {
	reached := map[State]bool{}
	for _, tr := range Table() {
		if tr.From.Final() || tr.Why == "" || tr.Event == "" {
			t.Errorf("transition %+v", tr)
		}
		reached[tr.To] = true
	}
	for s := Pending; s <= Terminated; s++ {
		if !reached[s] {
			t.Errorf("no way leads to %s", s)
		}
	}
}
