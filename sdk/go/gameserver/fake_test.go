package gameserver_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berth-dev/berth/sdk/go/bootstrap"
	"github.com/berth-dev/berth/sdk/go/gameserver"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	"github.com/berth-dev/berth/sdk/go/token"
	"github.com/coder/websocket"
	"github.com/golang-jwt/jwt/v5"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
)

const (
	instanceID = "11111111-1111-4111-8111-111111111111"
	patience   = 10 * time.Second // how long a test waits for what must come
)

// gateway accepts links on a real socket and hands each to the test, which plays the gateway's part frame by frame.
type gateway struct {
	t       *testing.T
	srv     *httptest.Server
	key     atomic.Pointer[signingKey]
	peers   chan *peer
	refusal atomic.Pointer[refusal] // what upgrades are answered with instead
	refused chan struct{}           // one for each upgrade that was refused; the surplus is dropped
	edge    atomic.Pointer[refusal] // what a refresh over REST is answered with
	renewed chan edgeCall           // each of those; the surplus is dropped
	claims  http.HandlerFunc        // answers claims; set before the server is started
	joins   http.HandlerFunc        // answers who joins a pool; set before the server is started
	keysets atomic.Int32            // how often the public keys were fetched
	readers sync.WaitGroup
}

type signingKey struct {
	id      string
	private ed25519.PrivateKey
}

// edgeCall is a refresh over REST.
type edgeCall struct{ authorization, social, body string }

type refusal struct {
	status     int
	retryAfter string
	body       string
	opens      bool // from then on no upgrade is refused
}

func newGateway(t *testing.T) *gateway {
	t.Helper()
	return newGatewayOn(t, nil)
}

func newGatewayOn(t *testing.T, listener net.Listener) *gateway {
	t.Helper()
	return newGatewayWith(t, listener, (*httptest.Server).Start)
}

func newGatewayWith(t *testing.T, listener net.Listener, start func(*httptest.Server)) *gateway {
	t.Helper()
	g := &gateway{t: t, peers: make(chan *peer, 16), refused: make(chan struct{}, 16), renewed: make(chan edgeCall, 16)}
	g.rotate("k1")
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/link", g.upgrade)
	mux.HandleFunc("GET /.well-known/jwks.json", g.jwks)
	mux.HandleFunc("POST /v1/game-server/tokens:refresh", g.refresh)
	mux.HandleFunc("POST /v1/claim", func(w http.ResponseWriter, r *http.Request) { g.claims(w, r) })
	mux.HandleFunc("POST /v1/pools/metal:join", func(w http.ResponseWriter, r *http.Request) { g.joins(w, r) })
	g.srv = httptest.NewUnstartedServer(mux)
	if listener != nil {
		_ = g.srv.Listener.Close()
		g.srv.Listener = listener
	}
	start(g.srv)
	t.Cleanup(func() {
		for {
			select {
			case p := <-g.peers:
				p.cut()
				continue
			default:
			}
			break
		}
		g.srv.Close()
		g.readers.Wait()
	})
	return g
}

// rotate makes another key the only one.
func (g *gateway) rotate(id string) {
	g.t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		g.t.Fatal(err)
	}
	g.key.Store(&signingKey{id, private})
}

func (g *gateway) upgrade(w http.ResponseWriter, r *http.Request) {
	if no := g.refusal.Load(); no != nil {
		if no.retryAfter != "" {
			w.Header().Set("Retry-After", no.retryAfter)
		}
		w.WriteHeader(no.status)
		_, _ = fmt.Fprint(w, no.body)
		select {
		case g.refused <- struct{}{}:
		default:
		}
		return
	}
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"berth.v1.proto"}})
	if err != nil {
		g.t.Errorf("upgrade: %v", err)
		return
	}
	conn.SetReadLimit(4 << 20)
	p := &peer{t: g.t, conn: conn, header: r.Header.Clone(), frames: make(chan *linkv1.Frame, 4096), closed: make(chan struct{}), slow: make(gate, 1)}
	g.readers.Go(p.read)
	g.peers <- p
}

func (g *gateway) refresh(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	answer := g.edge.Load() // before the test hears of it, and goes on
	select {
	case g.renewed <- edgeCall{r.Header.Get("Authorization"), r.Header.Get("Berth-Social-Token"), string(body)}:
	default:
	}
	if answer == nil {
		answer = berthRefuses(http.StatusUnauthorized, "CREDENTIALS_EXPIRED")
	}
	if answer.opens {
		g.refusal.Store(nil)
	}
	w.WriteHeader(answer.status)
	_, _ = fmt.Fprint(w, answer.body)
}

