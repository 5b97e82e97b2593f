package allocator

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/berth-dev/berth/pkg/errs"
)

// Attribute keys.
const (
	keyAllocation = "allocation"
	keyInstance   = "instance"
	keyState      = "state"
	keyProvider   = "provider"
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
	id     string
	a      Allocation
	stored Allocation // as last read or written
	base   time.Time  // the store's time at since
	since  time.Time
	asked  bool // a provider was asked for a server since the last commit: it may have one, whatever the store says by now
}

// work does what there is to do for one allocation, and returns when there will be more, in local time; zero if it does not know.
func (w *Worker) work(ctx context.Context, id string) time.Time {
	h := &hold{w: w, id: id}
	for h.claim(ctx) {
		switch again, err := h.underLease(ctx); {
		case err == nil:
			return again
		case errors.Is(err, ErrConflict) || errors.Is(err, ErrLeaseLost): // decide again on what is stored now
		default:
			w.cfg.Log.DebugContext(ctx, "allocation waits for the store", keyAllocation, id, keyError, err)
			return time.Time{}
		}
	}
	return time.Time{}
}

// claim takes or keeps the lease and reads the allocation.
func (h *hold) claim(ctx context.Context) bool {
	for range reclaims {
		c, ok, err := h.tryClaim(ctx)
		if ok && err == nil {
			h.a, h.stored, h.base, h.since = c.Allocation, c.Allocation, c.Now, time.Now()
			if h.asked && h.a.Reopen(c.Now) {
				h.w.cfg.Log.WarnContext(ctx, "a provider may have started a server that another worker did not find; taking the allocation up again", keyAllocation, h.id, keyInstance, h.a.InstanceID)
			}
			return true
		}
		if !h.asked {
			return false
		}
		select {
		case <-ctx.Done():
		case <-time.After(reclaimEvery):
			continue
		}
		break
	}
	h.w.cfg.Log.ErrorContext(ctx, "a provider may be left with a server that nobody wants", keyAllocation, h.id, keyProvider, h.a.Provider)
	return false
}

func (h *hold) tryClaim(ctx context.Context) (Claimed, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	return h.w.cfg.Queue.Claim(ctx, h.id, h.w.owner, h.w.cfg.Lease, h.asked)
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
		action, at := h.a.Next(now)
		if action != Wait && ctx.Err() != nil {
			action, at = Wait, now // stopping, or the lease is lost: somebody else goes on
		}
		switch action {
		case Wait:
			return h.since.Add(at.Sub(h.base)), h.commit(ctx, Change{Due: at})
		case Forget:
			return time.Time{}, h.commit(ctx, Change{Delete: true})
		}
		if !h.a.same(&h.stored) {
			if err := h.commit(ctx, Change{Keep: true}); err != nil {
				return time.Time{}, err
			}
		}
		if err := h.do(ctx, action); err != nil {
			return time.Time{}, err
		}
	}
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
	timeout := storeTimeout
	if ctx.Err() != nil {
		timeout = lastTimeout
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()
	c.Owner, c.Allocation, c.Write = h.w.owner, h.a, !h.a.same(&h.stored)
	a, err := h.w.cfg.Queue.Commit(ctx, c)
	if err != nil {
		return err
	}
	if a.State != h.stored.State && !c.Delete {
		h.w.cfg.Log.InfoContext(ctx, "allocation changed", keyAllocation, a.ID, keyInstance, a.InstanceID, keyState, a.State.String(),
			keyProvider, a.Provider, keyMessage, a.Message)
	}
	h.a, h.stored, h.asked = a, a, false
	return nil
}

// do takes one action.
func (h *hold) do(ctx context.Context, action Action) error {
	switch action {
	case Expire:
		h.a.Expired(h.now())
	case Place:
		return h.place(ctx)
	case Look:
		h.look(ctx)
	case GiveBack:
		h.giveBack(ctx)
	case Tell:
		h.tell(ctx)
	}
	return nil
}

