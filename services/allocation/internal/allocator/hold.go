package allocator

import (
	"context"
	"errors"
	"sync"
	"time"
)

// Attribute keys.
const (
	keyAllocation = "allocation"
	keyInstance   = "instance"
	keyState      = "state"
	keyProvider   = "provider"
	keyRegion     = "region"
	keyFrom       = "from"
	keyTo         = "to"
	keyMessage    = "message"
	keyTries      = "tries"
	keyError      = "error"
)

const (
	// storeTimeout bounds a call to the store.
	storeTimeout = 3 * time.Second
	// lastTimeout bounds a commit that begins when the worker is stopping: what was done must be known, but a call before it may still wait for its
	// answer, and both must fit into a stop.
	lastTimeout = 1500 * time.Millisecond
	// reclaimEvery and reclaims are how often a worker that had asked a provider for a server tries to get the allocation back from whoever took it.
	reclaimEvery = 200 * time.Millisecond
	reclaims     = 150
)

// hold is one allocation under this worker's lease.
type hold struct {
	w      *Worker
	run    *run
	id     string
	a      Allocation
	stored Allocation // as last read or written
	base   time.Time  // the store's time at since
	since  time.Time
	passed bool   // it was its turn in this round
	given  gives  // how many servers had been given back when that was found
	slot   string // the provider of which a slot was taken that the store does not know of yet
	asked  *site  // where a server was asked for since the last commit: there may be one, whatever the store says by now
}

// site is a provider and one of its regions.
type site struct{ provider, region string }

// work does what there is to do for one allocation, and returns when there will be more, in local time; zero if it does not know.
func (w *Worker) work(ctx context.Context, r *run) time.Time {
	h := &hold{w: w, run: r, id: r.id}
	for {
		ok, err := h.claim(ctx)
		var again time.Time
		if ok {
			again, err = h.underLease(ctx)
		}
		switch {
		case errors.Is(err, ErrConflict) || errors.Is(err, ErrLeaseLost): // decide again on what is stored now
			continue
		case err != nil:
			w.cfg.Log.DebugContext(ctx, "allocation waits for the store", keyAllocation, h.id, keyError, err)
		case ok:
			return again
		}
		if r.nudge != nil {
			w.keeper.unheard(h.id, *r.nudge)
		}
		return time.Time{}
	}
}

// claim takes or keeps the lease and reads the allocation; false: it is somebody else's.
func (h *hold) claim(ctx context.Context) (bool, error) {
	for range reclaims {
		c, ok, err := h.tryClaim(ctx)
		if ok && err == nil {
			h.begin(ctx, c)
			return true, nil
		}
		if h.asked == nil {
			return false, err
		}
		select {
		case <-ctx.Done():
		case <-time.After(reclaimEvery):
			continue
		}
		break
	}
	h.w.cfg.Log.ErrorContext(ctx, "a provider may be left with a server that nobody wants", keyAllocation, h.id, keyProvider, h.asked.provider)
	return false, nil
}

// begin goes on from what is stored.
func (h *hold) begin(ctx context.Context, c Claimed) {
	h.a, h.stored, h.base, h.since = c.Allocation, c.Allocation, c.Now, time.Now()
	if h.asked != nil && h.a.Reopen(h.asked.provider, h.asked.region, c.Now) {
		_, _ = h.w.cfg.Slots.Take(ctx, h.asked.provider, 0, h.id) // it may have been freed; whether there is one does not matter any more
		h.w.cfg.Log.WarnContext(ctx, "a provider may have started a server that another worker did not find; taking the allocation up again", keyAllocation, h.id, keyInstance, h.a.InstanceID)
	}
	h.untake(ctx)
	if n := h.run.nudge; n != nil {
		h.a.Nudged(n.from, c.Now)
	}
}

func (h *hold) tryClaim(ctx context.Context) (Claimed, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	return h.w.cfg.Queue.Claim(ctx, h.id, h.w.owner, h.w.cfg.Lease, h.asked != nil || h.run.nudge != nil)
}

