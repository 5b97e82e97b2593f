package gateway_test

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
	"google.golang.org/grpc/metadata"

	"github.com/berth-dev/berth/pkg/apikey"
	"github.com/berth-dev/berth/pkg/auth"
	"github.com/berth-dev/berth/pkg/conf"
	"github.com/berth-dev/berth/pkg/errs"
	eventv1 "github.com/berth-dev/berth/pkg/gen/berth/event/v1"
	sessionv1 "github.com/berth-dev/berth/pkg/gen/berth/session/v1"
	"github.com/berth-dev/berth/pkg/rpc"
	allocationv1 "github.com/berth-dev/berth/sdk/go/gen/berth/allocation/v1"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	tokenv1 "github.com/berth-dev/berth/sdk/go/gen/berth/token/v1"
	"github.com/berth-dev/berth/sdk/go/token"
)

const (
	internalKey = conf.Secret("an internal key of more than 32 characters")
	apiKey      = apikey.Prefix + "test"

	knownInstance = "0b8f4e52-5f0e-4a63-9f0c-0e4d2a6f1c11"
	knownServer   = "6c1d9a04-0e0b-4a57-8a53-6a1f2f0c7d22"
)

// issuer signs tokens as token-issuer does.
type issuer struct {
	tokenv1.UnimplementedTokenServiceServer
	private ed25519.PrivateKey
	public  ed25519.PublicKey
	mu      sync.Mutex
	down    bool
	noList  bool // what was revoked cannot be had
	revoked *tokenv1.GetRevocationsResponse
}

// revoke revokes servers.
func (i *issuer) revoke(version int64, servers ...string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.revoked = &tokenv1.GetRevocationsResponse{Version: version}
	for _, id := range servers {
		i.revoked.Targets = append(i.revoked.Targets, &tokenv1.RevocationTarget{Namespace: "default", Target: &tokenv1.RevocationTarget_ServerId{ServerId: id}})
	}
}

// GetRevocations implements tokenv1.TokenServiceServer.
func (i *issuer) GetRevocations(context.Context, *tokenv1.GetRevocationsRequest) (*tokenv1.GetRevocationsResponse, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.noList {
		return nil, rpc.Status(errs.New(errs.ServiceUnavailable, "down")).Err()
	}
	if i.revoked == nil {
		return &tokenv1.GetRevocationsResponse{}, nil
	}
	return i.revoked, nil
}

func newIssuer(tb testing.TB) *issuer {
	tb.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		tb.Fatal(err)
	}
	return &issuer{private: private, public: public}
}

func (i *issuer) setDown(down bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.down = down
}

func (i *issuer) GetJsonWebKeySet(context.Context, *tokenv1.GetJsonWebKeySetRequest) (*tokenv1.GetJsonWebKeySetResponse, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.down {
		return nil, errs.New(errs.StoreUnavailable, "down")
	}
	return &tokenv1.GetJsonWebKeySetResponse{Keys: []*tokenv1.JsonWebKey{{
		Kty: "OKP", Crv: "Ed25519", X: base64.RawURLEncoding.EncodeToString(i.public), Kid: "k1", Use: "sig", Alg: "EdDSA",
	}}}, nil
}

// credentials are the pair of a game server.
type credentials struct{ server, pair, game, social string }

func (i *issuer) pair(tb testing.TB) credentials { return i.pairUntil(tb, time.Now().Add(time.Hour)) }

func (i *issuer) pairUntil(tb testing.TB, expires time.Time) credentials {
	tb.Helper()
	c := credentials{server: uuid.NewString(), pair: uuid.NewString()}
	c.game, c.social = i.sign(tb, c, token.AudienceGame, expires), i.sign(tb, c, token.AudienceSocial, expires)
	return c
}

func (i *issuer) sign(tb testing.TB, c credentials, audience string, expires time.Time) string {
	tb.Helper()
	signed, err := i.signed(c, audience, expires)
	if err != nil {
		tb.Fatal(err)
	}
	return signed
}

func (i *issuer) signed(c credentials, audience string, expires time.Time) (string, error) {
	t := jwt.NewWithClaims(jwt.SigningMethodEdDSA, token.Claims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer: token.Issuer, Subject: c.server, Audience: jwt.ClaimStrings{audience}, ID: uuid.NewString(),
			IssuedAt: jwt.NewNumericDate(time.Now().Add(-2 * time.Hour)), ExpiresAt: jwt.NewNumericDate(expires),
		},
		Namespace: "default", Pair: c.pair,
	})
	t.Header["kid"] = "k1"
	return t.SignedString(i.private)
}

