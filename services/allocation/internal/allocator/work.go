package allocator

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/services/allocation/internal/placement"
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
	// giveUpAfter is how many of its time-outs a provider has to say whether it has a server, before the instance is told that it does not say so.
	giveUpAfter = 3
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
	tooks  int    // how many servers had been taken back when that was found
	slot   string // the provider of which a slot was taken that the store does not know of yet
	asked  *site  // where a server was asked for since the last commit: there may be one, whatever the store says by now
}

// site is a provider and one of its regions.
type site struct{ provider, region string }

// work does what there is to do for one allocation, and returns when there will be more, in local time; zero if it does not know.
func (w *Worker) work(ctx context.Context, r *run) time.Time {
	h := &hold{w: w, run: r, id: r.id}
	for h.claim(ctx) {
		switch again, err := h.underLease(ctx); {
		case err == nil:
			return again
		case errors.Is(err, ErrConflict) || errors.Is(err, ErrLeaseLost): // decide again on what is stored now
		default:
			w.cfg.Log.DebugContext(ctx, "allocation waits for the store", keyAllocation, h.id, keyError, err)
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
			if h.asked != nil && h.a.Reopen(h.asked.provider, h.asked.region, c.Now) {
				_, _ = h.w.cfg.Slots.Take(ctx, h.asked.provider, 0, h.id) // it may have been freed; whether there is one does not matter any more
				h.w.cfg.Log.WarnContext(ctx, "a provider may have started a server that another worker did not find; taking the allocation up again", keyAllocation, h.id, keyInstance, h.a.InstanceID)
			}
			h.untake(ctx)
			if h.run.nudged {
				h.a.Nudged(h.run.freed, c.Now)
				h.run.nudged = false
			}
			return true
		}
		if h.asked == nil {
			return false
		}
		select {
		case <-ctx.Done():
		case <-time.After(reclaimEvery):
			continue
		}
		break
	}
	h.w.cfg.Log.ErrorContext(ctx, "a provider may be left with a server that nobody wants", keyAllocation, h.id, keyProvider, h.asked.provider)
	return false
}

func (h *hold) tryClaim(ctx context.Context) (Claimed, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	return h.w.cfg.Queue.Claim(ctx, h.id, h.w.owner, h.w.cfg.Lease, h.asked != nil || h.run.nudged)
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

// do takes one action.
func (h *hold) do(ctx context.Context, action Action, at site) error {
	switch action {
	case Expire:
		h.a.Expired(h.now())
	case Place:
		return h.place(ctx, at)
	case Look:
		h.look(ctx)
	case GiveBack:
		h.giveBack(ctx)
	case Tell:
		h.tell(ctx)
	}
	return nil
}

// place asks the next candidate for a server. That it may have one is stored before it is asked; tokens are minted before that, so that a provider is
// not asked for a server which could not come to its instance.
func (h *hold) place(ctx context.Context, at site) error {
	p, ok := h.w.provider(at.provider)
	if !ok {
		h.a.ProviderLost(h.now())
		return nil
	}
	if ok, err := h.gate(ctx); !ok || err != nil {
		return err
	}
	done, resting := h.w.breakers.enter(at)
	if resting != "" {
		h.passOver(placement.Resting, resting)
		return nil
	}
	health := errNotAsked
	defer func() { done(health) }()
	if ok, err := h.take(ctx, p.Info); !ok || err != nil {
		return err
	}
	bootstrap, ok := h.bootstrap(ctx, p.Info)
	if !ok {
		h.untake(ctx)
		return nil
	}
	h.a.Placed(at.provider, at.region, giveUpAfter*p.Info.Timeout, h.now())
	if err := h.commit(ctx, Change{Keep: true}); err != nil {
		return err
	}
	health = h.ask(ctx, p, bootstrap)
	return nil
}

// take takes a slot of the provider, or passes it over.
func (h *hold) take(ctx context.Context, p ProviderInfo) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	ok, err := h.w.cfg.Slots.Take(ctx, p.Name, p.MaxServers, h.id)
	switch {
	case err != nil:
		return false, err
	case !ok:
		h.passOver(placement.Full, fmt.Sprintf("it has as many servers as it may have, %d", p.MaxServers))
		return false, nil
	}
	h.slot = p.Name
	return true, nil
}

