package gameserver_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-dev/berth/sdk/go/gameserver"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	"google.golang.org/grpc/codes"
)

// deadWire is a connection on which, once it is dead, nothing that is written arrives.
type deadWire struct {
	net.Conn
	dead *atomic.Bool
}

func (w deadWire) Write(p []byte) (int, error) {
	if w.dead.Load() {
		return len(p), nil
	}
	return w.Conn.Write(p)
}

// newDeadWireGateway is newBubbleGateway with a wire that can die.
func newDeadWireGateway(t *testing.T) (*gateway, *atomic.Bool) {
	t.Helper()
	dead := new(atomic.Bool)
	return newBubbleGatewayOver(t, func(c net.Conn) net.Conn { return deadWire{c, dead} }), dead
}

// closesInTime closes with a context of 50 ms, which has to be all that it takes: in a bubble the time is exact.
func closesInTime(t *testing.T, closed func(context.Context) error, meanwhile func(context.Context)) {
	t.Helper()
	const limit = 50 * time.Millisecond
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	began := time.Now()
	end := async(func() error { return closed(ctx) })
	meanwhile(ctx)
	if err := <-end; !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Close: %v, want the deadline", err)
	}
	if took := time.Since(began); took != limit {
		t.Errorf("Close took %s with a context of %s", took, limit)
	}
}

// A gateway that does not answer the close must not hold up a server that wants to leave.
func TestCloseIsBoundedByItsContext(t *testing.T) {
	for name, deaf := range map[string]func(*peer, *atomic.Bool){
		"the gateway does not even read the close": func(p *peer, _ *atomic.Bool) { p.deaf.Store(true) },
		"the close does not arrive":                func(_ *peer, dead *atomic.Bool) { dead.Store(true) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g, dead := newDeadWireGateway(t)
				s, p := g.connect(nil)
				first := async(func() error { return s.ConnectPlayers(t.Context()) })
				r := p.request("ConnectPlayers")
				deaf(p, dead)
				p.reply(r, new(gameserverv1.ConnectPlayersResponse))
				if err := receive(t, first, "the answer"); err != nil {
					t.Fatal(err)
				}
				call := async(func() error { return s.ConnectPlayers(t.Context()) })
				synctest.Wait()
				closesInTime(t, s.Close, func(context.Context) {})
				if err := receive(t, call, "the call's end"); !errors.Is(err, gameserver.ErrClosed) {
					t.Errorf("the call failed with %v, want ErrClosed", err)
				}
			})
		})
	}
}

// The closing handshake of the WebSocket package reads by itself where nobody else does at that moment, and then heeds nobody's context.
func TestCloseWhileAFrameIsDealtWithIsBoundedByItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, dead := newDeadWireGateway(t)
		busy, goOn := make(chan struct{}), make(chan struct{})
		log := slog.New(blockingHandler{slog.DiscardHandler, "the instance cannot be linked yet", busy, goOn})
		h, p := g.openWith([]gameserver.Option{gameserver.WithBootstrap(g.bootstrap()), gameserver.WithLogger(log)})
		p.fail(p.request("Link"), &linkv1.Error{Code: int32(codes.Unavailable), Reason: "STORE_UNAVAILABLE"})
		receive(t, busy, "the reader to be busy")
		dead.Store(true)
		closesInTime(t, h.Close, func(ctx context.Context) {
			<-ctx.Done()
			close(goOn)
		})
	})
}

// blockingHandler stops whoever logs this message until the test goes on.
type blockingHandler struct {
	slog.Handler
	message string
	reached chan<- struct{}
	goOn    <-chan struct{}
}

func (blockingHandler) Enabled(context.Context, slog.Level) bool { return true }

func (b blockingHandler) WithAttrs([]slog.Attr) slog.Handler { return b }

func (b blockingHandler) Handle(_ context.Context, r slog.Record) error {
	if r.Message == b.message {
		b.reached <- struct{}{}
		<-b.goOn
	}
	return nil
}
