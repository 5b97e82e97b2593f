package allocator

import (
	"context"
	"time"
)

// Slots counts what providers have: an allocation takes a slot before a provider is asked for its server, and frees it when that is certainly gone. So
// there are never more servers than slots, and between a crash and the next audit there may be fewer.
type Slots interface {
	// Take takes a slot for an allocation, or takes it anew, and reports whether there was one; most is how many there are, 0 for no limit.
	Take(ctx context.Context, provider string, most int, id string) (bool, error)
	// Free frees an allocation's slot; with a time, only if it was not taken anew since.
	Free(ctx context.Context, provider, id string, taken time.Time) error
	// Count returns how many are taken.
	Count(ctx context.Context, provider string) (int, error)
	// Members returns slots that were taken an age ago or earlier, the oldest first, at most limit after leaving skip out.
	Members(ctx context.Context, provider string, age time.Duration, skip, limit int) ([]Slot, error)
	// Loads returns allocations in the order of their ids; Rev is 0 of those that are not there. With an UnreadableError it returns all others.
	Loads(ctx context.Context, ids []string) ([]Allocation, error)
	// Lead reports whether the owner may do what only one may at a time, for so long.
	Lead(ctx context.Context, what, owner string, lease time.Duration) (bool, error)
}

// Slot is a taken slot.
type Slot struct {
	// ID is the allocation's.
	ID string
	// Taken is when it was taken last, by the store's clock.
	Taken time.Time
}

const (
	// auditEvery is how often slots are compared with the allocations that took them, by one of all workers.
	auditEvery = time.Minute
	// auditAge is how old slots are that an audit looks at: their takers have stored by then what they took them for.
	auditAge  = time.Minute
	auditPage = 500
)

// heldAt is the provider that may have something of the allocation; empty: none.
func (a *Allocation) heldAt() string {
	if a.State.Final() || (a.State == Releasing && a.Gone) {
		return ""
	}
	return a.Provider
}

// audits runs an audit whenever one is due, until ctx ends.
func (w *Worker) audits(ctx context.Context) {
	tick := time.NewTicker(auditEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if leads, err := w.cfg.Slots.Lead(ctx, "audit", w.owner, auditEvery*9/10); err != nil || !leads {
			continue
		}
		if err := w.Audit(ctx, auditAge); err != nil && ctx.Err() == nil {
			w.cfg.Log.WarnContext(ctx, "the slots of providers cannot be audited", keyError, err)
		}
	}
}

// Audit frees the slots that a crash left behind: those that were taken an age ago or earlier by allocations that have nothing at the provider.
func (w *Worker) Audit(ctx context.Context, age time.Duration) error {
	for provider := range w.providers {
		for skip := 0; ; {
			slots, err := w.cfg.Slots.Members(ctx, provider, age, skip, auditPage)
			if err != nil {
				return err
			}
			freed, err := w.auditPage(ctx, provider, slots)
			if err != nil {
				return err
			}
			if len(slots) < auditPage {
				break
			}
			skip += len(slots) - freed
		}
	}
	return w.auditLines(ctx)
}

// builds are those that the providers have now, in order.
func (w *Worker) builds() []string {
	var builds []string
	for name := range w.providers {
		p, _ := w.provider(name) // one that was away at the start has its builds since then
		builds = append(builds, p.Info.Builds...)
	}
	return union(builds, nil)
}

// auditLines takes those out of the lines who do not wait in them any more.
func (w *Worker) auditLines(ctx context.Context) error {
	for _, build := range w.builds() {
		for skip := 0; ; {
			waiters, err := w.cfg.Lines.Waiters(ctx, build, skip, auditPage)
			if err != nil {
				return err
			}
			stale, err := w.auditWaiters(ctx, waiters)
			if err != nil {
				return err
			}
			if len(waiters) < auditPage {
				break
			}
			skip += len(waiters) - stale
		}
	}
	return nil
}

// auditWaiters takes those out of their lines who do not wait there, and returns how many there were. One whose record cannot be read is among them: nobody can
// get it a server, and in front it would hold up everybody behind it. If the record is mended it comes back by itself, to its old place.
func (w *Worker) auditWaiters(ctx context.Context, waiters []Waiter) (stale int, err error) {
	ids := make([]string, len(waiters))
	for i, waiter := range waiters {
		ids[i] = waiter.ID
	}
	list, err := w.cfg.Slots.Loads(ctx, ids)
	if _, err = w.passed.over(ctx, err); err != nil {
		return 0, err
	}
	for i, a := range list {
		if a.Rev != 0 && !a.WaitSince.IsZero() && a.line() == waiters[i].Line {
			continue
		}
		if err := w.cfg.Lines.Leave(ctx, waiters[i]); err != nil { // only what was found: it may have come back since
			return stale, err
		}
		stale++
		w.keeper.left(waiters[i].Line, false)
	}
	return stale, nil
}

// auditPage frees those slots that nothing stands for, and returns how many there were.
func (w *Worker) auditPage(ctx context.Context, provider string, slots []Slot) (freed int, err error) {
	ids := make([]string, len(slots))
	for i, s := range slots {
		ids[i] = s.ID
	}
	list, err := w.cfg.Slots.Loads(ctx, ids)
	broken, err := w.passed.over(ctx, err)
	if err != nil {
		return 0, err
	}
	for i, a := range list {
		if broken[ids[i]] != nil { // it may have a server: the reaper says so
			continue
		}
		if a.Rev != 0 && a.heldAt() == provider {
			continue
		}
		w.cfg.Log.InfoContext(ctx, "freeing a slot that nothing stands for", keyAllocation, ids[i], keyProvider, provider)
		if err := w.cfg.Slots.Free(ctx, provider, ids[i], slots[i].Taken); err != nil {
			return freed, err
		}
		freed++
	}
	return freed, nil
}
