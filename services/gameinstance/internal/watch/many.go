package watch

import (
	"context"
	"fmt"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/services/gameinstance/internal/instance"
)

// Update is one step of a watch of many instances: one of the three is set.
type Update struct {
	// Instance matches, as it is now, without players and data.
	Instance *instance.Instance
	// Removed is the id of an instance that was sent and no longer matches, or was deleted.
	Removed string
	// SnapshotComplete says that all that matched at the beginning has been sent.
	SnapshotComplete bool
}

// change is what the reader found out about an instance.
type change struct {
	id   string
	full *instance.Instance // to be filtered; nil: it is gone
	head *instance.Instance // to be sent
}

// pending is what a watcher still has to be told about an instance.
type pending struct {
	inst     *instance.Instance // nil: gone
	matches  bool
	revision int64
}

// many watches all instances of a namespace that match a filter. What it keeps is one entry for each instance that it has sent, counted for all
// watchers together, and one for each that waits to be sent.
type many struct {
	hub     *Hub
	query   instance.Query
	send    func(Update) error
	end     context.CancelCauseFunc
	arrival int64
	news    chan struct{} // a value: something is pending

	mu       sync.Mutex
	snapshot bool               // still being sent
	sent     map[string]int64   // id to revision
	pending  map[string]pending // at most Config.MaxPending; a watcher that needs more is dropped
}

// snapshotPage is how many instances of a snapshot are read at once.
const snapshotPage = 500

// Many sends the instances of a namespace that match, newest first, then SnapshotComplete, then each change, until ctx is cancelled or send fails. A
// watcher that takes nothing for Config.Stall, or for which too much waits, is dropped with WATCH_TOO_SLOW; a send that hangs is then left behind,
// and must end when the caller's stream does.
func (h *Hub) Many(ctx context.Context, namespace string, filter instance.Filter, send func(Update) error) error {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	w := &many{
		hub: h, query: instance.Query{Namespace: namespace, Filter: filter, Limit: snapshotPage}, send: send, end: end,
		news: make(chan struct{}, 1), snapshot: true, sent: map[string]int64{}, pending: map[string]pending{},
	}
	if err := h.enter(ctx, w.register); err != nil {
		return err
	}
	defer h.leave(w.remove)
	return h.sender(ctx, func() error { return w.run(ctx) })
}

// sender runs what sends to a watcher, and leaves it behind when ctx ends.
func (h *Hub) sender(ctx context.Context, run func() error) error {
	done := make(chan error, 1)
	h.senders.Go(func() {
		defer func() {
			if p := recover(); p != nil {
				done <- fmt.Errorf("panic: %v\n%s", p, debug.Stack())
			}
		}()
		done <- run()
	})
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// register and remove are called with the hub's lock.
func (w *many) register() {
	w.arrival = w.hub.arrivals
	add(w.hub.many, w.query.Namespace, w)
	for _, player := range w.query.Filter.Players() {
		w.hub.players[player]++
	}
}

func (w *many) remove() {
	drop(w.hub.many, w.query.Namespace, w)
	for _, player := range w.query.Filter.Players() {
		if w.hub.players[player]--; w.hub.players[player] == 0 {
			delete(w.hub.players, player)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hub.tracked.Add(-int64(len(w.sent)))
	w.sent, w.pending = nil, nil
}

// offer takes note of a change. It drops the watcher rather than wait for it.
func (w *many) offer(c change) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.pending == nil {
		return
	}
	p := pending{inst: c.head, matches: c.full != nil && w.query.Filter.Matches(c.full)}
	if c.full != nil {
		p.revision = c.full.Revision
	}
	_, sent := w.sent[c.id]
	_, waits := w.pending[c.id]
	switch {
	case !p.matches && !sent && !w.snapshot: // while the snapshot is sent, the page under way may have it as it was before
		delete(w.pending, c.id)
		return
	case !waits && len(w.pending) >= w.hub.cfg.MaxPending:
		w.end(tooSlow("changes of %d instances wait for this watcher", len(w.pending)))
		return
	}
	w.pending[c.id] = p
	signal(w.news)
}

func tooSlow(format string, args ...any) error {
	return errs.New(errs.WatchTooSlow, format+"; read faster, or watch fewer by a filter", args...).Retry(time.Second)
}

// addSent adds the ids of all instances that the watcher was sent.
func (w *many) addSent(ids map[string]struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for id := range w.sent {
		ids[id] = struct{}{}
	}
}

// run is the watcher's own sender.
func (w *many) run(ctx context.Context) error {
	if err := w.sendSnapshot(ctx); err != nil {
		return err
	}
	if err := w.give(ctx, Update{SnapshotComplete: true}); err != nil {
		return err
	}
	for {
		if err := w.sendPending(ctx); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-w.news:
		}
	}
}

func (w *many) sendSnapshot(ctx context.Context) error {
	for q := w.query; ; {
		if w.prune(q.After) { // rather some changes before the marker than a watcher dropped that is not slow
			if err := w.sendPending(ctx); err != nil {
				return err
			}
		}
		page, next, err := w.hub.cfg.Records.Page(ctx, q)
		if err != nil {
			return err
		}
		for _, inst := range page {
			u, _, err := w.update(inst.ID, pending{inst: inst, matches: true, revision: inst.Revision})
			if err != nil {
				return err
			}
			if err := w.give(ctx, u); err != nil {
				return err
			}
		}
		if next == (instance.Cursor{}) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.snapshot = false
			return nil
		}
		q.After = next
	}
}

