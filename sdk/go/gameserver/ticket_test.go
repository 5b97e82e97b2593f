package gameserver_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-dev/berth/sdk/go/gameserver"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	"github.com/berth-dev/berth/sdk/go/token"
	"github.com/golang-jwt/jwt/v5"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func TestVerifyTicket(t *testing.T) {
	g := newGateway(t)
	s, p := g.connect([]string{"ann"})
	ticket := g.ticket("ann", nil)
	player, err := s.VerifyTicket(t.Context(), ticket)
	if err != nil || player.GetId() != "ann" {
		t.Fatalf("got %v, %v", player, err)
	}
	wantRefusal(t, s, ticket, gameserver.ErrTicketUsed)
	wantRefusal(t, s, g.ticket("ann", func(c *token.Claims) { c.Instance = "22222222-2222-4222-8222-222222222222" }), gameserver.ErrTicketElsewhere)
	wantRefusal(t, s, g.ticket("ann", func(c *token.Claims) { c.Namespace = "prod" }), gameserver.ErrTicketElsewhere)

	// Somebody who is added later, and then removed. The ticket that came too early is not used up.
	bob := g.ticket("bob", nil)
	wantRefusal(t, s, bob, gameserver.ErrPlayerUnknown)
	p.notify(1001, 1000, playersAdded("bob"))
	receive(t, s.Events(), "an event")
	if _, err := s.VerifyTicket(t.Context(), bob); err != nil {
		t.Errorf("a player who was added is refused: %v", err)
	}
	p.wantAck(1001)
	call := async(func() error { return s.RemovePlayers(t.Context(), "bob") })
	p.reply(p.request("RemovePlayers"), new(gameserverv1.RemovePlayersResponse))
	if err := receive(t, call, "the answer"); err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, s, g.ticket("bob", nil), gameserver.ErrPlayerUnknown)

	for ticket, want := range map[string]token.Reason{
		"":          token.Missing,
		"not a JWT": token.Invalid,
		g.ticket("ann", func(c *token.Claims) { c.ExpiresAt = jwt.NewNumericDate(time.Now().Add(-time.Hour)) }): token.Expired,
		g.ticket("ann", func(c *token.Claims) { c.Audience = jwt.ClaimStrings{token.AudienceGame} }):            token.Invalid,
		newGateway(t).ticket("ann", nil): token.Invalid, // signed by somebody else
	} {
		_, err := s.VerifyTicket(t.Context(), ticket)
		var refused *token.Error
		if !errors.As(err, &refused) || refused.Reason != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func wantRefusal(t *testing.T, s *gameserver.Server, ticket string, want error) {
	t.Helper()
	if _, err := s.VerifyTicket(t.Context(), ticket); !errors.Is(err, want) {
		t.Errorf("got %v, want %v", err, want)
	}
}

// A ticket goes with its player: what was made for an earlier stay is not good for a later one, however short the time between them.
func TestTicketsGoWithTheirPlayer(t *testing.T) {
	g := newGateway(t)
	s, p := g.connect([]string{"ann"})
	first := time.UnixMicro(time.Now().UnixMicro())
	during := func(stay time.Time) string {
		return g.ticket("ann", func(c *token.Claims) { c.Added = stay.UnixMicro() })
	}
	p.notify(1001, 1000, playersRemoved("ann"))
	receive(t, s.Events(), "an event")
	p.wantAck(1001)
	wantRefusal(t, s, during(first), gameserver.ErrPlayerUnknown)

	// A backend adds them again, and then the server itself.
	second, third := first.Add(time.Microsecond), first.Add(2*time.Microsecond)
	again := playersAdded("ann")
	again.GetPlayersAdded().GetPlayers()[0].AddTime = timestamppb.New(second)
	p.notify(1002, 1001, again)
	receive(t, s.Events(), "an event")
	p.wantAck(1002)
	wantRefusal(t, s, during(first), gameserver.ErrTicketOutdated)
	wantRefusal(t, s, during(first), gameserver.ErrTicketOutdated) // and no other reason the next time
	wantAdmission(t, s, during(second))
	p.notify(1003, 1002, playersRemoved("ann"))
	receive(t, s.Events(), "an event")
	p.wantAck(1003)
	call := async(func() error { return s.AddPlayers(t.Context(), &instancev1.Player{Id: "ann"}) })
	p.reply(p.request("AddPlayers"), &gameserverv1.AddPlayersResponse{AddTime: timestamppb.New(third)})
	if err := receive(t, call, "the answer"); err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, s, during(second), gameserver.ErrTicketOutdated)
	wantAdmission(t, s, during(third))
	wantAdmission(t, s, g.ticket("ann", nil)) // one that does not say
}

