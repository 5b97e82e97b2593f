package gameserver_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	"google.golang.org/protobuf/types/known/durationpb"
)

// pipes are the gateways that are reached in memory, by address: in a bubble of testing/synctest time stands still for as long as
// somebody waits for a real network.
var (
	pipes    sync.Map
	lastPipe atomic.Int32
)

// listenInMemory teaches the transport, of which every host gets a copy, to reach them.
func listenInMemory() {
	transport := http.DefaultTransport.(*http.Transport)
	dial := transport.DialContext
	transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		if l, ok := pipes.Load(address); ok {
			return l.(*pipeListener).dial(ctx)
		}
		return dial(ctx, network, address)
	}
}

// pipeListener is a net.Listener of connections in memory.
type pipeListener struct {
	address address
	conns   chan net.Conn
	closed  chan struct{}
	once    sync.Once
	wire    func(net.Conn) net.Conn // what the server's end goes through
}

type address string

func (address) Network() string  { return "pipe" }
func (a address) String() string { return string(a) }

func (l *pipeListener) dial(ctx context.Context) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case l.conns <- theirs:
		return l.wire(ours), nil
	case <-l.closed:
		return nil, errors.New("connection refused")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() {
		pipes.Delete(l.address.String())
		close(l.closed)
	})
	return nil
}

func (l *pipeListener) Addr() net.Addr { return l.address }

// newBubbleGateway returns a gateway for a test in a bubble, where hours pass in no time.
func newBubbleGateway(t *testing.T) *gateway {
	t.Helper()
	return newBubbleGatewayOver(t, func(c net.Conn) net.Conn { return c })
}

func newBubbleGatewayOver(t *testing.T, wire func(net.Conn) net.Conn) *gateway {
	t.Helper()
	l := &pipeListener{
		address: address(fmt.Sprintf("127.1.0.1:%d", lastPipe.Add(1))), // the loopback's, so that no proxy is asked
		conns:   make(chan net.Conn), closed: make(chan struct{}), wire: wire,
	}
	pipes.Store(l.address.String(), l)
	return newGatewayOn(t, l)
}

// calm is a change of Welcome: the gateway sends no pings for as long as a test lasts.
func calm(w *linkv1.Welcome) { w.Heartbeat = durationpb.New(1000 * time.Hour) }
