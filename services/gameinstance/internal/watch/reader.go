package watch

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/services/gameinstance/internal/instance"
)

// read is the one reader of the process.
func (h *Hub) read(ctx context.Context) {
	tick := time.NewTicker(h.cfg.Recheck)
	defer tick.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case <-h.wake:
			// What cannot be read now is newer than the last recheck, so that the next one finds it.
			err = h.hinted(ctx)
		case <-h.look:
			err = h.recheck(ctx)
		case <-tick.C:
			err = h.recheck(ctx)
		}
		if err != nil && ctx.Err() == nil {
			h.cfg.Log.WarnContext(ctx, "watches wait for the store", "error", err)
		}
	}
}

// hinted reads some of the instances that hints named.
func (h *Hub) hinted(ctx context.Context) error {
	h.mu.Lock()
	var ids []string
	for id := range h.dirty {
		if len(ids) == batch {
			signal(h.wake)
			break
		}
		delete(h.dirty, id)
		ids = append(ids, id)
	}
	h.mu.Unlock()
	return h.load(ctx, ids)
}

// recheck finds what no hint has told.
func (h *Hub) recheck(ctx context.Context) error {
	h.mu.Lock()
	checked, at, unsure := h.checked, h.checkedAt, h.unsure
	if h.watchers == 0 {
		h.checked, h.unsure = time.Time{}, false
		clear(h.dirty)
		clear(h.seen)
		h.mu.Unlock()
		return nil
	}
	h.mu.Unlock()
	now, err := h.cfg.Feed.Now(ctx)
	if err != nil {
		return err
	}
	read := time.Now()
	since := checked
	if back := now.Add(-read.Sub(at)); back.Before(since) { // the store's clock was put back, and new revisions may lie below older ones
		since = back
	}
	since = since.Add(-overlap)
	if unsure {
		if err := h.verify(ctx); err != nil {
			return err
		}
	}
	if err := h.cfg.Feed.Since(ctx, since, func(marks []instance.Mark) error { return h.missed(ctx, marks) }); err != nil {
		return err
	}
	maps.DeleteFunc(h.seen, func(_ string, revision int64) bool { return revision < since.UnixMicro() })
	h.mu.Lock()
	defer h.mu.Unlock()
	h.checked, h.checkedAt = now, read
	return nil
}

// missed reads those of the marked instances that are watched and were not told at their revision.
func (h *Hub) missed(ctx context.Context, marks []instance.Mark) error {
	h.mu.Lock()
	var ids []string
	for _, m := range marks {
		if (len(h.many) > 0 || h.ones[m.ID] != nil) && (m.Revision == 0 || h.seen[m.ID] != m.Revision) {
			ids = append(ids, m.ID)
		}
	}
	h.mu.Unlock()
	return h.loadAll(ctx, ids)
}

// verify reads everything that watchers were sent: a store that took over from another one may have lost writes, which no index tells.
func (h *Hub) verify(ctx context.Context) error {
	h.mu.Lock()
	h.unsure = false
	sent := map[string]struct{}{}
	for id := range h.ones {
		sent[id] = struct{}{}
	}
	var all []*many
	for _, watchers := range h.many {
		all = slices.AppendSeq(all, maps.Keys(watchers))
	}
	h.mu.Unlock()
	for _, w := range all {
		w.addSent(sent)
	}
	err := h.loadAll(ctx, slices.Collect(maps.Keys(sent)))
	if err != nil {
		h.doubt()
	}
	return err
}

// loadAll reads many instances, and in between those that hints name: they need not wait for a long recheck.
func (h *Hub) loadAll(ctx context.Context, ids []string) error {
	for part := range slices.Chunk(ids, batch) {
		if err := h.load(ctx, part); err != nil {
			return err
		}
		select {
		case <-h.wake:
			if err := h.hinted(ctx); err != nil {
				return err
			}
		default:
		}
	}
	return nil
}

// plan is what a load reads, and for whom.
type plan struct {
	full, heads []string
	players     []string
	arrivals    int64
}

func (h *Hub) plan(ids []string) plan {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := plan{arrivals: h.arrivals}
	for _, id := range ids {
		if h.ones[id] != nil {
			p.full = append(p.full, id)
		} else if len(h.many) > 0 {
			p.heads = append(p.heads, id)
		}
	}
	p.players = slices.Collect(maps.Keys(h.players))
	return p
}

// load reads instances once and tells all that watch them.
func (h *Hub) load(ctx context.Context, ids []string) error {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	p := h.plan(ids)
	heads, err := h.cfg.Records.Heads(ctx, p.heads, p.players)
	if err != nil {
		return err
	}
	for _, head := range heads {
		h.tell(ctx, p, head, false)
	}
	full, err := h.loadFull(ctx, p.full)
	for _, f := range full {
		h.tell(ctx, p, f, true)
	}
	return err
}

// loadFull reads instances with players and data, a few at a time. Those that the store did not answer for are missing.
func (h *Hub) loadFull(ctx context.Context, ids []string) ([]instance.Head, error) {
	var (
		mu      sync.Mutex
		out     []instance.Head
		failure error
		all     sync.WaitGroup
		room    = make(chan struct{}, loads)
	)
	for _, id := range ids {
		room <- struct{}{}
		all.Go(func() {
			defer func() { <-room }()
			l, err := h.cfg.Instances.Load(ctx, id, instance.Needs{Everything: true})
			mu.Lock()
			defer mu.Unlock()
			if passing(err) {
				failure = err
				return
			}
			out = append(out, instance.Head{ID: id, Instance: l.Instance, Err: err})
		})
	}
	all.Wait()
	return out, failure
}

// passing reports whether an error is of the store's being away, and not of what is in it.
func passing(err error) bool {
	return errs.Is(err, errs.StoreUnavailable) || errs.Is(err, errs.DeadlineExceeded) || errs.Is(err, errs.Cancelled)
}

// tell hands an instance to its watchers. It does not wait for any of them.
func (h *Hub) tell(ctx context.Context, p plan, read instance.Head, full bool) {
	if read.Err != nil {
		h.cfg.Log.ErrorContext(ctx, "a watched instance cannot be read", "instance_id", read.ID, "error", read.Err)
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if full {
		for w := range h.ones[read.ID] {
			w.offer(read.Instance)
		}
	}
	c := change{id: read.ID, full: read.Instance, head: summary(read.Instance)}
	for namespace, watchers := range h.many {
		if c.full != nil && c.full.Namespace != namespace {
			continue
		}
		for w := range watchers {
			// Who came after this load began may have a filter by a player whom it did not ask after, and reads for itself what is older.
			if w.arrival <= p.arrivals {
				w.offer(c)
			}
		}
	}
	delete(h.seen, read.ID)
	// Where somebody came meanwhile, who was not told and may need it, the next recheck tells it again.
	if read.Instance != nil && p.arrivals == h.arrivals {
		h.seen[read.ID] = read.Instance.Revision
	}
}

// summary returns an instance without players and data, as lists have it.
func summary(i *instance.Instance) *instance.Instance {
	if i == nil {
		return nil
	}
	s := *i
	s.Players, s.GameData, s.Result = nil, instance.Data{}, instance.Data{}
	return &s
}
