package gameserver_test

import (
	"errors"
	"testing"
	"time"

	"github.com/berth-dev/berth/sdk/go/gameserver"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	"github.com/berth-dev/berth/sdk/go/token"
	"github.com/golang-jwt/jwt/v5"
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
