package gameserver

import (
	"context"
	"errors"
	"fmt"

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
	return s.call(ctx, "ConnectPlayers", req, effectOf(
		func(m *match, q *gameserverv1.ConnectPlayersRequest, _ *gameserverv1.ConnectPlayersResponse) {
			m.opened(q.GetPlayerIds())
		}))
}

// AddPlayers adds players whom the server itself brought in.
func (s *Server) AddPlayers(ctx context.Context, players ...*instancev1.Player) error {
	req := &gameserverv1.AddPlayersRequest{Players: players}
	return s.call(ctx, "AddPlayers", req, func(m *match, number int64, payload, result []byte) (int64, error) {
		return effectOf(func(m *match, q *gameserverv1.AddPlayersRequest, r *gameserverv1.AddPlayersResponse) {
			m.added(m.stillThere(number, q.GetPlayers()), r.GetAddTime())
		})(m, number, payload, result)
	})
}

// RemovePlayers removes players from the instance for good.
func (s *Server) RemovePlayers(ctx context.Context, playerIDs ...string) error {
	req := &gameserverv1.RemovePlayersRequest{PlayerIds: playerIDs}
	return s.call(ctx, "RemovePlayers", req, effectOf(
		func(m *match, q *gameserverv1.RemovePlayersRequest, _ *gameserverv1.RemovePlayersResponse) {
			m.removed(q.GetPlayerIds())
		}))
}

// UpdatePlayers replaces players' data, or merges into it, and says who is in the game. Each update's mode says which; unset
// means replace.
func (s *Server) UpdatePlayers(ctx context.Context, updates ...*instancev1.PlayerUpdate) error {
	return s.AtRevision(0).UpdatePlayers(ctx, updates...)
}

// UpdateGameData replaces the instance's custom data.
func (s *Server) UpdateGameData(ctx context.Context, data *typev1.Data) error {
	return s.AtRevision(0).UpdateGameData(ctx, data)
}

// MergeGameData merges a JSON merge patch (RFC 7396) into the instance's custom data, which must be JSON or not there yet: members
// are set, those that are null removed, and objects merged member by member. A patch without a visibility leaves it as it is.
func (s *Server) MergeGameData(ctx context.Context, patch *typev1.Data) error {
	return s.AtRevision(0).MergeGameData(ctx, patch)
}

// AtRevision returns the calls that can be made on condition that the instance is at a revision, such as Instance().Revision.
// Otherwise they change nothing and fail with an *Error whose reason is REVISION_MISMATCH. 0 means whatever it is at.
//
// Only answers tell the server a new revision; events do not. So after an event the condition fails until another call was
// answered, and whoever takes Instance().Revision while an event is on its way does not have the event yet. If Berth's store loses
// the write, see Relinked, it is made again on the same condition, which is then likely to fail.
func (s *Server) AtRevision(revision int64) AtRevision { return AtRevision{s, revision} }

// AtRevision makes calls on condition that the instance is at a revision. Server.AtRevision returns one.
type AtRevision struct {
	server   *Server
	revision int64
}

// UpdatePlayers is Server.UpdatePlayers on this condition.
func (a AtRevision) UpdatePlayers(ctx context.Context, updates ...*instancev1.PlayerUpdate) error {
	req := &gameserverv1.UpdatePlayersRequest{Players: updates, ExpectedRevision: a.revision}
	return a.server.call(ctx, "UpdatePlayers", req, effectOf(
		func(m *match, q *gameserverv1.UpdatePlayersRequest, _ *gameserverv1.UpdatePlayersResponse) {
			m.changed(q.GetPlayers())
		}))
}

// UpdateGameData is Server.UpdateGameData on this condition.
func (a AtRevision) UpdateGameData(ctx context.Context, data *typev1.Data) error {
	return a.updateGameData(ctx, &gameserverv1.UpdateGameDataRequest{GameData: data})
}

// MergeGameData is Server.MergeGameData on this condition.
func (a AtRevision) MergeGameData(ctx context.Context, patch *typev1.Data) error {
	return a.updateGameData(ctx, &gameserverv1.UpdateGameDataRequest{GameData: patch, Mode: instancev1.UpdateMode_UPDATE_MODE_MERGE})
}

