package gameserver

import (
	"context"
	"errors"
	"fmt"
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

// putOff deals with the refusal of a Link that passes: it is repeated under its number.
func (o *outbox) putOff(c *call, refused *Error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.repeatLater(c, refused)
}
