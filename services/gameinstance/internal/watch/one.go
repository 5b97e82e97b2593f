package watch

import (
	"context"
	"sync"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/services/gameinstance/internal/instance"
)

// one watches one instance.
type one struct {
	news chan struct{} // a value: there is an offer

	mu     sync.Mutex
	latest *instance.Instance // the newest offer; nil: the instance is gone
}

// offer takes the place of an earlier one that was not taken.
func (w *one) offer(inst *instance.Instance) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.latest = inst
	signal(w.news)
}

func (w *one) take() *instance.Instance {
	w.mu.Lock()
	defer w.mu.Unlock()
	inst := w.latest
	w.latest = nil // it may be large
	return inst
}

// One sends an instance as it is, unless that is revision after, and then each newer revision that is read, until the instance is over, ctx is
// cancelled or send fails. An instance that is over was sent when One returns nil.
func (h *Hub) One(ctx context.Context, namespace, id string, after int64, send func(*instance.Instance) error) error {
	w := &one{news: make(chan struct{}, 1)}
	// Watching begins before reading, so that no change falls between the two.
	if err := h.enter(ctx, func() { add(h.ones, id, w) }); err != nil {
		return err
	}
	defer h.leave(func() { drop(h.ones, id, w) })
	inst, err := h.get(ctx, namespace, id)
	for sent := after; ; {
		switch {
		case err != nil:
			return err
		case inst.Revision < sent:
			return errs.New(errs.StateRolledBack, "the instance %s is at revision %d in the store, which has lost %d; watch again from what there is", id, inst.Revision, sent)
		case inst.Revision > sent:
			if err := send(inst); err != nil {
				return err
			}
			sent = inst.Revision
		}
		if inst.State.Final() {
			return nil
		}
		inst, err = h.newer(ctx, w, namespace, id, sent)
	}
}

// newer waits for an offer that is newer than what was sent.
func (h *Hub) newer(ctx context.Context, w *one, namespace, id string, sent int64) (*instance.Instance, error) {
	for {
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-w.news:
		}
		inst := w.take()
		if inst != nil && inst.Namespace == namespace && inst.Revision == sent {
			continue
		}
		if inst == nil || inst.Namespace != namespace || inst.Revision < sent {
			// It is gone, or the reader read it before this watcher did. A look tells which.
			var err error
			if inst, err = h.get(ctx, namespace, id); passing(err) && ctx.Err() == nil {
				h.doubt() // it is read and told again when the store is back
				continue
			} else if err != nil {
				return nil, err
			}
			if inst.Revision == sent {
				continue
			}
		}
		return inst, nil
	}
}

// get returns the instance, or an error that says whether there was one.
func (h *Hub) get(ctx context.Context, namespace, id string) (*instance.Instance, error) {
	l, err := h.cfg.Instances.Load(ctx, id, instance.Needs{Everything: true})
	if err != nil {
		return nil, err
	}
	if l.Instance != nil && l.Instance.Namespace == namespace {
		return l.Instance, nil
	}
	if l.Instance == nil {
		if deleted, err := h.cfg.Records.Deleted(ctx, id); err != nil {
			return nil, err
		} else if deleted {
			return nil, errs.New(errs.InstanceDeleted, "the instance %s was deleted", id)
		}
	}
	return nil, errs.New(errs.InstanceUnknown, "there is no instance %s in this namespace", id)
}
