package instance_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/ids"
	. "github.com/berth-dev/berth/services/gameinstance/internal/instance"
)

const id = "5f0c1e52-8f0d-4c53-9a3e-0d9f6f3f7b11"

var (
	start    = time.Unix(1_800_000_000, 0)
	attempt1 = ids.Attempt(id, 1)
	server1  = ids.Server(attempt1)
	me       = Caller{ServerID: server1}
	all      = Timeouts{Allocation: 1 * time.Minute, Link: 2 * time.Minute, ConnectPlayers: 3 * time.Minute, DisconnectGrace: 4 * time.Minute, Lifetime: time.Hour, Retention: 5 * time.Minute}
)

// life applies commands to an instance, one second after the other.
type life struct {
	t    *testing.T
	now  time.Time
	inst *Instance
	last *Change
}

func begin(t *testing.T) *life {
	l := &life{t: t, now: start}
	return l.do(Create{Namespace: "default", ID: id, Placement: Placement{Build: "b"}, Timeouts: all, Players: []Player{{ID: "ann"}, {ID: "bob"}}})
}

func (l *life) try(cmd Command) error {
	l.now = l.now.Add(time.Second)
	c, err := Decide(l.inst, cmd, "test", l.now)
	if err != nil {
		return err
	}
	l.last, l.inst = c, c.After
	return nil
}

func (l *life) do(cmds ...Command) *life {
	l.t.Helper()
	for _, cmd := range cmds {
		if err := l.try(cmd); err != nil {
			l.t.Fatalf("%T: %v", cmd, err)
		}
	}
	return l
}

func (l *life) refuses(want errs.Reason, cmd Command) {
	l.t.Helper()
	before := fmt.Sprintf("%+v", l.inst)
	if err := l.try(cmd); !errs.Is(err, want) {
		l.t.Errorf("%T in %s: %v; want %s", cmd, l.inst.State, err, want)
	}
	if after := fmt.Sprintf("%+v", l.inst); after != before {
		l.t.Errorf("a refused %T changed the instance", cmd)
	}
}

func (l *life) is(s State) *life {
	l.t.Helper()
	if l.inst.State != s {
		l.t.Errorf("state is %s, want %s", l.inst.State, s)
	}
	return l
}

func (l *life) outbox(want ...string) {
	l.t.Helper()
	var got []string
	for _, c := range l.inst.Outbox {
		got = append(got, fmt.Sprintf("%d %s", c.Kind, c.AttemptID))
	}
	if !slices.Equal(got, want) {
		l.t.Errorf("outbox %v, want %v", got, want)
	}
}

func (l *life) deadlines(want ...DeadlineKind) {
	l.t.Helper()
	var got []DeadlineKind
	for k := range l.inst.Deadlines {
		got = append(got, k)
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		l.t.Errorf("deadlines %v, want %v", got, want)
	}
}

var (
	allocated = ReportAllocated{AttemptID: attempt1, Provider: "p", Region: "r", Endpoints: []Endpoint{{Name: "game", Host: "h", Port: 1}}}
	link      = LinkServer{Server: me, SessionEpoch: 1, GatewayID: "gw"}
)

func TestAGoodLife(t *testing.T) {
	l := begin(t).is(Allocating)
	l.outbox("1 " + attempt1)
	l.deadlines(DeadlineAllocation, DeadlineLifetime)
	l.do(CallAnswered{Kind: CallAllocate, AttemptID: attempt1}).outbox()
	l.do(allocated).is(Allocated).deadlines(DeadlineLink, DeadlineLifetime)
	l.do(link).is(Linked).deadlines(DeadlineConnectPlayers, DeadlineLifetime)
	if a := l.inst.Attempt(); a.Fate != Accepted || a.Provider != "p" {
		t.Errorf("attempt: %+v", a)
	}
	l.do(ConnectPlayers{Server: me}).is(Running).deadlines(DeadlineLifetime)
	if !l.inst.Players["ann"].Connectable || l.inst.StartTime.IsZero() {
		t.Error("running without having opened to players")
	}
	l.do(End{Server: me, Result: Data{Set: true, JSON: []byte("{}")}}).is(Ended).deadlines(DeadlineRetention)
	l.outbox("2 " + attempt1)
	l.do(CallAnswered{Kind: CallRelease, AttemptID: attempt1}, ReportReleased{AttemptID: attempt1}).outbox()
	l.now = l.now.Add(all.Retention)
	if l.do(Expire{}); !l.last.Delete {
		t.Error("not deleted after its retention")
	}
}

