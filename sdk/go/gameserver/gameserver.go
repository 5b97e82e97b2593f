// Package gameserver is the SDK for game servers: it links a server to its game instance and keeps it linked.
//
//	server, err := gameserver.Connect(ctx)
//
// finds the bootstrap document that the server was started with, connects to the gateway and returns with the start data.
// From then on the package reconnects by itself whenever the connection is lost, repeats what was not answered (which
// takes effect once), and hands over what backends do to the instance as events, in order and without gaps.
package gameserver

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"

	"github.com/berth-dev/berth/sdk/go/bootstrap"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"github.com/berth-dev/berth/sdk/go/token"
)

// Server is a game server that is linked to its instance. All methods are safe for concurrent use. Whoever called Connect
// must call Close.
type Server struct {
	doc      *bootstrap.Document
	options  options
	log      *slog.Logger
	http     *http.Client
	verifier *token.Verifier

	match   *match
	outbox  *outbox
	inbox   *inbox
	tickets usedTickets
	events  chan Event

	run run // what only the goroutine that keeps the link uses

	linked chan struct{} // closed when the server is linked for the first time
	done   chan struct{} // closed when the link is over
	err    error         // why; written before done is closed

	unlinked bool // the instance was given up; written before done is closed

	stop  context.CancelFunc // asks the goroutines to finish
	abort context.CancelFunc // makes them finish at once
	tasks sync.WaitGroup
}

// Connect links this server to the instance of its bootstrap document and returns when it is linked. While the gateway
// cannot be reached it keeps trying until ctx ends, which has no effect after Connect has returned. It fails with a
// *bootstrap.NotFoundError or *bootstrap.InvalidError, and with an *Error or a *CloseError when Berth refuses the server.
func Connect(ctx context.Context, opts ...Option) (*Server, error) {
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
	s := newServer(o)
	s.start() //nolint:contextcheck // the link outlives Connect's context
	select {
	case <-s.linked:
		return s, nil
	case <-s.done:
		_ = s.Close(ctx) // nothing is connected: this only waits for the goroutines
		return nil, fmt.Errorf("gameserver: connect: %w", s.err)
	case <-ctx.Done():
		_ = s.Close(ctx) // ends at once, because ctx has
		if last := s.run.lastFailure; last != nil {
			return nil, fmt.Errorf("gameserver: connect: %w; the last try failed: %w", ctx.Err(), last)
		}
		return nil, fmt.Errorf("gameserver: connect: %w", ctx.Err())
	}
}

func newServer(o options) *Server {
	doc := o.bootstrap
	transport := http.DefaultTransport.(*http.Transport).Clone() //nolint:errcheck // net/http says that it is one
	client := &http.Client{
		Transport: transport,
		// Credentials go to the gateway of the bootstrap document and nowhere else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	keys := token.NewKeySet(token.FetchURL(client, at(doc, "/.well-known/jwks.json")))
	log := o.log.With("server_id", doc.Server, "instance_id", doc.Instance)
	wake := make(chan struct{}, 1)
	return &Server{
		doc:      doc,
		options:  o,
		log:      log,
		http:     client,
		verifier: token.NewVerifier(keys),
		match:    new(match),
		outbox:   newOutbox(log, wake),
		inbox:    newInbox(wake),
		events:   make(chan Event), // holds nothing: what was received from it has been taken by the game
		run:      run{wake: wake, nonce: rand.Text()},
		linked:   make(chan struct{}),
		done:     make(chan struct{}),
	}
}

// at returns a URL on the gateway.
func at(doc *bootstrap.Document, path string) string {
	return strings.TrimRight(doc.Gateway, "/") + path
}

func (s *Server) start() {
	hard, abort := context.WithCancel(context.Background())
	soft, stop := context.WithCancel(hard)
	s.stop, s.abort = stop, abort
	s.tasks.Go(func() { s.keepLinked(soft, hard) })
	s.tasks.Go(func() { s.deliver(soft) })
}

// ID returns the server's id.
func (s *Server) ID() string { return s.doc.Server }

// Instance returns a copy of the instance as the server knows it: the start data, and on top of it every event received and
// every successful call of this server. Endpoints, timeouts and link are those of the start data; the revision is the newest that
// an answer told.
func (s *Server) Instance() *instancev1.GameInstance {
	revision := s.outbox.known() // first: what it stands for is in the instance then
	in := s.match.snapshot()
	in.Revision = revision
	return in
}

// Endpoints returns the addresses on which players reach this server: those of the instance or, as long as it has none,
// those of the bootstrap document.
func (s *Server) Endpoints() []*typev1.Endpoint {
	if e := s.match.snapshot().GetEndpoints(); len(e) > 0 {
		return e
	}
	endpoints := make([]*typev1.Endpoint, 0, len(s.doc.Endpoints))
	for _, e := range s.doc.Endpoints {
		p := typev1.Protocol_PROTOCOL_TCP
		if e.Protocol == "udp" {
			p = typev1.Protocol_PROTOCOL_UDP
		}
		endpoints = append(endpoints, &typev1.Endpoint{Name: e.Name, Host: e.Host, Port: uint32(e.Port), Protocol: p})
	}
	return endpoints
}

// Done is closed when the link is over for good: after Close or Unlink, or when Berth does not want the server any more. Losing the
// connection does not close it.
func (s *Server) Done() <-chan struct{} { return s.done }

// Err returns why the link is over. It is nil before Done is closed, and also when the link ended as it should: after the
// game was ended or terminated, or by Unlink or Close. Otherwise it is an *Error or a *CloseError. When the instance was taken from
// this server it is an *Error with the reason SUPERSEDED, or a *CloseError with that code if the server was not there to be told.
func (s *Server) Err() error {
	select {
	case <-s.done:
		return s.err
	default:
		return nil
	}
}

// Close ends the link and waits until everything that Connect started has finished. Calls that are not answered yet fail with
// ErrClosed. It does not end the game: an instance whose server stays away is terminated after its disconnect grace. If
// ctx ends first, the connection is cut and Close returns the context's error.
func (s *Server) Close(ctx context.Context) error {
	s.stop()
	defer s.abort()
	inTime := context.AfterFunc(ctx, s.abort)
	s.tasks.Wait()
	s.http.CloseIdleConnections()
	if !inTime() && ctx.Err() != nil {
		return fmt.Errorf("gameserver: close: %w", ctx.Err())
	}
	return nil
}
