package gameserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strconv"
	"time"

	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	"github.com/coder/websocket"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

const (
	subprotocol = "berth.v1.proto"
	sdkName     = "berth-go/0.1"

	handshakeTimeout = 15 * time.Second // from dialling until Welcome, and for the answer to a Link
	minBackoff       = 100 * time.Millisecond
	maxBackoff       = 5 * time.Second
	maxRetryAfter    = 30 * time.Second
	settledAfter     = 10 * time.Second // a connection that lasted this long makes the next wait short again
)

// The requests that link.
const (
	methodLink   = "Link"
	methodCreate = "CreateAndLink"
)

// run is what only the goroutine of keepLinked uses, but for the last two. Others may read it when that has finished.
type run struct {
	opened      bool // there was a Welcome
	resumeKey   string
	wait        backoff // before the next try to connect
	refreshed   bool    // the tokens were refreshed without a connection, and there was no Welcome since
	nonce       string  // proves that a Hello whose Welcome was lost was ours
	lastFailure error

	// Guarded by the host's turn.
	why      error        // why the link ends with this connection, if it does
	assigned []assignment // instances that are to be linked; at most maxInstances, and what does not fit will be assigned again
}

// keepLinked connects, serves the connection until it is lost, and connects again, until soft ends or Berth says not to. It
// finishes at once when hard ends.
func (h *Host) keepLinked(soft, hard context.Context) {
	for {
		sock, err := h.open(soft, nil)
		switch {
		case err != nil && h.pool != nil && h.mustJoin(err):
			if err = h.rejoin(soft); len(h.all()) > 0 && !errors.Is(err, errJoined) {
				err = unjoined{err} // its matches are played to their end
			}
		case err != nil && h.outdated(err):
			err = h.refreshOverREST(soft)
		}
		for sock != nil {
			began := time.Now()
			h.log.Info("connected", "session_id", sock.session)
			sock, err = h.serve(soft, hard, sock)
			if time.Since(began) > settledAfter {
				h.run.wait = backoff{}
			}
		}
		if soft.Err() != nil {
			h.finishAll(nil)
			return
		}
		h.run.lastFailure = err
		if final(err) {
			h.finishAll(err)
			return
		}
		pause := h.run.wait.next() + spread(retryAfter(err))
		h.log.Warn("link lost, connecting again", "error", err, "after", pause)
		if !sleep(soft, pause) {
			h.finishAll(nil)
			return
		}
	}
}

// open connects to the gateway, says hello and takes in what comes of it. old is the connection that the server moves away from with the
// Welcome of the new one, and goes on with until then; nil: there is none.
func (h *Host) open(ctx context.Context, old *socket) (_ *socket, err error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	sock, err := h.dial(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = sock.conn.CloseNow()
		}
	}()
	hello := h.newHello()
	welcome, err := sock.hello(ctx, hello)
	if err != nil {
		return nil, fmt.Errorf("hello: %w", err)
	}
	sock.welcome(welcome)
	h.welcomed(sock, old, hello, welcome)
	return sock, nil
}

func (h *Host) dial(ctx context.Context) (*socket, error) {
	header := http.Header{}
	h.tokens.authorize(header)
	if h.doc.Traceparent != "" {
		header.Set("Traceparent", h.doc.Traceparent)
	}
	sock := newSocket()
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(got httptrace.GotConnInfo) { sock.wire = got.Conn }})
	conn, resp, err := websocket.Dial(ctx, //nolint:bodyclose // the WebSocket package closes it
		at(h.doc, "/v1/link"), &websocket.DialOptions{
			HTTPClient:     h.http,
			HTTPHeader:     header,
			Subprotocols:   []string{subprotocol},
			OnPingReceived: func(context.Context, []byte) bool { sock.heard(); return true },
		})
	switch {
	case err != nil && resp != nil && resp.StatusCode != http.StatusSwitchingProtocols:
		return nil, upgradeError(resp)
	case err != nil:
		return nil, err
	case conn.Subprotocol() != subprotocol:
		_ = conn.CloseNow()
		return nil, fmt.Errorf("the gateway does not speak %s", subprotocol)
	}
	conn.SetReadLimit(maxIncomingFrame)
	sock.conn = conn
	return sock, nil
}

