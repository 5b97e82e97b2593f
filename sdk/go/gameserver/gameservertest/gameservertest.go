// Package gameservertest has a fake of Berth for the tests of game servers: it runs inside the test, needs no Redis and no services, speaks the real
// link over a WebSocket on the loopback, and follows Berth's rules for one instance.
//
//	backend := gameservertest.Start(t, gameservertest.Config{Players: players})
//	server, err := gameserver.Connect(ctx, gameserver.WithBootstrap(backend.Bootstrap()))
//
// The test plays the backends' part (AddPlayers, UpdateGameData, Terminate …), waits for what the game server does (WaitForCall, WaitForState), and
// has things go wrong (Disconnect, Fail, Supersede, LoseWrites …). What a game server does against the protocol, docs/link-protocol.md, fails the test.
//
// What it leaves out: several instances on one server, those that are placed on a registered one (it makes its own, see Config.Registered), claim codes,
// time-outs, limits on rates and on data other than those that a game server meets by mistake, and the players' visibility of data. A server written in
// another language can be tested, too: it is given the bootstrap document by Setenv or Document, and may speak either sub-protocol.
package gameservertest

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"time"

	"github.com/berth-dev/berth/sdk/go/bootstrap"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"google.golang.org/protobuf/types/known/structpb"
)

// TB is what the package needs of a testing.TB, which has it all.
type TB interface {
	Helper()
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Cleanup(func())
	Setenv(key, value string)
}

// Config describes the instance, and the fake. The zero value will do.
type Config struct {
	// Players are in the instance from the start.
	Players []*instancev1.Player
	// GameData is the instance's custom data; nil: none.
	GameData *typev1.Data
	// Settings are the instance's settings; nil: none.
	Settings *structpb.Struct
	// Labels are the instance's labels.
	Labels map[string]string
	// Endpoints are the server's public addresses; nil: one named "game" at 127.0.0.1:7777, TCP.
	Endpoints []bootstrap.Endpoint
	// Registered makes the server a registered one (RegisterGameServer) with room for one instance. The bootstrap document names none: the server makes it with
	// CreateAndLink (gameserver.Open and Host.Create), which says what is in it, so that Players, GameData, Settings and Labels have no effect. It can do so
	// once: another one is refused with GAME_SERVER_FULL, also after the end of the first. A backend that acts on it before it is made fails the test.
	Registered bool
	// Strict fails the test also when the game server leaves, or is still there at the end of the test, without having ended the game or given it up; and
	// when it leaves although it has not acknowledged all that had been sent to it when it did so.
	Strict bool
	// Heartbeat is how often the fake pings; 0: every 10 s.
	Heartbeat time.Duration
	// Patience is how long the Wait functions wait before they fail the test; 0: 10 s.
	Patience time.Duration
}

// Backend is a fake Berth with one instance. It is safe for concurrent use. It is closed by the cleanup of the test that it was started by.
//
// Functions that fail the test do so with Fatalf; call them in the test's own goroutine.
type Backend struct {
	tb     TB
	cfg    Config
	srv    *httptest.Server
	conns  sync.WaitGroup
	signer ed25519.PrivateKey
	server string // the server's id

	mu       sync.Mutex
	changed  chan struct{} // closed, and replaced, when anything changes that somebody may wait for
	pairs    []tokens      // all that were given out, the newest last
	match    *match
	session  session
	calls    []*Call
	awaited  map[string]int // how many calls of each method WaitForCall has returned
	messages []Message
	opened   int // connections so far
	live     map[*conn]struct{}
	faults   faults
	broken   []string
	over     bool // the test has ended
}

// tokens are a pair of partner tokens. They are opaque: only their equality counts.
type tokens struct{ game, social string }

func newTokens() tokens { return tokens{"game-" + rand.Text(), "social-" + rand.Text()} }

