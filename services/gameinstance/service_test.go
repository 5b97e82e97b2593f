package gameinstance_test

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"log/slog"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	attemptv1 "github.com/berth-dev/berth/pkg/gen/berth/attempt/v1"
	eventv1 "github.com/berth-dev/berth/pkg/gen/berth/event/v1"
	sessionv1 "github.com/berth-dev/berth/pkg/gen/berth/session/v1"

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
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"github.com/berth-dev/berth/services/gameinstance"
	"github.com/berth-dev/berth/services/gameinstance/internal/instance"
	"github.com/berth-dev/berth/services/gameinstance/internal/redisstore"
	"github.com/berth-dev/berth/services/gameinstance/internal/session"
)

const (
	internalKey = "internal-key-of-at-least-32-characters"
	apiKey      = auth.KeyPrefix + "test-key"
	viewerKey   = auth.KeyPrefix + "viewer-key"
)

// peers stands in for allocation and token-issuer, on a real socket.
type peers struct {
	allocationv1.UnimplementedAllocationServiceServer
	tokenv1.UnimplementedTokenServiceServer
	key  ed25519.PrivateKey
	addr string

	mu       sync.Mutex
	failures int // how many allocation calls fail before one is answered
	created  chan *allocationv1.CreateAllocationRequest
	released chan string
}

func (p *peers) fail() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failures--
	return p.failures >= 0
}

func (p *peers) CreateAllocation(_ context.Context, req *allocationv1.CreateAllocationRequest) (*allocationv1.CreateAllocationResponse, error) {
	if p.fail() {
		return nil, rpc.Status(errs.New(errs.StoreUnavailable, "away")).Err()
	}
	p.created <- req
	return &allocationv1.CreateAllocationResponse{}, nil
}

func (p *peers) ReleaseAllocation(_ context.Context, req *allocationv1.ReleaseAllocationRequest) (*allocationv1.ReleaseAllocationResponse, error) {
	p.released <- req.GetAllocationId()
	return &allocationv1.ReleaseAllocationResponse{}, nil
}

func (p *peers) CheckPlacement(_ context.Context, req *allocationv1.CheckPlacementRequest) (*allocationv1.CheckPlacementResponse, error) {
	if req.GetPlacement().GetBuild() != "game" {
		return nil, rpc.Status(errs.New(errs.BuildUnknown, "placement.build: no provider runs %q", req.GetPlacement().GetBuild())).Err()
	}
	return &allocationv1.CheckPlacementResponse{}, nil
}

func (p *peers) IssuePlayerTicket(_ context.Context, req *tokenv1.IssuePlayerTicketRequest) (*tokenv1.IssuePlayerTicketResponse, error) {
	return &tokenv1.IssuePlayerTicketResponse{Ticket: "ticket of " + req.GetPlayerId(), ExpireTime: timestamppb.Now()}, nil
}

func (p *peers) GetJsonWebKeySet(context.Context, *tokenv1.GetJsonWebKeySetRequest) (*tokenv1.GetJsonWebKeySetResponse, error) {
	x := base64.RawURLEncoding.EncodeToString(p.key.Public().(ed25519.PublicKey))
	return &tokenv1.GetJsonWebKeySetResponse{Keys: []*tokenv1.JsonWebKey{{Kty: "OKP", Crv: "Ed25519", X: x, Kid: "k", Use: "sig", Alg: "EdDSA"}}}, nil
}