func (g *gateway) jwks(w http.ResponseWriter, _ *http.Request) {
	g.keysets.Add(1)
	key := g.key.Load()
	public := key.private.Public().(ed25519.PublicKey)
	_ = json.NewEncoder(w).Encode(map[string]any{"keys": []any{map[string]string{
		"kty": "OKP", "crv": "Ed25519", "kid": key.id, "x": base64.RawURLEncoding.EncodeToString(public),
	}}})
}

func (g *gateway) bootstrap() *bootstrap.Document {
	return &bootstrap.Document{
		Version: 1, Namespace: "default", Instance: instanceID, Server: "server-1", Gateway: g.srv.URL,
		Game: "GAME-TOKEN", Social: "SOCIAL-TOKEN",
		Endpoints: []bootstrap.Endpoint{{Name: "game", Host: "127.0.0.1", Port: 7777, Protocol: "tcp"}},
	}
}

// ticket signs a ticket for a player, as changed by the test.
func (g *gateway) ticket(player string, change func(*token.Claims)) string {
	g.t.Helper()
	c := token.Claims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer: token.Issuer, Subject: player, Audience: jwt.ClaimStrings{token.AudienceTicket}, ID: rand.Text(),
			IssuedAt: jwt.NewNumericDate(time.Now()), ExpiresAt: jwt.NewNumericDate(time.Now().Add(2 * time.Minute)),
		},
		Namespace: "default", Instance: instanceID,
	}
	if change != nil {
		change(&c)
	}
	return g.sign(c)
}

func (g *gateway) sign(c token.Claims) string {
	g.t.Helper()
	key := g.key.Load()
	t := jwt.NewWithClaims(jwt.SigningMethodEdDSA, c)
	t.Header["kid"] = key.id
	raw, err := t.SignedString(key.private)
	if err != nil {
		g.t.Fatal(err)
	}
	return raw
}

// accept waits for the server's next connection.
func (g *gateway) accept() *peer {
	g.t.Helper()
	return receive(g.t, g.peers, "a connection")
}

// connect links a server: the test goes on when it is linked, over the connection that is returned with it.
func (g *gateway) connect(players []string, opts ...gameserver.Option) (*gameserver.Server, *peer) {
	g.t.Helper()
	c := g.connecting(opts...)
	p := g.accept()
	p.hello()
	p.welcome("1")
	p.reply(p.request("Link"), startData(players...))
	return c.server(), p
}

// connecting starts Connect and lets the test play the gateway's part meanwhile.
func (g *gateway) connecting(opts ...gameserver.Option) *connecting {
	g.t.Helper()
	c := &connecting{g.t, make(chan *gameserver.Server, 1), make(chan error, 1)}
	ctx, cancel := context.WithTimeout(g.t.Context(), patience)
	go func() {
		defer cancel()
		s, err := gameserver.Connect(ctx, append([]gameserver.Option{gameserver.WithBootstrap(g.bootstrap())}, opts...)...)
		if err != nil {
			c.failed <- err
			return
		}
		c.linked <- s
	}()
	return c
}

type connecting struct {
	t      *testing.T
	linked chan *gameserver.Server
	failed chan error
}

func (c *connecting) server() *gameserver.Server {
	c.t.Helper()
	select {
	case s := <-c.linked:
		c.t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			if err := s.Close(ctx); err != nil {
				c.t.Errorf("close: %v", err)
			}
		})
		return s
	case err := <-c.failed:
		c.t.Fatalf("Connect: %v", err)
	}
	return nil
}

// peer is the gateway's end of one connection.
type peer struct {
	t      *testing.T
	conn   *websocket.Conn
	header http.Header
	frames chan *linkv1.Frame
	closed chan struct{}        // the connection is gone
	status websocket.StatusCode // with which the server closed it; set before closed is closed
	deaf   atomic.Bool          // after the next frame, read nothing any more, not even a close
	slow   gate                 // held: nothing is read after the next frame, until it is let go

	game, social string // the handles that Welcome gave
	epoch        int64  // the link's epoch that requests must have
}

