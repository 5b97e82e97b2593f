package gameinstance_test

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	attemptv1 "github.com/berth-dev/berth/pkg/gen/berth/attempt/v1"
	poolv1 "github.com/berth-dev/berth/pkg/gen/berth/pool/v1"
	sessionv1 "github.com/berth-dev/berth/pkg/gen/berth/session/v1"

	"github.com/berth-dev/berth/pkg/apikey"
	"github.com/berth-dev/berth/pkg/app"
	"github.com/berth-dev/berth/pkg/auth"
	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/ids"
	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/pkg/redisx/redistest"
	"github.com/berth-dev/berth/pkg/rpc"
	allocationv1 "github.com/berth-dev/berth/sdk/go/gen/berth/allocation/v1"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	tokenv1 "github.com/berth-dev/berth/sdk/go/gen/berth/token/v1"
	"github.com/berth-dev/berth/services/gameinstance"
)

const (
	internalKey = "internal-key-of-at-least-32-characters"
	apiKey      = apikey.Prefix + "test-key"
	viewerKey   = apikey.Prefix + "viewer-key"
	poolKey     = apikey.Prefix + "pool-key"
)

// peers stands in for allocation and token-issuer, on a real socket.
type peers struct {
	allocationv1.UnimplementedAllocationServiceServer
	tokenv1.UnimplementedTokenServiceServer
	key  ed25519.PrivateKey
	addr string

	mu       sync.Mutex
	failures int         // how many allocation calls fail before one is answered
	refusal  errs.Reason // why no allocation is created, if set
	refused  int         // how many were not
	unminted int         // how many pairs cannot be minted before one is
	revoked  []*tokenv1.RevocationTarget
	created  chan *allocationv1.CreateAllocationRequest
	released chan string
}

func (p *peers) fail() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failures--
	return p.failures >= 0
}

// refuse has allocations refused from now on, with a reason; "": no more.
func (p *peers) refuse(why errs.Reason) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refusal = why
}

func (p *peers) hasRefused() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.refused > 0
}

func (p *peers) CreateAllocation(_ context.Context, req *allocationv1.CreateAllocationRequest) (*allocationv1.CreateAllocationResponse, error) {
	if p.fail() {
		return nil, rpc.Status(errs.New(errs.StoreUnavailable, "away")).Err()
	}
	p.mu.Lock()
	reason := p.refusal
	if reason != "" {
		p.refused++
	}
	p.mu.Unlock()
	if reason != "" {
		return nil, rpc.Status(errs.New(reason, "placement: is refused")).Err()
	}
	p.created <- req
	return &allocationv1.CreateAllocationResponse{}, nil
}

func (p *peers) ReleaseAllocation(_ context.Context, req *allocationv1.ReleaseAllocationRequest) (*allocationv1.ReleaseAllocationResponse, error) {
	p.released <- req.GetAllocationId()
	return &allocationv1.ReleaseAllocationResponse{}, nil
}

func (p *peers) CheckPlacement(_ context.Context, req *allocationv1.CheckPlacementRequest) (*allocationv1.CheckPlacementResponse, error) {
	reasons := map[string]errs.Reason{"far": errs.RegionUnknown, "drained": errs.PlacementImpossible, "busy": errs.AllocationQueueFull, "away": errs.ServiceUnavailable}
	if reason, ok := reasons[req.GetPlacement().GetBuild()]; ok {
		return nil, rpc.Status(errs.New(reason, "placement: is refused")).Err()
	}
	if req.GetPlacement().GetBuild() != "game" {
		return nil, rpc.Status(errs.New(errs.BuildUnknown, "placement.build: no provider runs %q", req.GetPlacement().GetBuild())).Err()
	}
	return &allocationv1.CheckPlacementResponse{}, nil
}

func (p *peers) IssuePlayerTicket(_ context.Context, req *tokenv1.IssuePlayerTicketRequest) (*tokenv1.IssuePlayerTicketResponse, error) {
	return &tokenv1.IssuePlayerTicketResponse{Ticket: fmt.Sprintf("ticket of %s since %d", req.GetPlayerId(), req.GetPlayerAddTime().AsTime().UnixMicro()), ExpireTime: timestamppb.Now()}, nil
}

