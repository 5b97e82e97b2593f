package gameserver

import (
	"context"
	"errors"
	"fmt"
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
	errSilent  = errors.New("nothing was heard from the gateway for two heartbeats")
	errGap     = errors.New("a notification is missing")
	errRefetch = errors.New("notifications are to be fetched that there was no room for")
)

// socket is one connection to the gateway.
type socket struct {
	conn    *websocket.Conn
	session string
	auth    *linkv1.Credentials // the handles of both tokens
	epoch   int64               // of the link

	maxFrame int64
	window   int                // how many requests may be unanswered
	open     map[int64]struct{} // requests sent here and not answered; guarded by the outbox
	acked    int64              // the last offset acknowledged here; used by hello and then by the writer only

	leave   chan struct{} // the server is done with the link; holds one
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

// request sends a call, with both credentials.
func (k *socket) request(ctx context.Context, instance string, id int64, method string, payload []byte) error {
	return k.write(ctx, k.frame(instance, id, method, payload))
}

func (k *socket) frame(instance string, id int64, method string, payload []byte) *linkv1.Frame {
	return &linkv1.Frame{Kind: &linkv1.Frame_Request{Request: &linkv1.Request{
		Id: id, Auth: k.auth, InstanceId: instance, LinkEpoch: k.epoch, Method: method, Payload: payload,
	}}}
}

// response waits for one answer during the handshake. A notification that comes before it is dropped here and missed later,
// which fetches it again.
func (k *socket) response(ctx context.Context, id int64) (*linkv1.Response, error) {
	for {
		f, err := k.read(ctx)
		if err != nil {
			return nil, err
		}
		if r := f.GetResponse(); r.GetId() == id {
			return r, nil
		}
	}
}

// serve works the connection until it is lost and returns why. When soft ends, or the link itself, it says goodbye to the gateway
// first; when hard ends it just leaves.
func (s *Server) serve(soft, hard context.Context, sock *socket) error {
	ctx, cut := context.WithCancelCause(hard)
	defer cut(nil)
	sock.watch = time.AfterFunc(sock.silence, func() { cut(errSilent) })
	defer sock.watch.Stop()

	var tasks sync.WaitGroup
	tasks.Go(func() { cut(s.writeFrames(ctx, sock)) })
	tasks.Go(func() {
		select {
		case <-soft.Done():
		case <-sock.leave:
		case <-s.inbox.refetch:
			cut(errRefetch)
			return
		case <-ctx.Done():
			return
		}
		_ = sock.conn.Close(websocket.StatusNormalClosure, "") // it waits for the gateway's answer, and no longer than ctx
		cut(nil)
	})
	err := s.readFrames(ctx, sock)
	if cause := context.Cause(ctx); cause != nil {
		err = cause // the read failed because of it
	}
	if s.run.over != nil {
		err = s.run.over
	}
	cut(err)
	_ = sock.conn.CloseNow()
	tasks.Wait()
	return err
}

// readFrames never waits for anything but the gateway.
func (s *Server) readFrames(ctx context.Context, sock *socket) error {
	for {
		f, err := sock.read(ctx)
		if err != nil {
			return err
		}
		switch {
		case f.GetResponse() != nil:
			r := f.GetResponse()
			s.outbox.answered(sock, r)
			switch e := errorOf(r.GetError()); {
			case e.staleLink():
				s.run.rolledBack = s.run.rolledBack || e.rolledBack()
				return e
			case superseded(e):
				s.end(sock, e)
			case s.run.over != nil: // by this answer
				wake(sock.leave)
			}
		case f.GetNotification() != nil:
			if err := s.notified(sock, f.GetNotification()); err != nil {
				return err
			}
		}
	}
}

// end has the link end for good with this connection.
func (s *Server) end(sock *socket, why error) {
	s.run.over = why
	wake(sock.leave)
}

// notified takes in a notification. What is missing is fetched by resuming, since the gateway has sent it for all it knows.
func (s *Server) notified(sock *socket, n *linkv1.Notification) error {
	if n.GetInstanceId() != s.doc.Instance {
		return nil
	}
	switch s.inbox.accept(n, s.match.apply) {
	case gap:
		return errGap
	case full:
		s.log.Warn("events are not read fast enough", "waiting", maxEvents)
	case last:
		s.end(sock, supersededError(n.GetEvent().GetSuperseded().GetMessage()))
	case queued, dropped:
	}
	return nil
}

// writeFrames sends acknowledgements and calls as they come up.
func (s *Server) writeFrames(ctx context.Context, sock *socket) error {
	for {
		if offset, due := s.inbox.ackDue(sock.acked); due {
			sock.acked = offset
			ack := &linkv1.Ack{InstanceId: s.doc.Instance, Offset: offset}
			if err := sock.write(ctx, &linkv1.Frame{Kind: &linkv1.Frame_Ack{Ack: ack}}); err != nil {
				return err
			}
		}
		c, in := s.outbox.next(sock)
		if c != nil {
			if err := s.send(ctx, sock, c); err != nil {
				return err
			}
			continue
		}
		var due <-chan time.Time
		if in > 0 {
			due = time.After(in)
		}
		select {
		case <-s.run.wake:
		case <-due:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// send writes a call's frame, or answers the call itself if the gateway would close the link over its size.
func (s *Server) send(ctx context.Context, sock *socket, c *call) error {
	f := sock.frame(s.doc.Instance, c.id, c.method, c.payload)
	f.GetRequest().LastRequest = c.lastDone
	if size := int64(proto.Size(f)); size > sock.maxFrame {
		s.outbox.answered(sock, &linkv1.Response{Id: c.id, Outcome: &linkv1.Response_Error{
			Error: tooLarge(fmt.Sprintf("the request takes %d bytes; the gateway allows %d", size, sock.maxFrame)),
		}})
		return nil
	}
	return sock.write(ctx, f)
}