// read runs until the connection is gone. A queue of 4096 frames is more than any test sends.
func (p *peer) read() {
	defer close(p.closed)
	defer p.conn.CloseNow() //nolint:errcheck // gone is gone
	for {
		_, b, err := p.conn.Read(context.Background())
		if err != nil {
			p.status = websocket.CloseStatus(err)
			return
		}
		f := new(linkv1.Frame)
		if err := proto.Unmarshal(b, f); err != nil {
			p.t.Errorf("the server sent what is no frame: %v", err)
			return
		}
		deaf := p.deaf.Load() // before the test sees this frame, and goes on
		p.frames <- f
		p.slow.Lock()
		p.slow.Unlock() //nolint:staticcheck // it is a gate
		if deaf {
			<-p.t.Context().Done()
			return
		}
	}
}

// gate is a mutex for which a bubble can wait.
type gate chan struct{}

func (g gate) Lock()   { g <- struct{}{} }
func (g gate) Unlock() { <-g }

func (p *peer) next() *linkv1.Frame {
	p.t.Helper()
	return receive(p.t, p.frames, "a frame")
}

func (p *peer) hello() *linkv1.Hello {
	p.t.Helper()
	f := p.next()
	if f.GetHello() == nil {
		p.t.Fatalf("got %v, want Hello", f)
	}
	return f.GetHello()
}

// welcome answers Hello with handles of this connection's own; change may be nil.
func (p *peer) welcome(name string, change ...func(*linkv1.Welcome)) {
	p.t.Helper()
	p.game, p.social = "GAME-HANDLE-"+name, "SOCIAL-HANDLE-"+name
	w := &linkv1.Welcome{
		SessionId: "session-1", ResumeKey: "RESUME-KEY", GameHandle: p.game, SocialHandle: p.social,
		Limits:    &linkv1.Limits{MaxFrameBytes: 1 << 20, MaxInFlight: 64},
		Heartbeat: durationpb.New(10 * time.Second),
	}
	for _, f := range change {
		f(w)
	}
	for _, in := range w.GetInstances() {
		p.epoch = in.GetLinkEpoch()
	}
	p.send(&linkv1.Frame{Kind: &linkv1.Frame_Welcome{Welcome: w}})
}

// resumed is a change of Welcome: the instance goes on under this epoch.
func resumed(epoch int64) func(*linkv1.Welcome) {
	return func(w *linkv1.Welcome) {
		w.Instances = []*linkv1.ResumedInstance{{InstanceId: instanceID, LinkEpoch: epoch}}
	}
}

// request waits for a request and checks what holds for every one of them.
func (p *peer) request(method string) *linkv1.Request {
	p.t.Helper()
	return p.requestFor(instanceID, p.epoch, method)
}

// requestFor is request for an instance, and over a link, that the test names.
func (p *peer) requestFor(instance string, epoch int64, method string) *linkv1.Request {
	p.t.Helper()
	f := p.next()
	r := f.GetRequest()
	if r == nil || r.GetMethod() != method {
		p.t.Fatalf("got %v, want a request %s", f, method)
	}
	if r.GetAuth().GetGame() != p.game || r.GetAuth().GetSocial() != p.social {
		p.t.Errorf("%s carries credentials %v, want this connection's two handles", method, r.GetAuth())
	}
	if r.GetInstanceId() != instance || r.GetLinkEpoch() != epoch {
		p.t.Fatalf("%s is for instance %q, link %d; want %q, link %d", method, r.GetInstanceId(), r.GetLinkEpoch(), instance, epoch)
	}
	return r
}

func (p *peer) reply(r *linkv1.Request, m proto.Message) {
	p.t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		p.t.Fatal(err)
	}
	if link, ok := m.(*gameserverv1.LinkResponse); ok {
		p.epoch = link.GetLinkEpoch()
	}
	p.send(&linkv1.Frame{Kind: &linkv1.Frame_Response{Response: &linkv1.Response{
		Id: r.GetId(), Outcome: &linkv1.Response_Result{Result: b},
	}}})
}

func (p *peer) fail(r *linkv1.Request, e *linkv1.Error) {
	p.t.Helper()
	p.send(&linkv1.Frame{Kind: &linkv1.Frame_Response{Response: &linkv1.Response{
		Id: r.GetId(), Outcome: &linkv1.Response_Error{Error: e},
	}}})
}

func (p *peer) notify(offset, previous int64, e *gameserverv1.InstanceEvent) {
	p.t.Helper()
	p.notifyOf(instanceID, offset, previous, e)
}