// underLease acts until there is nothing to do for now, and ends the lease. What an action brought is stored before the next one.
func (h *hold) underLease(ctx context.Context) (again time.Time, err error) {
	ctx, cancel := context.WithCancel(ctx)
	var renewal sync.WaitGroup
	renewal.Go(func() { h.w.renew(ctx, h.id, cancel) })
	defer renewal.Wait()
	defer cancel()
	for {
		now := h.now()
		if h.a.State > Placing {
			h.a.WaitSince = time.Time{} // a use-case has ended the waiting
		}
		action, due := h.a.Next(now)
		if action != Wait && ctx.Err() != nil {
			action, due = Wait, now // stopping, or the lease is lost: somebody else goes on
		}
		switch action {
		case Wait:
			if h.a.State == Queued && !h.a.WaitSince.IsZero() && ctx.Err() == nil {
				if err := h.queueUp(ctx); err != nil {
					return time.Time{}, err
				}
				if h.a.WaitSince.IsZero() {
					continue // the line is full
				}
			}
			return h.since.Add(due.Sub(h.base)), h.commit(ctx, Change{Due: due})
		case Forget:
			return time.Time{}, h.commit(ctx, Change{Delete: true})
		}
		at, ok := h.turn(action)
		if !ok {
			continue
		}
		if at.provider != "" && !h.w.schedule.enter(h.run, at.provider) { //nolint:contextcheck // what is started in its place goes by Run's own context
			return h.park(ctx)
		}
		if action != Place && !h.a.same(&h.stored) { // that a candidate has nothing may be stored with the choice of the next one
			if err := h.commit(ctx, Change{Keep: true}); err != nil {
				return time.Time{}, err
			}
		}
		if err := h.do(ctx, action, at); err != nil {
			return time.Time{}, err
		}
	}
}

// turn says which provider an action turns to, if any; false: there is nothing to do for it.
func (h *hold) turn(action Action) (site, bool) {
	switch action {
	case Place:
		return h.choose()
	case Look, GiveBack:
		return site{h.a.Provider, h.a.Region}, true
	default:
		return site{}, true
	}
}

// park leaves an allocation to the lane of a provider that is full. The lease is left to run out: if this worker has room before that, it goes on under it.
func (h *hold) park(ctx context.Context) (again time.Time, err error) {
	at := h.a.limit()
	if !at.IsZero() {
		at = h.since.Add(at.Sub(h.base))
	}
	if h.a.same(&h.stored) {
		return at, nil
	}
	return at, h.commit(ctx, Change{Keep: true})
}

// renew prolongs the lease until ctx ends, and cancels what is done under a lease that is over.
func (w *Worker) renew(ctx context.Context, id string, cancel context.CancelFunc) {
	tick := time.NewTicker(w.cfg.Lease / 3)
	defer tick.Stop()
	for renewed := time.Now(); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		asked := time.Now()
		callCtx, done := context.WithTimeout(ctx, w.cfg.Lease/3)
		ok, err := w.cfg.Queue.Renew(callCtx, id, w.owner, w.cfg.Lease)
		done()
		switch {
		case err == nil && ok:
			renewed = asked
		case err == nil, time.Since(renewed) > w.cfg.Lease:
			cancel()
			return
		}
	}
}

// now is the store's time.
func (h *hold) now() time.Time { return h.base.Add(time.Since(h.since)) }

// commit stores what was done, in any case: the context's values count, not its end.
func (h *hold) commit(ctx context.Context, c Change) error {
	if held := h.stored.heldAt(); held != "" && held != h.a.heldAt() && !c.Keep && !c.Delete { // its slot is freed under the lease: whoever has that next may take it anew
		if err := h.commit(ctx, Change{Keep: true}); err != nil {
			return err
		}
	}
	timeout := storeTimeout
	if ctx.Err() != nil {
		timeout = lastTimeout
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()
	if !h.stored.WaitSince.IsZero() && (h.a.WaitSince.IsZero() || c.Delete || h.a.line() != h.stored.line()) { // or those behind it in the old line wait for it
		h.leave(ctx, h.stored.line(), h.a.State > Placing && h.a.State < Releasing)
	}
	c.Owner, c.Allocation, c.Write = h.w.owner, h.a, !h.a.same(&h.stored)
	a, err := h.w.cfg.Queue.Commit(ctx, c)
	if err != nil {
		return err
	}
	if a.State != h.stored.State && !c.Delete {
		h.w.cfg.Log.InfoContext(ctx, "allocation changed", keyAllocation, a.ID, keyInstance, a.InstanceID, keyState, a.State.String(),
			keyProvider, a.Provider, keyMessage, a.Message)
	}
	held, had := h.stored.heldAt(), h.stored.State > Placing
	h.a, h.stored, h.asked, h.slot = a, a, nil, ""
	if held != "" && held != a.heldAt() {
		h.free(ctx, held)
		if had {
			h.w.keeper.tookBack(held)
		}
	}
	return nil
}

// untake frees a slot that was taken for nothing.
func (h *hold) untake(ctx context.Context) {
	if h.slot != "" && h.slot != h.a.heldAt() {
		h.free(ctx, h.slot)
	}
	h.slot = ""
}

// free frees a slot. If that fails, an audit does.
func (h *hold) free(ctx context.Context, provider string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	if err := h.w.cfg.Slots.Free(ctx, provider, h.id, time.Time{}); err != nil {
		h.w.cfg.Log.DebugContext(ctx, "a slot is left to the audit", keyAllocation, h.id, keyProvider, provider, keyError, err)
	}
}
