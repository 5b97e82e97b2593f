package gameserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
)

// call is a request that is kept until it is answered, or its caller has gone.
type call struct {
	of      *ledger
	method  string
	payload []byte
	// apply takes over what a success means and returns its revision; it runs before anything later is read from the link.
	apply func(result []byte) (revision int64, err error)
	// settle deals with the answer instead, in the same place, where the request is one that links: it needs no link to go out. It
	// returns why the connection has to be left, if it has to.
	settle      func(via *socket, r *linkv1.Response) error
	answer      chan *linkv1.Response // holds one: after an answer the call is held until its caller says what next
	conditional bool                  // it depends on a revision
	linked      *Server               // what came of a CreateAndLink; written before its answer is handed over

	// Guarded by the outbox.
	id       int64       // its number, given when it is first sent
	place    int64       // which of the ledger's numbered calls it is, from 1
	via      *socket     // the socket on which it was sent last; nil: to be sent
	epoch    int64       // what to say of the link's epoch
	lastDone int64       // what to say of the ledger's
	held     bool        // not to be sent, because its caller looks at an answer or waits before a repeat
	after    time.Time   // not to be sent before
	wait     backoff     // between tries of which no caller takes care
	overdue  *time.Timer // cuts the connection on which a Link is not answered
	// gone: nobody waits for it any more. One that was sent may take effect, so its answer is still wanted here.
	gone bool

	// repair: it was answered, and is made again because the store has lost it. Nobody waits for it, so what follows is its own.
	repair   bool
	revision int64 // that it was answered with
	result   []byte
	answered time.Time
}

// ledger is what the outbox knows of one instance: over which link its calls go, and which were answered. The outbox guards it, but for
// the first three.
type ledger struct {
	server *Server // nil for the calls that are about no instance yet
	log    *slog.Logger
	room   *room // for calls that somebody waits for

	via      *socket // the socket over which the instance is linked; its calls go out on no other
	epoch    int64   // of the link; 0 before the first
	link     *call   // the Link that has no final answer yet, or nil; of those that refresh the tokens, the one
	numbered int64   // how many calls have a number
	closed   bool    // no calls are taken any more

	kept     kept
	revision int64 // the highest that Berth has told
	lastDone int64 // the highest number that was answered with a result since the last link

	// Scratch of outbox.next.
	scan    int64
	oldest  int64 // the place of its oldest call that has a number and is not answered, or 0
	blocked bool  // a repair has to be answered first
}

func newLedger(log *slog.Logger, queue QueuePolicy) *ledger {
	return &ledger{log: log, room: &room{policy: queue}}
}

// outbox holds the calls of all instances that are not answered yet, and numbers them.
type outbox struct {
	wakeWriter chan<- struct{}

	mu     sync.Mutex
	calls  []*call // by number; those without one last, in the order in which they were made
	lastID int64
	scan   int64
}

func newOutbox(wakeWriter chan<- struct{}) *outbox { return &outbox{wakeWriter: wakeWriter} }

// do makes a call, and makes it again for as long as Berth says that this makes sense. It returns when the call has succeeded, with
// the last refusal, or when ctx or what the call belongs to has ended.
func (o *outbox) do(ctx context.Context, over *ending, c *call) error {
	if err := o.add(ctx, over.done, c); err != nil {
		if errors.Is(err, ErrClosed) {
			err = over.closed() // it is over by then
		}
		return fmt.Errorf("gameserver: %s: %w", c.method, err)
	}
	defer o.remove(c)

	var wait backoff
	var refused *Error // the last one; the call goes on for as long as it is temporary
	for {
		answer, err := o.await(ctx, over, c)
		switch {
		case err != nil && refused != nil:
			return fmt.Errorf("gameserver: %s: %w; before that: %w", c.method, err, refused)
		case err != nil:
			return fmt.Errorf("gameserver: %s: %w", c.method, err)
		case answer.GetError() == nil:
			return nil
		}
		if refused = errorOf(answer.GetError()); !refused.temporary() {
			return fmt.Errorf("gameserver: %s: %w", c.method, refused)
		}
		if pause(ctx, over, wait.next()+retryAfter(refused)) {
			o.repeat(c)
		}
	}
}

// await prefers an answer that is there to the news that there will not be one.
func (o *outbox) await(ctx context.Context, over *ending, c *call) (*linkv1.Response, error) {
	var err error
	select {
	case r := <-c.answer:
		return r, nil
	case <-ctx.Done():
		err = ctx.Err()
	case <-over.done:
		err = over.closed()
	}
	if r := o.remove(c); r != nil {
		return r, nil
	}
	return nil, err
}

