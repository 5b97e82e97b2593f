package gameserver

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/berth-dev/berth/sdk/go/bootstrap"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	"github.com/berth-dev/berth/sdk/go/token"
	"google.golang.org/protobuf/proto"
)

// maxInstances bounds how many instances a host holds, and with it what waits for Accept. It is above the capacity that a server can be
// registered with. Overflow: a further assignment is ignored, for Berth makes it again.
const maxInstances = 1024

// Host is this process's link to Berth: one connection at a time, over which it can have several instances at once. Each is a *Server,
// which Accept and Create return. All methods are safe for concurrent use. Whoever called Open must call Close.
type Host struct {
	doc         *bootstrap.Document // without its secrets
	tokens      *tokens
	claimCode   bootstrap.Secret // the code to exchange for the tokens; empty if there is none, or it was
	pool        *pool            // the pool to join; nil if it is for none
	options     options
	linkPayload []byte // of every Link request
	log         *slog.Logger
	http        *http.Client
	keys        *token.KeySet
	verifier    *token.Verifier
	tickets     usedTickets
	single      bool // Connect's: it is for one instance, and over with it

	outbox    *outbox
	creates   *ledger // for the calls that are about no instance yet
	refreshes *ledger // for those that refresh the tokens, one at a time
	acks      acks
	said      sayings
	wake      chan struct{} // wakes the writer of the socket: there may be something to send; holds one
	refetch   chan struct{} // an inbox has room again for what was left out; holds one
	deliver   func(*Server) // starts to hand events to the game

	run  run           // what only the goroutine that keeps the link uses
	over chan struct{} // the link of a single host is over; holds one
	turn sync.Mutex    // whoever deals with what a gateway said has it, for there may be two connections during a move

	complaints sometimes // of ephemeral messages; guarded by turn

	mu      sync.Mutex
	servers map[string]*Server // by instance: those that are linked, or are being linked; at most maxInstances but for Create
	backlog []offer            // what Accept returns next; at most one for each of servers, and one failure
	offered chan struct{}      // there is something in backlog; holds one

	opened chan struct{} // closed after the first Welcome
	ending ending

	stop  context.CancelFunc // asks the goroutines to finish
	abort context.CancelFunc // makes them finish at once
	tasks sync.WaitGroup
}

// Open connects this process to Berth with its bootstrap document and returns when the session is open. That links the instance that
// the document names, if it names one, and no other: see Accept and Create. While the gateway cannot be reached it keeps trying until
// ctx ends, which has no effect after Open has returned. It fails with a *bootstrap.NotFoundError or *bootstrap.InvalidError, and with
// an *Error or a *CloseError when Berth refuses the server. A claim code in the document is exchanged for the tokens first, as Connect says; a
// server of a pool joins that first, and again whenever it was away for too long.
func Open(ctx context.Context, opts ...Option) (*Host, error) {
	h, err := newHost(ctx, opts)
	if err != nil {
		return nil, fmt.Errorf("gameserver: open: %w", err)
	}
	if err := h.claimTokens(ctx); err != nil {
		return nil, fmt.Errorf("gameserver: open: %w", err)
	}
	if err := h.joinPool(ctx); err != nil {
		return nil, fmt.Errorf("gameserver: open: %w", err)
	}
	if h.doc.Instance != "" {
		h.expect(h.doc.Instance).named = true
	}
	h.start() //nolint:contextcheck // the link outlives Open's context
	if err := h.await(ctx, h.opened, &h.ending); err != nil {
		return nil, fmt.Errorf("gameserver: open: %w", err)
	}
	return h, nil
}

// await waits until the host is ready, or closes it and says why it will not be.
func (h *Host) await(ctx context.Context, ready <-chan struct{}, over *ending) error {
	select {
	case <-ready:
		return nil
	case <-over.done:
		_ = h.Close(ctx) // nothing is connected: this only waits for the goroutines
		return over.err
	case <-ctx.Done():
		_ = h.Close(ctx) // ends at once, because ctx has
		if last := h.run.lastFailure; last != nil {
			return fmt.Errorf("%w; the last try failed: %w", ctx.Err(), last)
		}
		return ctx.Err()
	}
}

