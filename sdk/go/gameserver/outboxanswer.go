package gameserver

import (
	"slices"

	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
)

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