// pause waits before a repeat; it returns false when there will be none, which await then explains.
func pause(ctx context.Context, over *ending, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	case <-over.done:
		return false
	}
}

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

// hand gives a call's caller the answer, and reports whether there is one.
func (o *outbox) hand(c *call, r *linkv1.Response) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if c.gone {
		return false
	}
	c.answer <- r // there is room: the call was not held, so the last answer was taken
	return true
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

// sent reports whether a call of the method was sent for the instance and is not answered.
func (o *outbox) sent(l *ledger, method string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.ContainsFunc(o.calls, func(c *call) bool { return c.of == l && c.method == method && c.id != 0 })
}

// repeat has a call sent again, under its number.
func (o *outbox) repeat(c *call) {
	o.mu.Lock()
	defer o.mu.Unlock()
	c.held, c.via = false, nil
	wake(o.wakeWriter)
}

// repeatLater has a call sent again of which no caller takes care, when Berth may accept it. The caller holds mu.
func (o *outbox) repeatLater(c *call, refused *Error) {
	c.held, c.via, c.after = false, nil, time.Now().Add(c.wait.next()+retryAfter(refused))
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

// answered takes in an answer and returns its call; nil for one that is answered already or forgotten. Unless the call settles its
// answers itself, everything is done then.
func (o *outbox) answered(via *socket, r *linkv1.Response) *call {
	c := o.hold(via, r.GetId(), r.GetError() != nil)
	if c == nil || c.settle != nil {
		return c
	}
	if r.GetError() == nil {
		if revision, err := c.apply(r.GetResult()); err == nil {
			o.told(c, revision, r.GetResult())
		} else {
			r = &linkv1.Response{Id: r.GetId(), Outcome: &linkv1.Response_Error{Error: unreadable(c.method)}}
		}
	}
	if c.repair {
		o.repaired(c, r.GetError())
	} else {
		o.hand(c, r)
	}
	return c
}

// refuse answers a call that cannot be sent.
func (o *outbox) refuse(via *socket, c *call, e *linkv1.Error) {
	switch c = o.hold(via, c.id, true); {
	case c == nil:
	case c.repair:
		o.repaired(c, e)
	default:
		o.hand(c, &linkv1.Response{Id: c.id, Outcome: &linkv1.Response_Error{Error: e}})
	}
}

// hold returns the call that is answered, which is not sent again meanwhile; nil for one that has its answer. What a gateway that the
// server has moved away from refuses, the next one is asked; and it is the next one that links.
func (o *outbox) hold(via *socket, id int64, refused bool) *call {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(via.open, id)
	via.signalSettled()
	wake(o.wakeWriter)
	i := slices.IndexFunc(o.calls, func(c *call) bool { return c.id == id && c.id != 0 && !c.held })
	if i < 0 {
		return nil
	}
	c := o.calls[i]
	if via.left && (refused || c.settle != nil) {
		return nil
	}
	c.held = true
	if c.overdue != nil {
		c.overdue.Stop()
	}
	if c.gone {
		o.drop(c)
	}
	return c
}

// putOff deals with the refusal of a Link that passes: it is repeated under its number.
func (o *outbox) putOff(c *call, refused *Error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.repeatLater(c, refused)
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

// resumed says that the instance goes on over another socket.
func (o *outbox) resumed(l *ledger, via *socket, epoch int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	l.via, l.epoch = via, epoch
	wake(o.wakeWriter)
}

// leave says that the server has moved away from a connection: nothing goes out over it any more, and what is not answered goes out over
// the next one.
func (o *outbox) leave(via *socket) {
	o.mu.Lock()
	defer o.mu.Unlock()
	via.left = true
	via.signalSettled()
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

// hasLeft reports whether the server has moved away from a connection.
func (o *outbox) hasLeft(via *socket) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return via.left
}

// relinked says at which revision the instance was linked anew, from which things go on. Calls wait until resumed says where.
func (o *outbox) relinked(l *ledger, revision int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	l.revision, l.lastDone = revision, 0
}

// linkOf returns the epoch of the instance's link, 0 before the first, and whether it is over this socket.
func (o *outbox) linkOf(l *ledger, via *socket) (epoch int64, here bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return l.epoch, l.via == via
}

// linkedSince reports whether a call that was refused went out with another epoch than its instance has now, or may have soon, so that it
// is only to be made again.
func (o *outbox) linkedSince(c *call) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return c.of.link != nil || c.epoch != c.of.epoch
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
