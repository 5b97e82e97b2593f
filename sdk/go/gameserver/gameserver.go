// Package gameserver is the SDK for game servers: it links a server to its game instance and keeps it linked.
//
//	server, err := gameserver.Connect(ctx)
//
// finds the bootstrap document that the server was started with, connects to the gateway and returns with the start data.
// From then on the package reconnects by itself whenever the connection is lost, repeats what was not answered (which
// takes effect once), and hands over what backends do to the instance as events, in order and without gaps.
//
// A server that was registered with Berth can have several instances at once, all over one connection:
//
//	host, err := gameserver.Open(ctx)
//	server, err := host.Accept(ctx) // the next instance that was placed on it
//	server, err := host.Create(ctx, nil) // one that it makes itself
//
// Each instance has a Server of its own, and what happens to one does not touch the others.
//
// The tokens of the bootstrap document expire. The package has them refreshed well before, and also afterwards if Berth was away meanwhile;
// nobody has to see to it.
//
// docs/sdk-go.md is the guide to all of it.
package gameserver

import (
	"context"
	"fmt"
	"log/slog"

	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
)

// Server is a game server that is linked to an instance: to its only one, from Connect, or to one of several, from Host.Accept or
// Host.Create. All methods are safe for concurrent use. Whoever has it must call Close.
type Server struct {
	id   string // the instance's
	host *Host
	log  *slog.Logger

	match  *match
	ledger *ledger
	inbox  *inbox
	events chan Event

	linked   chan struct{} // closed when it is linked for the first time
	ending   ending
	unlinked bool               // the instance was given up; written before the end
	stop     context.CancelFunc // ends the delivery of events; nil before that has begun; guarded by the host, and not written again
	delivery chan struct{}      // closed when nothing is delivered any more

	// Guarded by the host's turn.
	rolledBack bool // Berth said that its store has lost writes, and the instance was not linked since
	resync     bool // Berth said that more has changed than it tells, and the instance was not linked since
	gaveUp     bool // Unlink has succeeded
	orphaned   bool // Berth does not know the instance any more

	// Guarded by the host.
	named bool // it is the bootstrap document's
	given bool // somebody has it
	ended bool

	ackDue   bool  // it is in the host's acks, which guards this
	saidLast int64 // the sequence of the last ephemeral message; guarded by the host's sayings
}

// Connect links this server to the instance of its bootstrap document and returns when it is linked. While the gateway
// cannot be reached it keeps trying until ctx ends, which has no effect after Connect has returned. It fails with a
// *bootstrap.NotFoundError or *bootstrap.InvalidError, with ErrNoInstance when the document names no instance, and with an *Error or a
// *CloseError when Berth refuses the server.
//
// If the document has a claim code in place of the tokens, it is exchanged for them first. That works once: another process with the same document,
// such as this server started again by its host, is refused with CLAIM_USED, and if it comes before this one has linked, both are given up.
func Connect(ctx context.Context, opts ...Option) (*Server, error) {
	h, err := newHost(ctx, opts)
	if err != nil {
		return nil, fmt.Errorf("gameserver: connect: %w", err)
	}
	if h.doc.Instance == "" {
		return nil, fmt.Errorf("gameserver: connect: %w", ErrNoInstance)
	}
	if err := h.claimTokens(ctx); err != nil {
		return nil, fmt.Errorf("gameserver: connect: %w", err)
	}
	h.single = true
	s := h.expect(h.doc.Instance)
	s.given = true
	h.start() //nolint:contextcheck // the link outlives Connect's context
	if err := h.await(ctx, s.linked, &s.ending); err != nil {
		return nil, fmt.Errorf("gameserver: connect: %w", err)
	}
	return s, nil
}

// ID returns the server's id.
func (s *Server) ID() string { return s.host.doc.Server }

// Instance returns a copy of the instance as the server knows it: the start data, and on top of it every event received and
// every successful call of this server. Endpoints, timeouts and link are those of the start data; the revision is the newest that
// an answer told.
func (s *Server) Instance() *instancev1.GameInstance {
	revision := s.host.outbox.known(s.ledger) // first: what it stands for is in the instance then
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
	endpoints := make([]*typev1.Endpoint, 0, len(s.host.doc.Endpoints))
	for _, e := range s.host.doc.Endpoints {
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
func (s *Server) Done() <-chan struct{} { return s.ending.done }

// Err returns why the link is over. It is nil before Done is closed, and also when the link ended as it should: after the
// game was ended or terminated, or by Unlink or Close. Otherwise it is an *Error or a *CloseError; and an *OrphanedError when Berth does not know
// the instance any more. When the instance was taken from
// this server it is an *Error with the reason SUPERSEDED, or a *CloseError with that code if the server was not there to be told. When the
// server's tokens were revoked it is a *CloseError with the code REVOKED, or an *Error with the reason CREDENTIALS_REVOKED; and when they
// have expired and Berth refreshes them no more, an *Error with the reason CREDENTIALS_EXPIRED.
func (s *Server) Err() error { return s.ending.cause() }

// Close ends the link and waits until everything that Connect started has finished. Calls that are not answered yet fail with
// ErrClosed. It does not end the game: an instance whose server stays away is terminated after its disconnect grace. If
// ctx ends first, the connection is cut and Close returns the context's error.
//
// Close of a Server that Host.Accept or Host.Create has returned lets go of that one instance, at once; the host and its other instances
// go on. Berth does not learn of it: call End or Unlink before. Otherwise the instance counts as connected for as long as the host is,
// and when the host has lost its connection Berth assigns it again, so that Accept returns it once more.
func (s *Server) Close(ctx context.Context) error {
	if s.host.single {
		return s.host.Close(ctx)
	}
	s.host.finish(s, nil)
	<-s.ending.done // it may have ended by itself at this very moment
	s.stop()
	<-s.delivery
	return nil
}
