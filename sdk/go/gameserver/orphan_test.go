package gameserver_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-dev/berth/sdk/go/gameserver"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	"google.golang.org/grpc/codes"
)

var unknown = &linkv1.Error{Code: int32(codes.NotFound), Reason: "INSTANCE_UNKNOWN", Message: "there is no such instance"}

// orphans are the ways in which a server learns that its instance is gone, over this connection or the next.
var orphans = map[string]func(*gateway, *gameserver.Server, *peer) *peer{
	"it links anew": func(g *gateway, _ *gameserver.Server, p *peer) *peer {
		p.cut()
		p = g.accept()
		p.hello()
		p.welcome("2")
		p.fail(p.requestFor(instanceID, 0, "Link"), unknown)
		return p
	},
	"a call is refused": func(g *gateway, s *gameserver.Server, p *peer) *peer {
		call := async(func() error { return s.ConnectPlayers(g.t.Context()) })
		p.fail(p.request("ConnectPlayers"), unknown)
		wantOrphaned(g.t, receive(g.t, call, "the answer"))
		return p
	},
}

func wantOrphaned(t *testing.T, err error) *gameserver.OrphanedError {
	t.Helper()
	var orphaned *gameserver.OrphanedError
	var refused *gameserver.Error
	if !errors.As(err, &orphaned) || !errors.As(err, &refused) || refused.Reason != "INSTANCE_UNKNOWN" || orphaned.InstanceID != instanceID {
		t.Fatalf("got %v, want an *OrphanedError about it", err)
	}
	return orphaned
}

// Berth's store has come back empty: the game hears of it, can go on and keeps its result, and the server does not knock for ever.
func TestOrphaned(t *testing.T) {
	for name, orphan := range orphans {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newBubbleGateway(t)
				s, p := g.connect([]string{"ann"})
				p.notify(1001, 1000, playersAdded("bob"))
				synctest.Wait()
				p = orphan(g, s, p)
				wantAdded(t, s, "bob") // what was there before comes before
				e, ok := receive(t, s.Events(), "an event").(gameserver.Orphaned)
				if !ok || len(e.Instance.GetPlayers()) != 2 {
					t.Fatalf("got %v, want Orphaned with both players", e)
				}
				closedSoon(t, s.Events(), "the end of events")
				closedSoon(t, s.Done(), "the link's end")
				wantOrphaned(t, s.Err())
				if err := s.RemovePlayers(t.Context(), "ann"); !errors.Is(err, gameserver.ErrClosed) || wantOrphaned(t, err).Result != nil {
					t.Errorf("a call fails with %v", err)
				}
				result := data(t, map[string]any{"winner": "ann"})
				if got := wantOrphaned(t, s.End(t.Context(), result)); got.Result.GetJson().GetFields()["winner"].GetStringValue() != "ann" {
					t.Errorf("End's error has the result %v", got.Result)
				}
				closedSoon(t, p.closed, "the connection's end")
				time.Sleep(time.Hour) // in a bubble: long enough for whoever would come back
				if len(g.peers) != 0 {
					t.Error("the server connects again")
				}
			})
		})
	}
}

// The other instances of a server go on when one is orphaned, and that one is not linked again.
func TestOneOfSeveralIsOrphaned(t *testing.T) {
	g := newGateway(t)
	h, p := g.open(assigned(instanceID))
	p.reply(p.requestFor(instanceID, 0, "Link"), startData("ann"))
	s, err := h.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	end := async(func() error { return s.End(t.Context(), nil) })
	p.fail(p.request("EndGameInstance"), unknown)
	wantOrphaned(t, receive(t, end, "End"))
	if _, ok := receive(t, s.Events(), "an event").(gameserver.Orphaned); !ok {
		t.Error("the game was not told")
	}
	closedSoon(t, s.Done(), "the instance's end")
	create := async(func() error { _, err := h.Create(t.Context(), nil); return err })
	f := p.next().GetRequest()
	if f.GetMethod() != "CreateAndLink" {
		t.Fatalf("got %v", f)
	}
	p.fail(f, &linkv1.Error{Code: int32(codes.FailedPrecondition), Reason: "GAME_SERVER_FULL"})
	if err := receive(t, create, "Create"); err == nil {
		t.Error("Create succeeds")
	}
	p.cut()
	p, _ = g.again() // about no instance
	p.welcome("2")
}

// An instance that is over is deleted some day. That is no loss.
func TestAnInstanceThatIsOverIsNoOrphan(t *testing.T) {
	g := newGateway(t)
	s, p := g.connect(nil)
	end := async(func() error { return s.End(t.Context(), nil) })
	p.reply(p.request("EndGameInstance"), new(gameserverv1.EndGameInstanceResponse))
	if err := receive(t, end, "End"); err != nil {
		t.Fatal(err)
	}
	if s.Instance().GetState() != instancev1.GameInstance_STATE_ENDED {
		t.Fatal("it is not over")
	}
	p.cut()
	p = g.accept()
	p.hello()
	p.welcome("2")
	p.fail(p.requestFor(instanceID, 0, "Link"), unknown)
	closedSoon(t, s.Events(), "the end of events")
	closedSoon(t, s.Done(), "the link's end")
	if s.Err() != nil {
		t.Errorf("Err is %v", s.Err())
	}
}
