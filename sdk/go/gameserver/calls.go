package gameserver

import (
	"context"
	"fmt"
	"time"

	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

// ConnectPlayers opens the server to players: from now on they are given its endpoints and tickets. Without ids it opens to
// everybody who is in the instance now. The first call makes the instance RUNNING.
//
// This call and the others below take effect once, however often the connection is lost meanwhile, and wait until Berth has
// answered or ctx ends. They fail with an *Error when Berth refuses them, with the context's error (and then it is not known
// whether the call took effect) and with ErrClosed.
func (s *Server) ConnectPlayers(ctx context.Context, playerIDs ...string) error {
	req := &gameserverv1.ConnectPlayersRequest{PlayerIds: playerIDs}
	return s.call(ctx, "ConnectPlayers", req, new(gameserverv1.ConnectPlayersResponse), func() { s.match.opened(playerIDs) })
}

// AddPlayers adds players whom the server itself brought in.
func (s *Server) AddPlayers(ctx context.Context, players ...*instancev1.Player) error {
	req := &gameserverv1.AddPlayersRequest{Players: players}
	return s.call(ctx, "AddPlayers", req, new(gameserverv1.AddPlayersResponse), func() { s.match.added(players) })
}

// RemovePlayers removes players from the instance for good.
func (s *Server) RemovePlayers(ctx context.Context, playerIDs ...string) error {
	req := &gameserverv1.RemovePlayersRequest{PlayerIds: playerIDs}
	return s.call(ctx, "RemovePlayers", req, new(gameserverv1.RemovePlayersResponse), func() { s.match.removed(playerIDs) })
}

// UpdatePlayers replaces players' data and says who is in the game.
func (s *Server) UpdatePlayers(ctx context.Context, updates ...*instancev1.PlayerUpdate) error {
	req := &gameserverv1.UpdatePlayersRequest{Players: updates}
	return s.call(ctx, "UpdatePlayers", req, new(gameserverv1.UpdatePlayersResponse), func() { s.match.changed(updates) })
}

// UpdateGameData replaces the instance's custom data.
func (s *Server) UpdateGameData(ctx context.Context, data *typev1.Data) error {
	req := &gameserverv1.UpdateGameDataRequest{GameData: data}
	return s.call(ctx, "UpdateGameData", req, new(gameserverv1.UpdateGameDataResponse), func() { s.match.setData(data) })
}

// End ends the game with its result, which may be nil. The server is released afterwards: Close, and leave. Ending a game again
// changes nothing.
func (s *Server) End(ctx context.Context, result *typev1.Data) error {
	req := &gameserverv1.EndGameInstanceRequest{Result: result}
	resp := new(gameserverv1.EndGameInstanceResponse)
	return s.call(ctx, "EndGameInstance", req, resp, func() { s.match.ended(resp.GetResult()) })
}

// call sends a request, and again as often as it takes. apply runs when it has succeeded, in the order in which the gateway
// sent this answer and everything else.
func (s *Server) call(ctx context.Context, method string, req, resp proto.Message, apply func()) error {
	payload, err := proto.Marshal(req)
	if err != nil {
		return fmt.Errorf("gameserver: %s: %w", method, err)
	}
	c := &call{method: method, payload: payload, apply: func(result []byte) error {
		if err := proto.Unmarshal(result, resp); err != nil {
			return err
		}
		apply()
		return nil
	}}
	if err := s.outbox.add(ctx, s.done, c); err != nil {
		return fmt.Errorf("gameserver: %s: %w", method, err)
	}
	defer s.outbox.remove(c)

	var wait backoff
	var refused *Error // the last one; the call goes on for as long as it is temporary
	for {
		answer, err := s.await(ctx, c)
		switch {
		case err != nil && refused != nil:
			return fmt.Errorf("gameserver: %s: %w; before that: %w", method, err, refused)
		case err != nil:
			return fmt.Errorf("gameserver: %s: %w", method, err)
		case answer.GetError() == nil:
			return nil
		}
		if refused = errorOf(answer.GetError()); !refused.temporary() {
			return fmt.Errorf("gameserver: %s: %w", method, refused)
		}
		if s.pause(ctx, wait.next()+retryAfter(refused)) {
			s.outbox.repeat(c)
		}
	}
}

// await prefers an answer that is there to the news that there will not be one.
func (s *Server) await(ctx context.Context, c *call) (*linkv1.Response, error) {
	var err error
	select {
	case r := <-c.answer:
		return r, nil
	case <-ctx.Done():
		err = ctx.Err()
	case <-s.done:
		err = ErrClosed
		if s.err != nil {
			err = fmt.Errorf("%w: %w", ErrClosed, s.err)
		}
	}
	select {
	case r := <-c.answer:
		return r, nil
	default:
		return nil, err
	}
}

func unreadable(method string) *linkv1.Error {
	return &linkv1.Error{
		Code: int32(codes.Internal), Reason: "MALFORMED", Message: "the answer to " + method + " cannot be read",
	}
}

func tooLarge(message string) *linkv1.Error {
	return &linkv1.Error{Code: int32(codes.ResourceExhausted), Reason: reasonLimitExceeded, Message: message}
}

// pause waits before a repeat; it returns false when there will be none, which await then explains.
func (s *Server) pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	case <-s.done:
		return false
	}
}