func (a AtRevision) updateGameData(ctx context.Context, req *gameserverv1.UpdateGameDataRequest) error {
	req.ExpectedRevision = a.revision
	return a.server.call(ctx, "UpdateGameData", req, effectOf(
		func(m *match, q *gameserverv1.UpdateGameDataRequest, _ *gameserverv1.UpdateGameDataResponse) {
			m.setData(q.GetGameData(), q.GetMode())
		}))
}

// End ends the game with its result, which may be nil. The server is released afterwards: Close, and leave. Ending a game again
// changes nothing.
//
// Berth's store may lose its last writes when it crashes, this one too. A server that is still linked, or comes back, makes them
// again (see Relinked); one that has left cannot. When Berth does not know the instance any more, End fails with an *OrphanedError, in which
// the result is: then it is up to the game where to leave it.
func (s *Server) End(ctx context.Context, result *typev1.Data) error {
	req := &gameserverv1.EndGameInstanceRequest{Result: result}
	err := s.call(ctx, "EndGameInstance", req, effectOf(
		func(m *match, _ *gameserverv1.EndGameInstanceRequest, a *gameserverv1.EndGameInstanceResponse) {
			m.ended(a.GetResult())
		}))
	return s.orphanedBy(err, result)
}

// methodUnlink is the call after whose success there is no link.
const methodUnlink = "UnlinkGameInstance"

// Unlink gives the instance up without ending it: it waits for another server, with its players and data. After that the link is
// over: Close, and leave. message says why, for people. When the call has not succeeded but the link ends because the instance
// was taken from this server, that is what was wanted, and Unlink succeeds.
func (s *Server) Unlink(ctx context.Context, message string) error {
	req := &gameserverv1.UnlinkGameInstanceRequest{Message: message}
	err := s.call(ctx, methodUnlink, req, effectOf(
		func(*match, *gameserverv1.UnlinkGameInstanceRequest, *gameserverv1.UnlinkGameInstanceResponse) {
			s.gaveUp = true
		}))
	if errors.Is(err, ErrClosed) && s.unlinked {
		return nil
	}
	return err
}

// effect takes over what a success means for the instance, and returns the revision that the answer told. The goroutine that keeps
// the link runs it.
type effect func(m *match, number int64, payload, result []byte) (revision int64, err error)

// effectOf makes an effect of what the request and its answer mean. It sees both as they were sent, whatever the caller has done
// with its own messages since.
func effectOf[PQ interface {
	*Q
	proto.Message
}, PA interface {
	*A
	proto.Message
	GetRevision() int64
}, Q, A any](take func(*match, PQ, PA)) effect {
	return func(m *match, _ int64, payload, result []byte) (int64, error) {
		req, answer := PQ(new(Q)), PA(new(A))
		if err := errors.Join(proto.Unmarshal(payload, req), proto.Unmarshal(result, answer)); err != nil {
			return 0, err
		}
		take(m, req, answer)
		return answer.GetRevision(), nil
	}
}

// call sends a request, and again as often as it takes. Its effect is taken over when it has succeeded, in the order in which the
// gateway sent this answer and everything else.
func (s *Server) call(ctx context.Context, method string, req proto.Message, e effect) error {
	payload, err := proto.Marshal(req)
	if err != nil {
		return fmt.Errorf("gameserver: %s: %w", method, err)
	}
	at, ok := req.(interface{ GetExpectedRevision() int64 })
	c := &call{of: s.ledger, method: method, payload: payload, conditional: ok && at.GetExpectedRevision() != 0}
	c.apply = func(result []byte) (int64, error) { return e(s.match, c.id, payload, result) } // it has its number by then
	return s.orphanedBy(s.host.outbox.do(ctx, &s.ending, c), nil)
}

func unreadable(method string) *linkv1.Error {
	return &linkv1.Error{
		Code: int32(codes.Internal), Reason: "MALFORMED", Message: "the answer to " + method + " cannot be read",
	}
}

func tooLarge(message string) *linkv1.Error {
	return &linkv1.Error{Code: int32(codes.ResourceExhausted), Reason: reasonLimitExceeded, Message: message}
}
