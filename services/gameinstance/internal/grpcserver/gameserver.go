package grpcserver

import (
	"context"
	"fmt"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/berth-dev/berth/pkg/auth"
	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/ids"
	"github.com/berth-dev/berth/pkg/rpc"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"github.com/berth-dev/berth/sdk/go/token"
	"github.com/berth-dev/berth/services/gameinstance/internal/instance"
	"github.com/berth-dev/berth/services/gameinstance/internal/session"
	"github.com/berth-dev/berth/services/gameinstance/internal/wire"
)

// GameServer serves berth.gameserver.v1.GameServerService, over gRPC, REST and the link alike.
type GameServer struct {
	gameserverv1.UnimplementedGameServerServiceServer
	instances *instance.Service
	sessions  *session.Service
	pairs     Pairs
	claims    Claims
}

// Claims knows claim codes.
type Claims interface {
	// VerifyClaim returns what a code is for. It fails with a *token.Error when the code is refused, and otherwise there is no verdict.
	VerifyClaim(ctx context.Context, code string) (token.Claim, error)
}

// NewGameServer returns the handlers of GameServerService.
func NewGameServer(instances *instance.Service, sessions *session.Service, pairs Pairs, claims Claims) *GameServer {
	return &GameServer{instances: instances, sessions: sessions, pairs: pairs, claims: claims}
}

// frame is what a call over the link brings besides its request.
type frame struct {
	// command is the session and the number of the frame.
	command instance.CommandID
	// queued says that the call has its place among the commands of its instance.
	queued       func()
	lastRequest  int64
	linkEpoch    int64
	sessionEpoch int64
	// linked is filled by Link.
	linked *session.Link
}

func (f *frame) overLink() bool { return f.command != (instance.CommandID{}) }

type frameKey struct{}

func frameOf(ctx context.Context) *frame {
	if f, ok := ctx.Value(frameKey{}).(*frame); ok {
		return f
	}
	return &frame{}
}

// serverCommand is what all requests of game servers have in common.
type serverCommand interface {
	proto.Message
	GetInstanceId() string
	GetRequestId() string
}

// caller returns who calls, and through which link.
func caller(ctx context.Context) instance.Caller {
	f := frameOf(ctx)
	return instance.Caller{ServerID: auth.FromContext(ctx).Server.ID, LinkEpoch: f.linkEpoch, OverLink: f.overLink(), Session: f.command.Session, LastRequest: f.lastRequest}
}

func (s *GameServer) apply(ctx context.Context, req serverCommand, cmd instance.Command) (*instance.Instance, error) {
	env, err := envelope(ctx, req.GetRequestId(), req)
	if err != nil {
		return nil, err
	}
	if f := frameOf(ctx); f.overLink() {
		if env.Digest, err = digest(req); err != nil {
			return nil, err
		}
		env.ID, env.Queued = f.command, f.queued
	}
	return s.instances.Apply(ctx, auth.FromContext(ctx).Server.Namespace, req.GetInstanceId(), env, cmd)
}

// Link implements the rpc.
func (s *GameServer) Link(ctx context.Context, req *gameserverv1.LinkRequest) (*gameserverv1.LinkResponse, error) {
	current, err := s.socket(ctx)
	if err != nil {
		return nil, err
	}
	cmd, err := linkServer(current, req)
	if err != nil {
		return nil, err
	}
	inst, err := s.link(ctx, req.GetInstanceId(), cmd)
	if err != nil {
		return nil, err
	}
	out, err := s.linked(ctx, inst)
	return &gameserverv1.LinkResponse{Instance: out, LinkEpoch: inst.Link.Epoch, Offset: inst.LastOffset}, err
}

// socket returns the caller's session, if the call came over its socket.
func (s *GameServer) socket(ctx context.Context) (session.Session, error) {
	if !frameOf(ctx).overLink() {
		return session.Session{}, errs.New(errs.NotConnected, "this call binds the socket that it comes over: send it as a frame over the server's link")
	}
	current, err := s.sessions.Connected(ctx, caller(ctx).ServerID)
	if err == nil && current.Epoch != frameOf(ctx).sessionEpoch {
		err = errs.New(errs.StaleLinkEpoch, "the server has a newer socket than this one")
	}
	return current, err
}

// linkServer returns the command that binds a socket to an instance.
func linkServer(current session.Session, req interface {
	GetEndpoints() []*typev1.Endpoint
	GetServerVersion() string
}) (instance.LinkServer, error) {
	endpoints, err := wire.FromServer(req.GetEndpoints())
	return instance.LinkServer{
		Server: instance.Caller{ServerID: current.ServerID}, SessionEpoch: current.Epoch, GatewayID: current.GatewayID,
		Endpoints: endpoints, ServerVersion: req.GetServerVersion(),
	}, err
}