func TestAServerThatIsFasterThanItsProvider(t *testing.T) {
	l := begin(t).do(LinkServer{Server: me, SessionEpoch: 1, GatewayID: "gw", Endpoints: []Endpoint{{Name: "own"}}}).is(Linked)
	l.do(allocated).is(Linked)
	if got := l.inst.Endpoints; len(got) != 1 || got[0].Name != "own" {
		t.Errorf("a late answer took the place of the server's own endpoints: %v", got)
	}
	if a := l.inst.Attempt(); a.Provider != "p" {
		t.Errorf("a late answer was forgotten: %+v", a)
	}
}

func TestWhoMaySpeak(t *testing.T) {
	stranger := Caller{ServerID: ids.Server("other-1")}
	l := begin(t)
	l.refuses(errs.NotAssigned, LinkServer{Server: stranger})
	l.refuses(errs.StateNotAllowed, UpdateGameData{Server: me}) // not linked yet
	l.do(link)
	for _, cmd := range []Command{
		LinkServer{Server: stranger}, UpdateGameData{Server: stranger}, End{Server: stranger}, ConnectPlayers{Server: stranger},
		AddPlayers{Server: stranger, Players: []Player{{ID: "x"}}}, RemovePlayers{Server: stranger, IDs: []string{"ann"}}, UpdatePlayers{Server: stranger},
	} {
		l.refuses(errs.NotAssigned, cmd)
	}
	l.refuses(errs.StaleLinkEpoch, UpdateGameData{Server: Caller{ServerID: server1, LinkEpoch: l.inst.Link.Epoch - 1}})
	l.do(UpdateGameData{Server: Caller{ServerID: server1, LinkEpoch: l.inst.Link.Epoch}})
}

func TestStatesThatDoNotAllow(t *testing.T) {
	waiting := &life{t: t, now: start}
	waiting.do(Create{Namespace: "default", ID: id, Placement: Placement{Build: "b"}, Timeouts: all, SkipAllocation: true}).is(Pending)
	waiting.refuses(errs.NotAssigned, link)
	waiting.do(Allocate{}).is(Allocating)
	waiting.refuses(errs.StateNotAllowed, Allocate{})

	over := begin(t).do(link, Terminate{Message: "enough"}).is(Terminated)
	for _, cmd := range []Command{link, UpdateGameData{}, AddPlayers{Players: []Player{{ID: "x"}}}, RemovePlayers{IDs: []string{"ann"}}, UpdatePlayers{}, End{Server: me}, ConnectPlayers{Server: me}} {
		over.refuses(errs.StateNotAllowed, cmd)
	}
	over.do(Terminate{Message: "again"})
	if over.inst.Message != "enough" {
		t.Error("a second terminate changed the message")
	}
	over.do(ReportExited{AttemptID: attempt1}, ReportFailed{AttemptID: attempt1}).is(Terminated)
	if over.inst.Reason != Requested {
		t.Error("a late report changed the reason")
	}

	ended := begin(t).do(link, ConnectPlayers{Server: me}, End{Server: me, Result: Data{Set: true, Binary: []byte("1")}})
	ended.do(End{Server: me, Result: Data{Set: true, Binary: []byte("2")}})
	if string(ended.inst.Result.Binary) != "1" {
		t.Error("ending again changed the result")
	}
}

func TestAServerThatWasGivenUpIsTurnedAway(t *testing.T) {
	l := begin(t)
	l.now = l.now.Add(all.Allocation)
	l.do(Expire{}).is(Terminated)
	l.refuses(errs.Superseded, link)
}

