package gameserver

import (
	"context"
	"fmt"
	"sync"
	"time"

	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	"google.golang.org/protobuf/proto"
)

// readFrames never waits for anything but the gateway.
func (h *Host) readFrames(ctx context.Context, sock *socket) error {
	for {
		f, err := sock.read(ctx)
		if err != nil {
			return err
		}
		if err := h.received(sock, f); err != nil {
			return err
		}
	}
}

// received deals with a frame. It returns why the connection has to be left, if it has to. Of a connection that the server has moved away
// from only answers count: everything else comes over the new one.
func (h *Host) received(sock *socket, f *linkv1.Frame) error {
	h.turn.Lock()
	defer h.turn.Unlock()
	switch {
	case f.GetResponse() != nil:
		return h.responded(sock, f.GetResponse())
	case h.outbox.hasLeft(sock):
	case f.GetNotification() != nil:
		return h.notified(sock, f.GetNotification())
	case f.GetMessage() != nil:
		h.heard(sock, f.GetMessage())
	case f.GetAssignment() != nil:
		h.assigned(f.GetAssignment().GetInstanceId())
	case f.GetMove() != nil:
		select {
		case sock.moves <- f.GetMove():
		default:
		}
	}
	return nil
}

// responded deals with an answer. It returns why the connection has to be left, if it has to.
func (h *Host) responded(sock *socket, r *linkv1.Response) error {
	if errorOf(r.GetError()).expired() {
		h.tokens.expired(time.Now())
	}
	if r.GetId() == 0 { // it is about an ephemeral message
		if e := errorOf(r.GetError()); h.complaints.due() {
			h.log.Warn("an ephemeral message was not passed on", "reason", e.Reason, "message", e.Message)
		}
		return nil
	}
	c := h.outbox.answered(sock, r)
	switch {
	case c == nil:
		return nil
	case c.settle != nil:
		return c.settle(sock, r)
	}
	s := c.of.server
	switch e := errorOf(r.GetError()); {
	case e.staleLink() && !e.rolledBack() && h.outbox.linkedSince(c):
	case e.staleLink():
		s.rolledBack = s.rolledBack || e.rolledBack()
		return e
	case superseded(e):
		h.end(s, e)
	case e.unknown():
		h.orphan(s, e)
	case s.gaveUp: // by this answer
		h.end(s, errUnlinked)
	}
	return nil
}

// notified takes in a notification. What is missing is fetched by resuming, since the gateway has sent it for all it knows. One for an
// instance that is not linked here yet, or not any more, is dropped: if it matters, it will be missed, and fetched so.
func (h *Host) notified(sock *socket, n *linkv1.Notification) error {
	s := h.server(n.GetInstanceId())
	if s == nil {
		return nil
	}
	if _, here := h.outbox.linkOf(s.ledger, sock); !here {
		return nil
	}
	apply := func(e *gameserverv1.InstanceEvent) { s.match.apply(e, h.outbox.last()) }
	switch s.inbox.accept(n, apply) {
	case gap:
		return errGap
	case full:
		s.log.Warn("events are not read fast enough", "waiting", maxEvents)
	case last:
		h.end(s, supersededError(n.GetEvent().GetSuperseded().GetMessage()))
	case queued:
		if n.GetEvent().GetResync() != nil {
			s.resync = true
			h.link(s)
		}
		if n.GetEvent().GetTerminated() != nil && !h.single { // of a single one Berth closes the link
			h.finish(s, nil)
		}
	case dropped:
	}
	return nil
}

// writeFrames sends acknowledgements and calls as they come up, until the connection is to be left.
func (h *Host) writeFrames(ctx context.Context, sock *socket) error {
	defer wake(h.wake) // for the writer of the connection that the server has moved to, whose signal this one may have taken
	for {
		finishing := sock.isFinishing()
		if h.outbox.hasLeft(sock) {
			return nil
		}
		for _, s := range h.acks.take() {
			if err := h.acknowledge(ctx, sock, s); err != nil {
				return err
			}
		}
		if finishing {
			return nil
		}
		for _, m := range h.said.take() {
			if err := h.say(ctx, sock, m); err != nil {
				return err
			}
		}
		c, in := h.outbox.next(sock)
		if c != nil {
			if err := h.send(ctx, sock, c); err != nil {
				return err
			}
			continue
		}
		var due <-chan time.Time
		if in > 0 {
			due = time.After(in)
		}
		select {
		case <-h.wake:
		case <-due:
		case <-sock.finishing:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// acknowledge tells Berth up to where the game has dealt with everything, in one frame however much that is. What was dealt with before the
// instance was linked here, Hello has told, or it does not matter any more.
func (h *Host) acknowledge(ctx context.Context, sock *socket, s *Server) error {
	if _, here := h.outbox.linkOf(s.ledger, sock); !here {
		if h.outbox.hasLeft(sock) { // the writer of the next connection does it
			h.acks.add(s)
		}
		return nil
	}
	offset, due := s.inbox.ack()
	if !due {
		return nil
	}
	return sock.write(ctx, &linkv1.Frame{Kind: &linkv1.Frame_Ack{Ack: &linkv1.Ack{InstanceId: s.id, Offset: offset}}})
}

// send writes a call's frame, or answers the call itself if the gateway would close the link over its size.
func (h *Host) send(ctx context.Context, sock *socket, c *call) error {
	f := h.outbox.frame(sock, c)
	if f == nil {
		return nil
	}
	if size := int64(proto.Size(f)); size > sock.maxFrame && c.method != methodLink && c.method != methodRefresh {
		h.outbox.refuse(sock, c, tooLarge(fmt.Sprintf("the request takes %d bytes; the gateway allows %d", size, sock.maxFrame)))
		return nil
	}
	return sock.write(ctx, f)
}

// acks are the servers with something to acknowledge, each once.
type acks struct {
	wakeWriter chan<- struct{}

	mu  sync.Mutex
	due []*Server
}

func (a *acks) add(s *Server) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !s.ackDue {
		s.ackDue = true
		a.due = append(a.due, s)
	}
	wake(a.wakeWriter)
}

func (a *acks) take() []*Server {
	a.mu.Lock()
	defer a.mu.Unlock()
	due := a.due
	a.due = nil
	for _, s := range due {
		s.ackDue = false
	}
	return due
}
