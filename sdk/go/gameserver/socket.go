package gameserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	"github.com/coder/websocket"
	"google.golang.org/protobuf/proto"
)

// maxIncomingFrame bounds what the gateway may send. Start data is the largest: a full roster with its data.
const maxIncomingFrame = 32 << 20

// Limits for what Welcome leaves out.
const (
	defaultWindow    = 64
	defaultMaxFrame  = 1<<20 + 64<<10
	defaultHeartbeat = 10 * time.Second
)

var (
	errSilent     = errors.New("nothing was heard from the gateway for two heartbeats")
	errUnanswered = errors.New("the gateway does not answer a request")
	errGap        = errors.New("a notification is missing")
	errRefetch    = errors.New("notifications are to be fetched that there was no room for")
)

// socket is one connection to the gateway.
type socket struct {
	conn    *websocket.Conn
	wire    net.Conn // what is below conn
	session string
	auth    *linkv1.Credentials // the handles of both tokens

	maxFrame int64
	window   int                // how many requests may be unanswered
	open     map[int64]struct{} // requests sent here and not answered; guarded by the outbox

	leave   chan struct{} // the server is done with the link; holds one
	cut     context.CancelCauseFunc
	silence time.Duration // how long the gateway may be silent
	watch   *time.Timer   // cuts the connection when it was silent for longer; nil during the handshake
}

func (k *socket) welcome(w *linkv1.Welcome) {
	k.session = w.GetSessionId()
	k.auth = &linkv1.Credentials{Game: w.GetGameHandle(), Social: w.GetSocialHandle()}
	k.window, k.maxFrame = int(w.GetLimits().GetMaxInFlight()), w.GetLimits().GetMaxFrameBytes()
	if k.window <= 0 {
		k.window = defaultWindow
	}
	if k.maxFrame <= 0 {
		k.maxFrame = defaultMaxFrame
	}
	heartbeat := w.GetHeartbeat().AsDuration()
	if heartbeat <= 0 {
		heartbeat = defaultHeartbeat
	}
	k.silence = 2*heartbeat + heartbeat/2
}

// heard notes that the gateway is alive.
func (k *socket) heard() {
	if k.watch != nil {
		k.watch.Reset(k.silence)
	}
}

// read returns the next frame. The gateway's farewell, as a frame or as a close code, is a *CloseError.
func (k *socket) read(ctx context.Context) (*linkv1.Frame, error) {
	kind, b, err := k.conn.Read(ctx)
	if err != nil {
		if code := linkv1.CloseCode(websocket.CloseStatus(err)); code >= linkv1.CloseCode_CLOSE_CODE_GOING_AWAY && code < 5000 {
			return nil, newCloseError(code, "", true)
		}
		return nil, err
	}
	k.heard()
	f := new(linkv1.Frame)
	if kind != websocket.MessageBinary || proto.Unmarshal(b, f) != nil {
		return nil, errors.New("the gateway sent what is no frame")
	}
	if bye := f.GetGoodbye(); bye != nil {
		return nil, newCloseError(bye.GetCode(), bye.GetMessage(), bye.GetReconnect())
	}
	return f, nil
}

func (k *socket) write(ctx context.Context, f *linkv1.Frame) error {
	b, err := proto.Marshal(f)
	if err != nil {
		return err
	}
	return k.conn.Write(ctx, websocket.MessageBinary, b)
}

// frame returns the frame of a call, with both credentials.
func (k *socket) frame(c *call, instance string) *linkv1.Frame {
	return &linkv1.Frame{Kind: &linkv1.Frame_Request{Request: &linkv1.Request{
		Id: c.id, Auth: k.auth, InstanceId: instance, LinkEpoch: c.epoch, Method: c.method, Payload: c.payload, LastRequest: c.lastDone,
	}}}
}

