// Package grpcserver has the handlers of game-instance's rpcs: convert, call one use-case, convert.
package grpcserver

import (
	"context"
	"crypto/sha256"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/berth-dev/berth/pkg/auth"
	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/ids"
	"github.com/berth-dev/berth/pkg/pagetoken"
	"github.com/berth-dev/berth/pkg/tracing"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"github.com/berth-dev/berth/services/gameinstance/internal/instance"
	"github.com/berth-dev/berth/services/gameinstance/internal/watch"
	"github.com/berth-dev/berth/services/gameinstance/internal/wire"
)

// Instance serves berth.instance.v1.GameInstanceService.
type Instance struct {
	instancev1.UnimplementedGameInstanceServiceServer
	instances *instance.Service
	pages     instance.Pages
	tokens    pagetoken.Key
	watches   *watch.Hub
}

// NewInstance returns the handlers of GameInstanceService.
func NewInstance(instances *instance.Service, pages instance.Pages, tokens pagetoken.Key, watches *watch.Hub) *Instance {
	return &Instance{instances: instances, pages: pages, tokens: tokens, watches: watches}
}

// envelope names a backend's command: its request id, under its own name.
func envelope(ctx context.Context, requestID string, req proto.Message) (instance.Envelope, error) {
	actor := auth.FromContext(ctx).Actor()
	env := instance.Envelope{Actor: actor}
	if requestID == "" {
		return env, nil
	}
	digest, err := digest(req)
	env.ID, env.Digest = instance.CommandID{Name: actor + "/" + requestID}, digest
	return env, err
}

// digest tells one request from another, kind included.
func digest(req proto.Message) ([]byte, error) {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(req)
	if err != nil {
		return nil, err
	}
	h := sha256.New()
	_, _ = h.Write([]byte(req.ProtoReflect().Descriptor().FullName())) // a hash never fails
	_, _ = h.Write(b)
	return h.Sum(nil)[:16], nil
}

// CreateGameInstance implements the rpc.
func (s *Instance) CreateGameInstance(ctx context.Context, req *instancev1.CreateGameInstanceRequest) (*instancev1.CreateGameInstanceResponse, error) {
	cmd, err := create(ctx, req)
	if err != nil {
		return nil, err
	}
	namespace, actor := ids.Namespace(req.GetNamespace()), auth.FromContext(ctx).Actor()
	cmd.Namespace, cmd.ID = namespace, ids.Instance(namespace, actor, req.GetRequestId())
	cmd.SkipAllocation, cmd.ServerID = req.GetSkipAllocation(), req.GetServerId()
	out, err := answer(s.instances.Create(ctx, actor, cmd))
	return &instancev1.CreateGameInstanceResponse{Instance: out}, err
}

// description is what all requests say that make an instance.
type description interface {
	proto.Message
	GetPlayers() []*instancev1.Player
	GetGameData() *typev1.Data
	GetSettings() *structpb.Struct
	GetPlacement() *instancev1.Placement
	GetLabels() map[string]string
	GetTimeouts() *instancev1.Timeouts
	GetOnServerLoss() instancev1.GameInstance_OnServerLoss
}

// create returns the command of a description; which instance it makes, and on which server, is the caller's to fill in.
func create(ctx context.Context, req description) (instance.Create, error) {
	players, err := wire.FromPlayers(req.GetPlayers())
	if err != nil {
		return instance.Create{}, err
	}
	data, err := wire.FromData("game_data", req.GetGameData())
	if err != nil {
		return instance.Create{}, err
	}
	settings, err := wire.FromStruct("settings", req.GetSettings())
	if err != nil {
		return instance.Create{}, err
	}
	digest, err := digest(req)
	return instance.Create{
		Players: players, GameData: data, Settings: settings, Placement: wire.FromPlacement(req.GetPlacement()), Labels: req.GetLabels(),
		Timeouts: wire.FromTimeouts(req.GetTimeouts()), OnLoss: instance.OnLoss(req.GetOnServerLoss()), Digest: digest, Traceparent: traceparent(ctx),
	}, err
}

// traceparent is handed on to the game server, so that one trace can span all: this call's span or, without tracing, what the caller has named.
func traceparent(ctx context.Context) string {
	if own := tracing.Traceparent(ctx); own != "" {
		return own
	}
	if v := metadata.ValueFromIncomingContext(ctx, "traceparent"); len(v) == 1 && len(v[0]) <= 128 {
		return v[0]
	}
	return ""
}

// answer returns the public message of a use-case's outcome.
func answer(inst *instance.Instance, err error) (*instancev1.GameInstance, error) {
	if err != nil {
		return nil, err
	}
	return wire.Instance(wire.ForBackend(inst))
}