// sessions is a scripted SessionService. Its hooks may be set before the gateway starts, or with set.
type sessions struct {
	sessionv1.UnimplementedSessionServiceServer

	mu          sync.Mutex
	epoch       int64
	gatewayID   string
	lapseOnce   bool   // the life that renews next is over
	lapsed      string // the life that is over
	undelivered []string
	mailbox     map[string][]*eventv1.Delivery
	opens       func(*sessionv1.OpenSessionRequest) (*sessionv1.OpenSessionResponse, error)
	relays      func(*sessionv1.RelayRequest) (*sessionv1.RelayResponse, error) // an error breaks the stream
	pulls       func(*sessionv1.PullNotificationsRequest) (*sessionv1.PullNotificationsResponse, error)

	opened   chan *sessionv1.OpenSessionRequest
	closed   chan *sessionv1.CloseSessionRequest
	acked    chan *sessionv1.MailboxAck
	pulled   chan *sessionv1.PullNotificationsRequest
	released chan string
	closeErr error
	renewErr error
	renewals atomic.Int64
}

func newSessions() *sessions {
	return &sessions{
		mailbox:  make(map[string][]*eventv1.Delivery),
		opened:   make(chan *sessionv1.OpenSessionRequest, 1000),
		closed:   make(chan *sessionv1.CloseSessionRequest, 1000),
		acked:    make(chan *sessionv1.MailboxAck, 1000),
		pulled:   make(chan *sessionv1.PullNotificationsRequest, 5000),
		released: make(chan string, 10),
	}
}

// set changes the script while it plays.
func (s *sessions) set(change func(*sessions)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

func (s *sessions) gateway() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gatewayID
}

func (s *sessions) OpenSession(_ context.Context, req *sessionv1.OpenSessionRequest) (*sessionv1.OpenSessionResponse, error) {
	s.mu.Lock()
	hook := s.opens
	s.epoch++
	epoch := s.epoch
	s.mu.Unlock()
	s.opened <- req
	if hook != nil {
		return hook(req)
	}
	resp := &sessionv1.OpenSessionResponse{SessionId: uuid.NewString(), SessionEpoch: epoch, ResumeKey: "resume-" + req.GetServerId()}
	for _, i := range req.GetHello().GetInstances() {
		resp.Links = append(resp.Links, &sessionv1.LinkState{InstanceId: i.GetInstanceId(), LinkEpoch: i.GetLinkEpoch() + 1, Offset: i.GetLastOffset()})
	}
	return resp, nil
}

func (s *sessions) CloseSession(_ context.Context, req *sessionv1.CloseSessionRequest) (*sessionv1.CloseSessionResponse, error) {
	s.mu.Lock()
	err := s.closeErr
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	s.closed <- req
	return &sessionv1.CloseSessionResponse{}, nil
}

func refuseOpen(err error) func(*sessionv1.OpenSessionRequest) (*sessionv1.OpenSessionResponse, error) {
	return func(*sessionv1.OpenSessionRequest) (*sessionv1.OpenSessionResponse, error) { return nil, err }
}

// Relay answers a Link with a link of epoch 1 after offset 0, and echoes everything else.
func (s *sessions) Relay(stream sessionv1.SessionService_RelayServer) error {
	requests, ended := make(chan *sessionv1.RelayRequest), make(chan error, 1)
	go func() { // so that the stream ends with its context when the server stops
		for {
			req, err := stream.Recv()
			if err != nil {
				ended <- err
				return
			}
			select {
			case requests <- req:
			case <-stream.Context().Done():
				return
			}
		}
	}()
	for {
		select {
		case <-stream.Context().Done():
			return stream.Context().Err()
		case err := <-ended:
			return err
		case req := <-requests:
			s.mu.Lock()
			hook := s.relays
			s.mu.Unlock()
			if hook == nil {
				hook = echo
			}
			resp, err := hook(req)
			if err != nil {
				return err
			}
			if resp == nil {
				continue // never answered
			}
			if err := stream.Send(resp); err != nil {
				return err
			}
		}
	}
}

func echo(req *sessionv1.RelayRequest) (*sessionv1.RelayResponse, error) {
	resp := &sessionv1.RelayResponse{Id: req.GetId(), Response: &linkv1.Response{
		Id: req.GetRequest().GetId(), Outcome: &linkv1.Response_Result{Result: req.GetRequest().GetPayload()},
	}}
	if req.GetRequest().GetMethod() == "Link" {
		resp.Link = &sessionv1.LinkState{InstanceId: req.GetRequest().GetInstanceId(), LinkEpoch: 1}
	}
	return resp, nil
}

// pullLimit is how many entries one read brings at most; game-instance has such a limit, too.
const pullLimit = 256

