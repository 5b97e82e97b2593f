package static_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/berth-dev/berth/pkg/apikey"
	"github.com/berth-dev/berth/pkg/app"
	"github.com/berth-dev/berth/pkg/auth"
	"github.com/berth-dev/berth/pkg/conf"
	"github.com/berth-dev/berth/pkg/freeport"
	poolv1 "github.com/berth-dev/berth/pkg/gen/berth/pool/v1"
	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/pkg/redisx/redistest"
	"github.com/berth-dev/berth/pkg/rpc"
	"github.com/berth-dev/berth/sdk/go/bootstrap"
	"github.com/berth-dev/berth/sdk/go/gameserver"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	"github.com/berth-dev/berth/services/gameinstance"
	"github.com/berth-dev/berth/services/gateway"
	"github.com/berth-dev/berth/services/tokenissuer"
)

const (
	internalKey = "internal-key-of-at-least-32-characters"
	poolKey     = apikey.Prefix + "pool-key"
	viewerKey   = apikey.Prefix + "viewer-key"
	build       = "arena"
	region      = "eu"
	patience    = 30 * time.Second
)

// TestMain checks for goroutines that are left. One of the driver looks for a dead server once a second, and notices only then that its pool is closed.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9/internal/pool.(*ConnPool).tryDial"))
}

// world is what is behind a pool in production: game-instance, with the token-issuer and a gateway around it, over a real Redis.
type world struct {
	edge     string
	conn     *grpc.ClientConn // to game-instance, as allocation's
	stranger *grpc.ClientConn // with the internal key of another deployment
	nowhere  *grpc.ClientConn // to an address where nobody listens
	pools    poolv1.PoolServiceClient
	registry gameserverv1.GameServerRegistryServiceClient
}

func start(t *testing.T) *world {
	t.Helper()
	instances, issuer, edge, api := listen(t), listen(t), listen(t), listen(t)
	nowhere := freeport.Addr(t)
	redis := redisx.Config{Addrs: []string{redistest.Server(t)}, Partitions: 8}
	callers := auth.Config{InternalKey: internalKey, APIKeys: []auth.APIKey{
		{Name: "pool", SHA256: apikey.Hash(poolKey), Role: auth.RolePool, Namespaces: []string{"default"}},
		{Name: "viewer", SHA256: apikey.Hash(viewerKey), Role: auth.RoleViewer, Namespaces: []string{"default"}},
	}}
	ti := tokenissuer.Default()
	ti.GRPCListener, ti.Redis, ti.Auth, ti.SealingKey = issuer, redis, callers, "sealing-key-of-at-least-32-characters"
	gi := gameinstance.Default()
	gi.GRPCListener, gi.Redis, gi.Auth, gi.TokenIssuer, gi.Allocation = instances, redis, callers, issuer.Addr().String(), nowhere
	gw := gateway.Default()
	gw.EdgeListener, gw.APIListener, gw.Redis, gw.Auth = edge, api, redis, callers
	gw.GameInstance, gw.TokenIssuer, gw.Allocation = instances.Addr().String(), issuer.Addr().String(), nowhere
	ti.Audit.Stdout, gi.Audit.Stdout, gw.Audit.Stdout = false, false, false
	run(t, tokenissuer.Module(ti), gameinstance.Module(gi), gateway.Module(gw))

	w := &world{edge: "http://" + edge.Addr().String(), conn: dial(t, instances.Addr().String(), internalKey)}
	w.stranger = dial(t, instances.Addr().String(), "another-internal-key-of-32-characters")
	w.nowhere = dial(t, nowhere, internalKey)
	w.pools = poolv1.NewPoolServiceClient(w.conn)
	w.registry = gameserverv1.NewGameServerRegistryServiceClient(dial(t, instances.Addr().String(), ""))
	return w
}

// run runs modules until the end of the test. It returns when they are ready.
func run(t *testing.T, modules ...app.Module) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	a, err := app.New(ctx, app.Config{Log: slog.New(slog.DiscardHandler)}, modules...)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-stopped; err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	eventually(t, "the services are ready", func() error { return a.Ready(ctx) })
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

// dial connects as services do to each other.
func dial(t *testing.T, addr, key string) *grpc.ClientConn {
	t.Helper()
	conn, err := rpc.Dial(addr, conf.Secret(key))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// waiter is a game server of a pool, and ends when it is given an instance: nobody links to one here.
type waiter struct {
	host  *gameserver.Host
	ended chan struct{} // closed when it waits no more
	err   error         // why; written before ended is closed
}

// join starts a game server that joins a pool by itself and waits.
func (w *world) join(t *testing.T, pool, name string, capacity int32) *waiter {
	t.Helper()
	host, err := gameserver.Open(t.Context(), gameserver.WithBootstrap(&bootstrap.Document{
		Version: bootstrap.Version, Namespace: "default", Gateway: w.edge, Pool: &bootstrap.Pool{
			Name: pool, Server: name, Key: poolKey, Builds: []string{build}, Region: region, Capacity: capacity, Labels: map[string]string{"suite": "providertest"},
			Endpoints: []bootstrap.Endpoint{{Name: "game", Host: "192.0.2.7", Port: 7777, Protocol: "udp"}},
		},
	}))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	server := &waiter{host: host, ended: make(chan struct{})}
	go func() {
		defer close(server.ended)
		if _, server.err = host.Accept(ctx); server.err == nil {
			server.err = errors.New("it was given an instance that nobody has told it of")
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-server.ended
		if err := host.Close(context.Background()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	})
	return server
}

// stillWaits fails the test if the server has ended.
func (s *waiter) stillWaits(t *testing.T) {
	t.Helper()
	select {
	case <-s.ended:
		t.Errorf("server %s has ended: %v", s.host.ID(), s.err)
	default:
	}
}

// members returns the servers of a pool, with the room that is had on them.
func (w *world) members(ctx context.Context, pool string) ([]*gameserverv1.GameServer, error) {
	ctx = metadata.AppendToOutgoingContext(ctx, auth.MetadataAuthorization, "Bearer "+viewerKey)
	out, err := w.registry.ListGameServers(ctx, &gameserverv1.ListGameServersRequest{})
	var members []*gameserverv1.GameServer
	for _, s := range out.GetServers() {
		if s.GetPool() == pool {
			members = append(members, s)
		}
	}
	return members, err
}

func eventually(t *testing.T, what string, condition func() error) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); ; <-tick.C {
		err := condition()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s: %v", what, err)
		}
	}
}
