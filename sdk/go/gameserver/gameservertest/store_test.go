package gameservertest_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/berth-dev/berth/sdk/go/gameserver"
	"github.com/berth-dev/berth/sdk/go/gameserver/gameservertest"
	"github.com/berth-dev/berth/sdk/go/gameserver/gameservertest/wire"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
)

// What the store has lost is made again, in order, before anything newer, whichever way the server hears of the loss.
func TestLostWritesAreMadeAgain(t *testing.T) {
	for name, hear := range map[string]func(*gameservertest.Backend){
		"by an answer": func(*gameservertest.Backend) {},
		"by welcome":   func(b *gameservertest.Backend) { b.Disconnect(); b.WaitForConnection(2) },
	} {
		t.Run(name, func(t *testing.T) {
			b := gameservertest.Start(t, gameservertest.Config{})
			s := connect(t, b)
			ctx := within(t)
			succeeds(t, "kept", s.AddPlayers(ctx, players("ann")...))
			b.WaitForCall("Link")
			disk := b.Checkpoint()
			succeeds(t, "lost", s.AddPlayers(ctx, players("bob")...))
			succeeds(t, "lost, too", s.RemovePlayers(ctx, "ann"))
			b.LoseWrites(disk)
			hear(b)
			succeeds(t, "newer", s.AddPlayers(ctx, players("cid")...))
			b.WaitForCall("Link")
			if got := ids(b.Instance()); got != "bob cid" {
				t.Errorf("in the instance are %s; want bob and cid", got)
			}
			if got := ids(s.Instance()); got != "bob cid" {
				t.Errorf("the server knows %s", got)
			}
			if e := event[gameserver.Relinked](t, s); !e.LostWrites {
				t.Error("the game is not told of the loss")
			}
			for _, c := range b.Calls() { // what was not lost is known, and takes no effect again
				if c.Reason != "" && c.Reason != "STATE_ROLLED_BACK" {
					t.Errorf("%s was refused", c)
				}
			}
		})
	}
}

