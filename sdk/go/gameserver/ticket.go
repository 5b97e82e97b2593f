package gameserver

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	"github.com/berth-dev/berth/sdk/go/token"
)

// Why a genuine ticket does not let its player in.
var (
	// ErrTicketElsewhere means that the ticket is for another instance.
	ErrTicketElsewhere = errors.New("the ticket is for another instance")
	// ErrTicketUsed means that somebody has joined with the ticket already.
	ErrTicketUsed = errors.New("the ticket was used already")
	// ErrTicketOutdated means that the player was removed since the ticket was made, and added again: there is a newer ticket to ask for.
	ErrTicketOutdated = errors.New("the ticket is from before the player was removed and added again")
	// ErrPlayerUnknown means that the player is not, or not any more, in the instance.
	ErrPlayerUnknown = errors.New("the player is not in the instance")
)

// VerifyTicket checks the ticket that a player showed and returns that player. A ticket is good for one use: call VerifyTicket
// when the player may come in if it succeeds. Berth is not asked; only its public keys are fetched when a new one is used.
//
// A ticket goes with its player: once that player was removed it is refused, and it stays refused when the player is added again.
//
// It fails with ErrTicketElsewhere, ErrTicketUsed, ErrTicketOutdated or ErrPlayerUnknown, with a *token.Error when the ticket is not a
// valid one of Berth's, and with token.ErrKeysUnavailable when that cannot be told now. A ticket that was refused is not used up.
func (s *Server) VerifyTicket(ctx context.Context, ticket string) (*instancev1.Player, error) {
	t, err := s.host.verifier.VerifyTicket(ctx, ticket)
	if err != nil {
		return nil, fmt.Errorf("gameserver: %w", err)
	}
	if t.InstanceID != s.id || t.Namespace != s.host.doc.Namespace {
		return nil, fmt.Errorf("gameserver: %w", ErrTicketElsewhere)
	}
	player := s.match.player(t.PlayerID)
	if player == nil {
		return nil, fmt.Errorf("gameserver: %w", ErrPlayerUnknown)
	}
	if added := player.GetAddTime(); added != nil && !t.PlayerAddTime.IsZero() && t.PlayerAddTime.UnixMicro() != added.AsTime().UnixMicro() {
		return nil, fmt.Errorf("gameserver: %w", ErrTicketOutdated)
	}
	if !s.host.tickets.use(t, time.Now()) {
		return nil, fmt.Errorf("gameserver: %w", ErrTicketUsed)
	}
	return player, nil
}

// usedTickets remembers tickets for as long as they are valid, whatever becomes of their instances: one may come back. Only tickets that
// Berth issued for players of this host's instances come in, which bounds it.
type usedTickets struct {
	mu    sync.Mutex
	until map[string]time.Time // by the ticket's id
	sweep time.Time            // when to look next for those that may be forgotten
}

// use reports whether the ticket is new, and remembers it.
func (u *usedTickets) use(t token.Ticket, now time.Time) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if _, used := u.until[t.ID]; used {
		return false
	}
	if u.until == nil {
		u.until = make(map[string]time.Time)
	}
	if u.sweep.Before(now) {
		maps.DeleteFunc(u.until, func(_ string, end time.Time) bool { return end.Before(now) })
		u.sweep = now.Add(time.Minute)
	}
	u.until[t.ID] = t.ExpireTime.Add(token.Leeway + time.Second)
	return true
}
