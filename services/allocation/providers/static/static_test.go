package static_test

import (
	"context"
	"strings"
	"testing"

	"google.golang.org/grpc"

	"github.com/berth-dev/berth/pkg/errs"
	poolv1 "github.com/berth-dev/berth/pkg/gen/berth/pool/v1"
	"github.com/berth-dev/berth/pkg/rpc"
	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/providers/static"
)

// pool answers each call with one room, or an error.
type pool struct {
	poolv1.PoolServiceClient
	err   error
	taken *poolv1.TakeRoomRequest
}

func (p *pool) room() *poolv1.Room {
	return &poolv1.Room{AttemptId: "attempt", ServerId: "server", Region: "eu"}
}

func (p *pool) TakeRoom(_ context.Context, req *poolv1.TakeRoomRequest, _ ...grpc.CallOption) (*poolv1.TakeRoomResponse, error) {
	p.taken = req
	return &poolv1.TakeRoomResponse{Room: p.room()}, p.err
}

func (p *pool) GetRoom(context.Context, *poolv1.GetRoomRequest, ...grpc.CallOption) (*poolv1.GetRoomResponse, error) {
	return &poolv1.GetRoomResponse{Room: p.room()}, p.err
}

func (p *pool) ListRooms(context.Context, *poolv1.ListRoomsRequest, ...grpc.CallOption) (*poolv1.ListRoomsResponse, error) {
	return &poolv1.ListRoomsResponse{Rooms: []*poolv1.Room{p.room()}}, p.err
}

func (p *pool) GiveRoomBack(context.Context, *poolv1.GiveRoomBackRequest, ...grpc.CallOption) (*poolv1.GiveRoomBackResponse, error) {
	return &poolv1.GiveRoomBackResponse{}, p.err
}

func TestAPoolIsAProvider(t *testing.T) {
	rooms := &pool{}
	p, err := static.New(static.Config{Pool: "metal", Strategy: "spread", Builds: []string{"b"}}, rooms)
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.Allocate(t.Context(), &providerv1.AllocateRequest{AttemptId: "attempt", Namespace: "n", InstanceId: "i", Build: "b", Region: "eu", Labels: map[string]string{"a": "b"}})
	if s := out.GetServer(); err != nil || s.GetServerId() != "server" || s.GetAttemptId() != "attempt" || s.GetState() != providerv1.ServerState_SERVER_STATE_RUNNING {
		t.Errorf("%v, %v", out, err)
	}
	if got := rooms.taken; got.GetPool() != "metal" || got.GetNamespace() != "n" || got.GetInstanceId() != "i" || got.GetBuild() != "b" || got.GetRegion() != "eu" ||
		got.GetLabels()["a"] != "b" || got.GetStrategy() != poolv1.Strategy_STRATEGY_SPREAD {
		t.Errorf("asked for %v", got)
	}
	for err, want := range map[*errs.Error]providerv1.FailureReason{
		errs.New(errs.GameServerFull, "f"): provider.NoCapacity, errs.New(errs.GameServerUnknown, "u"): provider.NotFound, errs.New(errs.StateNotAllowed, "g"): provider.Invalid,
		errs.New(errs.CredentialsInvalid, "c"): provider.Unauthenticated, errs.New(errs.StoreUnavailable, "s"): provider.Ambiguous,
	} {
		rooms.err = rpc.Status(err).Err()
		if _, got := p.Allocate(t.Context(), &providerv1.AllocateRequest{}); provider.ReasonOf(got) != want || !strings.Contains(got.Error(), err.Message) {
			t.Errorf("%s: %v", err.Reason, got)
		}
	}
}

func TestWhatCannotWorkIsRefused(t *testing.T) {
	for want, cfg := range map[string]static.Config{
		"static.pool": {Builds: []string{"b"}}, "static.builds": {Pool: "p"}, "static.strategy": {Pool: "p", Builds: []string{"b"}, Strategy: "thin"},
	} {
		if _, err := static.New(cfg, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}
