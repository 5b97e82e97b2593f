package gameserver

import (
	"context"
	"slices"
	"sync"

	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
)

// outbox holds the calls of all instances that are not answered yet, and numbers them.
type outbox struct {
	wakeWriter chan<- struct{}

	mu     sync.Mutex
	calls  []*call // by number; those without one last, in the order in which they were made
	lastID int64
	scan   int64
}

func newOutbox(wakeWriter chan<- struct{}) *outbox { return &outbox{wakeWriter: wakeWriter} }

// add queues a call; the caller must remove it. Overflow: as the room's policy says.
func (o *outbox) add(ctx context.Context, done <-chan struct{}, c *call) error {
	if err := c.of.room.take(ctx, done, len(c.payload)); err != nil {
		return err
	}
	c.answer = make(chan *linkv1.Response, 1)
	o.mu.Lock()
	defer o.mu.Unlock()
	if c.of.closed {
		c.of.room.give(len(c.payload))
		return ErrClosed
	}
	o.calls = append(o.calls, c)
	wake(o.wakeWriter)
	return nil
}

// addLink queues a Link, or what refreshes the tokens, under a new number and before all that has none, unless one has no final answer
// yet: that is sent again by itself.
func (o *outbox) addLink(c *call) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if c.of.closed || c.of.link != nil {
		return
	}
	c.of.link = c
	o.number(c)
	wake(o.wakeWriter)
}

// number gives a call the next number, and with it its place in the queue. The caller holds mu.
func (o *outbox) number(c *call) {
	o.lastID++
	c.of.numbered++
	c.id, c.place = o.lastID, c.of.numbered
	if i := slices.Index(o.calls, c); i >= 0 {
		o.calls = slices.Delete(o.calls, i, i+1)
	}
	at := slices.IndexFunc(o.calls, func(x *call) bool { return x.id == 0 })
	if at < 0 {
		at = len(o.calls)
	}
	o.calls = slices.Insert(o.calls, at, c)
}

// remove says that a call's caller has gone, and returns the answer that has come at the last moment, or nil. A call that was sent stays
// until it is answered: what it does at Berth it does here, too.
func (o *outbox) remove(c *call) *linkv1.Response {
	o.mu.Lock()
	defer o.mu.Unlock()
	c.gone = true
	if c.id == 0 || c.held {
		o.drop(c)
	}
	select {
	case r := <-c.answer:
		return r
	default:
		return nil
	}
}

// drop forgets a call, if that has not happened yet. The caller holds mu.
func (o *outbox) drop(c *call) {
	i := slices.Index(o.calls, c)
	if i < 0 {
		return
	}
	o.calls = slices.Delete(o.calls, i, i+1)
	switch {
	case c.of.link == c:
		c.of.link = nil
	case !c.repair:
		c.of.room.give(len(c.payload))
	}
	if c.overdue != nil {
		c.overdue.Stop()
	}
	wake(o.wakeWriter) // one that is left may be the next to send now
}

// forget drops a call to whose answer there is nothing to add.
func (o *outbox) forget(c *call) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.drop(c)
}

// forgetLink drops the Link that has no final answer yet, if there is one; the next gets a number of its own.
func (o *outbox) forgetLink(l *ledger) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if l.link != nil {
		o.drop(l.link)
	}
}

// close forgets an instance's calls, sent or not, and takes no more. What was sent counts on its socket until it is answered.
func (o *outbox) close(l *ledger) {
	o.mu.Lock()
	defer o.mu.Unlock()
	l.closed = true
	for _, c := range slices.Clone(o.calls) {
		if c.of == l {
			o.drop(c)
		}
	}
}

// leave says that the server has moved away from a connection: nothing goes out over it any more, and what is not answered goes out over
// the next one.
func (o *outbox) leave(via *socket) {
	o.mu.Lock()
	defer o.mu.Unlock()
	via.left = true
	via.signalSettled()
}

// hasLeft reports whether the server has moved away from a connection.
func (o *outbox) hasLeft(via *socket) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return via.left
}

// sent reports whether a call of the method was sent for the instance and is not answered.
func (o *outbox) sent(l *ledger, method string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.ContainsFunc(o.calls, func(c *call) bool { return c.of == l && c.method == method && c.id != 0 })
}

// creating returns the number of the oldest CreateAndLink whose outcome is open, or 0.
func (o *outbox) creating() int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, c := range o.calls {
		if c.method == methodCreate && c.id != 0 {
			return c.id
		}
	}
	return 0
}

// last returns the newest number.
func (o *outbox) last() int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.lastID
}
