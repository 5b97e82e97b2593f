package registry

import (
	"context"
	"sync"
	"time"
)

const (
	// viewLife is how long a view counts. What this replica does itself is in it at once; servers that come and go, and what other replicas place, are seen by
	// the next one. Nothing but the choice of a server depends on it: room is had at the server's own record or not at all.
	viewLife = 500 * time.Millisecond
	// viewPause is how soon a pool without room is looked at again. Whoever asks for room meanwhile waits.
	viewPause = 50 * time.Millisecond
)

// view is what this replica knows of a pool's servers: the index that room is looked for in.
type view struct {
	mu      sync.Mutex // also while it is loaded: one call loads for all that wait
	servers map[string]*stand
	// loaded is when it was, and asOf when the store was asked for it.
	loaded, asOf time.Time
}

// stand is a server, and how many instances it has as far as is known.
type stand struct {
	Server
	used int
}

// viewOf returns the view of a pool.
func (p *Pools) viewOf(pool string) *view {
	p.mu.Lock()
	defer p.mu.Unlock()
	v := p.views[pool]
	if v == nil {
		v = &view{}
		p.views[pool] = v
	}
	return v
}

// pick chooses a server with room, and counts the room as had. found is false if there is none but those that were tried, of all that were there when the
// call began: to say so sends an allocation elsewhere, and what a view counts may be room that nobody got in the end.
func (p *Pools) pick(ctx context.Context, w Want, tried tried) (id string, found bool, err error) {
	began := time.Now()
	v := p.viewOf(w.Pool)
	v.mu.Lock()
	defer v.mu.Unlock()
	if time.Since(v.loaded) > viewLife {
		if err := p.load(ctx, w.Pool, v); err != nil {
			return "", false, err
		}
	}
	for {
		if best := v.best(w, tried); best != nil {
			best.used++
			return best.ID, true, nil
		}
		if v.asOf.After(began) {
			return "", false, nil
		}
		if err := p.loadAgain(ctx, w.Pool, v); err != nil {
			return "", false, err
		}
	}
}

// loadAgain fills a view that is old enough for it. It lets go of the view's lock while it waits for that; another call may have filled it then.
func (p *Pools) loadAgain(ctx context.Context, pool string, v *view) error {
	old := v.loaded
	if wait := viewPause - time.Since(old); wait > 0 {
		v.mu.Unlock()
		err := sleep(ctx, wait)
		v.mu.Lock()
		if err != nil || v.loaded != old {
			return err
		}
	}
	return p.load(ctx, pool, v)
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// load fills a view, whose lock the caller holds.
func (p *Pools) load(ctx context.Context, pool string, v *view) error {
	began := time.Now()
	members, _, err := p.store.PoolMembers(ctx, pool)
	if err != nil {
		return err
	}
	servers, err := p.connected(ctx, members)
	if err != nil {
		return err
	}
	v.servers, v.loaded, v.asOf = make(map[string]*stand, len(servers)), time.Now(), began
	for _, s := range servers {
		v.servers[s.ID] = &stand{Server: s, used: len(s.Assignments)}
	}
	return nil
}

// best returns the server that is preferred of those with room; nil if there is none.
func (v *view) best(w Want, tried tried) *stand {
	var best *stand
	for _, s := range v.servers {
		if s.used < s.Capacity && !tried.on(s.ID) && s.suits(w) && (best == nil || s.before(best, w.Spread)) {
			best = s
		}
	}
	return best
}

// before reports whether a server is preferred to another one. Between equals the id decides, so that all replicas choose the same.
func (s *stand) before(other *stand, spread bool) bool {
	mine, theirs := s.Capacity-s.used, other.Capacity-other.used
	if spread {
		mine, theirs = s.used, other.used
	}
	if mine != theirs {
		return mine < theirs
	}
	return s.ID < other.ID
}

// learn takes over what the store has answered of a server.
func (p *Pools) learn(pool string, server Server) {
	v := p.viewOf(pool)
	v.mu.Lock()
	defer v.mu.Unlock()
	if known := v.servers[server.ID]; known != nil {
		known.used = len(server.Assignments)
	}
}

// forget notes that a server has no room.
func (p *Pools) forget(pool, serverID string) {
	v := p.viewOf(pool)
	v.mu.Lock()
	defer v.mu.Unlock()
	if known := v.servers[serverID]; known != nil {
		known.used = max(known.used, known.Capacity)
	}
}

// lessOn notes that room on a server was given back.
func (p *Pools) lessOn(pool, serverID string) {
	v := p.viewOf(pool)
	v.mu.Lock()
	defer v.mu.Unlock()
	if known := v.servers[serverID]; known != nil {
		known.used = max(0, known.used-1)
	}
}