// upgradeError turns the answer to a refused upgrade into an error. Only 401 and 403 are final; anything else may come from
// something between here and the gateway, or pass.
func upgradeError(resp *http.Response) error {
	var body struct {
		Reason, Message string
	}
	doc, _ := io.ReadAll(resp.Body) // the WebSocket package has read it, and cut it short, already
	_ = json.Unmarshal(doc, &body)
	return httpError(resp, body.Reason, body.Message)
}

// httpError returns the error that an HTTP answer stands for. Only 401 and 403 are not temporary.
func httpError(resp *http.Response, reason, message string) *Error {
	e := &Error{Reason: reason, Message: message}
	if e.Message == "" {
		e.Message = "the gateway answered with " + resp.Status
	}
	switch resp.StatusCode {
	case http.StatusUnauthorized:
		e.Code = codes.Unauthenticated
	case http.StatusForbidden:
		e.Code = codes.PermissionDenied
	default:
		e.Code = codes.Unavailable
		if seconds, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil {
			e.RetryAfter = time.Duration(seconds) * time.Second
		}
	}
	if e.Reason == "" {
		e.Reason = "HTTP_" + strconv.Itoa(resp.StatusCode)
	}
	return e
}

// newHello says how far the server is.
func (h *Host) newHello() *linkv1.Hello {
	hello := &linkv1.Hello{ResumeKey: h.run.resumeKey, Nonce: h.run.nonce, Sdk: sdkName}
	if h.pool != nil {
		hello.Pool = h.pool.name
	}
	for _, s := range h.all() {
		if epoch, _ := h.outbox.linkOf(s.ledger, nil); epoch != 0 {
			hello.Instances = append(hello.Instances, &linkv1.HelloInstance{
				InstanceId: s.id, LastOffset: s.inbox.offset(), LinkEpoch: epoch,
				Revision: h.outbox.known(s.ledger), LastRequest: h.outbox.done(s.ledger),
			})
		}
	}
	return hello
}

// hello opens or resumes the session.
func (k *socket) hello(ctx context.Context, hello *linkv1.Hello) (*linkv1.Welcome, error) {
	if err := k.write(ctx, &linkv1.Frame{Kind: &linkv1.Frame_Hello{Hello: hello}}); err != nil {
		return nil, err
	}
	for {
		f, err := k.read(ctx)
		if err != nil {
			return nil, err
		}
		if w := f.GetWelcome(); w != nil {
			return w, nil
		}
	}
}

// welcomed lets the instances that are still linked go on over this connection, and has the others linked.
func (h *Host) welcomed(sock, old *socket, hello *linkv1.Hello, w *linkv1.Welcome) {
	h.turn.Lock()
	defer h.turn.Unlock()
	if old != nil {
		h.outbox.leave(old)
	} else {
		h.said.take() // it was said while there was no connection
	}
	h.run.resumeKey, h.run.refreshed = w.GetResumeKey(), false
	epochs := make(map[string]int64, len(w.GetInstances()))
	for _, in := range w.GetInstances() {
		epochs[in.GetInstanceId()] = in.GetLinkEpoch()
	}
	told := make(map[string]int64, len(hello.GetInstances()))
	for _, in := range hello.GetInstances() {
		told[in.GetInstanceId()] = in.GetLastOffset()
	}
	for _, s := range h.all() {
		if slices.Contains(w.GetRolledBackInstanceIds(), s.id) {
			s.rolledBack = true
		}
		said, wasNamed := told[s.id]
		if epoch, goesOn := epochs[s.id]; goesOn && wasNamed && !s.rolledBack && !s.resync {
			h.outbox.forgetLink(s.ledger)
			h.outbox.resumed(s.ledger, sock, epoch)
			s.inbox.resumed(said)
		} else {
			h.link(s)
		}
	}
	h.run.assigned = nil
	h.assigned(w.GetAssignedInstanceIds()...)
	if !h.run.opened {
		h.run.opened = true
		close(h.opened)
	}
}