// passOver leaves the candidate out in this round; one that was asked before, and may yet have a server, is waited for.
func (h *hold) passOver(why placement.Exclusion, message string) {
	if h.a.Provider != "" {
		h.a.Postponed(fmt.Sprintf("provider %q: %s", h.a.Provider, message), h.now())
		return
	}
	h.a.Exclude(h.a.candidate(), why, message)
}

// choose says where to ask: where a server may be already, or else at the next candidate of the round, which it begins if none is on.
func (h *hold) choose() (site, bool) {
	if h.a.Provider != "" {
		return site{h.a.Provider, h.a.Region}, true
	}
	if h.a.RoundAt.IsZero() {
		h.passed = false
		h.a.Begin(h.w.cfg.Explain(h.a.Placement.request(h.a.ID, h.a.Namespace)), h.now())
	}
	i := h.a.candidate()
	if i < 0 {
		h.a.RoundOver(h.now())
		return site{}, false
	}
	c := h.a.Explanation.Candidates[i]
	return site{c.Provider, c.Region}, true
}

// bootstrap mints the credentials for a server of the provider.
func (h *hold) bootstrap(ctx context.Context, p ProviderInfo) ([]byte, bool) {
	ctx, cancel := context.WithTimeout(ctx, h.w.cfg.ReportTimeout)
	defer cancel()
	doc, err := h.w.cfg.Credentials.Bootstrap(ctx, h.a, p)
	if err != nil {
		h.a.Postponed("no tokens for the server: "+message(err), h.now())
		return nil, false
	}
	if i := h.a.candidate(); p.MaxBootstrap > 0 && int64(len(doc)) > p.MaxBootstrap && h.a.Provider == "" && i >= 0 {
		h.a.Exclude(i, placement.Bootstrap, fmt.Sprintf("the bootstrap document has %d bytes, and it carries %d", len(doc), p.MaxBootstrap))
		return nil, false
	}
	return doc, true
}

// ask asks a provider for the server, and returns what that says about its health.
func (h *hold) ask(ctx context.Context, p Provider, bootstrap []byte) (symptoms error) {
	h.asked = &site{h.a.Provider, h.a.Region}
	ctx, cancel := context.WithTimeout(ctx, h.untilDeadline(p.Info.Timeout))
	defer cancel()
	start := time.Now()
	server, err := p.Host.Allocate(ctx, Order{
		Attempt: h.a.ID, Namespace: h.a.Namespace, InstanceID: h.a.InstanceID, Build: h.a.Placement.Build, Region: h.a.Region,
		Labels: h.a.Placement.Labels, Bootstrap: bootstrap, Traceparent: h.a.Traceparent,
	})
	took := time.Since(start)
	if err != nil {
		h.a.Refused(failureOf(err), took, h.now())
		return symptom(ctx, err, took, p.Info.Timeout)
	}
	h.a.Answered(took, h.now())
	h.a.Observed(server, p.Info.PollInterval, h.now())
	return nil
}

// untilDeadline is how long a provider may take to name a server.
func (h *hold) untilDeadline(timeout time.Duration) time.Duration {
	if h.a.Deadline.IsZero() || h.a.State > Placing {
		return timeout
	}
	return min(timeout, h.a.Deadline.Sub(h.now()))
}

func (h *hold) look(ctx context.Context) {
	p, ok := h.w.provider(h.a.Provider)
	if !ok {
		h.a.ProviderLost(h.now())
		return
	}
	ctx, cancel := context.WithTimeout(ctx, h.untilDeadline(p.Info.Timeout))
	defer cancel()
	server, err := p.Host.Get(ctx, h.a.ID, h.a.ExternalID)
	if err != nil {
		h.a.LookFailed(failureOf(err), p.Info.PollInterval, h.now())
		return
	}
	h.a.Observed(server, p.Info.PollInterval, h.now())
}

func (h *hold) giveBack(ctx context.Context) {
	p, ok := h.w.provider(h.a.Provider)
	if !ok {
		h.a.ProviderLost(h.now())
		return
	}
	callCtx, cancel := context.WithTimeout(ctx, p.Info.Timeout)
	defer cancel()
	h.w.keeper.takesBack(1)
	defer func() {
		if !h.a.Gone {
			h.w.keeper.takesBack(-1)
		}
	}()
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
