package hub

import (
	"context"
	"time"

	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
)

const (
	// A drain says goodbye to one socket every slot, so that the servers do not all arrive elsewhere at once; with many sockets the slots shrink so
	// that half of the time is left for the closing handshakes.
	drainSlot = 10 * time.Millisecond
	// killMargin is what is left of the deadline when sockets that did not close by themselves are cut; in it the ends of their sessions are told.
	killMargin = 1500 * time.Millisecond
)

// Drain refuses further sockets, asks each one to reconnect elsewhere, paced, and waits until all are gone. Shortly before ctx's deadline the ones that
// are left are cut.
func (h *Hub) Drain(ctx context.Context) error {
	h.mu.Lock()
	h.draining = true
	h.signalDrained()
	h.mu.Unlock()

	sockets := h.Sockets()
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(5 * time.Second)
	}
	kill := time.NewTimer(time.Until(deadline) - killMargin)
	defer kill.Stop()
	slot := min(drainSlot, time.Until(deadline)/2/time.Duration(max(1, len(sockets))))
	pace := time.NewTicker(max(slot, time.Microsecond))
	defer pace.Stop()
	for i, s := range sockets {
		if i > 0 {
			select {
			case <-pace.C:
			case <-ctx.Done():
			}
		}
		s.Close(linkv1.CloseCode_CLOSE_CODE_GOING_AWAY, "the gateway is stopping; connect again")
	}
	select {
	case <-h.drained:
		return nil
	case <-kill.C:
	case <-ctx.Done():
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
