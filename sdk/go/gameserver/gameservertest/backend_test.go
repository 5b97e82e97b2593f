package gameservertest_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/berth-dev/berth/sdk/go/gameserver"
	"github.com/berth-dev/berth/sdk/go/gameserver/gameservertest"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const running = instancev1.GameInstance_STATE_RUNNING

func players(ids ...string) (out []*instancev1.Player) {
	for _, id := range ids {
		out = append(out, &instancev1.Player{Id: id})
	}
	return out
}

func object(t *testing.T, v map[string]any) *typev1.Data {
	t.Helper()
	data, err := gameserver.JSON(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// connect links a server with the SDK; it is closed before the backend is.
func connect(t *testing.T, b *gameservertest.Backend) *gameserver.Server {
	t.Helper()
	s, err := gameserver.Connect(within(t), gameserver.WithBootstrap(b.Bootstrap()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

func event[E gameserver.Event](t *testing.T, s *gameserver.Server) E {
	t.Helper()
	select {
	case e := <-s.Events():
		if e, ok := e.(E); ok {
			return e
		}
		t.Fatalf("got the event %#v", e)
	case <-within(t).Done():
		t.Fatal("no event came")
	}
	panic("unreachable")
}

func succeeds(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func refused(t *testing.T, what string, err error, reason string) {
	t.Helper()
	var e *gameserver.Error
	if !errors.As(err, &e) || e.Reason != reason {
		t.Errorf("%s: %v; want %s", what, err, reason)
	}
}

func TestAWholeMatch(t *testing.T) {
	b := gameservertest.Start(t, gameservertest.Config{Players: players("ann", "bob"), GameData: object(t, map[string]any{"map": "harbour"}), Strict: true})
	s := connect(t, b)
	if in := s.Instance(); len(in.GetPlayers()) != 2 || in.GetGameData().GetJson().GetFields()["map"].GetStringValue() != "harbour" {
		t.Errorf("start data: %v", in)
	}
	succeeds(t, "connect", s.ConnectPlayers(within(t)))
	b.WaitForState(running)
	if p, err := s.VerifyTicket(within(t), b.Ticket("ann")); err != nil || p.GetId() != "ann" {
		t.Errorf("ann's ticket: %v, %v", p, err)
	}
	if _, err := s.VerifyTicket(within(t), b.Ticket("eve")); !errors.Is(err, gameserver.ErrPlayerUnknown) {
		t.Errorf("eve's ticket: %v", err)
	}
	b.AddPlayers(players("eve")...)
	if e := event[gameserver.PlayersAdded](t, s); e.Players[0].GetId() != "eve" || e.Players[0].GetAddTime() == nil {
		t.Errorf("added %v", e)
	}
	if _, err := s.VerifyTicket(within(t), b.Ticket("eve")); err != nil {
		t.Errorf("eve's ticket: %v", err)
	}
	succeeds(t, "merge", s.MergeGameData(within(t), object(t, map[string]any{"round": 1, "map": nil})))
	if got := b.Instance().GetGameData().GetJson().AsMap(); len(got) != 1 || got["round"] != 1.0 {
		t.Errorf("merged: %v", got)
	}
	b.RemovePlayers("bob")
	event[gameserver.PlayersRemoved](t, s)
	b.WaitForAcks()
	succeeds(t, "end", s.End(within(t), object(t, map[string]any{"winner": "ann"})))
	if b.Result().GetJson().GetFields()["winner"].GetStringValue() != "ann" {
		t.Errorf("result %v", b.Result())
	}
	want := []string{"Link", "ConnectPlayers", "UpdateGameData", "EndGameInstance"}
	if got := b.Methods(); !slices.Equal(got, want) {
		t.Errorf("calls %v; want %v", got, want)
	}
}

func TestRefusalsAreBerths(t *testing.T) {
	b := gameservertest.Start(t, gameservertest.Config{Players: players("ann")})
	s := connect(t, b)
	ctx := within(t)
	refused(t, "connect somebody unknown", s.ConnectPlayers(ctx, "eve"), "PLAYER_UNKNOWN")
	refused(t, "add who is there", s.AddPlayers(ctx, players("ann")...), "PLAYER_EXISTS")
	refused(t, "add nobody", s.AddPlayers(ctx), "VALIDATION_FAILED")
	refused(t, "no data", s.UpdateGameData(ctx, nil), "VALIDATION_FAILED")
	refused(t, "an old revision", s.AtRevision(1).UpdateGameData(ctx, object(t, map[string]any{})), "REVISION_MISMATCH")
	succeeds(t, "end", s.End(ctx, nil))
	refused(t, "after the end", s.UpdateGameData(ctx, object(t, map[string]any{})), "STATE_NOT_ALLOWED")
	if in := b.Instance(); len(in.GetPlayers()) != 1 || in.GetPlayers()[0].GetConnectable() {
		t.Errorf("what was refused took effect: %v", in)
	}
}

func TestALostAnswerIsARepeatAndTakesEffectOnce(t *testing.T) {
	for name, lose := range map[string]func(*gameservertest.Backend, string){
		"request": (*gameservertest.Backend).LoseRequest, "answer": (*gameservertest.Backend).LoseAnswer,
	} {
		t.Run(name, func(t *testing.T) {
			b := gameservertest.Start(t, gameservertest.Config{})
			s := connect(t, b)
			lose(b, "AddPlayers")
			succeeds(t, "add", s.AddPlayers(within(t), players("ann")...))
			first, again := b.WaitForCall("AddPlayers"), b.WaitForCall("AddPlayers")
			if first.Answered || !again.Repeated || again.Number != first.Number || again.Reason != "" || again.Connection != 2 {
				t.Errorf("calls %v and %v", first, again)
			}
			if n := len(b.Instance().GetPlayers()); n != 1 {
				t.Errorf("%d players", n)
			}
		})
	}
}

func TestAServerComesBack(t *testing.T) {
	b := gameservertest.Start(t, gameservertest.Config{Heartbeat: 50 * time.Millisecond})
	s := connect(t, b)
	b.Disconnect()
	b.WaitForConnection(2)
	b.AddPlayers(players("ann")...)
	event[gameserver.PlayersAdded](t, s)
	b.Redeliver()
	b.ForgetLink()
	b.Goodbye(linkv1.CloseCode_CLOSE_CODE_GOING_AWAY)
	event[gameserver.Relinked](t, s)
	b.Silence()
	b.WaitForConnection(4)
	b.RefuseConnections(1, gameservertest.Refusal{})
	b.Disconnect()
	b.WaitForConnection(5)
	b.ExpireTokens()
	succeeds(t, "with expired tokens", s.UpdateGameData(within(t), object(t, map[string]any{})))
	if got := b.WaitForCall("UpdateGameData"); got.Reason != "CREDENTIALS_EXPIRED" {
		t.Errorf("the first try was answered %q", got.Reason)
	}
	b.Fail(1, "STORE_UNAVAILABLE", time.Millisecond)
	succeeds(t, "past an outage", s.UpdateGameData(within(t), object(t, map[string]any{})))
	b.SendUnknown()
	b.AddPlayers(players("bob")...)
	event[gameserver.PlayersAdded](t, s)
}

func TestAServerIsSentAway(t *testing.T) {
	for name, c := range map[string]struct {
		act  func(*gameservertest.Backend)
		want func(error) bool
	}{
		"superseded": {func(b *gameservertest.Backend) { b.Supersede("another one") }, func(err error) bool {
			var e *gameserver.Error
			return errors.As(err, &e) && e.Reason == "SUPERSEDED"
		}},
		"revoked": {(*gameservertest.Backend).Revoke, func(err error) bool {
			var e *gameserver.CloseError
			return errors.As(err, &e) && e.Code == linkv1.CloseCode_CLOSE_CODE_REVOKED
		}},
	} {
		t.Run(name, func(t *testing.T) {
			b := gameservertest.Start(t, gameservertest.Config{})
			s := connect(t, b)
			c.act(b)
			select {
			case <-s.Done():
			case <-within(t).Done():
				t.Fatal("the link goes on")
			}
			if !c.want(s.Err()) {
				t.Errorf("it ended with %v", s.Err())
			}
		})
	}
}

func TestTheStoreIsLost(t *testing.T) {
	b := gameservertest.Start(t, gameservertest.Config{})
	s := connect(t, b)
	b.LoseStore()
	refused(t, "end", s.End(within(t), nil), "INSTANCE_UNKNOWN")
}

func TestBackendsEndIt(t *testing.T) {
	b := gameservertest.Start(t, gameservertest.Config{Strict: true})
	s := connect(t, b)
	b.Terminate("enough")
	if e := event[gameserver.Terminated](t, s); e.Message != "enough" || e.Reason != instancev1.GameInstance_REASON_REQUESTED {
		t.Errorf("terminated: %v", e)
	}
	b.WaitForAcks()
	succeeds(t, "close", s.Close(within(t)))
	b.WaitForLeave()
}

func TestSetenvIsWhereConnectLooks(t *testing.T) {
	b := gameservertest.Start(t, gameservertest.Config{})
	b.Setenv(t)
	s, err := gameserver.Connect(within(t))
	succeeds(t, "connect", err)
	if got := b.WaitForCall("Link").Request.(*gameserverv1.LinkRequest).GetInstanceId(); got != b.Bootstrap().Instance {
		t.Errorf("linked %q", got)
	}
	succeeds(t, "unlink", s.Unlink(within(t), "not today"))
	succeeds(t, "close", s.Close(within(t)))
	if state := b.Instance().GetState(); state != instancev1.GameInstance_STATE_PENDING {
		t.Errorf("after Unlink it is %s", state)
	}
}
