package gameserver

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
)

// maxCalls bounds the outbox. Overflow: a further call waits for room until its context ends.
const maxCalls = 1024

// call is a request that is kept until it is answered, or its caller has gone.
type call struct {
	method  string
	payload []byte
	// apply takes over what a success means and returns its revision; it runs before anything later is read from the link.
	apply       func(result []byte) (revision int64, err error)
	answer      chan *linkv1.Response // holds one: after an answer the call is held until its caller says what next
	conditional bool                  // it depends on a revision

	// Guarded by the outbox.
	id       int64   // its number, given when it is first sent
	via      *socket // the socket on which it was sent last; nil: to be sent
	lastDone int64   // what to say of the outbox's
	held     bool    // not to be sent, because its caller looks at an answer or waits before a repeat
	// orphan: its caller has gone, but it was sent and may take effect, so its answer is still wanted here.
	orphan bool

	// repair: it was answered, and is made again because the store has lost it. Nobody waits for it, so what follows is its own.
	repair   bool
	after    time.Time // not to be sent before
	wait     backoff
	revision int64 // that it was answered with
	result   []byte
	answered time.Time
}

// outbox holds the calls that are not answered yet, and numbers them. It remembers answered ones for a while, see kept.
type outbox struct {
	log        *slog.Logger
	wakeWriter chan<- struct{}
	room       chan struct{} // one token a call that is no repair

	mu       sync.Mutex
	calls    []*call // in the order in which they were made, hence by number, those without a number last
	lastID   int64
	kept     kept
	revision int64 // the highest that Berth has told
	lastDone int64 // the highest number that was answered with a result since the last link
}

func newOutbox(log *slog.Logger, wakeWriter chan<- struct{}) *outbox {
	return &outbox{log: log, wakeWriter: wakeWriter, room: make(chan struct{}, maxCalls)}
}

// add queues a call; the caller must remove it.
func (o *outbox) add(ctx context.Context, done <-chan struct{}, c *call) error {
	select {
	case o.room <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-done:
		return ErrClosed
	}
	c.answer = make(chan *linkv1.Response, 1)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.calls = append(o.calls, c)
	wake(o.wakeWriter)
	return nil
}

// remove says that a call's caller has gone. A call that was sent stays until it is answered: what it does at Berth it does here, too.
func (o *outbox) remove(c *call) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if c.id != 0 && !c.held {
		c.orphan = true
		return
	}
	o.drop(c)
}

// drop forgets a call. The caller holds mu.
func (o *outbox) drop(c *call) {
	o.calls = slices.DeleteFunc(o.calls, func(x *call) bool { return x == c })
	if !c.repair {
		<-o.room
	}
	wake(o.wakeWriter) // one that is left may be the next to send now
}

// sent reports whether a call of the method was sent and is not answered.
func (o *outbox) sent(method string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.ContainsFunc(o.calls, func(c *call) bool { return c.method == method && c.id != 0 })
}

// repeat has a call sent again, under its number.
func (o *outbox) repeat(c *call) {
	o.mu.Lock()
	defer o.mu.Unlock()
	c.held, c.via = false, nil
	wake(o.wakeWriter)
}

// number takes the next number, for the request that links.
func (o *outbox) number() int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.lastID++
	return o.lastID
}

// next returns a call to send on the socket now, or nil. Those with a number go first. The numbers of unanswered calls stay
// within one window, so that Berth can tell a late repeat from a call that it never saw by remembering a window.
//
// Repairs are made one by one, each after the answer to the one before, and nothing newer before the last: a later write must not
// be overtaken by an earlier one that Berth has put off. in is how long the next of them has to wait.
func (o *outbox) next(via *socket) (_ *call, in time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(via.open) >= via.window {
		return nil, 0
	}
	for _, c := range o.calls {
		switch {
		case c.repair && time.Until(c.after) > 0:
			return nil, time.Until(c.after)
		case c.repair && (c.via == via || c.held):
			return nil, 0
		case c.via == via, c.held:
			continue
		}
		if c.id == 0 {
			if oldest := o.calls[0].id; oldest != 0 && o.lastID+1-oldest >= int64(via.window) {
				return nil, 0
			}
			o.lastID++
			c.id = o.lastID
		}
		c.via, c.lastDone = via, o.lastDone
		via.open[c.id] = struct{}{}
		return c, 0
	}
	return nil, 0
}

// answered hands an answer to its call.
func (o *outbox) answered(via *socket, r *linkv1.Response) {
	c := o.hold(via, r.GetId())
	if c == nil {
		return
	}
	if r.GetError() == nil {
		if revision, err := c.apply(r.GetResult()); err == nil {
			o.told(c, revision, r.GetResult())
		} else {
			r = &linkv1.Response{Id: r.GetId(), Outcome: &linkv1.Response_Error{Error: unreadable(c.method)}}
		}
	}
	switch {
	case c.repair:
		o.repaired(c, r.GetError())
	case c.orphan:
	default:
		c.answer <- r // there is room: the call was not held, so the last answer was taken
	}
}

// hold returns the call that is answered, which is not sent again meanwhile; nil for one that has its answer.
func (o *outbox) hold(via *socket, id int64) *call {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(via.open, id)
	wake(o.wakeWriter)
	i := slices.IndexFunc(o.calls, func(c *call) bool { return c.id == id && c.id != 0 && !c.held })
	if i < 0 {
		return nil
	}
	c := o.calls[i]
	c.held = true
	if c.orphan {
		o.drop(c)
	}
	return c
}