func ids(in *instancev1.GameInstance) string {
	var all []string
	for _, p := range in.GetPlayers() {
		all = append(all, p.GetId())
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// A store that has lost nothing of what this server knows changes nothing for it.
func TestALossThatDoesNotConcernTheServer(t *testing.T) {
	b := gameservertest.Start(t, gameservertest.Config{})
	s := connect(t, b)
	succeeds(t, "before", s.AddPlayers(within(t), players("ann")...))
	b.LoseWrites(b.Checkpoint())
	succeeds(t, "after", s.AddPlayers(within(t), players("bob")...))
	b.Disconnect()
	b.WaitForConnection(2)
	succeeds(t, "and later", s.AddPlayers(within(t), players("cid")...))
	if got := ids(b.Instance()); got != "ann bob cid" || !slices.Equal(b.Methods(), []string{"Link", "AddPlayers", "AddPlayers", "AddPlayers"}) {
		t.Errorf("%s after %v", got, b.Methods())
	}
}

func TestALinkThatWasLostIsMadeAnew(t *testing.T) {
	b := gameservertest.Start(t, gameservertest.Config{})
	disk := b.Checkpoint()
	s := connect(t, b)
	succeeds(t, "open", s.ConnectPlayers(within(t)))
	b.LoseWrites(disk)
	succeeds(t, "newer", s.AddPlayers(within(t), players("ann")...))
	if in := b.Instance(); in.GetState() != running || ids(in) != "ann" {
		t.Errorf("it is %s with %s", in.GetState(), ids(in))
	}
}

// A server that is told of lost writes and links over the same connection has not understood.
func TestLinkingOverTheConnectionOfTheLossFailsTheTest(t *testing.T) {
	tb := &recorder{T: t}
	b := gameservertest.Start(tb, gameservertest.Config{})
	disk := b.Checkpoint()
	r := dial(t, b, wire.Proto).linked()
	b.LoseWrites(disk)
	if got := r.request(2, "ConnectPlayers", epoch(101)).GetResponse().GetError(); got.GetReason() != "STATE_ROLLED_BACK" {
		t.Errorf("answered %v", got)
	}
	r.request(3, "Link", nil)
	if got := tb.end(); !strings.Contains(got, "over the connection over which STATE_ROLLED_BACK came") {
		t.Errorf("the test failed for %q", got)
	}
}

func TestAnInstanceThatIsNotKnownAnyMoreIsOrphaned(t *testing.T) {
	b := gameservertest.Start(t, gameservertest.Config{Players: players("ann")})
	s := connect(t, b)
	b.LoseStore()
	var orphaned *gameserver.OrphanedError
	if err := s.UpdateGameData(within(t), object(t, map[string]any{})); !errors.As(err, &orphaned) {
		t.Errorf("the call ended with %v", err)
	}
	if e := event[gameserver.Orphaned](t, s); ids(e.Instance) != "ann" {
		t.Errorf("orphaned: %v", e.Instance)
	}
}

// What was not kept one by one reaches the game as the instance as it is now.
func TestAResyncStandsForWhatHappened(t *testing.T) {
	b := gameservertest.Start(t, gameservertest.Config{Players: players("ann"), Strict: true})
	s := connect(t, b)
	b.Resync(func() {
		b.AddPlayers(players("bob")...)
		b.RemovePlayers("ann")
		b.UpdateGameData(object(t, map[string]any{"round": 1}))
	})
	if e := event[gameserver.Relinked](t, s); ids(e.Instance) != "bob" || e.Instance.GetGameData().GetJson().GetFields()["round"].GetNumberValue() != 1 || e.LostWrites {
		t.Errorf("relinked: %v", e)
	}
	b.WaitForAcks()
	if got := b.Methods(); !slices.Equal(got, []string{"Link", "Link"}) {
		t.Errorf("calls %v", got)
	}
	succeeds(t, "end", s.End(within(t), nil))
}

func open(t *testing.T, b *gameservertest.Backend) *gameserver.Host {
	t.Helper()
	h, err := gameserver.Open(within(t), gameserver.WithBootstrap(b.Bootstrap()))
	succeeds(t, "open", err)
	t.Cleanup(func() { _ = h.Close(t.Context()) })
	return h
}

func TestARegisteredServerMakesItsInstance(t *testing.T) {
	for name, lose := range map[string]func(*gameservertest.Backend, string){
		"at once":             func(*gameservertest.Backend, string) {},
		"the request is lost": (*gameservertest.Backend).LoseRequest,
		"the answer is lost":  (*gameservertest.Backend).LoseAnswer,
	} {
		t.Run(name, func(t *testing.T) {
			b := gameservertest.Start(t, gameservertest.Config{Registered: true, Strict: true})
			h := open(t, b)
			lose(b, "CreateAndLink")
			s, err := h.Create(within(t), &gameserverv1.CreateAndLinkRequest{RequestId: "one", Players: players("ann"), GameData: object(t, map[string]any{"map": "harbour"})})
			succeeds(t, "create", err)
			if ids(s.Instance()) != "ann" || s.Instance().GetGameData().GetJson().GetFields()["map"].GetStringValue() != "harbour" || s.Instance().GetId() != b.Instance().GetId() {
				t.Errorf("it has made %v", s.Instance())
			}
			succeeds(t, "connect", s.ConnectPlayers(within(t)))
			b.AddPlayers(players("bob")...)
			event[gameserver.PlayersAdded](t, s)
			b.Disconnect()
			b.RemovePlayers("ann")
			event[gameserver.PlayersRemoved](t, s)
			if again, err := h.Create(within(t), &gameserverv1.CreateAndLinkRequest{RequestId: "one"}); err != nil || again != s {
				t.Errorf("made again: %v, %v", again, err)
			}
			_, err = h.Create(within(t), nil)
			refused(t, "a second one", err, "GAME_SERVER_FULL")
			succeeds(t, "end", s.End(within(t), nil))
			b.WaitForAcks()
		})
	}
}

func TestAServerThatIsNotRegisteredMakesNone(t *testing.T) {
	b := gameservertest.Start(t, gameservertest.Config{})
	h := open(t, b)
	_, err := h.Create(within(t), nil)
	refused(t, "create", err, "GAME_SERVER_UNKNOWN")
}

func TestAnInstanceThatIsNotMadeYetCannotBeActedOn(t *testing.T) {
	tb := &recorder{T: t}
	fatal := make(chan string, 1)
	b := gameservertest.Start(&fatalRecorder{tb, fatal}, gameservertest.Config{Registered: true})
	b.AddPlayers(players("ann")...)
	if got := <-fatal; !strings.Contains(got, "has not made its instance yet") {
		t.Errorf("it failed with %q", got)
	}
	tb.end()
}

func TestARegisteredServerNamesNoInstanceToMakeOne(t *testing.T) {
	tb := &recorder{T: t}
	b := gameservertest.Start(tb, gameservertest.Config{Registered: true})
	r := dial(t, b, wire.JSON).hello()
	r.request(1, "CreateAndLink", func(q *linkv1.Request) { q.InstanceId = "5a0c1a52-2a0e-4a58-9a9e-6c7d3f1b2e4d" })
	if got := tb.end(); !strings.Contains(got, "neither instance_id nor link_epoch") {
		t.Errorf("the test failed for %q", got)
	}
}