func TestDeadlinesEndALifeWithTheirReason(t *testing.T) {
	for name, c := range map[string]struct {
		cmds  []Command
		after time.Duration
		want  Reason
	}{
		"allocation": {nil, all.Allocation, AllocationTimeout},
		"link":       {[]Command{allocated}, all.Link, LinkTimeout},
		"connect":    {[]Command{allocated, link}, all.ConnectPlayers, ConnectTimeout},
		"disconnect": {[]Command{allocated, link, ConnectPlayers{Server: me}, LoseSession{ServerID: server1, SessionEpoch: 1}}, all.DisconnectGrace, ServerLost},
		"gateway":    {[]Command{allocated, link, ConnectPlayers{Server: me}, LoseGateway{GatewayID: "gw"}}, all.DisconnectGrace, ServerLost},
		"lifetime":   {[]Command{allocated, link, ConnectPlayers{Server: me}}, all.Lifetime, LifetimeExceeded},
		"failed":     {[]Command{ReportFailed{AttemptID: attempt1, Message: "none"}}, 0, AllocationFailed},
		"exited":     {[]Command{allocated, ReportExited{AttemptID: attempt1, Message: "exit status 3"}}, 0, ServerExited},
		"exited mid": {[]Command{allocated, link, ConnectPlayers{Server: me}, ReportExited{AttemptID: attempt1}}, 0, ServerExited},
	} {
		t.Run(name, func(t *testing.T) {
			l := begin(t).do(c.cmds...)
			if c.after > 0 {
				before := l.inst.State
				due := l.now.Add(1000 * time.Hour)
				for _, at := range l.inst.Deadlines {
					if at.Before(due) {
						due = at
					}
				}
				if left := due.Sub(l.now); left > c.after || left < c.after-10*time.Second {
					t.Errorf("the next deadline is in %s, want about %s", left, c.after)
				}
				l.now = due.Add(-2 * time.Second)
				l.do(Expire{}).is(before)
				l.do(Expire{})
			}
			l.is(Terminated).outbox("2 " + attempt1)
			if l.inst.Reason != c.want || l.inst.Message == "" {
				t.Errorf("reason %d %q, want %d", l.inst.Reason, l.inst.Message, c.want)
			}
			if h := l.last.History; len(h) != 1 || h[0].Event != "terminated" || h[0].To != Terminated {
				t.Errorf("history %+v", h)
			}
		})
	}
}

func TestAReconnectInTimeForgives(t *testing.T) {
	l := begin(t).do(link, ConnectPlayers{Server: me}, LoseSession{ServerID: server1, SessionEpoch: 1})
	epoch := l.inst.Link.Epoch
	l.refuses(errs.NotAssigned, AttachSession{ServerID: "stranger", LinkEpoch: epoch})
	l.do(AttachSession{ServerID: server1, SessionEpoch: 2, GatewayID: "gw2", LinkEpoch: epoch}).deadlines(DeadlineLifetime)
	if got := l.inst.Link; !got.Connected || got.GatewayID != "gw2" || got.Epoch <= epoch {
		t.Errorf("link %+v", got)
	}
	l.do(LoseSession{ServerID: server1, SessionEpoch: 1}) // the old socket's end is told late
	if !l.inst.Link.Connected {
		t.Error("the end of an old socket cut the newer one")
	}
}

func TestAResumeWhoseAnswerWasLostIsResumedAgain(t *testing.T) {
	l := begin(t).do(link, ConnectPlayers{Server: me})
	epoch := l.inst.Link.Epoch
	l.do(AttachSession{ServerID: server1, SessionEpoch: 2, GatewayID: "gw", LinkEpoch: epoch}, End{Server: me})
	// The server never learned the second epoch, and nobody can link to an instance that is over.
	l.do(AttachSession{ServerID: server1, SessionEpoch: 3, GatewayID: "gw", LinkEpoch: epoch}, End{Server: me}).is(Ended)

	// But one that missed the start data of a newer link has to link again.
	l = begin(t).do(link)
	epoch = l.inst.Link.Epoch
	l.inst.LastOffset = 7
	l.do(LinkServer{Server: me, SessionEpoch: 2, GatewayID: "gw"})
	l.refuses(errs.StaleLinkEpoch, AttachSession{ServerID: server1, SessionEpoch: 3, LinkEpoch: epoch, LastOffset: 6})
}

func TestWhatAnOlderSocketAskedComesTooLate(t *testing.T) {
	l := begin(t).do(link)
	epoch := l.inst.Link.Epoch
	l.do(AttachSession{ServerID: server1, SessionEpoch: 11, GatewayID: "b", LinkEpoch: epoch})
	l.refuses(errs.StaleLinkEpoch, AttachSession{ServerID: server1, SessionEpoch: 10, GatewayID: "a", LinkEpoch: epoch})
	l.refuses(errs.StaleLinkEpoch, LinkServer{Server: me, SessionEpoch: 10, GatewayID: "a"})
	if got := l.inst.Link; got.GatewayID != "b" || got.SessionEpoch != 11 {
		t.Errorf("link %+v", got)
	}
}

func TestEndpointsMayBecomeKnownLater(t *testing.T) {
	early := allocated
	early.Endpoints = nil
	l := begin(t).do(early, link, ConnectPlayers{Server: me}, allocated)
	if len(l.inst.Endpoints) != 1 {
		t.Error("endpoints that were reported later are not there")
	}
	l.do(ReportAllocated{AttemptID: attempt1, Endpoints: []Endpoint{{Name: "other"}}})
	if l.inst.Endpoints[0].Name != "game" {
		t.Error("a repeated report changed the endpoints")
	}
}

