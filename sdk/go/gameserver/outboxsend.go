package gameserver

import (
	"time"

	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
)

// next returns a call to send on the socket now, or nil. Those with a number go first, those of an instance that is not linked over
// this socket wait. The unanswered calls of an instance stay within one window of those that it has made, so that Berth can tell a
// late repeat from a call that it never saw by remembering a window.
//
// Repairs of an instance are made one by one, each after the answer to the one before, and nothing newer before the last: a later
// write must not be overtaken by an earlier one that Berth has put off. in is how long the next that was put off has to wait.
func (o *outbox) next(via *socket) (_ *call, in time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if via.left || len(via.open) >= via.window {
		return nil, 0
	}
	o.scan++
	for _, c := range o.calls {
		l := c.of
		if l.scan != o.scan {
			l.scan, l.oldest, l.blocked = o.scan, c.place, false
		}
		if c.settle == nil && (l.via != via || l.blocked) {
			continue
		}
		if left := time.Until(c.after); left > 0 {
			if in == 0 || left < in {
				in = left
			}
			l.blocked = l.blocked || c.repair
			continue
		}
		if c.via == via || c.held {
			l.blocked = l.blocked || c.repair
			continue
		}
		if c.id == 0 {
			if l.oldest != 0 && l.numbered+1-l.oldest >= int64(via.window) {
				continue
			}
			o.number(c)
		}
		c.via = via
		if c.settle == nil {
			c.epoch, c.lastDone = l.epoch, l.lastDone
		}
		if c == l.link {
			c.overdue = time.AfterFunc(handshakeTimeout, func() { via.cut(errUnanswered) })
		}
		via.open[c.id] = struct{}{}
		return c, 0
	}
	return nil, in
}

// frame returns the frame of a call that is to be sent on this socket, with both credentials; nil if the server has moved away meanwhile, so
// that another one sends it.
func (o *outbox) frame(via *socket, c *call) *linkv1.Frame {
	o.mu.Lock()
	defer o.mu.Unlock()
	if c.via != via {
		return nil
	}
	r := &linkv1.Request{
		Id: c.id, Auth: via.auth, LinkEpoch: c.epoch, Method: c.method, Payload: c.payload, LastRequest: c.lastDone,
	}
	if c.of.server != nil {
		r.InstanceId = c.of.server.id
	}
	return &linkv1.Frame{Kind: &linkv1.Frame_Request{Request: r}}
}