// link binds a socket. A repeat must bind the newest one, so it is no command that is done once: deciding it again changes nothing.
func (s *GameServer) link(ctx context.Context, instanceID string, cmd instance.LinkServer) (*instance.Instance, error) {
	p := auth.FromContext(ctx)
	return s.instances.Apply(ctx, p.Server.Namespace, instanceID, instance.Envelope{Actor: p.Actor()}, cmd)
}

// linked returns the start data of an instance that was just linked, and lets the gateway know of the link.
func (s *GameServer) linked(ctx context.Context, inst *instance.Instance) (*instancev1.GameInstance, error) {
	if err := s.sessions.Verify(ctx, inst); err != nil {
		return nil, err
	}
	out, err := wire.Instance(inst)
	if err == nil {
		frameOf(ctx).linked = &session.Link{InstanceID: inst.ID, Epoch: inst.Link.Epoch, Offset: inst.LastOffset}
	}
	return out, err
}

// CreateAndLink implements the rpc.
func (s *GameServer) CreateAndLink(ctx context.Context, req *gameserverv1.CreateAndLinkRequest) (*gameserverv1.CreateAndLinkResponse, error) {
	current, err := s.socket(ctx)
	if err != nil {
		return nil, err
	}
	cmd, err := create(ctx, req)
	if err != nil {
		return nil, err
	}
	p, command := auth.FromContext(ctx), req.GetRequestId()
	if command == "" {
		id := frameOf(ctx).command
		command = fmt.Sprintf("%s/%d", id.Session, id.Number)
	}
	link, err := linkServer(current, req)
	if err != nil {
		return nil, err
	}
	cmd.Namespace, cmd.ID, cmd.ServerID = p.Server.Namespace, ids.Instance(p.Server.Namespace, p.Actor(), command), p.Server.ID
	inst, err := s.instances.CreateAndLink(ctx, p.Actor(), cmd, link)
	if err != nil {
		return nil, err
	}
	out, err := s.linked(ctx, inst)
	return &gameserverv1.CreateAndLinkResponse{Instance: out, LinkEpoch: inst.Link.Epoch, Offset: inst.LastOffset}, err
}

// UnlinkGameInstance implements the rpc.
func (s *GameServer) UnlinkGameInstance(ctx context.Context, req *gameserverv1.UnlinkGameInstanceRequest) (*gameserverv1.UnlinkGameInstanceResponse, error) {
	inst, err := s.apply(ctx, req, instance.Unlink{Server: caller(ctx), Message: req.GetMessage()})
	if err != nil {
		return nil, err
	}
	return &gameserverv1.UnlinkGameInstanceResponse{Revision: inst.Revision}, nil
}

// ConnectPlayers implements the rpc.
func (s *GameServer) ConnectPlayers(ctx context.Context, req *gameserverv1.ConnectPlayersRequest) (*gameserverv1.ConnectPlayersResponse, error) {
	inst, err := s.apply(ctx, req, instance.ConnectPlayers{Server: caller(ctx), IDs: req.GetPlayerIds()})
	if err != nil {
		return nil, err
	}
	return &gameserverv1.ConnectPlayersResponse{Revision: inst.Revision}, nil
}

// AddPlayers implements the rpc.
func (s *GameServer) AddPlayers(ctx context.Context, req *gameserverv1.AddPlayersRequest) (*gameserverv1.AddPlayersResponse, error) {
	players, err := wire.FromPlayers(req.GetPlayers())
	if err != nil {
		return nil, err
	}
	inst, err := s.apply(ctx, req, instance.AddPlayers{Server: caller(ctx), Players: players})
	if err != nil {
		return nil, err
	}
	return &gameserverv1.AddPlayersResponse{Revision: inst.Revision, AddTime: addTime(inst, players)}, nil
}

// addTime returns when players were added, all at once by one call. After a repeat some may have been removed since, or be there for another stay: then
// there is no such time.
func addTime(inst *instance.Instance, players []instance.Player) *timestamppb.Timestamp {
	at := inst.Players[players[0].ID].AddTime
	for _, p := range players {
		if !inst.Players[p.ID].AddTime.Equal(at) {
			return nil
		}
	}
	if at.IsZero() {
		return nil
	}
	return timestamppb.New(at)
}

// RemovePlayers implements the rpc.
func (s *GameServer) RemovePlayers(ctx context.Context, req *gameserverv1.RemovePlayersRequest) (*gameserverv1.RemovePlayersResponse, error) {
	inst, err := s.apply(ctx, req, instance.RemovePlayers{Server: caller(ctx), IDs: req.GetPlayerIds()})
	if err != nil {
		return nil, err
	}
	return &gameserverv1.RemovePlayersResponse{Revision: inst.Revision}, nil
}

