package gateway_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/berth-dev/berth/pkg/app"
	"github.com/berth-dev/berth/pkg/auth"
	eventv1 "github.com/berth-dev/berth/pkg/gen/berth/event/v1"
	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/pkg/redisx/redistest"
	"github.com/berth-dev/berth/pkg/rpc"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"

	"github.com/berth-dev/berth/services/gateway"
	"github.com/berth-dev/berth/services/gateway/internal/door"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must happen.
const patience = 10 * time.Second

func logger() *slog.Logger {
	if os.Getenv("TEST_LOG") != "" {
		return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	return slog.New(slog.DiscardHandler)
}

// run runs modules and returns what stops them.
func run(tb testing.TB, modules ...app.Module) (*app.App, func()) {
	tb.Helper()
	return runLogged(tb, logger(), modules...)
}

func runLogged(tb testing.TB, log *slog.Logger, modules ...app.Module) (*app.App, func()) {
	tb.Helper()
	a, err := app.New(context.Background(), app.Config{Log: log}, modules...)
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			tb.Errorf("run: %v", err)
		}
	})
	tb.Cleanup(stop)
	return a, stop
}

// serveRPC serves until the function that it returns is called.
func serveRPC(tb testing.TB, srv *rpc.Server, ln net.Listener) func() {
	_, stop := run(tb, app.Module{Name: "backend", Build: func(_ context.Context, b *app.Builder) error {
		srv.Mount(b, "backend", ln)
		return nil
	}})
	return stop
}

// world is a gateway, the store and a scripted backend.
type world struct {
	tb      testing.TB
	store   *redisx.Store
	backend *backend
	app     *app.App
	stop    func() // stops the gateway
	edge    string
	api     string
	http    *http.Client
	metrics *prometheus.Registry
}

// start starts a ready gateway. change may alter its configuration.
func start(tb testing.TB, change func(*gateway.Config)) *world {
	tb.Helper()
	return startOn(tb, redistest.Embedded(tb), newSessions(), change)
}

func startOn(tb testing.TB, store *redisx.Store, ses *sessions, change func(*gateway.Config)) *world {
	tb.Helper()
	w := newWorldOf(tb, store, startBackend(tb, "", newIssuer(tb), ses), change)
	eventually(tb, "the gateway gets ready", func() error { return w.app.Ready(context.Background()) })
	return w
}

// startLogged starts a ready gateway with a log.
func startLogged(tb testing.TB, log *slog.Logger, change func(*gateway.Config)) *world {
	tb.Helper()
	w := newWorldLogged(tb, log, redistest.Embedded(tb), startBackend(tb, "", newIssuer(tb), newSessions()), change)
	eventually(tb, "the gateway gets ready", func() error { return w.app.Ready(context.Background()) })
	return w
}

// newWorldWithout starts a gateway in front of an issuer that is prepared before.
func newWorldWithout(tb testing.TB, store *redisx.Store, ses *sessions, prepare func(*issuer)) *world {
	iss := newIssuer(tb)
	prepare(iss)
	return newWorldOf(tb, store, startBackend(tb, "", iss, ses), nil)
}

// onlyMissing returns an error unless the named condition is the one that keeps the gateway from being ready.
func onlyMissing(w *world, name string) error {
	err := w.app.Ready(context.Background())
	if err == nil || !strings.HasPrefix(err.Error(), name+":") || strings.Contains(err.Error(), "\n") {
		return fmt.Errorf("readiness says: %w", errors.Join(err, errors.New("not only "+name)))
	}
	return nil
}

// newWorldOf starts a gateway that need not be ready yet.
func newWorldOf(tb testing.TB, store *redisx.Store, behind *backend, change func(*gateway.Config)) *world {
	tb.Helper()
	return newWorldLogged(tb, logger(), store, behind, change)
}

