package gameserver_test

import (
	"errors"
	"testing"

	"github.com/berth-dev/berth/sdk/go/gameserver"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	"google.golang.org/grpc/codes"
)

// An instance that was taken away before anybody accepted it is not accepted.
func TestAnInstanceThatIsOverBeforeAccept(t *testing.T) {
	g := newGateway(t)
	h, p := g.open(assigned("a"))
	p.reply(p.requestFor("a", 0, "Link"), startOf("a", 1))
	p.notifyOf("a", 11, 10, superseded("moved"))
	p.assign("b")
	p.reply(p.requestFor("b", 0, "Link"), startOf("b", 2))
	if s := accept(t, h); s.Instance().GetId() != "b" {
		t.Errorf("accepted %v", s.Instance())
	}
}

// One of several instances is over: that is no end for the others, nor for the connection.
func TestTheEndOfOneInstance(t *testing.T) {
	terminated := &gameserverv1.InstanceEvent{Event: &gameserverv1.InstanceEvent_Terminated{Terminated: &gameserverv1.Terminated{Message: "enough"}}}
	for name, tc := range map[string]struct {
		end       func(p *peer, a *gameserver.Server)
		wantError string
		wantEvent any
	}{
		"superseded": {
			func(p *peer, _ *gameserver.Server) { p.notifyOf("a", 11, 10, superseded("moved")) },
			"SUPERSEDED", gameserver.Superseded{Message: "moved"},
		},
		"superseded as an answer": {
			func(p *peer, a *gameserver.Server) {
				async(func() error { return a.ConnectPlayers(t.Context()) })
				p.fail(p.requestFor("a", 1, "ConnectPlayers"), &linkv1.Error{Code: int32(codes.FailedPrecondition), Reason: "SUPERSEDED"})
			},
			"SUPERSEDED", nil,
		},
		"terminated": {
			func(p *peer, _ *gameserver.Server) { p.notifyOf("a", 11, 10, terminated) }, "", gameserver.Terminated{Message: "enough"},
		},
		"unlinked": {
			func(p *peer, a *gameserver.Server) {
				async(func() error { return a.Unlink(t.Context(), "too hot") })
				p.reply(p.requestFor("a", 1, "UnlinkGameInstance"), &gameserverv1.UnlinkGameInstanceResponse{Revision: 10})
			},
			"", nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGateway(t)
			h, p, s := g.host("a", "b")
			a, b := s[0], s[1]
			tc.end(p, a)
			closedSoon(t, a.Done(), "the end of a")
			var refused *gameserver.Error
			if errors.As(a.Err(), &refused); refused != nil && refused.Reason != tc.wantError || (a.Err() == nil) != (tc.wantError == "") {
				t.Errorf("Err is %v", a.Err())
			}
			if err := a.ConnectPlayers(t.Context()); !errors.Is(err, gameserver.ErrClosed) {
				t.Errorf("a call fails with %v, want ErrClosed", err)
			}
			if tc.wantEvent != nil {
				if e := receive(t, a.Events(), "an event"); e != tc.wantEvent {
					t.Errorf("got %v", e)
				}
			}
			closedSoon(t, a.Events(), "the end of events")
			if name == "terminated" {
				p.wantAckOf("a", 11)
			}
			p.works(b, 2, 10)

			// It can come back, as an instance that is linked anew.
			p.assign("a")
			p.reply(p.requestFor("a", 0, "Link"), startOf("a", 9))
			anew := accept(t, h)
			if anew == a {
				t.Error("accepted the server that is over")
			}
			p.works(anew, 9, 100)
			p.cut()
			g.again("a", "b")
			if h.Err() != nil {
				t.Errorf("the host is over: %v", h.Err())
			}
		})
	}
}

// An Unlink whose answer was lost succeeds when Berth refuses the server.
func TestUnlinkOfOneInstanceWhoseAnswerWasLost(t *testing.T) {
	for _, reason := range []string{"SUPERSEDED", "NOT_ASSIGNED"} {
		g := newGateway(t)
		_, p, s := g.host("a", "b")
		call := async(func() error { return s[0].Unlink(t.Context(), "") })
		p.requestFor("a", 1, "UnlinkGameInstance")
		p.cut()
		p, _ = g.again("a", "b")
		p.welcome("2", goesOn("b", 2))
		p.fail(p.requestFor("a", 0, "Link"), &linkv1.Error{Code: int32(codes.PermissionDenied), Reason: reason})
		if err := receive(t, call, "the call's end"); err != nil {
			t.Errorf("Unlink: %v", err)
		}
		if s[0].Err() != nil {
			t.Errorf("Err is %v", s[0].Err())
		}
		p.works(s[1], 2, 10)
	}
}

// A game that does not read the events of one instance has the others go on, and loses none.
func TestUnreadEventsHoldUpNobodyElse(t *testing.T) {
	const room, all = 1024, 1100
	g := newGateway(t)
	_, p, s := g.host("a", "b")
	for i := int64(1); i <= all; i++ {
		p.notifyOf("a", 10+i, 10+i-1, playersAdded("x"))
	}
	p.works(s[1], 2, 10)
	p.notifyOf("b", 21, 20, playersAdded("bob"))
	receive(t, s[1].Events(), "an event")
	p.wantAckOf("b", 21)
	p.works(s[0], 1, 10) // a's own calls go on, too
	for range room {
		receive(t, s[0].Events(), "an event")
	}
	p, said := g.again("a", "b")
	if at := said["a"].GetLastOffset(); at != 10+room {
		t.Fatalf("resumes after %d, want %d", at, 10+room)
	}
	p.welcome("2", goesOn("a", 1), goesOn("b", 2))
	for i := int64(10 + room + 1); i <= 10+all; i++ {
		p.notifyOf("a", i, i-1, playersAdded("x"))
	}
	for range all - room {
		receive(t, s[0].Events(), "an event")
	}
}