func (s *sessions) PullNotifications(_ context.Context, req *sessionv1.PullNotificationsRequest) (*sessionv1.PullNotificationsResponse, error) {
	s.mu.Lock()
	hook := s.pulls
	resp := new(sessionv1.PullNotificationsResponse)
	for _, d := range s.mailbox[req.GetInstanceId()] {
		switch {
		case d.GetOffset() <= req.GetAfterOffset():
		case len(resp.GetDeliveries()) < pullLimit:
			resp.Deliveries = append(resp.Deliveries, d)
		default:
			resp.More = true
		}
	}
	s.mu.Unlock()
	s.pulled <- req
	if hook != nil {
		return hook(req)
	}
	return resp, nil
}

func (s *sessions) AckNotifications(_ context.Context, req *sessionv1.AckNotificationsRequest) (*sessionv1.AckNotificationsResponse, error) {
	for _, a := range req.GetAcks() {
		s.acked <- a
	}
	return &sessionv1.AckNotificationsResponse{}, nil
}

func (s *sessions) RenewGateway(_ context.Context, req *sessionv1.RenewGatewayRequest) (*sessionv1.RenewGatewayResponse, error) {
	if req.GetRelease() {
		s.released <- req.GetGatewayId()
		return &sessionv1.RenewGatewayResponse{}, nil
	}
	s.renewals.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.renewErr != nil {
		return nil, s.renewErr
	}
	if s.lapseOnce && s.gatewayID == req.GetGatewayId() {
		s.lapseOnce, s.lapsed = false, req.GetGatewayId() // for good: the gateway asks again when the answer is lost
	}
	s.gatewayID = req.GetGatewayId()
	return &sessionv1.RenewGatewayResponse{UndeliveredInstanceIds: s.undelivered, Lapsed: s.lapsed == req.GetGatewayId()}, nil
}

// instances is a GameInstanceService that knows one instance.
type instances struct {
	instancev1.UnimplementedGameInstanceServiceServer
	metadata chan map[string][]string // of each call to GetGameInstance
}

// servers is a GameServerService that answers UpdateGameData with revision 7.
type servers struct {
	gameserverv1.UnimplementedGameServerServiceServer
	metadata chan map[string][]string
}

func (i *instances) GetGameInstance(ctx context.Context, req *instancev1.GetGameInstanceRequest) (*instancev1.GetGameInstanceResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	i.metadata <- md
	if req.GetInstanceId() != knownInstance {
		return nil, errs.New(errs.InstanceUnknown, "instance_id: no such instance in namespace %q", req.GetNamespace())
	}
	return &instancev1.GetGameInstanceResponse{Instance: &instancev1.GameInstance{Id: req.GetInstanceId(), Namespace: req.GetNamespace(), Revision: 5}}, nil
}

func (i *instances) UpdateGameData(_ context.Context, req *instancev1.UpdateGameDataRequest) (*instancev1.UpdateGameDataResponse, error) {
	return nil, errs.New(errs.Contended, "too many writers at once").Retry(2 * time.Second)
}

// WatchGameInstance sends two states, and then waits to be ended.
func (i *instances) WatchGameInstance(req *instancev1.WatchGameInstanceRequest, stream instancev1.GameInstanceService_WatchGameInstanceServer) error {
	if req.GetInstanceId() != knownInstance {
		return errs.New(errs.InstanceUnknown, "instance_id: no such instance")
	}
	for revision := range int64(2) {
		if err := stream.Send(&instancev1.WatchGameInstanceResponse{Instance: &instancev1.GameInstance{Id: knownInstance, Revision: revision + 1}}); err != nil {
			return err
		}
	}
	<-stream.Context().Done()
	return stream.Context().Err()
}

// registry is a GameServerRegistryService that registers every server as the same one.
type registry struct {
	gameserverv1.UnimplementedGameServerRegistryServiceServer
	registered chan *gameserverv1.RegisterGameServerRequest
}

func (r *registry) RegisterGameServer(_ context.Context, req *gameserverv1.RegisterGameServerRequest) (*gameserverv1.RegisterGameServerResponse, error) {
	r.registered <- req
	return &gameserverv1.RegisterGameServerResponse{
		Server: &gameserverv1.GameServer{Namespace: req.GetNamespace(), Id: knownServer, Capacity: req.GetCapacity()}, GameToken: "g", SocialToken: "s",
	}, nil
}

func (r *registry) GetGameServer(_ context.Context, req *gameserverv1.GetGameServerRequest) (*gameserverv1.GetGameServerResponse, error) {
	if req.GetServerId() != knownServer {
		return nil, errs.New(errs.GameServerUnknown, "server_id: no such game server in namespace %q", req.GetNamespace())
	}
	return &gameserverv1.GetGameServerResponse{Server: &gameserverv1.GameServer{Id: knownServer, Assignments: []*gameserverv1.GameServer_Assignment{{InstanceId: knownInstance}}}}, nil
}