func (p *peers) IssueTokenPair(_ context.Context, req *tokenv1.IssueTokenPairRequest) (*tokenv1.IssueTokenPairResponse, error) {
	p.mu.Lock()
	p.unminted--
	fails := p.unminted >= 0
	p.mu.Unlock()
	if fails {
		return nil, rpc.Status(errs.New(errs.ServiceUnavailable, "away")).Err()
	}
	return &tokenv1.IssueTokenPairResponse{ServerId: ids.Server(req.GetAttemptId()), GameToken: "game of " + req.GetAttemptId(), SocialToken: "social", ExpireTime: timestamppb.Now()}, nil
}

func (p *peers) GetRevocations(context.Context, *tokenv1.GetRevocationsRequest) (*tokenv1.GetRevocationsResponse, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return &tokenv1.GetRevocationsResponse{Version: int64(len(p.revoked)), Targets: p.revoked}, nil
}

func (p *peers) GetJsonWebKeySet(context.Context, *tokenv1.GetJsonWebKeySetRequest) (*tokenv1.GetJsonWebKeySetResponse, error) {
	x := base64.RawURLEncoding.EncodeToString(p.key.Public().(ed25519.PublicKey))
	return &tokenv1.GetJsonWebKeySetResponse{Keys: []*tokenv1.JsonWebKey{{Kty: "OKP", Crv: "Ed25519", X: x, Kid: "k", Use: "sig", Alg: "EdDSA"}}}, nil
}

func (p *peers) RefreshTokenPair(_ context.Context, req *tokenv1.RefreshTokenPairRequest) (*tokenv1.RefreshTokenPairResponse, error) {
	return &tokenv1.RefreshTokenPairResponse{GameToken: "renewed game of " + req.GetServerId(), SocialToken: "social", ExpireTime: timestamppb.Now(), RefreshTime: timestamppb.Now()}, nil
}

func (p *peers) token(t *testing.T, audience, serverID string) string {
	t.Helper()
	return p.tokenOf(t, audience, serverID, time.Hour)
}