// GetGameInstance implements the rpc.
func (s *Instance) GetGameInstance(ctx context.Context, req *instancev1.GetGameInstanceRequest) (*instancev1.GetGameInstanceResponse, error) {
	out, err := answer(s.instances.Get(ctx, ids.Namespace(req.GetNamespace()), req.GetInstanceId()))
	return &instancev1.GetGameInstanceResponse{Instance: out}, err
}

// ListGameInstances implements the rpc.
func (s *Instance) ListGameInstances(ctx context.Context, req *instancev1.ListGameInstancesRequest) (*instancev1.ListGameInstancesResponse, error) {
	q := instance.Query{Namespace: ids.Namespace(req.GetNamespace()), Filter: filterOf(req.GetFilter()), Limit: int(req.GetPageSize())}
	if q.Limit == 0 {
		q.Limit = 50
	}
	var err error
	if q.After, err = placeOf(s.tokens, listOf(q), req.GetPageToken()); err != nil {
		return nil, err
	}
	page, next, err := s.pages.Page(ctx, q)
	if err != nil {
		return nil, err
	}
	out := &instancev1.ListGameInstancesResponse{}
	for _, inst := range page {
		m, err := wire.Instance(inst)
		if err != nil {
			return nil, err
		}
		out.Instances = append(out.Instances, m)
	}
	out.NextPageToken, err = tokenOf(s.tokens, listOf(q), next)
	return out, err
}

// WatchGameInstance implements the rpc.
func (s *Instance) WatchGameInstance(req *instancev1.WatchGameInstanceRequest, stream grpc.ServerStreamingServer[instancev1.WatchGameInstanceResponse]) error {
	return s.watches.One(stream.Context(), ids.Namespace(req.GetNamespace()), req.GetInstanceId(), req.GetAfterRevision(), func(inst *instance.Instance) error {
		out, err := answer(inst, nil)
		if err != nil {
			return err
		}
		return stream.Send(&instancev1.WatchGameInstanceResponse{Instance: out})
	})
}

// WatchGameInstances implements the rpc.
func (s *Instance) WatchGameInstances(req *instancev1.WatchGameInstancesRequest, stream grpc.ServerStreamingServer[instancev1.WatchGameInstancesResponse]) error {
	return s.watches.Many(stream.Context(), ids.Namespace(req.GetNamespace()), filterOf(req.GetFilter()), func(u watch.Update) error {
		out, err := updateOf(u)
		if err != nil {
			return err
		}
		return stream.Send(out)
	})
}

// updateOf returns the public message of a step of a watch.
func updateOf(u watch.Update) (*instancev1.WatchGameInstancesResponse, error) {
	switch {
	case u.SnapshotComplete:
		return &instancev1.WatchGameInstancesResponse{Update: &instancev1.WatchGameInstancesResponse_SnapshotComplete{SnapshotComplete: &instancev1.SnapshotComplete{}}}, nil
	case u.Removed != "":
		return &instancev1.WatchGameInstancesResponse{Update: &instancev1.WatchGameInstancesResponse_Removed{Removed: &instancev1.RemovedInstance{InstanceId: u.Removed}}}, nil
	}
	m, err := wire.Instance(u.Instance)
	return &instancev1.WatchGameInstancesResponse{Update: &instancev1.WatchGameInstancesResponse_Instance{Instance: m}}, err
}

// ExportHistory implements the rpc.
func (s *Instance) ExportHistory(req *instancev1.ExportHistoryRequest, stream grpc.ServerStreamingServer[instancev1.ExportHistoryResponse]) error {
	entries, err := s.instances.History(stream.Context(), ids.Namespace(req.GetNamespace()), req.GetInstanceId())
	if err != nil {
		return err
	}
	for _, e := range wire.History(entries) {
		if err := stream.Send(&instancev1.ExportHistoryResponse{Entry: e}); err != nil {
			return err
		}
	}
	return nil
}

// AllocateGameServer implements the rpc.
func (s *Instance) AllocateGameServer(ctx context.Context, req *instancev1.AllocateGameServerRequest) (*instancev1.AllocateGameServerResponse, error) {
	out, err := s.place(ctx, req, req.GetServerId(), instance.Allocate{ServerID: req.GetServerId()})
	return &instancev1.AllocateGameServerResponse{Instance: out}, err
}

// command is what all commands of backends have in common.
type command interface {
	proto.Message
	GetNamespace() string
	GetInstanceId() string
	GetRequestId() string
}

func (s *Instance) apply(ctx context.Context, req command, cmd instance.Command) (*instancev1.GameInstance, error) {
	return s.place(ctx, req, "", cmd)
}