// link has a server bound to its instance. A Link request without an answer is repeated under its number.
func (h *Host) link(s *Server) {
	c := &call{of: s.ledger, method: methodLink, payload: h.linkPayload}
	c.settle = func(via *socket, r *linkv1.Response) error { return h.linkAnswered(via, s, c, r) }
	h.outbox.addLink(c)
}

// linkAnswered takes over the start data. Only a refusal that says why is final: a mishap on Berth's side must not end the match.
func (h *Host) linkAnswered(via *socket, s *Server, c *call, r *linkv1.Response) error {
	var start gameserverv1.LinkResponse
	refused := errorOf(r.GetError())
	switch {
	case r.GetError() == nil:
		if proto.Unmarshal(r.GetResult(), &start) == nil {
			s.linkedTo(via, &start)
			return nil
		}
		refused = errorOf(unreadable(methodLink))
	case refused.staleLink():
		s.rolledBack = s.rolledBack || refused.rolledBack()
		h.outbox.forgetLink(s.ledger)
		return fmt.Errorf("link: %w", refused)
	case refused.expired() || refused.rateLimited(): // another connection would not help
		h.outbox.putOff(c, refused)
		return nil
	case refused.unknown() && s.wasLinked():
		h.orphan(s, refused)
		return nil
	case !refused.temporary() && !refused.mishap():
		h.end(s, fmt.Errorf("link: %w", refused))
		return nil
	}
	if _, here := h.outbox.linkOf(s.ledger, via); h.single && !here { // perhaps another gateway can
		h.outbox.repeat(c)
		if refused.mishap() {
			return fmt.Errorf("the instance could not be linked: %s", refused.Message)
		}
		return fmt.Errorf("link: %w", refused)
	}
	s.log.Warn("the instance cannot be linked yet", "reason", refused.Reason, "message", refused.Message)
	h.outbox.putOff(c, refused)
	return nil
}

// wasLinked reports whether the instance was ever linked.
func (s *Server) wasLinked() bool {
	epoch, _ := s.host.outbox.linkOf(s.ledger, nil)
	return epoch != 0
}

// linkedTo takes over the start data of a link over this socket.
func (s *Server) linkedTo(via *socket, start *gameserverv1.LinkResponse) {
	o, l := s.host.outbox, s.ledger
	revision := start.GetInstance().GetRevision()
	first := !s.wasLinked()
	s.match.start(start.GetInstance())
	// Numbers never go back, unless writes are lost.
	lost := !first && (s.rolledBack || revision < o.known(l))
	if lost {
		s.repair(revision)
	}
	s.rolledBack, s.resync = false, false
	o.forgetLink(l)
	o.relinked(l, revision)
	if first {
		s.inbox.relink(start.GetOffset(), nil)
		s.host.deliver(s)
	} else {
		s.inbox.relink(start.GetOffset(), &Relinked{Instance: s.match.snapshot(), LostWrites: lost})
	}
	o.resumed(l, via, start.GetLinkEpoch()) // from here on calls go out
	s.log.Info("linked")
	if first {
		close(s.linked)
		s.host.offer(s)
	}
}

// backoff is how long to wait before each further try: twice as long each time, with jitter.
type backoff struct{ tries int }

func (b *backoff) next() time.Duration {
	d := min(minBackoff<<b.tries, maxBackoff)
	if d < maxBackoff {
		b.tries++
	}
	return d/2 + rand.N(d/2) //nolint:gosec // spreads load, guards nothing
}

// spread makes a time that many were told at once up to half as long again, so that they do not come back at once.
func spread(d time.Duration) time.Duration {
	return d + rand.N(d/2+1) //nolint:gosec // spreads load, guards nothing
}

// sleep waits and reports whether it did so to the end.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