// UpdatePlayers implements the rpc.
func (s *GameServer) UpdatePlayers(ctx context.Context, req *gameserverv1.UpdatePlayersRequest) (*gameserverv1.UpdatePlayersResponse, error) {
	updates, err := wire.FromPlayerUpdates(req.GetPlayers())
	if err != nil {
		return nil, err
	}
	inst, err := s.apply(ctx, req, instance.UpdatePlayers{Server: caller(ctx), Updates: updates, Expected: req.GetExpectedRevision()})
	if err != nil {
		return nil, err
	}
	return &gameserverv1.UpdatePlayersResponse{Revision: inst.Revision}, nil
}

// UpdateGameData implements the rpc.
func (s *GameServer) UpdateGameData(ctx context.Context, req *gameserverv1.UpdateGameDataRequest) (*gameserverv1.UpdateGameDataResponse, error) {
	data, err := wire.FromUpdate("game_data", req.GetGameData(), req.GetMode())
	if err != nil {
		return nil, err
	}
	inst, err := s.apply(ctx, req, instance.UpdateGameData{Server: caller(ctx), Data: data, Expected: req.GetExpectedRevision()})
	if err != nil {
		return nil, err
	}
	return &gameserverv1.UpdateGameDataResponse{Revision: inst.Revision}, nil
}

// EndGameInstance implements the rpc.
func (s *GameServer) EndGameInstance(ctx context.Context, req *gameserverv1.EndGameInstanceRequest) (*gameserverv1.EndGameInstanceResponse, error) {
	result, err := wire.FromData("result", req.GetResult())
	if err != nil {
		return nil, err
	}
	inst, err := s.apply(ctx, req, instance.End{Server: caller(ctx), Result: result})
	if err != nil {
		return nil, err
	}
	stored, err := wire.Data(inst.Result)
	return &gameserverv1.EndGameInstanceResponse{Revision: inst.Revision, Result: stored}, err
}

// SendMessage implements the rpc.
func (s *GameServer) SendMessage(ctx context.Context, req *gameserverv1.SendMessageRequest) (*gameserverv1.SendMessageResponse, error) {
	data, err := wire.FromData("data", req.GetData())
	if err != nil {
		return nil, err
	}
	inst, err := s.apply(ctx, req, instance.MessageBackends{Server: caller(ctx), Topic: req.GetTopic(), Data: data})
	if err != nil {
		return nil, err
	}
	return &gameserverv1.SendMessageResponse{Revision: inst.Revision, Offset: inst.LastSaid}, nil
}

// RefreshTokens implements the rpc.
func (s *GameServer) RefreshTokens(ctx context.Context, req *gameserverv1.RefreshTokensRequest) (*gameserverv1.RefreshTokensResponse, error) {
	p := auth.FromContext(ctx)
	if p.Expired {
		if err := s.sessions.MayRefresh(ctx, p.Server, req.GetResumeKey(), req.GetInstanceId()); err != nil {
			return nil, err
		}
	}
	pair, err := s.pairs.Renew(ctx, p.Server)
	if err != nil {
		return nil, err
	}
	return &gameserverv1.RefreshTokensResponse{GameToken: pair.GetGameToken(), SocialToken: pair.GetSocialToken(), ExpireTime: pair.GetExpireTime(), RefreshTime: pair.GetRefreshTime()}, nil
}

// ClaimTokens implements the rpc. The pair is minted after the commit: whoever gets no answer asks again, with the same nonce.
func (s *GameServer) ClaimTokens(ctx context.Context, req *gameserverv1.ClaimTokensRequest) (*gameserverv1.ClaimTokensResponse, error) {
	claim, err := s.claims.VerifyClaim(ctx, req.GetClaim())
	if err != nil {
		return nil, auth.TokenErr(err)
	}
	rpc.About(ctx, claim.Namespace, "instance:"+claim.InstanceID)
	if err := s.instances.Claim(ctx, auth.FromContext(ctx).Actor(), claim.Namespace, claim.InstanceID, claim.AttemptID, req.GetNonce()); err != nil {
		return nil, err
	}
	pair, err := s.pairs.Pair(ctx, claim.Namespace, claim.AttemptID)
	if err != nil {
		return nil, err
	}
	return &gameserverv1.ClaimTokensResponse{GameToken: pair.GetGameToken(), SocialToken: pair.GetSocialToken(), ExpireTime: pair.GetExpireTime(), RefreshTime: pair.GetRefreshTime()}, nil
}

// RequestBackfill implements the rpc.
func (s *GameServer) RequestBackfill(context.Context, *gameserverv1.RequestBackfillRequest) (*gameserverv1.RequestBackfillResponse, error) {
	return nil, errs.New(errs.NotImplemented, "backfill is not built yet")
}
