package fleet

import (
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

// moveDue moves what is left on providers whose time is over, until ctx ends.
func (f *Fleet) moveDue(ctx context.Context) {
	stayed := make(map[string]int) // by provider, in its last pass
	every(ctx, lookEvery, func() {
		settings, now, err := f.cfg.Store.Settings(ctx)
		if err != nil {
			return // it is tried again
		}
		for _, p := range f.cfg.Providers {
			s := settings[p.Info.Name]
			if s.Draining && !s.MoveTime.IsZero() && !now.Before(s.MoveTime) && f.leads(ctx) {
				stay := f.empty(ctx, p.Info.Name, s.MoveTime)
				if stay > stayed[p.Info.Name] { // once, not in each pass
					f.cfg.Log.WarnContext(ctx, "instances stay on a drained provider, as they cannot be moved; trying again", "provider", p.Info.Name, "instances", stay)
				}
				stayed[p.Info.Name] = stay
			}
		}
	})
}

func (f *Fleet) leads(ctx context.Context) bool {
	leads, err := f.cfg.Store.Lead(ctx, "move", f.cfg.Owner, moveLease)
	return err == nil && leads
}

// empty goes once through what a provider has, and returns how many instances could not be moved. That takes long: it ends when operators have said meanwhile
// that nothing is to be moved, or at another time.
func (f *Fleet) empty(ctx context.Context, provider string, moveTime time.Time) (stay int) {
	for skip := 0; ; skip += pageSize {
		slots, err := f.cfg.Store.Members(ctx, provider, 0, skip, pageSize)
		if err != nil {
			return stay
		}
		for _, slot := range slots {
			if ctx.Err() != nil || !f.leads(ctx) || !f.moves(provider, moveTime) {
				return stay
			}
			switch there, moved := f.move(ctx, provider, slot.ID); {
			case moved && !pause(ctx, moveEvery):
				return stay
			case there && !moved:
				stay++
			}
		}
		if len(slots) < pageSize { // what was freed meanwhile makes some be passed over until the next time
			return stay
		}
	}
}

// moves reports whether a provider is still drained, and what is left there still to be moved at the same time.
func (f *Fleet) moves(provider string, moveTime time.Time) bool {
	s := f.setting(provider)
	return s.Draining && s.MoveTime.Equal(moveTime)
}

// move moves the instance of an allocation, if it has a server there, and reports whether it did.
func (f *Fleet) move(ctx context.Context, provider, id string) (there, moved bool) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	a, _, err := f.cfg.Store.Load(ctx, id)
	if err != nil || a.Rev == 0 || a.Provider != provider || (a.State != allocator.Starting && a.State != allocator.Ready && a.State != allocator.Bound) {
		return false, false
	}
	if err := f.cfg.Elsewhere(ctx, a); err != nil { // a match that ends where it is is better than one that is ended for want of a server
		f.cfg.Log.DebugContext(ctx, "an instance stays on a drained provider: nobody else can take it", "allocation", id, "instance", a.InstanceID, "provider", provider, "error", err)
		return true, false
	}
	moved, message, err := f.cfg.Instances.Move(ctx, a, fmt.Sprintf("provider %q is drained", provider))
	switch {
	case err != nil:
		f.cfg.Log.DebugContext(ctx, "an instance cannot be moved from a drained provider; trying again", "allocation", id, "instance", a.InstanceID, "provider", provider, "error", err)
	case !moved:
		f.cfg.Log.DebugContext(ctx, "an instance stays on a drained provider", "allocation", id, "instance", a.InstanceID, "provider", provider, "reason", message)
	default:
		f.cfg.Log.InfoContext(ctx, "instance moved from a drained provider", "allocation", id, "instance", a.InstanceID, "provider", provider)
	}
	return true, moved
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