// Who waits in vain hears why nobody could be asked for a server.
func TestATimeoutSaysWhyThereWasNoServer(t *testing.T) {
	l := begin(t).do(CallFailed{Kind: CallAllocate, AttemptID: attempt1, Retry: time.Second, Message: "all providers are drained"})
	l.now = l.inst.Deadlines[DeadlineAllocation]
	l.do(Expire{}).is(Terminated)
	if l.inst.Reason != AllocationTimeout || !strings.Contains(l.inst.Message, "all providers are drained") {
		t.Errorf("%v: %s", l.inst.Reason, l.inst.Message)
	}
}

func TestAnInstanceIsNotDeletedBeforeItsServerIsGivenBack(t *testing.T) {
	l := begin(t).do(Terminate{})
	l.now = l.now.Add(all.Retention)
	if l.do(Expire{}); l.last.Delete {
		t.Error("deleted with a call to allocation unanswered")
	}
	l.do(CallAnswered{Kind: CallRelease, AttemptID: attempt1})
	l.now = l.now.Add(time.Minute)
	if l.do(Expire{}); !l.last.Delete {
		t.Error("not deleted")
	}
}

func TestWhatTheServerIsTold(t *testing.T) {
	l := begin(t).do(AddPlayers{Players: []Player{{ID: "early"}}})
	if len(l.last.Events) != 0 {
		t.Error("an event without a link: its snapshot has it")
	}
	l.do(link)
	for _, c := range []struct {
		cmd  Command
		told func(Event) bool
	}{
		{AddPlayers{Players: []Player{{ID: "eve"}}}, func(e Event) bool { return len(e.PlayersAdded) == 1 && e.PlayersAdded[0].ID == "eve" }},
		{UpdatePlayers{Updates: []PlayerUpdate{{ID: "eve", Data: Update{Data: Data{Set: true}}}}}, func(e Event) bool { return len(e.PlayersUpdated) == 1 }},
		{RemovePlayers{IDs: []string{"eve"}}, func(e Event) bool { return slices.Equal(e.PlayersRemoved, []string{"eve"}) }},
		{UpdateGameData{Data: Update{Data: Data{Set: true}}}, func(e Event) bool { return e.GameDataUpdated != nil }},
		{Terminate{Message: "bye"}, func(e Event) bool { return e.Terminated != nil && e.Terminated.Message == "bye" }},
	} {
		if l.do(c.cmd); len(l.last.Events) != 1 || !c.told(l.last.Events[0]) {
			t.Errorf("%T told %+v", c.cmd, l.last.Events)
		}
	}
	own := begin(t).do(link, AddPlayers{Server: me, Players: []Player{{ID: "own"}}})
	if len(own.last.Events) != 0 {
		t.Error("a server is told what it did itself")
	}
}

func TestPlayersThatDoNotFit(t *testing.T) {
	l := begin(t)
	l.refuses(errs.PlayerExists, AddPlayers{Players: []Player{{ID: "new"}, {ID: "ann"}}})
	l.refuses(errs.PlayerUnknown, RemovePlayers{IDs: []string{"ann", "nobody"}})
	l.refuses(errs.PlayerUnknown, UpdatePlayers{Updates: []PlayerUpdate{{ID: "nobody"}}})
	var many []Player
	for n := range MaxPlayers - 1 {
		many = append(many, Player{ID: fmt.Sprint(n)})
	}
	l.refuses(errs.LimitExceeded, AddPlayers{Players: many})
}

func TestAnInstanceHasRoomForSoMuchData(t *testing.T) {
	big := Data{Set: true, Size: MaxBytes / 2}
	l := begin(t).do(link, UpdateGameData{Data: Update{Data: big}}, UpdatePlayers{Updates: []PlayerUpdate{{ID: "ann", Data: Update{Data: big}}}})
	l.refuses(errs.LimitExceeded, UpdatePlayers{Updates: []PlayerUpdate{{ID: "bob", Data: Update{Data: Data{Set: true, Size: 1}}}}})
	l.refuses(errs.LimitExceeded, End{Server: me, Result: Data{Set: true, Size: 1}})
	l.do(RemovePlayers{IDs: []string{"ann"}}, UpdatePlayers{Updates: []PlayerUpdate{{ID: "bob", Data: Update{Data: big}}}}, Terminate{})
}

