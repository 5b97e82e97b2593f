package static_test

import (
	"context"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"

	"github.com/berth-dev/berth/pkg/errs"
	poolv1 "github.com/berth-dev/berth/pkg/gen/berth/pool/v1"
	"github.com/berth-dev/berth/pkg/rpc"
	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/providers/static"
)

// pools answers each call with one room, or an error.
type pools struct {
	poolv1.UnimplementedPoolServiceServer
	server *grpc.Server
	err    *errs.Error
	breaks bool // the connection, while a call is under way
	stops  sync.WaitGroup
	taken  *poolv1.TakeRoomRequest
}

func (p *pools) answer(ctx context.Context) (*poolv1.Room, error) {
	if p.breaks {
		p.stops.Go(p.server.Stop)
		<-ctx.Done()
	}
	if p.err != nil {
		return nil, rpc.Status(p.err).Err()
	}
	return &poolv1.Room{AttemptId: "attempt", ServerId: "server", Region: "eu"}, nil
}

func (p *pools) TakeRoom(ctx context.Context, req *poolv1.TakeRoomRequest) (*poolv1.TakeRoomResponse, error) {
	p.taken = req
	room, err := p.answer(ctx)
	return &poolv1.TakeRoomResponse{Room: room}, err
}

func (p *pools) GetRoom(ctx context.Context, _ *poolv1.GetRoomRequest) (*poolv1.GetRoomResponse, error) {
	room, err := p.answer(ctx)
	return &poolv1.GetRoomResponse{Room: room}, err
}

// open returns a provider of the pool "metal" that asks such a service.
func open(t *testing.T, builds ...string) (*static.Provider, *pools) {
	t.Helper()
	p, ln := &pools{server: grpc.NewServer()}, listen(t)
	poolv1.RegisterPoolServiceServer(p.server, p)
	served := make(chan error, 1)
	go func() { served <- p.server.Serve(ln) }()
	t.Cleanup(func() {
		p.server.Stop()
		<-served
		p.stops.Wait()
	})
	provider, err := static.New(static.Config{Deployment: "d", Pool: "metal", Strategy: "spread", Builds: builds, Regions: []string{"eu"}}, poolv1.NewPoolServiceClient(dial(t, ln.Addr().String(), "")))
	if err != nil {
		t.Fatal(err)
	}
	return provider, p
}

func order(build string) *providerv1.AllocateRequest {
	return &providerv1.AllocateRequest{
		AttemptId: "attempt", Namespace: "n", InstanceId: "i", Build: build, Region: "eu", Labels: map[string]string{"a": "b"}, Deployment: "d",
	}
}

func TestAPoolIsAProvider(t *testing.T) {
	p, rooms := open(t, "b")
	out, err := p.Allocate(t.Context(), order("b"))
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
		rooms.err = err
		if _, got := p.Allocate(t.Context(), order("b")); provider.ReasonOf(got) != want || !strings.Contains(got.Error(), err.Message) {
			t.Errorf("%s: %v", err.Reason, got)
		}
	}
}

// A call that was sent may have been done, whatever became of the connection.
func TestACallThatBreaksOffIsAmbiguous(t *testing.T) {
	p, rooms := open(t, "b")
	rooms.breaks = true
	if _, err := p.Allocate(t.Context(), order("b")); provider.ReasonOf(err) != provider.Ambiguous {
		t.Errorf("the connection broke during the call: %v", err)
	}
	if _, err := p.Allocate(t.Context(), order("b")); provider.ReasonOf(err) != provider.Unavailable {
		t.Errorf("nobody is there: %v", err)
	}
}

// An attempt that has room keeps it when the settings name its build no more.
func TestARepeatAfterTheSettingsChanged(t *testing.T) {
	p, rooms := open(t, "another")
	if out, err := p.Allocate(t.Context(), order("b")); err != nil || out.GetServer().GetServerId() != "server" || rooms.taken != nil {
		t.Errorf("a repeat: %v, %v; taken %v", out, err, rooms.taken)
	}
	rooms.err = errs.New(errs.GameServerUnknown, "it has none")
	if _, err := p.Allocate(t.Context(), order("b")); provider.ReasonOf(err) != provider.Invalid || !strings.Contains(err.Error(), "static.builds") {
		t.Errorf("the first call: %v", err)
	}
	rooms.err = errs.New(errs.StoreUnavailable, "away")
	if _, err := p.Allocate(t.Context(), order("b")); provider.ReasonOf(err) != provider.Ambiguous {
		t.Errorf("nobody knows whether it has any: %v", err)
	}
}

func TestWhatCannotWorkIsRefused(t *testing.T) {
	for want, cfg := range map[string]static.Config{
		"static.pool": {Builds: []string{"b"}}, "static.builds": {Pool: "p"}, "static.strategy": {Pool: "p", Builds: []string{"b"}, Strategy: "thin"},
		"no server can join": {Pool: "Metal", Builds: []string{"b"}}, `"Arena" is no name`: {Pool: "p", Builds: []string{"Arena"}}, `"EU West" is no name`: {Pool: "p", Builds: []string{"b"}, Regions: []string{"EU West"}},
	} {
		if _, err := static.New(cfg, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}