func (p *peer) notifyOf(instance string, offset, previous int64, e *gameserverv1.InstanceEvent) {
	p.t.Helper()
	p.send(&linkv1.Frame{Kind: &linkv1.Frame_Notification{Notification: &linkv1.Notification{
		InstanceId: instance, Offset: offset, Previous: previous, Event: e,
	}}})
}

func (p *peer) wantAck(offset int64) {
	p.t.Helper()
	p.wantAckOf(instanceID, offset)
}

func (p *peer) wantAckOf(instance string, offset int64) {
	p.t.Helper()
	f := p.next()
	if f.GetAck().GetOffset() != offset || f.GetAck().GetInstanceId() != instance {
		p.t.Fatalf("got %v, want an ack of %d", f, offset)
	}
}

func (p *peer) send(f *linkv1.Frame) {
	p.t.Helper()
	b, err := proto.Marshal(f)
	if err != nil {
		p.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := p.conn.Write(ctx, websocket.MessageBinary, b); err != nil {
		p.t.Fatalf("write: %v", err)
	}
}

// cut breaks the connection without a word.
func (p *peer) cut() { _ = p.conn.CloseNow() }

// bye closes with a code, with or without the frame that explains it.
func (p *peer) bye(code linkv1.CloseCode, explain bool) {
	p.t.Helper()
	if explain {
		p.send(&linkv1.Frame{Kind: &linkv1.Frame_Goodbye{Goodbye: &linkv1.Goodbye{Code: code, Message: "because"}}})
	}
	_ = p.conn.Close(websocket.StatusCode(code), "")
}

// startData is the answer to the first Link: epoch 100, offset 1000.
func startData(players ...string) *gameserverv1.LinkResponse {
	in := &instancev1.GameInstance{Id: instanceID, Namespace: "default", State: instancev1.GameInstance_STATE_LINKED}
	for _, id := range players {
		in.Players = append(in.Players, &instancev1.Player{Id: id})
	}
	return &gameserverv1.LinkResponse{Instance: in, LinkEpoch: 100, Offset: 1000}
}

// snapshot is the answer to a later Link: epoch 200, offset 5000.
func snapshot(revision int64, change ...func(*instancev1.GameInstance)) *gameserverv1.LinkResponse {
	r := startData("ann")
	r.LinkEpoch, r.Offset, r.Instance.Revision = 200, 5000, revision
	for _, f := range change {
		f(r.GetInstance())
	}
	return r
}

// rolledBack is a change of Welcome: the store has lost writes to the instance.
func rolledBack(w *linkv1.Welcome) { w.RolledBackInstanceIds = []string{instanceID} }

func playersAdded(ids ...string) *gameserverv1.InstanceEvent {
	added := new(gameserverv1.PlayersAdded)
	for _, id := range ids {
		added.Players = append(added.Players, &instancev1.Player{Id: id})
	}
	return &gameserverv1.InstanceEvent{Event: &gameserverv1.InstanceEvent_PlayersAdded{PlayersAdded: added}}
}

func playersRemoved(ids ...string) *gameserverv1.InstanceEvent {
	return &gameserverv1.InstanceEvent{Event: &gameserverv1.InstanceEvent_PlayersRemoved{PlayersRemoved: &gameserverv1.PlayersRemoved{PlayerIds: ids}}}
}

func superseded(message string) *gameserverv1.InstanceEvent {
	return &gameserverv1.InstanceEvent{Event: &gameserverv1.InstanceEvent_Superseded{Superseded: &gameserverv1.Superseded{Message: message}}}
}

// receive takes the next value of a channel, which must come in good time.
func receive[T any](t *testing.T, c <-chan T, what string) T {
	t.Helper()
	select {
	case v, ok := <-c:
		if !ok {
			t.Fatalf("the channel was closed; want %s", what)
		}
		return v
	case <-time.After(patience):
		t.Fatalf("waited in vain for %s", what)
	}
	panic("unreachable")
}

// closedSoon waits for a channel to be closed.
func closedSoon[T any](t *testing.T, c <-chan T, what string) {
	t.Helper()
	select {
	case v, ok := <-c:
		if ok {
			t.Fatalf("got %v; want %s", v, what)
		}
	case <-time.After(patience):
		t.Fatalf("waited in vain for %s", what)
	}
}

// async runs a call and returns where its error will be.
func async(f func() error) <-chan error {
	c := make(chan error, 1)
	go func() { c <- f() }()
	return c
}