// prune forgets what the rest of the snapshot will have, as it is then or newer, and reports whether much is left.
func (w *many) prune(after instance.Cursor) (crowded bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, p := range w.pending {
		if _, sent := w.sent[id]; sent {
			continue
		}
		if !p.matches || after.CreateTime.IsZero() || follows(p.inst, after) {
			delete(w.pending, id)
		}
	}
	return len(w.pending) > w.hub.cfg.MaxPending/2
}

// follows reports whether an instance comes after a place in a list, newest first.
func follows(i *instance.Instance, c instance.Cursor) bool {
	if i.CreateTime.Equal(c.CreateTime) {
		return strings.Compare(i.ID, c.ID) < 0
	}
	return i.CreateTime.Before(c.CreateTime)
}

// sendPending sends what waits, until nothing does.
func (w *many) sendPending(ctx context.Context) error {
	for {
		id, p, ok := w.next()
		if !ok {
			return nil
		}
		u, older, err := w.update(id, p)
		if older {
			err = w.confirm(ctx, id)
		}
		if err != nil {
			return err
		}
		if err := w.give(ctx, u); err != nil {
			return err
		}
	}
}

func (w *many) next() (string, pending, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for id, p := range w.pending {
		delete(w.pending, id)
		return id, p, true
	}
	return "", pending{}, false
}

// update returns what to send and takes note of it; the zero Update where there is nothing to send. older says that a newer revision was sent.
func (w *many) update(id string, p pending) (u Update, older bool, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	before, sent := w.sent[id]
	switch {
	case w.sent == nil || sent && p.matches && p.revision == before:
		return u, false, nil
	case sent && p.inst != nil && p.revision < before:
		return u, true, nil
	case sent && !p.matches:
		delete(w.sent, id)
		w.hub.tracked.Add(-1)
		return Update{Removed: id}, false, nil
	case !p.matches:
		return u, false, nil
	case !sent && w.hub.tracked.Load() >= w.hub.cfg.MaxTracked:
		return u, false, errs.New(errs.LimitExceeded, "the watchers of this replica follow %d instances together, which is the most; watch fewer by a filter", w.hub.cfg.MaxTracked)
	case !sent:
		w.hub.tracked.Add(1)
	}
	w.sent[id] = p.revision
	return Update{Instance: p.inst}, false, nil
}

// confirm looks at an instance that the reader found older than what was sent: it read it before this watcher's snapshot did, or the store has lost
// writes.
func (w *many) confirm(ctx context.Context, id string) error {
	heads, err := w.hub.cfg.Records.Heads(ctx, []string{id}, w.query.Filter.Players())
	if passing(err) && ctx.Err() == nil {
		w.hub.doubt() // it is read and told again when the store is back
		return nil
	} else if err != nil {
		return err
	}
	inst := heads[0].Instance
	w.mu.Lock()
	before := w.sent[id]
	w.mu.Unlock()
	if inst != nil && inst.Revision < before {
		return errs.New(errs.StateRolledBack, "the instance %s is at revision %d in the store, which has lost %d; watch again", id, inst.Revision, before)
	}
	if heads[0].Err == nil {
		w.offer(change{id: id, full: inst, head: summary(inst)})
	}
	return nil
}

// give sends an update, if it is one, and ends the watch if that takes too long.
func (w *many) give(ctx context.Context, u Update) error {
	if u == (Update{}) {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return w.hub.timed(w.end, func() error { return w.send(u) })
}

// timed ends a watch if a send takes too long.
func (h *Hub) timed(end context.CancelCauseFunc, send func() error) error {
	stall := time.AfterFunc(h.cfg.Stall, func() { end(tooSlow("this watcher has taken nothing for %v", h.cfg.Stall)) })
	defer stall.Stop()
	return send()
}

// Serve runs what sends to a watcher, step by step through give, until ctx is cancelled or run returns. A watcher that takes nothing for Config.Stall is
// dropped with WATCH_TOO_SLOW; a step that hangs is then left behind, and must end when the caller's stream does.
func (h *Hub) Serve(ctx context.Context, run func(ctx context.Context, give func(send func() error) error) error) error {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	return h.sender(ctx, func() error {
		return run(ctx, func(send func() error) error { return h.timed(end, send) })
	})
}