// Start starts a fake Berth that waits for a game server.
func Start(tb TB, cfg Config) *Backend {
	tb.Helper()
	if cfg.Heartbeat <= 0 {
		cfg.Heartbeat = 10 * time.Second
	}
	if cfg.Patience <= 0 {
		cfg.Patience = 10 * time.Second
	}
	if cfg.Endpoints == nil {
		cfg.Endpoints = []bootstrap.Endpoint{{Name: "game", Host: "127.0.0.1", Port: 7777, Protocol: "tcp"}}
	}
	_, signer, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		tb.Fatalf("gameservertest: a key for tickets: %v", err)
	}
	b := &Backend{
		tb: tb, cfg: cfg, signer: signer, server: newID(), changed: make(chan struct{}), pairs: []tokens{newTokens()}, match: newMatch(cfg),
		awaited: make(map[string]int), live: make(map[*conn]struct{}),
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/link", b.upgrade)
	mux.HandleFunc("GET /.well-known/jwks.json", b.jwks)
	mux.HandleFunc("POST /v1/game-server/tokens:refresh", b.refreshREST)
	b.srv = httptest.NewServer(mux)
	tb.Cleanup(b.close)
	return b
}

// Bootstrap returns a bootstrap document for the game server, for gameserver.WithBootstrap. Its tokens are the newest.
func (b *Backend) Bootstrap() *bootstrap.Document {
	b.mu.Lock()
	defer b.mu.Unlock()
	pair := b.pairs[len(b.pairs)-1]
	return &bootstrap.Document{
		Version: bootstrap.Version, Namespace: b.match.in.GetNamespace(), Instance: b.named(), Server: b.server, Gateway: b.srv.URL,
		Game: bootstrap.Secret(pair.game), Social: bootstrap.Secret(pair.social), Endpoints: b.cfg.Endpoints,
	}
}

// named returns the instance that the bootstrap document names: none, for a registered server. The caller holds mu.
func (b *Backend) named() string {
	if b.cfg.Registered {
		return ""
	}
	return b.match.in.GetId()
}

// Document returns the bootstrap document as it is handed to a process, in the environment variable BERTH_BOOTSTRAP.
func (b *Backend) Document() string {
	doc, err := json.Marshal(b.Bootstrap())
	if err != nil {
		b.tb.Fatalf("gameservertest: the bootstrap document: %v", err)
	}
	return string(doc)
}

// Setenv puts the bootstrap document into this process's environment until the test has ended, where gameserver.Connect looks first.
func (b *Backend) Setenv(tb TB) {
	tb.Helper()
	tb.Setenv(bootstrap.EnvDocument, b.Document())
}

// close ends the connection that is still there, and everything that Start started.
func (b *Backend) close() {
	b.mu.Lock()
	b.over = true
	live := slices.Collect(maps.Keys(b.live))
	b.mu.Unlock()
	for _, c := range live {
		_ = c.ws.CloseNow() // a server that has closed properly has had its answer, so that is noted already, or will be
	}
	b.srv.Close()
	b.conns.Wait()
	b.srv.Client().CloseIdleConnections()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cfg.Strict && !b.session.left && !b.match.finished() {
		b.violation("at the end of the test the game was not over: the server has neither ended it (EndGameInstance) nor given it up (UnlinkGameInstance)")
	}
}

// violation fails the test for what the game server did. The caller holds mu.
func (b *Backend) violation(format string, args ...any) {
	b.tb.Helper()
	message := sprintf(format, args...)
	b.broken = append(b.broken, message)
	b.tb.Errorf("gameservertest: the game server broke the link protocol: %s", message)
	b.notify()
}

// notify wakes whoever waits for a change. The caller holds mu.
func (b *Backend) notify() {
	close(b.changed)
	b.changed = make(chan struct{})
}

// await waits until a condition holds, which is asked with mu held, and fails the test when that takes too long.
func (b *Backend) await(what func() string, condition func() bool) {
	b.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), b.cfg.Patience)
	defer cancel()
	for {
		b.mu.Lock()
		ok, changed := condition(), b.changed
		var why string
		if !ok && ctx.Err() != nil {
			why = what()
		}
		b.mu.Unlock()
		if ok {
			return
		}
		if why != "" {
			b.tb.Fatalf("gameservertest: waited %s in vain: %s", b.cfg.Patience, why)
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}