// serve works the connection until it is lost and returns why. When soft ends, or the link itself, it says goodbye to the gateway
// first; when hard ends it just leaves.
func (h *Host) serve(soft, hard context.Context, sock *socket) error {
	ctx, cut := context.WithCancelCause(hard)
	defer cut(nil)
	sock.cut = cut
	sock.watch = time.AfterFunc(sock.silence, func() { cut(errSilent) })
	defer sock.watch.Stop()

	var tasks sync.WaitGroup
	tasks.Go(func() {
		<-ctx.Done()
		sock.hangUp()
	})
	tasks.Go(func() { cut(h.writeFrames(ctx, sock)) })
	tasks.Go(func() { h.keepFresh(ctx) })
	tasks.Go(func() {
		select {
		case <-soft.Done():
		case <-sock.leave:
		case <-h.refetch:
			cut(errRefetch)
			return
		case <-ctx.Done():
			return
		}
		_ = sock.conn.Close(websocket.StatusNormalClosure, "") // it waits for the gateway's answer, and no longer than the wire is there
		cut(nil)
	})
	err := h.readFrames(ctx, sock)
	if cause := context.Cause(ctx); cause != nil {
		err = cause // the read failed because of it
	}
	if h.run.why != nil {
		err = h.run.why
	}
	cut(err)
	_ = sock.conn.CloseNow()
	tasks.Wait()
	return err
}

// hangUp cuts the connection, whatever else is done with it at the moment. CloseNow of the WebSocket package does not: while Close waits for
// the gateway's answer, for up to 5 s of its own and heeding no context, CloseNow only waits for Close. The same goes for TLS, whose Close
// first says goodbye.
func (k *socket) hangUp() {
	wire := k.wire
	if secured, ok := wire.(*tls.Conn); ok {
		wire = secured.NetConn()
	}
	_ = wire.Close()
}

// readFrames never waits for anything but the gateway.
func (h *Host) readFrames(ctx context.Context, sock *socket) error {
	for {
		f, err := sock.read(ctx)
		if err != nil {
			return err
		}
		switch {
		case f.GetResponse() != nil:
			err = h.responded(sock, f.GetResponse())
		case f.GetNotification() != nil:
			err = h.notified(sock, f.GetNotification())
		case f.GetAssignment() != nil:
			h.assigned(f.GetAssignment().GetInstanceId())
		}
		if err != nil {
			return err
		}
	}
}

// responded deals with an answer. It returns why the connection has to be left, if it has to.
func (h *Host) responded(sock *socket, r *linkv1.Response) error {
	if errorOf(r.GetError()).expired() {
		h.tokens.expired(time.Now())
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
	case e.staleLink():
		s.rolledBack = s.rolledBack || e.rolledBack()
		return e
	case superseded(e):
		h.end(sock, s, e)
	case s.gaveUp: // by this answer
		h.end(sock, s, errUnlinked)
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
	switch s.inbox.accept(n, s.match.apply) {
	case gap:
		return errGap
	case full:
		s.log.Warn("events are not read fast enough", "waiting", maxEvents)
	case last:
		h.end(sock, s, supersededError(n.GetEvent().GetSuperseded().GetMessage()))
	case queued:
		if n.GetEvent().GetTerminated() != nil && !h.single { // of a single one Berth closes the link
			h.finish(s, nil)
		}
	case dropped:
	}
	return nil
}

// writeFrames sends acknowledgements and calls as they come up.
func (h *Host) writeFrames(ctx context.Context, sock *socket) error {
	for {
		for _, s := range h.acks.take() {
			if err := h.acknowledge(ctx, sock, s); err != nil {
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
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// acknowledge tells Berth what the game has dealt with. What was dealt with before the instance was linked here, Hello has told, or it
// does not matter any more.
func (h *Host) acknowledge(ctx context.Context, sock *socket, s *Server) error {
	if _, here := h.outbox.linkOf(s.ledger, sock); !here {
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
	var instance string
	if c.of.server != nil {
		instance = c.of.server.id
	}
	f := sock.frame(c, instance)
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
