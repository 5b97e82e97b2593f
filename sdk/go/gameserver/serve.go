package gameserver

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	"github.com/coder/websocket"
)

// farewellTime is how long a connection that the server has moved away from may bring answers.
const farewellTime = time.Second

// serve works the connection until it is lost, and returns why; or until the server has moved to another one, and returns that. When soft
// ends, or the link itself, it says goodbye to the gateway first; when hard ends it just leaves.
func (h *Host) serve(soft, hard context.Context, sock *socket) (next *socket, err error) {
	ctx, cut := context.WithCancelCause(hard)
	sock.cut = cut
	sock.watch = time.AfterFunc(sock.silence, func() { cut(errSilent) })
	sock.tasks.Go(func() {
		<-ctx.Done()
		sock.watch.Stop()
		sock.hangUp()
	})
	sock.tasks.Go(func() { cut(h.readFrames(ctx, sock)) })
	sock.tasks.Go(func() {
		defer close(sock.written)
		if err := h.writeFrames(ctx, sock); err != nil {
			cut(err)
		}
	})
	stopRefreshing := h.startRefreshing(ctx)
	next, err = h.attend(soft, ctx, sock)
	stopRefreshing()
	if next != nil {
		h.tasks.Go(func() { farewell(soft, ctx, sock) })
		return next, nil
	}
	cut(err)
	_ = sock.conn.CloseNow()
	sock.tasks.Wait()
	if why := h.whyOver(); why != nil {
		err = why
	}
	return nil, err
}

// attend waits until the connection is lost, which it returns the reason of, or to be left, or until the server has moved to the one that it
// returns.
func (h *Host) attend(soft, ctx context.Context, sock *socket) (*socket, error) {
	var m mover
	for {
		select {
		case <-soft.Done():
			h.awaitDeliveries(ctx)
			return nil, h.depart(sock)
		case <-h.over:
			return nil, h.depart(sock)
		case <-h.refetch:
			return nil, errRefetch
		case move := <-sock.moves:
			m.asked(move)
		case <-m.due:
			next, err := h.open(soft, sock)
			if err == nil {
				h.log.Info("moved to another connection")
				return next, nil
			}
			m.failed(err, h.outdated(err))
			h.log.Warn("the next connection could not be opened, this one goes on", "error", err)
		case <-ctx.Done():
			return nil, m.cause(context.Cause(ctx))
		}
	}
}

// depart says goodbye to the gateway, after what the game has dealt with was acknowledged. It waits for the gateway's answer, and no longer
// than the wire is there.
func (h *Host) depart(sock *socket) error {
	close(sock.finishing)
	<-sock.written
	_ = sock.conn.Close(websocket.StatusNormalClosure, "")
	return context.Canceled
}

// farewell ends a connection that the server has moved away from. What is unanswered there is made again over the new one; but an answer that
// comes over this one counts, and for as long as farewellTime it may.
func farewell(soft, ctx context.Context, sock *socket) {
	late := time.NewTimer(farewellTime)
	defer late.Stop()
	select {
	case <-sock.settled:
	case <-late.C:
	case <-soft.Done():
	case <-ctx.Done(): // the gateway sends away whoever has moved
	}
	_ = sock.conn.Close(websocket.StatusNormalClosure, "")
	sock.cut(context.Canceled)
	sock.tasks.Wait()
}

// awaitDeliveries waits until no event is handed to a game any more, when nobody wants them delivered.
func (h *Host) awaitDeliveries(ctx context.Context) {
	for _, delivery := range h.deliveries() {
		select {
		case <-delivery:
		case <-ctx.Done():
			return
		}
	}
}

// mover decides when to open the next connection, which the gateway has asked for.
type mover struct {
	due   <-chan time.Time // of the next try; nil: none
	wait  backoff
	tried error // why the last try failed
}

// asked sets the first try at random into the first half of the slot, so that there is time for others.
func (m *mover) asked(move *linkv1.Move) {
	if m.due != nil || m.tried != nil {
		return
	}
	begin := max(move.GetNotBefore().AsDuration(), 0)
	if slot := move.GetDeadline().AsDuration() - begin; slot > 0 {
		begin += rand.N(slot/2 + 1) //nolint:gosec // spreads load, guards nothing
	}
	m.due = time.After(begin)
}

// failed sets the next try, unless there is no point in one: then the connection that there is says how things go on.
func (m *mover) failed(err error, outdated bool) {
	m.due, m.tried = nil, err
	if !final(err) || outdated { // the tokens are refreshed over the connection that there is
		m.due = time.After(m.wait.next() + spread(retryAfter(err)))
	}
}

// cause returns why the connection is lost. A gateway sends away whoever has moved: so, when the answer of the next gateway was lost, it is
// no other server that has replaced this one.
func (m *mover) cause(lost error) error {
	if m.tried != nil && replaced(lost) {
		return fmt.Errorf("after a move whose end is not known: %w", m.tried)
	}
	return lost
}
