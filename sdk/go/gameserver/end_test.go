package gameserver_test

import (
	"errors"
	"testing"

	"github.com/berth-dev/berth/sdk/go/gameserver"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	"github.com/coder/websocket"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

// wantSuperseded waits for the end of a link whose server must not come back.
func wantSuperseded(t *testing.T, g *gateway, s *gameserver.Server) {
	t.Helper()
	closedSoon(t, s.Done(), "the link's end")
	var refused *gameserver.Error
	if !errors.As(s.Err(), &refused) || refused.Reason != "SUPERSEDED" || refused.Message != "moved" {
		t.Errorf("Err is %v", s.Err())
	}
	if err := s.ConnectPlayers(t.Context()); !errors.Is(err, gameserver.ErrClosed) {
		t.Errorf("a call fails with %v, want ErrClosed", err)
	}
	if len(g.peers) > 0 {
		t.Error("the server connected again")
	}
}

// An instance that was taken from its server is none of the server's business any more, whatever it has missed before.
func TestSupersededEndsTheLink(t *testing.T) {
	for name, previous := range map[string]int64{"in its place": 1000, "after a gap": 1001} {
		t.Run(name, func(t *testing.T) {
			g := newGateway(t)
			s, p := g.connect(nil)
			p.notify(1002, previous, superseded("moved"))
			closedSoon(t, p.closed, "the connection's end")
			if p.status != websocket.StatusNormalClosure {
				t.Errorf("closed with %v", p.status)
			}
			wantSuperseded(t, g, s)
			if e, ok := receive(t, s.Events(), "an event").(gameserver.Superseded); !ok || e.Message != "moved" {
				t.Errorf("got %v", e)
			}
			closedSoon(t, s.Events(), "the end of events")
		})
	}
}

func TestSupersededAsAnAnswerEndsTheLink(t *testing.T) {
	g := newGateway(t)
	s, p := g.connect(nil)
	call := async(func() error { return s.ConnectPlayers(t.Context()) })
	p.fail(p.request("ConnectPlayers"), &linkv1.Error{Code: int32(codes.FailedPrecondition), Reason: "SUPERSEDED", Message: "moved"})
	var refused *gameserver.Error
	if err := receive(t, call, "the refusal"); !errors.As(err, &refused) || refused.Reason != "SUPERSEDED" {
		t.Errorf("got %v", err)
	}
	closedSoon(t, p.closed, "the connection's end")
	wantSuperseded(t, g, s)
}

func TestSupersededWhileDisconnectedIsFinal(t *testing.T) {
	g := newGateway(t)
	s, p := g.connect(nil)
	p.cut()
	p = g.accept()
	p.hello()
	p.welcome("2") // without the instance
	p.fail(p.request("Link"), &linkv1.Error{Code: int32(codes.FailedPrecondition), Reason: "SUPERSEDED", Message: "moved"})
	wantSuperseded(t, g, s)

	s, p = g.connect(nil)
	p.cut()
	p = g.accept()
	p.hello()
	p.bye(linkv1.CloseCode_CLOSE_CODE_SUPERSEDED, true)
	closedSoon(t, s.Done(), "the link's end")
	var closed *gameserver.CloseError
	if !errors.As(s.Err(), &closed) || closed.Code != linkv1.CloseCode_CLOSE_CODE_SUPERSEDED || len(g.peers) > 0 {
		t.Errorf("Err is %v", s.Err())
	}
}

func TestUnlinkEndsTheLink(t *testing.T) {
	g := newGateway(t)
	s, p := g.connect(nil)
	call := async(func() error { return s.Unlink(t.Context(), "too hot") })
	r := p.request("UnlinkGameInstance")
	var req gameserverv1.UnlinkGameInstanceRequest
	if err := proto.Unmarshal(r.GetPayload(), &req); err != nil || req.GetMessage() != "too hot" {
		t.Errorf("sent %v (%v)", &req, err)
	}
	p.reply(r, &gameserverv1.UnlinkGameInstanceResponse{Revision: 41})
	if err := receive(t, call, "the answer"); err != nil {
		t.Fatal(err)
	}
	closedSoon(t, p.closed, "the connection's end")
	closedSoon(t, s.Done(), "the link's end")
	if s.Err() != nil || p.status != websocket.StatusNormalClosure {
		t.Errorf("Err is %v; closed with %v", s.Err(), p.status)
	}
	closedSoon(t, s.Events(), "the end of events")
	if err := s.Unlink(t.Context(), "again"); err != nil {
		t.Errorf("once more: %v", err)
	}
}

func TestUnlinkIsRefused(t *testing.T) {
	g := newGateway(t)
	s, p := g.connect(nil)
	call := async(func() error { return s.Unlink(t.Context(), "") })
	p.fail(p.request("UnlinkGameInstance"), &linkv1.Error{Code: int32(codes.FailedPrecondition), Reason: "STATE_NOT_ALLOWED"})
	var refused *gameserver.Error
	if err := receive(t, call, "the refusal"); !errors.As(err, &refused) || refused.Reason != "STATE_NOT_ALLOWED" {
		t.Errorf("got %v", err)
	}
	call = async(func() error { return s.ConnectPlayers(t.Context()) }) // the link goes on
	p.reply(p.request("ConnectPlayers"), new(gameserverv1.ConnectPlayersResponse))
	if err := receive(t, call, "the answer"); err != nil {
		t.Error(err)
	}
	p.bye(linkv1.CloseCode_CLOSE_CODE_SUPERSEDED, true) // not because of that Unlink
	closedSoon(t, s.Done(), "the link's end")
	if s.Err() == nil || !errors.Is(s.Unlink(t.Context(), ""), gameserver.ErrClosed) {
		t.Errorf("Err is %v", s.Err())
	}
}

// A server that gave its instance up is refused from then on. If that is what it hears instead of the answer, it has what it wanted.
func TestUnlinkWhoseAnswerWasOvertaken(t *testing.T) {
	g := newGateway(t)
	s, p := g.connect(nil)
	call := async(func() error { return s.Unlink(t.Context(), "") })
	p.request("UnlinkGameInstance")
	p.cut()
	p = g.accept()
	p.hello()
	p.bye(linkv1.CloseCode_CLOSE_CODE_SUPERSEDED, true)
	if err := receive(t, call, "the call's end"); err != nil {
		t.Errorf("Unlink: %v", err)
	}
	if s.Err() != nil {
		t.Errorf("Err is %v", s.Err())
	}
}