func newWorldLogged(tb testing.TB, log *slog.Logger, store *redisx.Store, behind *backend, change func(*gateway.Config)) *world {
	tb.Helper()
	w := &world{tb: tb, store: store, backend: behind}
	cfg := gateway.Default()
	cfg.EdgeListener, cfg.APIListener = listenAny(tb), listenAny(tb)
	cfg.GameInstance, cfg.TokenIssuer, cfg.Allocation = w.backend.addr, w.backend.addr, w.backend.addr
	cfg.Redis = redisx.Config{Addrs: []string{storeAddr(store)}}
	cfg.Auth = auth.Config{InternalKey: internalKey}
	cfg.LeaseInterval = 50 * time.Millisecond
	cfg.Limits.Rates = door.Rates{} // what comes too fast has tests of its own; the others are as fast as they can be
	if change != nil {
		change(&cfg)
	}
	w.edge, w.api = cfg.EdgeListener.Addr().String(), cfg.APIListener.Addr().String()
	w.http = &http.Client{Transport: &http.Transport{}}
	tb.Cleanup(w.http.CloseIdleConnections)
	w.app, w.stop = runLogged(tb, log, gateway.Module(cfg), app.Module{Name: "metrics", Build: func(_ context.Context, b *app.Builder) error {
		w.metrics = b.Metrics()
		return nil
	}})
	return w
}

