package fleet

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/berth-dev/berth/services/allocation/internal/allocator"
)

const (
	// moveEvery is how often one instance of a provider that is to be empty is moved: they come one after the other, not all at once, to the others.
	moveEvery = 200 * time.Millisecond
	// lookEvery is how often the providers that are to be empty are gone through, and moveLease for how long one process does that for all.
	lookEvery = 2 * time.Second
	moveLease = 15 * time.Second
	pageSize  = 100
)

// stay is what could not be moved in one pass.
type stay struct {
	instances int
	why       string // of the first
}

// String says it for people; empty: nothing stays.
func (s stay) String() string {
	if s.instances == 0 {
		return ""
	}
	return fmt.Sprintf("%d instances stay, as they cannot be moved; trying again; the first: %s", s.instances, s.why)
}

func (f *Fleet) stay(provider string) stay {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.stays[provider]
}

// setStay keeps how a pass ended, and reports whether more stay than after the one before.
func (f *Fleet) setStay(provider string, s stay) (more bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	more = s.instances > f.stays[provider].instances
	f.stays[provider] = s
	return more
}

// moveDue moves what is left on providers whose time is over, until ctx ends.
func (f *Fleet) moveDue(ctx context.Context) {
	every(ctx, lookEvery, func() {
		settings, now, err := f.cfg.Store.Settings(ctx)
		if err != nil {
			return // it is tried again
		}
		for _, p := range f.cfg.Providers {
			var stays stay
			if s := settings[p.Info.Name]; s.Draining && !s.MoveTime.IsZero() && !now.Before(s.MoveTime) && f.leads(ctx) {
				stays = f.empty(ctx, p.Info.Name, s.MoveTime)
			}
			if f.setStay(p.Info.Name, stays) { // once, not in each pass
				f.cfg.Log.WarnContext(ctx, "instances stay on a drained provider, as they cannot be moved; trying again", "provider", p.Info.Name, "instances", stays.instances, "first", stays.why)
			}
		}
	})
}

func (f *Fleet) leads(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	leads, err := f.cfg.Store.Lead(ctx, "move", f.cfg.Owner, moveLease)
	return err == nil && leads
}

// empty goes once through what a provider has, and returns what could not be moved. That takes long: it ends when operators have said meanwhile that nothing is to
// be moved, or at another time.
func (f *Fleet) empty(ctx context.Context, provider string, moveTime time.Time) (stays stay) {
	for skip := 0; ; skip += pageSize {
		slots, err := f.cfg.Store.Members(ctx, provider, 0, skip, pageSize)
		if err != nil {
			return stays
		}
		for _, slot := range slots {
			if ctx.Err() != nil || !f.leads(ctx) || !f.moves(provider, moveTime) {
				return stays
			}
			moved, why := f.move(ctx, provider, slot.ID)
			if moved && !pause(ctx, moveEvery) {
				return stays
			}
			if why == "" {
				continue
			}
			if stays.instances++; stays.why == "" {
				stays.why = why
			}
		}
		if len(slots) < pageSize { // what was freed meanwhile makes some be passed over until the next time
			return stays
		}
	}
}

// moves reports whether a provider is still drained, and what is left there still to be moved at the same time.
func (f *Fleet) moves(provider string, moveTime time.Time) bool {
	s := f.setting(provider)
	return s.Draining && s.MoveTime.Equal(moveTime)
}

// move moves the instance of an allocation, if it has a server there, and reports whether it did, or why it could not.
func (f *Fleet) move(ctx context.Context, provider, id string) (moved bool, why string) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	a, _, err := f.cfg.Store.Load(ctx, id)
	if err != nil || a.Rev == 0 || a.Provider != provider || (a.State != allocator.Starting && a.State != allocator.Ready && a.State != allocator.Bound) {
		return false, ""
	}
	if err := f.cfg.Elsewhere(ctx, a); err != nil { // a match that ends where it is is better than one that is ended for want of a server
		return false, f.stayed(ctx, &a, err.Error())
	}
	moved, message, err := f.cfg.Instances.Move(ctx, a, fmt.Sprintf("provider %q is drained", provider))
	switch {
	case err != nil:
		return false, f.stayed(ctx, &a, err.Error())
	case !moved:
		return false, f.stayed(ctx, &a, message)
	}
	f.cfg.Log.InfoContext(ctx, "instance moved from a drained provider", "allocation", id, "instance", a.InstanceID, "provider", provider)
	return true, ""
}

// stayed says why an instance stays where it is, of which many may in each pass.
func (f *Fleet) stayed(ctx context.Context, a *allocator.Allocation, why string) string {
	why = cmp.Or(why, "its instance does not say why")
	f.cfg.Log.DebugContext(ctx, "an instance stays on a drained provider; trying again", "allocation", a.ID, "instance", a.InstanceID, "provider", a.Provider, "reason", why)
	return why
}

// pause waits, and reports false when ctx ended.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