// place chooses a provider and asks it. That it may have a server is stored before it is asked; tokens are minted before that, so that a provider is
// not asked for a server which could not come to its instance.
func (h *hold) place(ctx context.Context) error {
	name, region, err := h.w.catalog.Place(h.a.Placement)
	if err != nil {
		h.a.Fails(message(err), h.now())
		return nil
	}
	p := h.w.providers[name]
	mintCtx, cancel := context.WithTimeout(ctx, h.w.cfg.ReportTimeout)
	defer cancel()
	bootstrap, err := h.w.cfg.Credentials.Bootstrap(mintCtx, h.a, p.Info)
	if err != nil {
		h.a.Postponed("no tokens for the server: "+message(err), h.now())
		return nil
	}
	if limit := p.Info.MaxBootstrap; limit > 0 && int64(len(bootstrap)) > limit {
		h.a.Fails(fmt.Sprintf("provider %q: the bootstrap document has %d bytes, and it carries %d", name, len(bootstrap), limit), h.now())
		return nil
	}
	h.a.Placed(name, region, h.now())
	if err := h.commit(ctx, Change{Keep: true}); err != nil {
		return err
	}
	h.asked = true
	callCtx, cancel := context.WithTimeout(ctx, h.untilDeadline())
	defer cancel()
	server, err := p.Host.Allocate(callCtx, Order{
		Attempt: h.a.ID, Namespace: h.a.Namespace, InstanceID: h.a.InstanceID, Build: h.a.Placement.Build, Region: region,
		Labels: h.a.Placement.Labels, Bootstrap: bootstrap, Traceparent: h.a.Traceparent,
	})
	if err != nil {
		h.a.Refused(failureOf(err), h.now())
		return nil
	}
	h.a.Observed(server, p.Info.PollInterval, h.now())
	return nil
}

// untilDeadline is how long a provider may take to name a server.
func (h *hold) untilDeadline() time.Duration {
	if h.a.Deadline.IsZero() {
		return h.w.cfg.CallTimeout
	}
	return min(h.w.cfg.CallTimeout, h.a.Deadline.Sub(h.now()))
}

func (h *hold) look(ctx context.Context) {
	p, ok := h.w.providers[h.a.Provider]
	if !ok {
		h.a.ProviderLost(h.now())
		return
	}
	ctx, cancel := context.WithTimeout(ctx, h.w.cfg.CallTimeout)
	defer cancel()
	server, err := p.Host.Get(ctx, h.a.ID, h.a.ExternalID)
	if err != nil {
		h.a.LookFailed(failureOf(err), p.Info.PollInterval, h.now())
		return
	}
	h.a.Observed(server, p.Info.PollInterval, h.now())
}

func (h *hold) giveBack(ctx context.Context) {
	p, ok := h.w.providers[h.a.Provider]
	if !ok {
		h.a.ProviderLost(h.now())
		return
	}
	callCtx, cancel := context.WithTimeout(ctx, h.w.cfg.CallTimeout)
	defer cancel()
	gone, err := p.Host.Release(callCtx, h.a.ID, h.a.ExternalID)
	if err != nil {
		h.a.GiveBackFailed(failureOf(err), h.now())
		if worthTelling(h.a.Tries) {
			h.w.cfg.Log.WarnContext(ctx, "a provider does not take a server back; trying again", keyAllocation, h.id, keyProvider, h.a.Provider, keyTries, h.a.Tries, keyError, err)
		}
		return
	}
	h.a.GivenBack(gone, p.Info.PollInterval, h.now())
}

func (h *hold) tell(ctx context.Context) {
	callCtx, cancel := context.WithTimeout(ctx, h.w.cfg.ReportTimeout)
	defer cancel()
	verdict, err := h.w.cfg.Instances.Report(callCtx, h.a)
	if err != nil {
		h.a.NotTold(h.now())
		if worthTelling(h.a.ReportTries) && ctx.Err() == nil { // a stop of ours is no news
			h.w.cfg.Log.WarnContext(ctx, "an instance cannot be told of its attempt; trying again", keyAllocation, h.id, keyInstance, h.a.InstanceID, keyTries, h.a.ReportTries, keyError, err)
		}
		return
	}
	h.a.Told(verdict, h.now())
}

// worthTelling picks the first failure in a row, and then ever fewer.
func worthTelling(tries int) bool { return tries&(tries-1) == 0 }

// message is what an error says to people, without its cause.
func message(err error) string {
	var e *errs.Error
	if errors.As(err, &e) {
		return e.Message
	}
	return err.Error()
}