func TestCloseOfOneInstance(t *testing.T) {
	g := newGateway(t)
	h, p, s := g.host("a", "b")
	a, b := s[0], s[1]
	call := async(func() error { return a.ConnectPlayers(t.Context()) })
	open := p.requestFor("a", 1, "ConnectPlayers")
	p.notifyOf("a", 11, 10, playersAdded("ann")) // nobody reads it
	p.works(b, 2, 9)                             // now it has come
	if err := a.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := receive(t, call, "the call's end"); !errors.Is(err, gameserver.ErrClosed) {
		t.Errorf("the call failed with %v, want ErrClosed", err)
	}
	closedSoon(t, a.Done(), "Done")
	closedSoon(t, a.Events(), "the end of events")
	if a.Err() != nil || a.Close(t.Context()) != nil {
		t.Errorf("Err is %v after Close", a.Err())
	}
	p.fail(open, &linkv1.Error{Code: int32(codes.FailedPrecondition), Reason: "STALE_LINK_EPOCH"}) // nobody cares
	p.notifyOf("a", 15, 14, playersAdded("bob"))                                                   // nor for the gap
	p.works(b, 2, 10)

	// Berth does not know that it was let go, and assigns it again when its link is lost.
	p.cut()
	p, _ = g.again("b")
	p.welcome("2", goesOn("b", 2), assigned("a"))
	p.reply(p.requestFor("a", 0, "Link"), startOf("a", 5))
	p.works(accept(t, h), 5, 10)
	p.works(b, 2, 11)
}

func TestCloseOfTheHost(t *testing.T) {
	g := newGateway(t)
	h, p, s := g.host("a", "b")
	accepting := async(func() error { _, err := h.Accept(t.Context()); return err })
	call := async(func() error { return s[0].ConnectPlayers(t.Context()) })
	p.requestFor("a", 1, "ConnectPlayers")
	p.assign("c")
	p.reply(p.requestFor("c", 0, "Link"), startOf("c", 3)) // nobody has this one yet, or the waiting Accept
	create := async(func() error { _, err := h.Create(t.Context(), nil); return err })
	p.requestFor("", 0, "CreateAndLink")
	if err := h.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	closedSoon(t, p.closed, "the connection's end")
	closedSoon(t, h.Done(), "Done")
	for _, s := range s {
		closedSoon(t, s.Done(), "Done")
		closedSoon(t, s.Events(), "the end of events")
		if s.Err() != nil || s.Close(t.Context()) != nil {
			t.Errorf("Err is %v after Close", s.Err())
		}
	}
	for name, c := range map[string]<-chan error{"call": call, "Create": create} {
		if err := receive(t, c, "the call's end"); !errors.Is(err, gameserver.ErrClosed) {
			t.Errorf("%s failed with %v, want ErrClosed", name, err)
		}
	}
	if err := receive(t, accepting, "Accept's end"); err != nil && !errors.Is(err, gameserver.ErrClosed) {
		t.Errorf("Accept failed with %v", err)
	}
	if _, err := h.Accept(t.Context()); !errors.Is(err, gameserver.ErrClosed) {
		t.Errorf("Accept failed with %v, want ErrClosed", err)
	}
	if _, err := h.Create(t.Context(), nil); !errors.Is(err, gameserver.ErrClosed) {
		t.Errorf("Create failed with %v, want ErrClosed", err)
	}
	if h.Err() != nil || h.Close(t.Context()) != nil {
		t.Errorf("Err is %v after Close", h.Err())
	}
}

// What Berth says of the connection as a whole ends everything.
func TestAFinalEndOfTheHost(t *testing.T) {
	for name, end := range map[string]func(*gateway, *peer){
		"close code": func(_ *gateway, p *peer) { p.bye(linkv1.CloseCode_CLOSE_CODE_CREDENTIALS_IN_USE, true) },
		"refused upgrade": func(g *gateway, p *peer) {
			g.refusal.Store(&refusal{status: 401, body: `{"reason":"CREDENTIALS_EXPIRED","message":"too late"}`})
			p.cut()
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGateway(t)
			h, p, s := g.host("a", "b")
			accepting := async(func() error { _, err := h.Accept(t.Context()); return err })
			end(g, p)
			err := receive(t, accepting, "Accept's end")
			if !errors.Is(err, gameserver.ErrClosed) || !errors.Is(err, h.Err()) || h.Err() == nil {
				t.Errorf("Accept failed with %v, want ErrClosed because of %v", err, h.Err())
			}
			closedSoon(t, h.Done(), "Done")
			for _, s := range s {
				closedSoon(t, s.Done(), "Done")
				if !errors.Is(s.Err(), h.Err()) {
					t.Errorf("Err is %v, want %v", s.Err(), h.Err())
				}
			}
		})
	}
}
