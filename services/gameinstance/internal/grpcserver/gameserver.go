package grpcserver

import (
	"context"

	"google.golang.org/protobuf/proto"

	"github.com/berth-dev/berth/pkg/auth"
	"github.com/berth-dev/berth/pkg/errs"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	"github.com/berth-dev/berth/services/gameinstance/internal/instance"
	"github.com/berth-dev/berth/services/gameinstance/internal/session"
	"github.com/berth-dev/berth/services/gameinstance/internal/wire"
)

// GameServer serves berth.gameserver.v1.GameServerService, over gRPC, REST and the link alike.
type GameServer struct {
	gameserverv1.UnimplementedGameServerServiceServer
	instances *instance.Service
	sessions  *session.Service
}

// NewGameServer returns the handlers of GameServerService.
func NewGameServer(instances *instance.Service, sessions *session.Service) *GameServer {
	return &GameServer{instances: instances, sessions: sessions}
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
	if !frameOf(ctx).overLink() {
		return nil, errs.New(errs.NotConnected, "Link binds the socket that it comes over: send it as a frame over the server's link")
	}
	current, err := s.sessions.Connected(ctx, caller(ctx).ServerID)
	if err != nil {
		return nil, err
	}
	if current.Epoch != frameOf(ctx).sessionEpoch {
		return nil, errs.New(errs.StaleLinkEpoch, "the server has a newer socket than this one")
	}
	// A repeated Link must bind the newest socket, so it is no command that is done once: deciding it again changes nothing.
	env := instance.Envelope{Actor: auth.FromContext(ctx).Actor()}
	inst, err := s.instances.Apply(ctx, current.Namespace, req.GetInstanceId(), env, instance.LinkServer{
		Server: instance.Caller{ServerID: current.ServerID}, SessionEpoch: current.Epoch, GatewayID: current.GatewayID,
		Endpoints: wire.FromEndpoints(req.GetEndpoints()), ServerVersion: req.GetServerVersion(),
	})
	if err != nil {
		return nil, err
	}
	if err := s.sessions.Verify(ctx, inst); err != nil {
		return nil, err
	}
	out, err := wire.Instance(inst)
	if err != nil {
		return nil, err
	}
	frameOf(ctx).linked = &session.Link{InstanceID: inst.ID, Epoch: inst.Link.Epoch, Offset: inst.LastOffset}
	return &gameserverv1.LinkResponse{Instance: out, LinkEpoch: inst.Link.Epoch, Offset: inst.LastOffset}, nil
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
	return &gameserverv1.AddPlayersResponse{Revision: inst.Revision}, nil
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

// RequestBackfill implements the rpc.
func (s *GameServer) RequestBackfill(context.Context, *gameserverv1.RequestBackfillRequest) (*gameserverv1.RequestBackfillResponse, error) {
	return nil, errs.New(errs.NotImplemented, "backfill is not built yet")
}