func wantAdmission(t *testing.T, s *gameserver.Server, ticket string) {
	t.Helper()
	if _, err := s.VerifyTicket(t.Context(), ticket); err != nil {
		t.Error(err)
	}
}

// A ticket that was used stays used when its instance leaves the host and comes back, and is none for a neighbour.
func TestATicketIsUsedOnceOnAHost(t *testing.T) {
	g := newGateway(t)
	h, p := g.open(assigned("a", "b"))
	link := func(instance string, epoch int64) *gameserver.Server {
		start := startOf(instance, epoch)
		start.Instance.Players = []*instancev1.Player{{Id: "ann"}}
		p.reply(p.requestFor(instance, 0, "Link"), start)
		return accept(t, h)
	}
	a, b := link("a", 1), link("b", 2)
	ticket := g.ticket("ann", func(c *token.Claims) { c.Instance = "a" })
	wantRefusal(t, b, ticket, gameserver.ErrTicketElsewhere)
	if _, err := a.VerifyTicket(t.Context(), ticket); err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, a, ticket, gameserver.ErrTicketUsed)
	if err := a.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.assign("a")
	wantRefusal(t, link("a", 3), ticket, gameserver.ErrTicketUsed)
}

// Used tickets are remembered until they are refused for their age.
func TestUsedTicketsStayUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newBubbleGateway(t)
		c := g.connecting()
		p := g.accept()
		p.hello()
		p.welcome("1", calm)
		p.reply(p.request("Link"), startData("ann"))
		s := c.server()
		ticket := g.ticket("ann", nil)
		if _, err := s.VerifyTicket(t.Context(), ticket); err != nil {
			t.Fatal(err)
		}
		for range 149 { // two minutes, and the leeway
			time.Sleep(time.Second)
			if _, err := s.VerifyTicket(t.Context(), g.ticket("ann", nil)); err != nil {
				t.Fatal(err)
			}
			wantRefusal(t, s, ticket, gameserver.ErrTicketUsed)
		}
		time.Sleep(2 * time.Second)
		_, err := s.VerifyTicket(t.Context(), ticket)
		var refused *token.Error
		if !errors.As(err, &refused) || refused.Reason != token.Expired {
			t.Errorf("got %v", err)
		}
	})
}

// Berth is asked for its keys when a ticket names a new one, and otherwise not: tickets are checked while it is away.
func TestTicketsAreVerifiedOffline(t *testing.T) {
	g := newGateway(t)
	s, _ := g.connect([]string{"ann"})
	in := func(fetches int32) {
		t.Helper()
		if _, err := s.VerifyTicket(t.Context(), g.ticket("ann", nil)); err != nil {
			t.Error(err)
		}
		if n := g.keysets.Load(); n != fetches {
			t.Errorf("the keys were fetched %d times, want %d", n, fetches)
		}
	}
	in(1)
	in(1)
	g.rotate("k2")
	in(2)
	g.srv.Listener.Close()
	g.srv.CloseClientConnections()
	in(2)
	g.rotate("k3")
	if _, err := s.VerifyTicket(t.Context(), g.ticket("ann", nil)); !errors.Is(err, token.ErrKeysUnavailable) {
		t.Errorf("got %v, want no verdict", err)
	}
}

// Two who come with one ticket at the same moment: one gets in.
func TestVerifyTicketOnceAtATime(t *testing.T) {
	g := newGateway(t)
	s, _ := g.connect([]string{"ann"})
	ticket := g.ticket("ann", nil)
	results := make(chan error, 8)
	for range cap(results) {
		go func() {
			_, err := s.VerifyTicket(t.Context(), ticket)
			results <- err
		}()
	}
	in := 0
	for range cap(results) {
		if receive(t, results, "a verdict") == nil {
			in++
		}
	}
	if in != 1 {
		t.Errorf("%d got in, want 1", in)
	}
}