// tokenOf returns a token that is valid for so long.
func (p *peers) tokenOf(t *testing.T, audience, serverID string, left time.Duration) string {
	t.Helper()
	tok := jwt.NewWithClaims(jwt.SigningMethodEdDSA, jwt.MapClaims{
		"iss": "berth", "aud": audience, "sub": serverID, "pair": "pair", "namespace": "default", "jti": audience, "iat": time.Now().Unix(), "exp": time.Now().Add(left).Unix(),
	})
	tok.Header["kid"] = "k"
	s, err := tok.SignedString(p.key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newPeers(t *testing.T) *peers {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	p := &peers{key: key, created: make(chan *allocationv1.CreateAllocationRequest, 64), released: make(chan string, 64)}
	srv := grpc.NewServer()
	allocationv1.RegisterAllocationServiceServer(srv, p)
	tokenv1.RegisterTokenServiceServer(srv, p)
	ln := listen(t)
	p.addr = ln.Addr().String()
	go func() { _ = srv.Serve(ln) }()
	t.Cleanup(srv.Stop)
	return p
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

// world is a running game-instance service with stand-ins around it.
type world struct {
	t         *testing.T
	peers     *peers
	store     *redisx.Store
	conn      *grpc.ClientConn
	instances instancev1.GameInstanceServiceClient
	messages  instancev1.MessageServiceClient
	servers   gameserverv1.GameServerServiceClient
	registry  gameserverv1.GameServerRegistryServiceClient
	sessions  sessionv1.SessionServiceClient
	attempts  attemptv1.AttemptServiceClient
	pools     poolv1.PoolServiceClient
	// of the servers' newest sockets
	epochs     map[string]int64
	sessionIDs map[string]string
	stop       func() // stops the service; the end of the test does it otherwise
}

func start(t *testing.T, configure func(*gameinstance.Config)) *world {
	t.Helper()
	return startAt(t, redistest.Embedded(t), newPeers(t), configure)
}

// startAt starts the service on a store and between peers that may have seen others before it.
func startAt(t *testing.T, store *redisx.Store, p *peers, configure func(*gameinstance.Config)) *world {
	t.Helper()
	ln := listen(t)
	cfg := gameinstance.Default()
	cfg.GRPCListener, cfg.TokenIssuer, cfg.Allocation = ln, p.addr, p.addr
	cfg.Redis = redisx.Config{Addrs: []string{addr(store)}}
	cfg.Auth = auth.Config{InternalKey: internalKey, APIKeySHA256: apikey.Hash(apiKey), APIKeys: []auth.APIKey{
		{Name: "viewer", SHA256: apikey.Hash(viewerKey), Role: auth.RoleViewer, Namespaces: []string{"default"}},
		{Name: "pool", SHA256: apikey.Hash(poolKey), Role: auth.RolePool, Namespaces: []string{"default"}},
	}}
	if configure != nil {
		configure(&cfg)
	}
	ctx, cancel := context.WithCancel(context.Background())
	a, err := app.New(ctx, app.Config{Log: slog.New(slog.DiscardHandler)}, gameinstance.Module(cfg))
	if err != nil {
		t.Fatal(err)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- a.Run(ctx) }()
	for begin := time.Now(); ; {
		err := a.Ready(ctx)
		if err == nil {
			break
		}
		if time.Since(begin) > time.Minute {
			t.Fatal(err)
		}
		<-time.After(time.Millisecond)
	}
	conn, err := grpc.NewClient(ln.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	stop := sync.OnceFunc(func() {
		_ = conn.Close()
		cancel()
		if err := <-stopped; err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	t.Cleanup(stop)
	return &world{
		t: t, peers: p, store: store, conn: conn, instances: instancev1.NewGameInstanceServiceClient(conn), servers: gameserverv1.NewGameServerServiceClient(conn),
		messages: instancev1.NewMessageServiceClient(conn), registry: gameserverv1.NewGameServerRegistryServiceClient(conn),
		sessions: sessionv1.NewSessionServiceClient(conn), attempts: attemptv1.NewAttemptServiceClient(conn),
		pools:  poolv1.NewPoolServiceClient(conn),
		epochs: map[string]int64{}, sessionIDs: map[string]string{}, stop: stop,
	}
}

func as(key string) context.Context {
	return metadata.AppendToOutgoingContext(context.Background(), auth.MetadataAuthorization, "Bearer "+key)
}

func internally() context.Context {
	return metadata.AppendToOutgoingContext(context.Background(), auth.MetadataInternalKey, internalKey)
}

func (w *world) asServer(serverID string) context.Context {
	return metadata.AppendToOutgoingContext(as(w.peers.token(w.t, "game", serverID)), auth.MetadataSocialToken, w.peers.token(w.t, "social", serverID))
}

// reasonIs fails the test unless err has the reason.
func reasonIs(t *testing.T, err error, want errs.Reason) {
	t.Helper()
	if got := errs.ReasonOf(rpc.FromStatus(err)); got != want {
		t.Errorf("%v has reason %q, want %q", err, got, want)
	}
}

func (w *world) create() *instancev1.GameInstance {
	w.t.Helper()
	out, err := w.instances.CreateGameInstance(as(apiKey), &instancev1.CreateGameInstanceRequest{
		Placement: &instancev1.Placement{Build: "game"}, Players: []*instancev1.Player{{Id: "ann"}, {Id: "bob"}},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return out.GetInstance()
}

// open opens a session for the server of an instance's first attempt.
func (w *world) open(id string, hello *linkv1.Hello) *sessionv1.OpenSessionResponse {
	w.t.Helper()
	return w.openAs(openRequest(id, hello))
}

func (w *world) openAs(req *sessionv1.OpenSessionRequest) *sessionv1.OpenSessionResponse {
	w.t.Helper()
	if _, err := w.sessions.RenewGateway(internally(), &sessionv1.RenewGatewayRequest{GatewayId: "gw", Lease: durationpb.New(time.Minute)}); err != nil {
		w.t.Fatal(err)
	}
	out, err := w.sessions.OpenSession(internally(), req)
	if err != nil {
		w.t.Fatal(err)
	}
	w.epochs[req.GetServerId()], w.sessionIDs[req.GetServerId()] = out.GetSessionEpoch(), out.GetSessionId()
	return out
}

func openRequest(id string, hello *linkv1.Hello) *sessionv1.OpenSessionRequest {
	server := ids.Server(ids.Attempt(id, 1))
	return &sessionv1.OpenSessionRequest{Namespace: "default", ServerId: server, PairId: "pair", GatewayId: "gw", Hello: hello}
}

// running returns an instance that is linked through gateway "gw" and running.
func (w *world) running() *instancev1.GameInstance {
	w.t.Helper()
	inst := w.create()
	w.open(inst.GetId(), &linkv1.Hello{})
	server := w.asServer(ids.Server(ids.Attempt(inst.GetId(), 1)))
	if _, err := w.link(inst.GetId()); err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.servers.ConnectPlayers(server, &gameserverv1.ConnectPlayersRequest{InstanceId: inst.GetId()}); err != nil {
		w.t.Fatal(err)
	}
	return w.get(inst.GetId())
}

// link links the server of an instance's first attempt.
func (w *world) link(id string) (*gameserverv1.LinkResponse, error) {
	w.t.Helper()
	out := new(gameserverv1.LinkResponse)
	return out, w.relay(&linkv1.Request{Id: 1, InstanceId: id, Method: "Link"}, out)
}

// relay makes a call of the server of an instance's first attempt, as a gateway would.
func (w *world) relay(req *linkv1.Request, out proto.Message) error {
	w.t.Helper()
	return w.relayAs(ids.Server(ids.Attempt(req.GetInstanceId(), 1)), req, out)
}

func (w *world) relayAs(server string, req *linkv1.Request, out proto.Message) error {
	w.t.Helper()
	ctx, cancel := context.WithCancel(internally())
	defer cancel()
	stream, err := w.sessions.Relay(ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := stream.Send(&sessionv1.RelayRequest{
		Id: 1, Identity: &sessionv1.ServerIdentity{Namespace: "default", ServerId: server, PairId: "pair", SessionId: w.sessionIDs[server], SessionEpoch: w.epochs[server]}, Request: req,
	}); err != nil {
		w.t.Fatal(err)
	}
	answer, err := stream.Recv()
	if err != nil {
		w.t.Fatal(err)
	}
	if e := answer.GetResponse().GetError(); e != nil {
		return rpc.Status(errs.New(errs.Reason(e.GetReason()), "%s", e.GetMessage())).Err()
	}
	return proto.Unmarshal(answer.GetResponse().GetResult(), out)
}

func (w *world) get(id string) *instancev1.GameInstance {
	w.t.Helper()
	out, err := w.instances.GetGameInstance(as(viewerKey), &instancev1.GetGameInstanceRequest{InstanceId: id})
	if err != nil {
		w.t.Fatal(err)
	}
	return out.GetInstance()
}

// remember returns a function that puts an instance back to what it is now in the store, as if all writes since had been lost.
func (w *world) remember(id string) (restore func()) {
	w.t.Helper()
	ctx, key := context.Background(), redisx.Key(w.store.Partition(id), "i:"+id)
	was, err := w.store.HGetAll(ctx, key).Result()
	if err != nil {
		w.t.Fatal(err)
	}
	return func() {
		if err := w.store.Del(ctx, key).Err(); err != nil {
			w.t.Fatal(err)
		}
		if err := w.store.HSet(ctx, key, was).Err(); err != nil {
			w.t.Fatal(err)
		}
	}
}

// TestMain checks for goroutines that are left. One of the driver looks for a dead server once a second, and notices only then that its pool is closed.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9/internal/pool.(*ConnPool).tryDial"))
}

func addr(s *redisx.Store) string { return s.Addrs()[0] }

// rawCodec sends bytes as they are.
type rawCodec struct{}

func (rawCodec) Name() string                  { return "proto" }
func (rawCodec) Marshal(v any) ([]byte, error) { return v.([]byte), nil }
func (rawCodec) Unmarshal([]byte, any) error   { return nil }