func newHost(ctx context.Context, opts []Option) (*Host, error) {
	o := options{log: slog.New(slog.DiscardHandler)}
	for _, opt := range opts {
		opt(&o)
	}
	if o.bootstrap == nil {
		doc, err := bootstrap.Find(ctx)
		if err != nil {
			return nil, err
		}
		o.bootstrap = doc
	}
	doc, tokens := withoutTokens(o.bootstrap)
	claimCode := o.bootstrap.Claim
	pool, err := newPool(o.bootstrap)
	if err != nil {
		return nil, err
	}
	o.bootstrap = nil
	if o.queue, err = o.queue.complete(); err != nil {
		return nil, err
	}
	payload, err := proto.Marshal(&gameserverv1.LinkRequest{Endpoints: o.endpoints, ServerVersion: o.version})
	if err != nil {
		return nil, fmt.Errorf("the server's endpoints or version: %w", err)
	}
	client, err := newClient(doc)
	if err != nil {
		return nil, err
	}
	keys := token.NewKeySet(token.FetchURL(client, at(doc, "/.well-known/jwks.json")))
	log := o.log.With("server_id", doc.Server)
	if pool != nil {
		log = o.log.With("pool", pool.name, "pool_server", doc.Pool.Server)
	}
	writer := make(chan struct{}, 1)
	return &Host{
		doc:         doc,
		tokens:      tokens,
		claimCode:   claimCode,
		pool:        pool,
		options:     o,
		linkPayload: payload,
		log:         log,
		http:        client,
		keys:        keys,
		verifier:    token.NewVerifier(keys),
		outbox:      newOutbox(writer),
		creates:     newLedger(log, o.queue),
		refreshes:   newLedger(log, o.queue),
		acks:        acks{wakeWriter: writer},
		said:        sayings{wakeWriter: writer},
		wake:        writer,
		refetch:     make(chan struct{}, 1),
		run:         run{nonce: rand.Text()},
		over:        make(chan struct{}, 1),
		servers:     make(map[string]*Server),
		offered:     make(chan struct{}, 1),
		opened:      make(chan struct{}),
		ending:      ending{done: make(chan struct{})},
	}, nil
}