// JoinPool answers with who joined.
func (r *registry) JoinPool(ctx context.Context, req *gameserverv1.JoinPoolRequest) (*gameserverv1.JoinPoolResponse, error) {
	return &gameserverv1.JoinPoolResponse{
		Server: &gameserverv1.GameServer{Namespace: req.GetNamespace(), Id: knownServer, Pool: req.GetPool(), Name: auth.FromContext(ctx).Actor()}, GameToken: "g", SocialToken: "s",
	}, nil
}

// ListGameServers answers with the request's page token as the next one.
func (r *registry) ListGameServers(_ context.Context, req *gameserverv1.ListGameServersRequest) (*gameserverv1.ListGameServersResponse, error) {
	return &gameserverv1.ListGameServersResponse{NextPageToken: fmt.Sprintf("%s/%d/%s", req.GetNamespace(), req.GetPageSize(), req.GetPageToken())}, nil
}

func (r *registry) DeregisterGameServer(_ context.Context, req *gameserverv1.DeregisterGameServerRequest) (*gameserverv1.DeregisterGameServerResponse, error) {
	return &gameserverv1.DeregisterGameServerResponse{Server: &gameserverv1.GameServer{Id: req.GetServerId(), Draining: true}}, nil
}

func (s *servers) UpdateGameData(ctx context.Context, _ *gameserverv1.UpdateGameDataRequest) (*gameserverv1.UpdateGameDataResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	s.metadata <- md
	return &gameserverv1.UpdateGameDataResponse{Revision: 7}, nil
}

// RefreshTokens answers with whom it is for.
func (*servers) RefreshTokens(ctx context.Context, req *gameserverv1.RefreshTokensRequest) (*gameserverv1.RefreshTokensResponse, error) {
	return &gameserverv1.RefreshTokensResponse{GameToken: "new of " + auth.FromContext(ctx).Server.ID + ", " + req.GetResumeKey()}, nil
}

// backend is everything behind a gateway, on one port.
type backend struct {
	addr      string
	issuer    *issuer
	sessions  *sessions
	instances *instances
	servers   *servers
	registry  *registry
	stop      func()
}

// startBackend starts one on addr, or on any free port.
func startBackend(tb testing.TB, addr string, iss *issuer, ses *sessions) *backend {
	tb.Helper()
	b := &backend{issuer: iss, sessions: ses, instances: &instances{metadata: make(chan map[string][]string, 10)}, servers: &servers{metadata: make(chan map[string][]string, 10)},
		registry: &registry{registered: make(chan *gameserverv1.RegisterGameServerRequest, 10)}}
	fetch := func(context.Context) ([]byte, error) {
		return fmt.Appendf(nil, `{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"k1","x":%q}]}`, base64.RawURLEncoding.EncodeToString(iss.public)), nil
	}
	a, err := auth.New(auth.Config{InternalKey: internalKey, APIKeys: []auth.APIKey{{Name: "test", SHA256: apikey.Hash(apiKey), Role: auth.RoleService}, {Name: "pool", SHA256: apikey.Hash(poolKey), Role: auth.RolePool}}},
		token.NewVerifier(token.NewKeySet(fetch)), nil)
	if err != nil {
		tb.Fatal(err)
	}
	srv, err := rpc.NewServer(rpc.Config{Auth: a, Log: slog.New(slog.DiscardHandler), Services: []string{
		sessionv1.SessionService_ServiceDesc.ServiceName, tokenv1.TokenService_ServiceDesc.ServiceName,
		instancev1.GameInstanceService_ServiceDesc.ServiceName, gameserverv1.GameServerService_ServiceDesc.ServiceName,
		gameserverv1.GameServerRegistryService_ServiceDesc.ServiceName, allocationv1.AllocationService_ServiceDesc.ServiceName,
	}})
	if err != nil {
		tb.Fatal(err)
	}
	sessionv1.RegisterSessionServiceServer(srv, ses)
	tokenv1.RegisterTokenServiceServer(srv, iss)
	instancev1.RegisterGameInstanceServiceServer(srv, b.instances)
	gameserverv1.RegisterGameServerServiceServer(srv, b.servers)
	gameserverv1.RegisterGameServerRegistryServiceServer(srv, b.registry)
	allocationv1.RegisterAllocationServiceServer(srv, allocationv1.UnimplementedAllocationServiceServer{})
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		tb.Fatal(err)
	}
	b.addr = ln.Addr().String()
	b.stop = sync.OnceFunc(serveRPC(tb, srv, ln))
	tb.Cleanup(b.stop)
	return b
}
