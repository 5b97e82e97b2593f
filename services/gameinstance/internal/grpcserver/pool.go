package grpcserver

import (
	"context"

	poolv1 "github.com/berth-dev/berth/pkg/gen/berth/pool/v1"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/ids"
	"github.com/berth-dev/berth/services/gameinstance/internal/registry"
	"github.com/berth-dev/berth/services/gameinstance/internal/wire"
)

// Pool serves berth.pool.v1.PoolService.
type Pool struct {
	poolv1.UnimplementedPoolServiceServer
	pools *registry.Pools
}

// NewPool returns the handlers of PoolService.
func NewPool(pools *registry.Pools) *Pool { return &Pool{pools: pools} }

// TakeRoom implements the rpc.
func (s *Pool) TakeRoom(ctx context.Context, req *poolv1.TakeRoomRequest) (*poolv1.TakeRoomResponse, error) {
	if ids.AttemptInstance(req.GetAttemptId()) != req.GetInstanceId() {
		return nil, errs.New(errs.ValidationFailed, "attempt_id: %q is no attempt of instance %s", req.GetAttemptId(), req.GetInstanceId())
	}
	room, err := s.pools.Take(ctx, registry.Want{
		Pool: req.GetPool(), Namespace: req.GetNamespace(), InstanceID: req.GetInstanceId(), AttemptID: req.GetAttemptId(), Build: req.GetBuild(),
		Region: req.GetRegion(), Labels: req.GetLabels(), Spread: req.GetStrategy() == poolv1.Strategy_STRATEGY_SPREAD,
	})
	if err != nil {
		return nil, err
	}
	return &poolv1.TakeRoomResponse{Room: poolRoom(room)}, nil
}

// GetRoom implements the rpc.
func (s *Pool) GetRoom(ctx context.Context, req *poolv1.GetRoomRequest) (*poolv1.GetRoomResponse, error) {
	room, err := s.pools.Get(ctx, req.GetAttemptId())
	if err != nil {
		return nil, err
	}
	return &poolv1.GetRoomResponse{Room: poolRoom(room)}, nil
}

// ListRooms implements the rpc.
func (s *Pool) ListRooms(ctx context.Context, req *poolv1.ListRoomsRequest) (*poolv1.ListRoomsResponse, error) {
	rooms, err := s.pools.List(ctx, req.GetPool())
	if err != nil {
		return nil, err
	}
	out := &poolv1.ListRoomsResponse{Rooms: make([]*poolv1.Room, 0, len(rooms))}
	for _, room := range rooms {
		out.Rooms = append(out.Rooms, poolRoom(room))
	}
	return out, nil
}

// GiveRoomBack implements the rpc.
func (s *Pool) GiveRoomBack(ctx context.Context, req *poolv1.GiveRoomBackRequest) (*poolv1.GiveRoomBackResponse, error) {
	return &poolv1.GiveRoomBackResponse{}, s.pools.GiveBack(ctx, req.GetAttemptId())
}

func poolRoom(r registry.Room) *poolv1.Room {
	return &poolv1.Room{
		AttemptId: r.AttemptID, InstanceId: r.InstanceID, ServerId: r.Server.ID, Connected: r.Server.Connected, Endpoints: wire.Endpoints(r.Server.Endpoints), Region: r.Server.Region,
	}
}