// place applies a command that may want a registered server.
func (s *Instance) place(ctx context.Context, req command, serverID string, cmd instance.Command) (*instancev1.GameInstance, error) {
	env, err := envelope(ctx, req.GetRequestId(), req)
	if err != nil {
		return nil, err
	}
	env.Whole = true
	return answer(s.instances.Place(ctx, ids.Namespace(req.GetNamespace()), req.GetInstanceId(), serverID, env, cmd))
}

// ReplaceGameServer implements the rpc.
func (s *Instance) ReplaceGameServer(ctx context.Context, req *instancev1.ReplaceGameServerRequest) (*instancev1.ReplaceGameServerResponse, error) {
	out, err := s.place(ctx, req, req.GetServerId(), instance.Replace{Message: req.GetMessage(), ServerID: req.GetServerId()})
	return &instancev1.ReplaceGameServerResponse{Instance: out}, err
}

// GetPlayerConnection implements the rpc.
func (s *Instance) GetPlayerConnection(ctx context.Context, req *instancev1.GetPlayerConnectionRequest) (*instancev1.GetPlayerConnectionResponse, error) {
	c, err := s.instances.Connect(ctx, ids.Namespace(req.GetNamespace()), req.GetInstanceId(), req.GetPlayerId())
	if err != nil {
		return nil, err
	}
	gameData, forPlayer := wire.ForPlayer(c.GameData, c.Player)
	player, err := wire.Player(forPlayer)
	if err != nil {
		return nil, err
	}
	game, err := wire.Data(gameData)
	if err != nil {
		return nil, err
	}
	return &instancev1.GetPlayerConnectionResponse{
		Endpoints: wire.Endpoints(c.Endpoints), Player: player, GameData: game, Ticket: c.Ticket, TicketExpireTime: timestamppb.New(c.Expires),
	}, nil
}

// AddPlayers implements the rpc.
func (s *Instance) AddPlayers(ctx context.Context, req *instancev1.AddPlayersRequest) (*instancev1.AddPlayersResponse, error) {
	players, err := wire.FromPlayers(req.GetPlayers())
	if err != nil {
		return nil, err
	}
	out, err := s.apply(ctx, req, instance.AddPlayers{Players: players})
	return &instancev1.AddPlayersResponse{Instance: out}, err
}

// RemovePlayers implements the rpc.
func (s *Instance) RemovePlayers(ctx context.Context, req *instancev1.RemovePlayersRequest) (*instancev1.RemovePlayersResponse, error) {
	out, err := s.apply(ctx, req, instance.RemovePlayers{IDs: req.GetPlayerIds()})
	return &instancev1.RemovePlayersResponse{Instance: out}, err
}

// UpdateGameData implements the rpc.
func (s *Instance) UpdateGameData(ctx context.Context, req *instancev1.UpdateGameDataRequest) (*instancev1.UpdateGameDataResponse, error) {
	data, err := wire.FromUpdate("game_data", req.GetGameData(), req.GetMode())
	if err != nil {
		return nil, err
	}
	out, err := s.apply(ctx, req, instance.UpdateGameData{Data: data, Expected: req.GetExpectedRevision()})
	return &instancev1.UpdateGameDataResponse{Instance: out}, err
}

// UpdatePlayers implements the rpc.
func (s *Instance) UpdatePlayers(ctx context.Context, req *instancev1.UpdatePlayersRequest) (*instancev1.UpdatePlayersResponse, error) {
	updates, err := wire.FromPlayerUpdates(req.GetPlayers())
	if err != nil {
		return nil, err
	}
	for n, u := range updates {
		if u.Presence != instance.PresenceUnknown {
			return nil, errs.New(errs.ValidationFailed, "players[%d].presence: only the game server knows who is in the game; leave it out", n)
		}
	}
	out, err := s.apply(ctx, req, instance.UpdatePlayers{Updates: updates, Expected: req.GetExpectedRevision()})
	return &instancev1.UpdatePlayersResponse{Instance: out}, err
}

// TerminateGameInstance implements the rpc.
func (s *Instance) TerminateGameInstance(ctx context.Context, req *instancev1.TerminateGameInstanceRequest) (*instancev1.TerminateGameInstanceResponse, error) {
	env := instance.Envelope{Actor: auth.FromContext(ctx).Actor(), Whole: true}
	out, err := answer(s.instances.Apply(ctx, ids.Namespace(req.GetNamespace()), req.GetInstanceId(), env, instance.Terminate{Message: req.GetMessage()}))
	return &instancev1.TerminateGameInstanceResponse{Instance: out}, err
}

// ListHistory implements the rpc.
func (s *Instance) ListHistory(ctx context.Context, req *instancev1.ListHistoryRequest) (*instancev1.ListHistoryResponse, error) {
	entries, err := s.instances.History(ctx, ids.Namespace(req.GetNamespace()), req.GetInstanceId())
	return &instancev1.ListHistoryResponse{Entries: wire.History(entries)}, err
}