func TestCallsOverTheLinkNeedItsEpoch(t *testing.T) {
	l := begin(t).do(link)
	l.refuses(errs.StaleLinkEpoch, UpdateGameData{Server: Caller{ServerID: server1, OverLink: true}})
	l.do(UpdateGameData{Server: me}) // another way
}

func TestTimeoutsThatAreOffArmNothing(t *testing.T) {
	l := &life{t: t, now: start}
	l.do(Create{Namespace: "default", ID: id, Placement: Placement{Build: "b"}}, allocated, link).deadlines()
	l.do(LoseSession{ServerID: server1, SessionEpoch: 1}).deadlines()
	l.do(Terminate{}).deadlines()
}

// transitions are the legal changes of state.
var transitions = map[State][]State{
	0:          {Pending, Allocating},
	Pending:    {Allocating, Terminated},
	Allocating: {Allocated, Linked, Terminated},
	Allocated:  {Linked, Terminated},
	Linked:     {Running, Ended, Terminated},
	Running:    {Ended, Terminated},
}

// TestRandomLives runs random commands and checks what must hold after each.
func TestRandomLives(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := start
		c, err := Decide(nil, Create{Namespace: "default", ID: id, Placement: Placement{Build: "b"}, Timeouts: all, SkipAllocation: rapid.Bool().Draw(t, "skip")}, "test", now)
		if err != nil {
			t.Fatal(err)
		}
		inst := c.After
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 200).Draw(t, "seconds")) * time.Second)
			before, epoch, session := inst.State, int64(0), int64(0)
			if inst.Link != nil {
				epoch, session = inst.Link.Epoch, inst.Link.SessionEpoch
			}
			c, err := Decide(inst, randomCommand(t, inst), "test", now)
			if err != nil {
				if errs.ReasonOf(err) == errs.Internal {
					t.Fatal(err)
				}
				continue
			}
			inst = c.After
			if before != inst.State && !slices.Contains(transitions[before], inst.State) {
				t.Fatalf("%s became %s", before, inst.State)
			}
			if inst.Link != nil && inst.Link.Epoch < epoch {
				t.Fatalf("link epoch went back from %d to %d", epoch, inst.Link.Epoch)
			}
			if inst.Link != nil && inst.Link.SessionEpoch < session {
				t.Fatalf("the link went back from socket %d to %d", session, inst.Link.SessionEpoch)
			}
			if inst.State.Final() && (inst.EndTime.IsZero() || inst.Attempt() != nil && inst.Attempt().Fate == Open) {
				t.Fatalf("over, and something is open: %+v", inst)
			}
			accepted := 0
			for _, a := range inst.Attempts {
				if a.Fate == Accepted {
					accepted++
				}
			}
			if accepted > 1 {
				t.Fatalf("%d accepted attempts", accepted)
			}
			if c.Delete {
				return
			}
		}
	})
}

func randomCommand(t *rapid.T, inst *Instance) Command {
	server := Caller{ServerID: rapid.SampledFrom([]string{server1, "stranger"}).Draw(t, "server")}
	session := int64(rapid.IntRange(1, 3).Draw(t, "session"))
	gateway := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "gateway")
	player := rapid.SampledFrom([]string{"x", "y"}).Draw(t, "player")
	epoch := int64(0)
	if inst.Link != nil {
		epoch = inst.Link.Epoch
	}
	return rapid.SampledFrom([]Command{
		Allocate{}, allocated, ReportFailed{AttemptID: attempt1}, ReportExited{AttemptID: attempt1}, ReportReleased{AttemptID: attempt1},
		CallAnswered{Kind: CallAllocate, AttemptID: attempt1}, CallAnswered{Kind: CallRelease, AttemptID: attempt1}, CallFailed{Kind: CallAllocate, AttemptID: attempt1, Retry: time.Second},
		LinkServer{Server: server, SessionEpoch: session, GatewayID: gateway}, AttachSession{ServerID: server.ServerID, SessionEpoch: session, GatewayID: gateway, LinkEpoch: epoch},
		LoseSession{ServerID: server.ServerID, SessionEpoch: session}, LoseGateway{GatewayID: gateway}, ConnectPlayers{Server: server},
		AddPlayers{Players: []Player{{ID: player}}}, RemovePlayers{Server: server, IDs: []string{player}}, UpdatePlayers{Updates: []PlayerUpdate{{ID: player}}},
		UpdateGameData{Server: server}, End{Server: server}, Terminate{}, Expire{},
	}).Draw(t, "command")
}