// count returns the value of a counter with a label's value.
func (w *world) count(name, label string) float64 {
	w.tb.Helper()
	families, err := w.metrics.Gather()
	if err != nil {
		w.tb.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && m.GetLabel()[0].GetValue() == label {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}

func listenAny(tb testing.TB) net.Listener {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	return ln
}

// storeAddr returns where a store is.
func storeAddr(store *redisx.Store) string { return store.Addrs()[0] }

// deliver puts entries into their mailboxes and publishes them, as game-instance does.
func (w *world) deliver(entries ...*eventv1.Delivery) {
	w.tb.Helper()
	w.commit(entries...)
	w.publish(&eventv1.Envelope{Deliveries: entries})
}

// commit puts entries into their mailboxes without telling anybody.
func (w *world) commit(entries ...*eventv1.Delivery) {
	w.backend.sessions.set(func(s *sessions) {
		for _, d := range entries {
			s.mailbox[d.GetInstanceId()] = append(s.mailbox[d.GetInstanceId()], d)
		}
	})
}

// publish publishes an envelope to the gateway.
func (w *world) publish(e *eventv1.Envelope) {
	w.tb.Helper()
	raw, err := proto.Marshal(e)
	if err != nil {
		w.tb.Fatal(err)
	}
	if err := w.store.PublishAll(context.Background(), map[string][]byte{redisx.GatewayChannel(w.backend.sessions.gateway()): raw}); err != nil {
		w.tb.Fatal(err)
	}
}

// delivery is a mailbox entry that tells of removed players, named by its offset.
func delivery(instance string, offset, previous int64) *eventv1.Delivery {
	return &eventv1.Delivery{InstanceId: instance, Offset: offset, Previous: previous, Event: &gameserverv1.InstanceEvent{
		Event: &gameserverv1.InstanceEvent_PlayersRemoved{PlayersRemoved: &gameserverv1.PlayersRemoved{PlayerIds: []string{"p"}}},
	}}
}

// eventually waits until check returns nil.
func eventually(tb testing.TB, what string, check func() error) {
	tb.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			tb.Fatalf("%s: still not after %v: %v", what, patience, err)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// next receives from a channel.
func next[T any](tb testing.TB, what string, c <-chan T) T {
	tb.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		tb.Fatalf("%s: did not come", what)
		panic("unreachable")
	}
}

// socket is a game server's end of the link.
type socket struct {
	tb      testing.TB
	ws      *websocket.Conn
	welcome *linkv1.Welcome
	lastID  int64
}

// dial opens a socket, or returns the refusal.
func (w *world) dial(c credentials, change func(http.Header)) (*socket, *http.Response, error) {
	return w.dialPath("/v1/link", c, change)
}

func (w *world) dialPath(path string, c credentials, change func(http.Header)) (*socket, *http.Response, error) {
	h := http.Header{"Authorization": {"Bearer " + c.game}, "Berth-Social-Token": {c.social}}
	opts := &websocket.DialOptions{HTTPClient: w.http, HTTPHeader: h, Subprotocols: []string{"berth.v1.proto"}}
	if change != nil {
		change(h)
	}
	if p, ok := h["Sec-Websocket-Protocol"]; ok {
		opts.Subprotocols = p
		h.Del("Sec-WebSocket-Protocol")
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	ws, resp, err := websocket.Dial(ctx, "ws://"+w.edge+path, opts)
	if err != nil {
		return nil, resp, err
	}
	ws.SetReadLimit(32 << 20)
	w.tb.Cleanup(func() { _ = ws.CloseNow() })
	return &socket{tb: w.tb, ws: ws}, resp, nil
}

// open opens a socket and says hello.
func (w *world) open(c credentials, hello *linkv1.Hello) *socket {
	w.tb.Helper()
	s, _, err := w.dial(c, nil)
	if err != nil {
		w.tb.Fatal(err)
	}
	s.send(&linkv1.Frame{Kind: &linkv1.Frame_Hello{Hello: hello}})
	s.welcome = s.receive().GetWelcome()
	if s.welcome == nil {
		w.tb.Fatal("no Welcome")
	}
	return s
}

// linked opens a socket that is linked to an instance.
func (w *world) linked(c credentials, instance string) *socket {
	w.tb.Helper()
	s := w.open(c, &linkv1.Hello{})
	if r := s.call("Link", instance, nil); r.GetError() != nil {
		w.tb.Fatalf("Link: %v", r.GetError())
	}
	return s
}

func (s *socket) send(f *linkv1.Frame) {
	s.tb.Helper()
	raw, err := proto.Marshal(f)
	if err != nil {
		s.tb.Fatal(err)
	}
	s.sendRaw(websocket.MessageBinary, raw)
}

func (s *socket) sendRaw(typ websocket.MessageType, raw []byte) {
	s.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := s.ws.Write(ctx, typ, raw); err != nil {
		s.tb.Fatalf("write: %v", err)
	}
}

func (s *socket) read() (*linkv1.Frame, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, raw, err := s.ws.Read(ctx)
	if err != nil {
		return nil, err
	}
	f := new(linkv1.Frame)
	return f, proto.Unmarshal(raw, f)
}

func (s *socket) receive() *linkv1.Frame {
	s.tb.Helper()
	f, err := s.read()
	if err != nil {
		s.tb.Fatalf("read: %v", err)
	}
	return f
}

// request sends a request with the socket's handles and returns its number.
func (s *socket) request(method, instance string, payload []byte) int64 {
	s.tb.Helper()
	return s.requestAs(s.welcome.GetGameHandle(), s.welcome.GetSocialHandle(), method, instance, payload)
}

func (s *socket) requestAs(game, social, method, instance string, payload []byte) int64 {
	s.tb.Helper()
	s.lastID++
	s.send(&linkv1.Frame{Kind: &linkv1.Frame_Request{Request: &linkv1.Request{
		Id: s.lastID, Auth: &linkv1.Credentials{Game: game, Social: social}, InstanceId: instance, Method: method, Payload: payload,
	}}})
	return s.lastID
}

// call makes a request and returns its answer.
func (s *socket) call(method, instance string, payload []byte) *linkv1.Response {
	s.tb.Helper()
	return s.answer(s.request(method, instance, payload))
}

func (s *socket) answer(id int64) *linkv1.Response {
	s.tb.Helper()
	r := s.receive().GetResponse()
	if r.GetId() != id {
		s.tb.Fatalf("answer %v, want the one to request %d", r, id)
	}
	return r
}

// notified returns the offset of the next frame, which must be a notification.
func (s *socket) notified() int64 {
	s.tb.Helper()
	f := s.receive()
	if f.GetNotification() == nil {
		s.tb.Fatalf("got %v, want a notification", f)
	}
	return f.GetNotification().GetOffset()
}

// closed reads until the socket is closed and returns the code; Goodbye must have said the same.
func (s *socket) closed() linkv1.CloseCode {
	s.tb.Helper()
	var goodbye *linkv1.Goodbye
	for {
		f, err := s.read()
		if err != nil {
			code := linkv1.CloseCode(websocket.CloseStatus(err))
			if goodbye == nil || goodbye.GetCode() != code {
				s.tb.Fatalf("closed with %v (%v) after Goodbye %v", code, err, goodbye)
			}
			return code
		}
		if f.GetGoodbye() != nil {
			goodbye = f.GetGoodbye()
		}
	}
}

// lost reads until the connection is gone and returns the close code, -1 if there was none.
func (s *socket) lost() websocket.StatusCode {
	for {
		if _, err := s.read(); err != nil {
			return websocket.CloseStatus(err)
		}
	}
}

// refusal decodes the body of a refused upgrade.
func refusal(tb testing.TB, resp *http.Response) (out struct {
	Code    int
	Reason  string
	Message string
}) {
	tb.Helper()
	if resp == nil {
		tb.Fatal("there was no answer")
	}
	raw, err := io.ReadAll(resp.Body)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		tb.Fatal(err)
	}
	if err := json.Unmarshal(raw, &out); err != nil {
		tb.Fatalf("body %q: %v", raw, err)
	}
	return out
}