func (p *peers) token(t *testing.T, audience, serverID string) string {
	t.Helper()
	tok := jwt.NewWithClaims(jwt.SigningMethodEdDSA, jwt.MapClaims{
		"iss": "berth", "aud": audience, "sub": serverID, "pair": "pair of " + serverID, "namespace": "default", "jti": audience, "iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix(),
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
	servers   gameserverv1.GameServerServiceClient
	sessions  sessionv1.SessionServiceClient
	attempts  attemptv1.AttemptServiceClient
	epochs    map[string]int64 // of the servers' newest sockets
}

func start(t *testing.T, configure func(*gameinstance.Config)) *world {
	t.Helper()
	store := redistest.Embedded(t)
	p := newPeers(t)
	ln := listen(t)
	cfg := gameinstance.Default()
	cfg.GRPCListener, cfg.TokenIssuer, cfg.Allocation = ln, p.addr, p.addr
	cfg.Redis = redisx.Config{Addrs: []string{addr(store)}}
	cfg.Auth = auth.Config{InternalKey: internalKey, APIKeySHA256: auth.HashKey(apiKey), APIKeys: []auth.APIKey{
		{Name: "viewer", SHA256: auth.HashKey(viewerKey), Role: auth.RoleViewer, Namespaces: []string{"default"}},
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
	conn, err := grpc.NewClient(ln.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		cancel()
		if err := <-stopped; err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	return &world{
		t: t, peers: p, store: store, conn: conn, instances: instancev1.NewGameInstanceServiceClient(conn), servers: gameserverv1.NewGameServerServiceClient(conn),
		sessions: sessionv1.NewSessionServiceClient(conn), attempts: attemptv1.NewAttemptServiceClient(conn),
		epochs: map[string]int64{},
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
	if _, err := w.sessions.RenewGateway(internally(), &sessionv1.RenewGatewayRequest{GatewayId: "gw", Lease: durationpb.New(time.Minute)}); err != nil {
		w.t.Fatal(err)
	}
	req := openRequest(id, hello)
	out, err := w.sessions.OpenSession(internally(), req)
	if err != nil {
		w.t.Fatal(err)
	}
	w.epochs[req.GetServerId()] = out.GetSessionEpoch()
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

// link links the server of an instance's first attempt, over a relay as a gateway would.
func (w *world) link(id string) (*gameserverv1.LinkResponse, error) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(internally())
	defer cancel()
	stream, err := w.sessions.Relay(ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	server := ids.Server(ids.Attempt(id, 1))
	if err := stream.Send(&sessionv1.RelayRequest{
		Id: 1, Identity: &sessionv1.ServerIdentity{Namespace: "default", ServerId: server, PairId: "pair", SessionId: "any", SessionEpoch: w.epochs[server]},
		Request: &linkv1.Request{Id: 1, InstanceId: id, Method: "Link"},
	}); err != nil {
		w.t.Fatal(err)
	}
	answer, err := stream.Recv()
	if err != nil {
		w.t.Fatal(err)
	}
	if e := answer.GetResponse().GetError(); e != nil {
		return nil, rpc.Status(errs.New(errs.Reason(e.GetReason()), "%s", e.GetMessage())).Err()
	}
	var out gameserverv1.LinkResponse
	return &out, proto.Unmarshal(answer.GetResponse().GetResult(), &out)
}

func (w *world) get(id string) *instancev1.GameInstance {
	w.t.Helper()
	out, err := w.instances.GetGameInstance(as(viewerKey), &instancev1.GetGameInstanceRequest{InstanceId: id})
	if err != nil {
		w.t.Fatal(err)
	}
	return out.GetInstance()
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestALifeOverGRPC(t *testing.T) {
	w := start(t, nil)
	inst := w.create()
	attempt := ids.Attempt(inst.GetId(), 1)
	if got := <-w.peers.created; got.GetAllocationId() != attempt || got.GetPlacement().GetBuild() != "game" || got.GetDeadline() == nil {
		t.Errorf("allocation asked for %v", got)
	}
	report := func(req *attemptv1.ReportAttemptRequest, want attemptv1.ReportAttemptResponse_Verdict) {
		t.Helper()
		req.InstanceId, req.AttemptId = inst.GetId(), attempt
		out, err := w.attempts.ReportAttempt(internally(), req)
		if err != nil || out.GetVerdict() != want {
			t.Errorf("report: %v, %v; want %v", out, err, want)
		}
	}
	allocated := &attemptv1.ReportAttemptRequest{Outcome: &attemptv1.ReportAttemptRequest_Allocated{Allocated: &attemptv1.Allocated{
		Provider: "p", Region: "r", Endpoints: []*typev1.Endpoint{{Name: "game", Host: "h", Port: 7}},
	}}}
	report(allocated, attemptv1.ReportAttemptResponse_VERDICT_OPEN)
	_, err := w.instances.GetPlayerConnection(as(apiKey), &instancev1.GetPlayerConnectionRequest{InstanceId: inst.GetId(), PlayerId: "ann"})
	reasonIs(t, err, errs.StateNotAllowed)

	w.open(inst.GetId(), &linkv1.Hello{})
	server := w.asServer(ids.Server(attempt))
	linked, err := w.link(inst.GetId())
	if err != nil || len(linked.GetInstance().GetPlayers()) != 2 || linked.GetInstance().GetEndpoints()[0].GetPort() != 7 {
		t.Fatalf("link: %v, %v", linked, err)
	}
	report(allocated, attemptv1.ReportAttemptResponse_VERDICT_ACCEPTED)
	if _, err := w.servers.ConnectPlayers(server, &gameserverv1.ConnectPlayersRequest{InstanceId: inst.GetId()}); err != nil {
		t.Fatal(err)
	}
	conn, err := w.instances.GetPlayerConnection(as(apiKey), &instancev1.GetPlayerConnectionRequest{InstanceId: inst.GetId(), PlayerId: "ann"})
	if err != nil || conn.GetTicket() != "ticket of ann" || conn.GetEndpoints()[0].GetHost() != "h" {
		t.Errorf("connection: %v, %v", conn, err)
	}
	result, _ := structpb.NewStruct(map[string]any{"winner": "ann"})
	if _, err := w.servers.EndGameInstance(server, &gameserverv1.EndGameInstanceRequest{InstanceId: inst.GetId(), Result: &typev1.Data{Kind: &typev1.Data_Json{Json: result}}}); err != nil {
		t.Fatal(err)
	}
	if got := <-w.peers.released; got != attempt {
		t.Errorf("released %s", got)
	}
	report(&attemptv1.ReportAttemptRequest{Outcome: &attemptv1.ReportAttemptRequest_Released{Released: &attemptv1.Released{}}}, attemptv1.ReportAttemptResponse_VERDICT_ACCEPTED)

	got := w.get(inst.GetId())
	if got.GetState() != instancev1.GameInstance_STATE_ENDED || got.GetResult().GetJson().GetFields()["winner"].GetStringValue() != "ann" || got.GetExpireTime() == nil {
		t.Errorf("ended as %v", got)
	}
	history, err := w.instances.ListHistory(as(viewerKey), &instancev1.ListHistoryRequest{InstanceId: inst.GetId()})
	if err != nil {
		t.Fatal(err)
	}
	var events []string
	for _, e := range history.GetEntries() {
		events = append(events, e.GetEvent())
	}
	if want := []string{"created", "allocating", "allocated", "linked", "running", "ended", "released"}; !slices.Equal(events, want) {
		t.Errorf("history %v, want %v", events, want)
	}
}

func TestACallThatFailsIsRepeated(t *testing.T) {
	w := start(t, nil)
	w.peers.failures = 2
	inst := w.create()
	if got := <-w.peers.created; got.GetInstanceId() != inst.GetId() {
		t.Errorf("allocated %v", got)
	}
}

func TestCreateIsIdempotentByRequestID(t *testing.T) {
	w := start(t, nil)
	req := &instancev1.CreateGameInstanceRequest{RequestId: "r1", Placement: &instancev1.Placement{Build: "game"}, SkipAllocation: true}
	var made []string
	var mu sync.Mutex
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			out, err := w.instances.CreateGameInstance(as(apiKey), req)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			made = append(made, out.GetInstance().GetId())
		})
	}
	all.Wait()
	if len(slices.Compact(made)) != 1 {
		t.Errorf("one request id made %v", made)
	}
	other := proto.CloneOf(req)
	other.Labels = map[string]string{"a": "b"}
	_, err := w.instances.CreateGameInstance(as(apiKey), other)
	reasonIs(t, err, errs.RequestIDReused)
}

func TestACommandRepeatedWithItsRequestIDHasNoFurtherEffect(t *testing.T) {
	w := start(t, nil)
	inst := w.running()
	add := &instancev1.AddPlayersRequest{InstanceId: inst.GetId(), RequestId: "add", Players: []*instancev1.Player{{Id: "eve"}}}
	for range 2 {
		if _, err := w.instances.AddPlayers(as(apiKey), add); err != nil {
			t.Fatal(err)
		}
	}
	add.Players[0].Id = "mal"
	_, err := w.instances.AddPlayers(as(apiKey), add)
	reasonIs(t, err, errs.RequestIDReused)
	// The id belongs to its caller and its kind of request.
	_, err = w.instances.RemovePlayers(as(apiKey), &instancev1.RemovePlayersRequest{InstanceId: inst.GetId(), RequestId: "add", PlayerIds: []string{"eve"}})
	reasonIs(t, err, errs.RequestIDReused)
}

func TestAWatcherSeesEachStateAndTheEnd(t *testing.T) {
	w := start(t, nil)
	inst := w.create()
	stream, err := w.instances.WatchGameInstance(as(viewerKey), &instancev1.WatchGameInstanceRequest{InstanceId: inst.GetId()})
	if err != nil {
		t.Fatal(err)
	}
	revision := int64(0)
	next := func() *instancev1.GameInstance {
		t.Helper()
		m, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if got := m.GetInstance().GetRevision(); got <= revision {
			t.Errorf("revision %d after %d", got, revision)
		}
		revision = m.GetInstance().GetRevision()
		return m.GetInstance()
	}
	next()
	if _, err := w.instances.TerminateGameInstance(as(apiKey), &instancev1.TerminateGameInstanceRequest{InstanceId: inst.GetId(), Message: "enough"}); err != nil {
		t.Fatal(err)
	}
	for {
		if got := next(); got.GetState() == instancev1.GameInstance_STATE_TERMINATED {
			if got.GetMessage() != "enough" || got.GetReason() != instancev1.GameInstance_REASON_REQUESTED {
				t.Errorf("terminated as %v", got)
			}
			break
		}
	}
	if m, err := stream.Recv(); err == nil {
		t.Errorf("after the end: %v", m)
	}
}

func TestALongHistoryIsElidedAndSaysSo(t *testing.T) {
	w := start(t, nil)
	inst := w.create()
	for n := range 1010 {
		req := &instancev1.UpdateGameDataRequest{InstanceId: inst.GetId(), GameData: &typev1.Data{Kind: &typev1.Data_Binary{Binary: []byte{byte(n)}}}}
		if _, err := w.instances.UpdateGameData(as(apiKey), req); err != nil {
			t.Fatal(err)
		}
	}
	history, err := w.instances.ListHistory(as(viewerKey), &instancev1.ListHistoryRequest{InstanceId: inst.GetId()})
	if err != nil {
		t.Fatal(err)
	}
	if e := history.GetEntries(); len(e) != 1001 || e[0].GetEvent() != "elided" || e[1000].GetEvent() != "game_data_updated" {
		t.Errorf("%d entries, the first %v", len(e), e[0])
	}
}

func TestNewsReachTheGatewayAndStayInTheMailbox(t *testing.T) {
	w := start(t, nil)
	inst := w.running()
	sub := w.store.Subscribe(context.Background(), "berth:gw:gw")
	defer func() { _ = sub.Close() }()
	if _, err := sub.Receive(context.Background()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.instances.AddPlayers(as(apiKey), &instancev1.AddPlayersRequest{InstanceId: inst.GetId(), Players: []*instancev1.Player{{Id: "eve"}}}); err != nil {
		t.Fatal(err)
	}
	var e eventv1.Envelope
	if err := proto.Unmarshal([]byte((<-sub.Channel()).Payload), &e); err != nil || len(e.GetDeliveries()) != 1 {
		t.Fatalf("published %v, %v", &e, err)
	}
	d := e.GetDeliveries()[0]
	pulled, err := w.sessions.PullNotifications(internally(), &sessionv1.PullNotificationsRequest{InstanceId: inst.GetId()})
	if err != nil || len(pulled.GetDeliveries()) != 1 || !proto.Equal(pulled.GetDeliveries()[0], d) {
		t.Errorf("pulled %v, %v; published %v", pulled, err, d)
	}
	ack := &sessionv1.AckNotificationsRequest{Acks: []*sessionv1.MailboxAck{{InstanceId: inst.GetId(), Offset: d.GetOffset()}}}
	if _, err := w.sessions.AckNotifications(internally(), ack); err != nil {
		t.Fatal(err)
	}
	if pulled, err = w.sessions.PullNotifications(internally(), &sessionv1.PullNotificationsRequest{InstanceId: inst.GetId()}); err != nil || len(pulled.GetDeliveries()) != 0 {
		t.Errorf("pulled after the ack: %v, %v", pulled, err)
	}
}

func TestASecondSocketNeedsTheResumeKey(t *testing.T) {
	w := start(t, nil)
	inst := w.running()
	link := w.get(inst.GetId()).GetLink()
	_, err := w.sessions.OpenSession(internally(), openRequest(inst.GetId(), &linkv1.Hello{}))
	reasonIs(t, err, errs.CredentialsInUse)
	_, err = w.sessions.OpenSession(internally(), openRequest(inst.GetId(), &linkv1.Hello{ResumeKey: "guess"}))
	reasonIs(t, err, errs.CredentialsInUse)

	other := w.create()
	first := w.open(other.GetId(), &linkv1.Hello{})
	again := w.open(other.GetId(), &linkv1.Hello{ResumeKey: first.GetResumeKey()})
	if again.GetSessionId() != first.GetSessionId() || again.GetSessionEpoch() <= first.GetSessionEpoch() || again.GetResumeKey() != first.GetResumeKey() {
		t.Errorf("resumed as %v, was %v", again, first)
	}
	if got := w.get(inst.GetId()).GetLink(); !proto.Equal(got, link) {
		t.Errorf("a refused socket changed the link to %v", got)
	}
}

func TestAHelloWhoseAnswerWasLostIsSaidAgain(t *testing.T) {
	w := start(t, nil)
	inst := w.create()
	first := w.open(inst.GetId(), &linkv1.Hello{Nonce: "nonce-of-the-process"})
	again := w.open(inst.GetId(), &linkv1.Hello{Nonce: "nonce-of-the-process"})
	if again.GetSessionId() != first.GetSessionId() || again.GetSessionEpoch() <= first.GetSessionEpoch() || again.GetResumeKey() == "" {
		t.Errorf("answered %v after %v", again, first)
	}
	for _, nonce := range []string{"", "of another process"} {
		_, err := w.sessions.OpenSession(internally(), openRequest(inst.GetId(), &linkv1.Hello{Nonce: nonce}))
		reasonIs(t, err, errs.CredentialsInUse)
	}
}

func TestALinkWhoseSocketIsGoneIsLost(t *testing.T) {
	w := start(t, nil)
	inst := w.running()
	// The end of the socket was told without the link: the gateway had not seen the answer to Link.
	server := inst.GetLink().GetServerId()
	if _, err := w.sessions.CloseSession(internally(), &sessionv1.CloseSessionRequest{ServerId: server, SessionEpoch: w.epochs[server]}); err != nil {
		t.Fatal(err)
	}
	store := redisstoreOf(w)
	instances := instance.NewService(instance.Config{Store: store})
	audit := session.New(session.Config{Sessions: store, Gateways: store, Mailboxes: store, Instances: instances, Log: slog.New(slog.DiscardHandler)})
	if err := audit.Audit(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got := w.get(inst.GetId()).GetLink(); got.GetConnected() {
		t.Error("the link counts as connected")
	}
}

func redisstoreOf(w *world) *redisstore.Store { return redisstore.New(w.store) }

func TestCallsOfOneServerTakeEffectInTheirOrder(t *testing.T) {
	w := start(t, nil)
	inst := w.running()
	server := inst.GetLink().GetServerId()
	stream, err := w.sessions.Relay(internally())
	if err != nil {
		t.Fatal(err)
	}
	for round := range 10 {
		const calls = 16
		for n := range calls {
			payload, err := proto.Marshal(&gameserverv1.UpdateGameDataRequest{GameData: &typev1.Data{Kind: &typev1.Data_Binary{Binary: []byte{byte(n)}}}})
			if err != nil {
				t.Fatal(err)
			}
			if err := stream.Send(&sessionv1.RelayRequest{
				Id: uint64(n), Identity: &sessionv1.ServerIdentity{Namespace: "default", ServerId: server, SessionId: "s"},
				Request: &linkv1.Request{Id: int64(100*round + n), InstanceId: inst.GetId(), LinkEpoch: inst.GetLink().GetEpoch(), Method: "UpdateGameData", Payload: payload},
			}); err != nil {
				t.Fatal(err)
			}
		}
		for range calls {
			if out, err := stream.Recv(); err != nil || out.GetResponse().GetError() != nil {
				t.Fatalf("%v, %v", out, err)
			}
		}
		if got := w.get(inst.GetId()).GetGameData().GetBinary(); got[0] != calls-1 {
			t.Fatalf("round %d ended with the data of call %d", round, got[0])
		}
	}
}

func TestALostSocketIsResumedWithItsLinks(t *testing.T) {
	w := start(t, nil)
	inst := w.create()
	first := w.open(inst.GetId(), &linkv1.Hello{})
	server := ids.Server(ids.Attempt(inst.GetId(), 1))
	linked, err := w.link(inst.GetId())
	if err != nil {
		t.Fatal(err)
	}
	closing := &sessionv1.CloseSessionRequest{ServerId: server, SessionEpoch: first.GetSessionEpoch(), InstanceIds: []string{inst.GetId()}}
	if _, err := w.sessions.CloseSession(internally(), closing); err != nil {
		t.Fatal(err)
	}
	if got := w.get(inst.GetId()).GetLink(); got.GetConnected() {
		t.Error("connected after its socket was closed")
	}
	_, err = w.link(inst.GetId())
	reasonIs(t, err, errs.NotConnected)

	hello := &linkv1.Hello{ResumeKey: first.GetResumeKey(), Instances: []*linkv1.HelloInstance{
		{InstanceId: inst.GetId(), LinkEpoch: linked.GetLinkEpoch(), LastOffset: linked.GetOffset()},
		{InstanceId: ids.Instance("default", "x", ""), LinkEpoch: 1},
	}}
	second := w.open(inst.GetId(), hello)
	if got := second.GetLinks(); len(got) != 1 || got[0].GetInstanceId() != inst.GetId() || got[0].GetLinkEpoch() <= linked.GetLinkEpoch() {
		t.Errorf("resumed links: %v", got)
	}
	if _, err := w.sessions.CloseSession(internally(), closing); err != nil { // told twice, and late
		t.Fatal(err)
	}
	if got := w.get(inst.GetId()).GetLink(); !got.GetConnected() {
		t.Error("the end of an old socket cut the newer one")
	}
}

func TestAGatewayThatIsGoneLosesItsLinks(t *testing.T) {
	w := start(t, nil)
	inst := w.running()
	if _, err := w.sessions.RenewGateway(internally(), &sessionv1.RenewGatewayRequest{GatewayId: "gw", Release: true, Lease: durationpb.New(0)}); err != nil {
		t.Fatal(err)
	}
	stream, err := w.instances.WatchGameInstance(as(viewerKey), &instancev1.WatchGameInstanceRequest{InstanceId: inst.GetId()})
	if err != nil {
		t.Fatal(err)
	}
	for {
		m, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if !m.GetInstance().GetLink().GetConnected() {
			break
		}
	}
	out, err := w.sessions.RenewGateway(internally(), &sessionv1.RenewGatewayRequest{GatewayId: "gw", Lease: durationpb.New(time.Minute)})
	if err != nil || !out.GetLapsed() {
		t.Errorf("renewal of a life that is over: %v, %v", out, err)
	}
}

func TestRelayedCallsReachTheSameHandlers(t *testing.T) {
	w := start(t, nil)
	inst := w.create()
	session := w.open(inst.GetId(), &linkv1.Hello{})
	server := ids.Server(ids.Attempt(inst.GetId(), 1))
	stream, err := w.sessions.Relay(internally())
	if err != nil {
		t.Fatal(err)
	}
	next := uint64(0)
	send := func(frameID, epoch int64, method string, payload []byte) *sessionv1.RelayResponse {
		t.Helper()
		next++
		if err := stream.Send(&sessionv1.RelayRequest{
			Id: next, Identity: &sessionv1.ServerIdentity{Namespace: "default", ServerId: server, PairId: "p", SessionId: session.GetSessionId(), SessionEpoch: session.GetSessionEpoch()},
			Request: &linkv1.Request{Id: frameID, InstanceId: inst.GetId(), LinkEpoch: epoch, Method: method, Payload: payload},
		}); err != nil {
			t.Fatal(err)
		}
		out, err := stream.Recv()
		if err != nil || out.GetId() != next || out.GetResponse().GetId() != frameID {
			t.Fatalf("relay: %v, %v", out, err)
		}
		return out
	}
	call := func(frameID, epoch int64, method string, req proto.Message) *sessionv1.RelayResponse {
		t.Helper()
		payload, err := proto.Marshal(req)
		if err != nil {
			t.Fatal(err)
		}
		return send(frameID, epoch, method, payload)
	}
	fails := func(out *sessionv1.RelayResponse, want errs.Reason) {
		t.Helper()
		if e := out.GetResponse().GetError(); e.GetReason() != string(want) || e.GetCode() != int32(want.Kind()) || e.GetMessage() == "" {
			t.Errorf("relay answered %v, want %s", out, want)
		}
	}
	linked := call(1, 0, "Link", &gameserverv1.LinkRequest{})
	if linked.GetLink().GetInstanceId() != inst.GetId() {
		t.Fatalf("link: %v", linked)
	}
	epoch := linked.GetLink().GetLinkEpoch()
	add := &gameserverv1.AddPlayersRequest{Players: []*instancev1.Player{{Id: "eve"}}}
	for range 2 { // the repeat of a frame whose answer was lost
		if out := call(2, epoch, "AddPlayers", add); out.GetResponse().GetError() != nil {
			t.Errorf("add: %v", out)
		}
	}
	fails(call(3, epoch, "AddPlayers", add), errs.PlayerExists)
	fails(call(4, epoch-1, "UpdateGameData", &gameserverv1.UpdateGameDataRequest{GameData: &typev1.Data{Kind: &typev1.Data_Binary{}}}), errs.StaleLinkEpoch)
	fails(call(5, epoch, "DropTables", &gameserverv1.LinkRequest{}), errs.MethodUnknown)
	fails(call(6, epoch, "RequestBackfill", &gameserverv1.RequestBackfillRequest{}), errs.NotImplemented)
	fails(call(7, epoch, "AddPlayers", &gameserverv1.AddPlayersRequest{}), errs.ValidationFailed)
	fails(send(8, epoch, "AddPlayers", []byte{0x0a, 0x7f}), errs.Malformed)
	fails(call(9, epoch, "AddPlayers", &gameserverv1.AddPlayersRequest{InstanceId: ids.Instance("a", "b", ""), Players: add.GetPlayers()}), errs.ValidationFailed)
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err == nil {
		t.Error("the stream goes on after its end")
	}
}

func TestBadInputIsRefusedWithItsReason(t *testing.T) {
	w := start(t, nil)
	inst := w.running()
	id := inst.GetId()
	server, stranger := ids.Server(ids.Attempt(id, 1)), ids.Server("stranger-1")
	game, social := w.peers.token(t, "game", server), w.peers.token(t, "social", server)
	pair := func(game, social string) context.Context {
		return metadata.AppendToOutgoingContext(as(game), auth.MetadataSocialToken, social)
	}
	get := func(ctx context.Context, id string) error {
		_, err := w.instances.GetGameInstance(ctx, &instancev1.GetGameInstanceRequest{InstanceId: id})
		return err
	}
	update := func(ctx context.Context) error {
		_, err := w.servers.UpdateGameData(ctx, &gameserverv1.UpdateGameDataRequest{InstanceId: id, GameData: &typev1.Data{Kind: &typev1.Data_Binary{}}})
		return err
	}
	create := func(ctx context.Context, req *instancev1.CreateGameInstanceRequest) error {
		_, err := w.instances.CreateGameInstance(ctx, req)
		return err
	}
	for name, c := range map[string]struct {
		err  error
		want errs.Reason
	}{
		"no key":            {get(context.Background(), id), errs.CredentialsMissing},
		"wrong key":         {get(as(apiKey+"x"), id), errs.CredentialsInvalid},
		"no bearer":         {get(metadata.AppendToOutgoingContext(context.Background(), auth.MetadataAuthorization, apiKey), id), errs.CredentialsInvalid},
		"two keys":          {get(metadata.AppendToOutgoingContext(as(apiKey), auth.MetadataAuthorization, "Bearer "+apiKey), id), errs.CredentialsInvalid},
		"role":              {create(as(viewerKey), &instancev1.CreateGameInstanceRequest{Placement: &instancev1.Placement{Build: "game"}}), errs.RoleRequired},
		"server as backend": {get(pair(game, social), id), errs.RoleRequired},
		"backend as server": {update(as(apiKey)), errs.RoleRequired},
		"backend as service": {func() error {
			_, err := w.sessions.CloseSession(as(apiKey), &sessionv1.CloseSessionRequest{})
			return err
		}(), errs.RoleRequired},
		"namespace": {func() error {
			_, err := w.instances.ListGameInstances(as(viewerKey), &instancev1.ListGameInstancesRequest{Namespace: "other"})
			return err
		}(), errs.NamespaceDenied},
		"unknown instance": {get(as(apiKey), stranger), errs.InstanceUnknown},
		"other namespace": {func() error {
			_, err := w.instances.GetGameInstance(as(apiKey), &instancev1.GetGameInstanceRequest{InstanceId: id, Namespace: "other"})
			return err
		}(), errs.InstanceUnknown},
		"no uuid":       {get(as(apiKey), "x"), errs.ValidationFailed},
		"unknown build": {create(as(apiKey), &instancev1.CreateGameInstanceRequest{Placement: &instancev1.Placement{Build: "nothing"}}), errs.BuildUnknown},
		"no placement":  {create(as(apiKey), &instancev1.CreateGameInstanceRequest{}), errs.ValidationFailed},
		"player twice":  {create(as(apiKey), &instancev1.CreateGameInstanceRequest{Placement: &instancev1.Placement{Build: "game"}, Players: []*instancev1.Player{{Id: "a"}, {Id: "a"}}}), errs.ValidationFailed},
		"page token": {func() error {
			_, err := w.instances.ListGameInstances(as(apiKey), &instancev1.ListGameInstancesRequest{PageToken: "x"})
			return err
		}(), errs.ValidationFailed},
		"missing social":     {update(as(game)), errs.CredentialsMissing},
		"missing game":       {update(metadata.AppendToOutgoingContext(context.Background(), auth.MetadataSocialToken, social)), errs.CredentialsMissing},
		"swapped":            {update(pair(social, game)), errs.CredentialsSwapped},
		"halves":             {update(pair(game, w.peers.token(t, "social", stranger))), errs.CredentialsMismatch},
		"another's instance": {update(w.asServer(stranger)), errs.NotAssigned},
		"not implemented": {func() error {
			_, err := w.instances.ReplaceGameServer(as(apiKey), &instancev1.ReplaceGameServerRequest{InstanceId: id})
			return err
		}(), errs.NotImplemented},
		"unknown method":  {w.conn.Invoke(as(apiKey), "/berth.instance.v1.GameInstanceService/DropTables", &structpb.Struct{}, &structpb.Struct{}), errs.MethodUnknown},
		"unknown service": {w.conn.Invoke(as(apiKey), "/nobody/Knows", &structpb.Struct{}, &structpb.Struct{}), errs.MethodUnknown},
		"malformed":       {w.conn.Invoke(as(apiKey), instancev1.GameInstanceService_GetGameInstance_FullMethodName, []byte{0x0a, 0x7f}, &[]byte{}, grpc.ForceCodec(rawCodec{})), errs.Malformed},
		"presence": {func() error {
			_, err := w.instances.UpdatePlayers(as(apiKey), &instancev1.UpdatePlayersRequest{InstanceId: id, Players: []*instancev1.PlayerUpdate{{PlayerId: "ann", Presence: instancev1.Player_PRESENCE_PRESENT}}})
			return err
		}(), errs.ValidationFailed},
	} {
		t.Run(name, func(t *testing.T) { reasonIs(t, c.err, c.want) })
	}
	if after := w.get(id); !proto.Equal(after, inst) {
		t.Errorf("refused calls changed the instance to %v\nwas %v", after, inst)
	}
}

func addr(s *redisx.Store) string { return s.UniversalClient.(*redis.Client).Options().Addr }

// rawCodec sends bytes as they are.
type rawCodec struct{}

func (rawCodec) Name() string                  { return "proto" }
func (rawCodec) Marshal(v any) ([]byte, error) { return v.([]byte), nil }
func (rawCodec) Unmarshal([]byte, any) error   { return nil }
