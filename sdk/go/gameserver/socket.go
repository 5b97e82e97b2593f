package gameserver

import (
	"context"
	"crypto/tls"
	"errors"
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
	left     bool               // the server has moved to another connection; guarded by the outbox
	settled  chan struct{}      // it was left, and nothing that was sent here is unanswered; holds one

	moves     chan *linkv1.Move // the gateway's wish that the server moves; holds one, and one is enough
	finishing chan struct{}     // closed when no calls are to be sent any more, but for what is acknowledged
	written   chan struct{}     // closed when nothing is sent any more
	cut       context.CancelCauseFunc
	tasks     sync.WaitGroup // those that work the connection
	silence   time.Duration  // how long the gateway may be silent
	watch     *time.Timer    // cuts the connection when it was silent for longer; nil during the handshake
}

func newSocket() *socket {
	return &socket{
		open: make(map[int64]struct{}), settled: make(chan struct{}, 1),
		moves: make(chan *linkv1.Move, 1), finishing: make(chan struct{}), written: make(chan struct{}),
	}
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

func (k *socket) isFinishing() bool {
	select {
	case <-k.finishing:
		return true
	default:
		return false
	}
}

// signalSettled notes that nothing is to be expected any more where the server has moved away. The caller holds the outbox.
func (k *socket) signalSettled() {
	if k.left && len(k.open) == 0 {
		wake(k.settled)
	}
}
