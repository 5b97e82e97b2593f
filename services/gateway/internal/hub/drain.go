package hub

import (
	"context"
	"time"

	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
)

const (
	// A drain sends one server elsewhere every slot, so that they do not all arrive there at once; with many sockets the slots shrink, so that the last one
	// is asked in time.
	drainSlot = 10 * time.Millisecond
	// killMargin is what is left of the deadline when sockets that did not close by themselves are cut; in it the ends of their sessions are told.
	killMargin = 1500 * time.Millisecond
	// defaultDrain is how long a drain takes at most that was given no deadline.
	defaultDrain = 5 * time.Second
	// paceTick is how often it is looked whose turn it is.
	paceTick = time.Millisecond
)

// schedule says when each socket of a drain is asked to move, and when the ones that are still there get Goodbye. The time until the rest is cut has
// three parts: in the first one the servers are asked; each of them then has the second one for itself; the third is left for the closing handshakes.
type schedule struct {
	slot   time.Duration // between two sockets
	window time.Duration // between Move and Goodbye
	kill   time.Duration // from the start until what is left is cut
}

func planDrain(deadline time.Duration, sockets int) schedule {
	kill := max(deadline-killMargin, deadline/4)
	return schedule{slot: slotOf(kill*9/20, sockets), window: kill * 3 / 10, kill: kill}
}

// slotOf returns the time between two sockets of so many, which have so much time together.
func slotOf(all time.Duration, sockets int) time.Duration {
	return max(min(drainSlot, all/time.Duration(max(1, sockets))), time.Microsecond)
}

// due returns how many sockets' turns have come, so long after the first one's.
func (s schedule) due(since time.Duration) int {
	if since < 0 {
		return 0
	}
	return int(since/s.slot) + 1
}

// Drain refuses further sockets, asks each server to move, paced, sends those away that did not, in the same order and at the same pace, and waits until
// all are gone. Shortly before ctx's deadline the sockets that are left are cut.
func (h *Hub) Drain(ctx context.Context) error {
	h.mu.Lock()
	h.draining = true
	h.signalDrained()
	h.mu.Unlock()

	left := defaultDrain
	if deadline, ok := ctx.Deadline(); ok {
		left = time.Until(deadline)
	}
	if h.sendAway(ctx, left) {
		return nil
	}
	for _, s := range h.Sockets() {
		s.Kill()
	}
	select {
	case <-h.drained:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// sendAway works off a drain's schedule; true when all sockets are gone before its end.
func (h *Hub) sendAway(ctx context.Context, left time.Duration) bool {
	sockets, began := h.Sockets(), time.Now()
	plan := planDrain(left, len(sockets))
	tick := time.NewTicker(paceTick)
	defer tick.Stop()
	for asked, sent := 0, 0; ; {
		since := time.Since(began)
		for ; asked < min(plan.due(since), len(sockets)); asked++ {
			if !sockets[asked].Move(plan.window) {
				sockets[asked].Close(linkv1.CloseCode_CLOSE_CODE_GOING_AWAY, goingAway)
			}
		}
		for ; sent < min(plan.due(since-plan.window), len(sockets)); sent++ {
			sockets[sent].Close(linkv1.CloseCode_CLOSE_CODE_GOING_AWAY, goingAway)
		}
		if since >= plan.kill {
			return false
		}
		select {
		case <-tick.C:
		case <-h.drained:
			return true
		case <-ctx.Done():
			return false
		}
	}
}

const goingAway = "the gateway is stopping; connect again"

// signalDrained closes drained when the last socket is gone. The caller holds mu.
func (h *Hub) signalDrained() {
	if !h.draining || len(h.sockets) > 0 {
		return
	}
	select {
	case <-h.drained:
	default:
		close(h.drained)
	}
}
