package gameserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
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

	handshakeTimeout = 15 * time.Second // from dialling until the server is linked
	minBackoff       = 100 * time.Millisecond
	maxBackoff       = 5 * time.Second
	maxRetryAfter    = 30 * time.Second
	settledAfter     = 10 * time.Second // a connection that lasted this long makes the next wait short again
)

// run is what only the goroutine of keepLinked uses. Others may read it when that has finished.
type run struct {
	wake chan struct{} // wakes the writer of the socket: there may be something to send; holds one

	resumeKey   string
	epoch       int64  // of the link; 0 before the first
	linkID      int64  // the number of a Link request that is not answered yet, or 0
	rolledBack  bool   // Berth said that its store has lost writes, and the instance was not linked since
	nonce       string // proves that a Hello whose Welcome was lost was ours
	lastFailure error
	over        error // why the link ends with this connection, if it does
}

// keepLinked connects, serves the connection until it is lost, and connects again, until soft ends or Berth says not to. It
// finishes at once when hard ends.
func (s *Server) keepLinked(soft, hard context.Context) {
	var wait backoff
	for {
		sock, err := s.open(soft)
		if err == nil {
			began := time.Now()
			s.log.Info("linked", "session_id", sock.session)
			err = s.serve(soft, hard, sock)
			if time.Since(began) > settledAfter {
				wait = backoff{}
			}
		}
		if soft.Err() != nil {
			s.finish(nil)
			return
		}
		s.run.lastFailure = err
		if final(err) {
			s.finish(err)
			return
		}
		pause := wait.next() + retryAfter(err)
		s.log.Warn("link lost, connecting again", "error", err, "after", pause)
		if !sleep(soft, pause) {
			s.finish(nil)
			return
		}
	}
}

// finish ends the link for good. An end that had to come is no error.
func (s *Server) finish(err error) {
	// A server that gave its instance up is sent away, which may overtake the answer.
	s.unlinked = errors.Is(err, errUnlinked) || superseded(err) && s.outbox.sent(methodUnlink)
	if s.match.over() || s.unlinked {
		err = nil
	}
	if err != nil {
		s.log.Error("link is over", "error", err)
	} else {
		s.log.Info("link is over")
	}
	s.err = err
	close(s.done)
	s.inbox.end()
}

// open connects to the gateway, says hello and links if that is due.
func (s *Server) open(ctx context.Context) (_ *socket, err error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	sock, err := s.dial(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = sock.conn.CloseNow()
		}
	}()
	welcome, err := s.hello(ctx, sock)
	if err != nil {
		return nil, fmt.Errorf("hello: %w", err)
	}
	sock.welcome(welcome)
	if slices.Contains(welcome.GetRolledBackInstanceIds(), s.doc.Instance) {
		s.run.rolledBack = true
	}
	for _, in := range welcome.GetInstances() {
		if in.GetInstanceId() == s.doc.Instance && s.run.epoch != 0 && !s.run.rolledBack {
			s.run.epoch = in.GetLinkEpoch()
			sock.epoch = s.run.epoch
			s.inbox.resumed()
			return sock, nil
		}
	}
	if err := s.link(ctx, sock); err != nil {
		return nil, fmt.Errorf("link: %w", err)
	}
	sock.epoch = s.run.epoch
	return sock, nil
}

func (s *Server) dial(ctx context.Context) (*socket, error) {
	header := http.Header{}
	header.Set("Authorization", "Bearer "+s.doc.Game.Reveal())
	header.Set("Berth-Social-Token", s.doc.Social.Reveal())
	if s.doc.Traceparent != "" {
		header.Set("Traceparent", s.doc.Traceparent)
	}
	sock := &socket{open: make(map[int64]struct{}), leave: make(chan struct{}, 1)}
	conn, resp, err := websocket.Dial(ctx, //nolint:bodyclose // the WebSocket package closes it
		at(s.doc, "/v1/link"), &websocket.DialOptions{
			HTTPClient:     s.http,
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
	e := &Error{Reason: body.Reason, Message: body.Message}
	if e.Message == "" {
		e.Message = "the gateway answered the upgrade with " + resp.Status
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

// hello opens or resumes the session.
func (s *Server) hello(ctx context.Context, sock *socket) (*linkv1.Welcome, error) {
	hello := &linkv1.Hello{ResumeKey: s.run.resumeKey, Nonce: s.run.nonce, Sdk: sdkName}
	if s.run.epoch != 0 {
		sock.acked = s.inbox.offset()
		hello.Instances = []*linkv1.HelloInstance{{
			InstanceId: s.doc.Instance, LastOffset: sock.acked, LinkEpoch: s.run.epoch, Revision: s.outbox.known(), LastRequest: s.outbox.done(),
		}}
	}
	if err := sock.write(ctx, &linkv1.Frame{Kind: &linkv1.Frame_Hello{Hello: hello}}); err != nil {
		return nil, err
	}
	for {
		f, err := sock.read(ctx)
		if err != nil {
			return nil, err
		}
		if w := f.GetWelcome(); w != nil {
			s.run.resumeKey = w.GetResumeKey()
			return w, nil
		}
	}
}

// link binds the server to its instance and takes over the start data. A Link request that was not answered is repeated under
// its number.
func (s *Server) link(ctx context.Context, sock *socket) error {
	if s.run.linkID == 0 {
		s.run.linkID = s.outbox.number()
	}
	payload, err := proto.Marshal(&gameserverv1.LinkRequest{Endpoints: s.options.endpoints, ServerVersion: s.options.version})
	if err != nil {
		return err
	}
	if err := sock.request(ctx, s.doc.Instance, s.run.linkID, "Link", payload); err != nil {
		return err
	}
	response, err := sock.response(ctx, s.run.linkID)
	if err != nil {
		return err
	}
	s.run.linkID = 0
	if e := response.GetError(); e != nil {
		refused := errorOf(e)
		s.run.rolledBack = s.run.rolledBack || refused.rolledBack()
		return linkRefused(refused)
	}
	var start gameserverv1.LinkResponse
	if err := proto.Unmarshal(response.GetResult(), &start); err != nil {
		return errors.New("the start data cannot be read")
	}
	s.linkedTo(&start)
	sock.acked = start.GetOffset()
	return nil
}

// linkedTo takes over the start data.
func (s *Server) linkedTo(start *gameserverv1.LinkResponse) {
	s.match.start(start.GetInstance())
	revision := start.GetInstance().GetRevision()
	first := s.run.epoch == 0
	// Numbers never go back, unless writes are lost.
	lost := !first && (s.run.rolledBack || revision < s.outbox.known())
	if lost {
		s.repair(revision)
	}
	s.outbox.relinked(revision)
	s.run.epoch, s.run.rolledBack = start.GetLinkEpoch(), false
	if first {
		s.inbox.relink(start.GetOffset(), nil)
		close(s.linked)
		return
	}
	s.inbox.relink(start.GetOffset(), &Relinked{Instance: s.match.snapshot(), LostWrites: lost})
}

// linkRefused keeps a mishap on Berth's side from ending the match: only a refusal that says why is final.
func linkRefused(e *Error) error {
	switch e.Code {
	case codes.Internal, codes.Unknown, codes.ResourceExhausted:
		return fmt.Errorf("the instance could not be linked: %s", e.Message)
	default:
		return e
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