// newClient returns a client for the gateway.
func newClient(doc *bootstrap.Document) (*http.Client, error) {
	authorities, err := doc.Authorities()
	if err != nil {
		return nil, fmt.Errorf("the bootstrap document: %w", err)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone() //nolint:errcheck // net/http says that it is one
	if authorities != nil {
		if transport.TLSClientConfig == nil {
			transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
		}
		transport.TLSClientConfig.RootCAs = authorities
	}
	return &http.Client{
		Transport: transport,
		// Credentials go to the gateway of the bootstrap document and nowhere else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

// withoutTokens returns a copy of the document that lacks its secrets, and the tokens: they are replaced by fresh ones, and nothing of the old
// ones is to stay here.
func withoutTokens(doc *bootstrap.Document) (*bootstrap.Document, *tokens) {
	rest := *doc
	rest.Game, rest.Social, rest.Claim = "", "", ""
	if doc.Pool != nil {
		pool := *doc.Pool
		pool.Key, rest.Pool = "", &pool
	}
	return &rest, newTokens(doc, time.Now())
}

// at returns a URL on the gateway.
func at(doc *bootstrap.Document, path string) string {
	return strings.TrimRight(doc.Gateway, "/") + path
}

func (h *Host) start() {
	hard, abort := context.WithCancel(context.Background())
	soft, stop := context.WithCancel(hard)
	h.stop, h.abort = stop, abort
	h.deliver = func(s *Server) {
		ctx, stop := context.WithCancel(soft)
		h.mu.Lock()
		s.stop = stop
		h.mu.Unlock()
		h.tasks.Go(func() {
			defer close(s.delivery)
			defer stop()
			s.deliver(ctx)
		})
	}
	h.tasks.Go(func() { h.keepLinked(soft, hard) })
}

// ID returns the server's id.
func (h *Host) ID() string { return h.doc.Server }

// Accept waits for the next instance that was placed on this server and that it has been linked to, and returns it: by a backend, for a
// registered server, or by the bootstrap document. An instance that Berth does not let it link is logged and not returned; only where
// that is the one of the bootstrap document, Accept fails once with the *Error that says why.
//
// It fails with the context's error, and with ErrClosed when the host is over. Instances wait for Accept, and meanwhile their time to
// open to players runs: call it in a loop, and play each instance in a goroutine of its own.
func (h *Host) Accept(ctx context.Context) (*Server, error) {
	for {
		select {
		case <-h.ending.done:
			return nil, fmt.Errorf("gameserver: accept: %w", h.ending.closed())
		default:
		}
		if next, ok := h.takeOffer(); ok {
			if next.err != nil {
				return nil, fmt.Errorf("gameserver: accept: %w", next.err)
			}
			return next.server, nil
		}
		select {
		case <-h.offered:
		case <-h.ending.done:
		case <-ctx.Done():
			return nil, fmt.Errorf("gameserver: accept: %w", ctx.Err())
		}
	}
}

// Create makes an instance on this server and links it, in one step; only a registered server that has room can. It does so once,
// however often the connection is lost meanwhile, and waits until Berth has answered or ctx ends. req may be nil. What it leaves out is
// filled in: a random request_id, and the endpoints and version that Open was called with.
//
// It fails with an *Error when Berth refuses it, such as GAME_SERVER_FULL, with the context's error and with ErrClosed. When ctx has
// ended the instance may have been made all the same; then Accept returns it. With the request_id of an instance that this host has,
// Create returns the same Server again.
func (h *Host) Create(ctx context.Context, req *gameserverv1.CreateAndLinkRequest) (*Server, error) {
	if req == nil {
		req = new(gameserverv1.CreateAndLinkRequest)
	}
	req = proto.CloneOf(req)
	req.RequestId = cmp.Or(req.GetRequestId(), rand.Text())
	req.ServerVersion = cmp.Or(req.GetServerVersion(), h.options.version)
	if len(req.GetEndpoints()) == 0 {
		req.Endpoints = h.options.endpoints
	}
	payload, err := proto.Marshal(req)
	if err != nil {
		return nil, fmt.Errorf("gameserver: %s: %w", methodCreate, err)
	}
	c := &call{of: h.creates, method: methodCreate, payload: payload}
	c.settle = func(via *socket, r *linkv1.Response) error { return h.created(via, c, r) }
	if err := h.outbox.do(ctx, &h.ending, c); err != nil {
		return nil, err
	}
	return c.linked, nil
}

// Done is closed when the host is over for good: after Close, or when Berth does not want this server any more. Losing the connection
// does not close it, and neither does the end of an instance.
func (h *Host) Done() <-chan struct{} { return h.ending.done }

// Err returns why the host is over. It is nil before Done is closed, and after Close. Otherwise it is an *Error, if the gateway refused
// the connection or fresh tokens, such as CREDENTIALS_EXPIRED or CREDENTIALS_REVOKED; or a *CloseError, whose code is SUPERSEDED when the
// server was given up or has no instance any more, and REVOKED when its tokens were revoked.
func (h *Host) Err() error { return h.ending.cause() }

// Close ends the link of all instances and waits until everything that Open started has finished. Calls that are not answered yet fail
// with ErrClosed. It does not end the games: an instance whose server stays away is lost to it after its disconnect grace. If ctx ends
// first, the connection is cut and Close returns the context's error.
func (h *Host) Close(ctx context.Context) error {
	h.stop()
	defer h.abort()
	inTime := context.AfterFunc(ctx, h.abort)
	h.tasks.Wait()
	h.http.CloseIdleConnections()
	if !inTime() && ctx.Err() != nil {
		return fmt.Errorf("gameserver: close: %w", ctx.Err())
	}
	return nil
}
