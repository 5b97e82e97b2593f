package allocator

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// maxParked bounds who waits for a place in a lane. Overflow: dropped; a sweep finds what is due.
	maxParked = 1 << 16
	// parkedFor is how long sweeps leave alone what waits for a place in a provider's lane.
	parkedFor = 15 * time.Second
)

// lane bounds how many allocations do one kind of thing at once: turn to one provider, or all else. The rest of them waits in its order. Each provider has
// a lane of its own, so that one that hangs holds up nobody but those who need it.
type lane struct {
	max     int
	running int
	queue   []string             // in order; overflow: maxParked
	parked  map[string]time.Time // those in the queue, and since when
}

func newLane(most int) *lane { return &lane{max: most, parked: make(map[string]time.Time)} }

// park puts an allocation at the end of the queue, unless it is in it, and reports false if that is full.
func (l *lane) park(id string) bool {
	if _, twice := l.parked[id]; !twice {
		if len(l.parked) >= maxParked {
			return false
		}
		l.queue = append(l.queue, id)
	}
	l.parked[id] = time.Now()
	return true
}

func (l *lane) next() (string, bool) {
	if l.running >= l.max || len(l.queue) == 0 {
		return "", false
	}
	id := l.queue[0]
	if l.queue = l.queue[1:]; len(l.queue) == 0 {
		l.queue = nil // lets go of what was in front
	}
	delete(l.parked, id)
	return id, true
}

// Lane is how many turn to a provider at once.
type Lane struct {
	// Provider is the provider.
	Provider string
	// InFlight is how many turn to it now, and Parked how many wait for a place.
	InFlight, Parked int
}

// run is one allocation that is being worked on.
type run struct {
	id    string
	lane  *lane
	woken bool   // meanwhile
	nudge *nudge // for one who waits; nil: none
}

// schedule knows what is worked on, what waits, and what is due when. It is safe for concurrent use.
type schedule struct {
	work func(ctx context.Context, r *run) time.Time
	kick chan struct{} // the agenda has something that is due earlier; full: so it has been said
	wait sync.WaitGroup

	mu      sync.Mutex
	ctx     context.Context // Run's own, for the length of Run; nil: nothing is started
	running map[string]*run
	common  *lane            // for whatever needs no provider, and to find out which one is needed
	lanes   map[string]*lane // by provider
	later   agenda
	nudges  map[string]nudge // who was nudged and not looked at yet: each runs, or has a place in the common lane
}

// newSchedule returns a schedule of work, which returns the local time at which there will be more to do, or zero.
func newSchedule(work func(ctx context.Context, r *run) time.Time, concurrency int, providers map[string]Provider) *schedule {
	s := &schedule{
		work: work, kick: make(chan struct{}, 1), running: make(map[string]*run), nudges: make(map[string]nudge), common: newLane(concurrency), lanes: make(map[string]*lane, len(providers)),
	}
	for name, p := range providers {
		s.lanes[name] = newLane(p.Info.MaxCalls)
	}
	return s
}

func (s *schedule) open(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ctx = ctx
}

// close waits until nothing runs. Nothing is started any more.
func (s *schedule) close() {
	s.mu.Lock()
	s.ctx = nil
	s.mu.Unlock()
	s.wait.Wait()
}

// keepTime starts what becomes due, until ctx ends.
func (s *schedule) keepTime(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.kick:
		case now := <-timer.C:
			s.due(now) //nolint:contextcheck // what is started goes by Run's own context
		}
		s.mu.Lock()
		if at, ok := s.later.next(); ok {
			timer.Reset(time.Until(at))
		}
		s.mu.Unlock()
	}
}

func (s *schedule) due(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range s.later.due(now) {
		if s.running[id] == nil {
			s.admit(id)
		}
	}
}

// wake has an allocation looked at now, or again if it is being worked on.
func (s *schedule) wake(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.running[id]; r != nil {
		r.woken = true
		return
	}
	s.admit(id)
}

// nudge wakes an allocation that waits for room, as there may be some, and reports false if there is no place for it. Nudges that it has not seen become one.
func (s *schedule) nudge(id string, n nudge) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nudges[id] = n.with(s.nudges[id])
	if r := s.running[id]; r != nil {
		r.woken = true
		return true
	}
	if s.admit(id) {
		return true
	}
	delete(s.nudges, id)
	return false
}

// found takes up what a sweep found, but for what is known already.
func (s *schedule) found(ids []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		if s.running[id] == nil && !s.waits(id) {
			s.admit(id)
		}
	}
}

func (s *schedule) waits(id string) bool {
	for _, l := range s.lanes {
		if at, parked := l.parked[id]; parked && time.Since(at) < parkedFor {
			return true
		}
	}
	return false
}

// busy reports whether more is known than is worked on.
func (s *schedule) busy() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.common.parked) >= s.common.max
}

// load says how full the providers' lanes are, in the order of their names.
func (s *schedule) load() []Lane {
	s.mu.Lock()
	defer s.mu.Unlock()
	lanes := make([]Lane, 0, len(s.lanes))
	for name, l := range s.lanes {
		lanes = append(lanes, Lane{Provider: name, InFlight: l.running, Parked: len(l.queue)})
	}
	slices.SortFunc(lanes, func(a, b Lane) int { return strings.Compare(a.Provider, b.Provider) })
	return lanes
}

// admit starts an allocation that is not worked on, or has it wait for its turn; false: it cannot. The lock is held, as by all below but enter and ended.
func (s *schedule) admit(id string) bool {
	if s.ctx == nil {
		return false
	}
	if s.common.running >= s.common.max {
		return s.common.park(id)
	}
	s.launch(id, s.common)
	return true
}

func (s *schedule) launch(id string, l *lane) {
	l.running++
	r := &run{id: id, lane: l}
	if n, ok := s.nudges[id]; ok {
		r.nudge = &n
		delete(s.nudges, id)
	}
	s.running[id] = r
	ctx := s.ctx
	s.wait.Go(func() { s.ended(r, s.work(ctx, r)) }) //nolint:contextcheck // as above
}

// leave gives a place in a lane to whoever waits for it.
func (s *schedule) leave(l *lane) {
	l.running--
	for s.ctx != nil {
		id, ok := l.next()
		if !ok {
			return
		}
		if r := s.running[id]; r != nil { // it was woken, and runs elsewhere
			r.woken = true
			continue
		}
		s.launch(id, l)
	}
}

// enter moves a run into the lane of a provider, and reports false if that is full: then it waits there, and the run has to end.
func (s *schedule) enter(r *run, provider string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.lanes[provider]
	switch {
	case l == nil || l == r.lane:
		return true
	case l.running >= l.max:
		l.park(r.id)
		return false
	}
	l.running++
	from := r.lane
	r.lane = l
	s.leave(from)
	return true
}

// ended ends a run: again is when there is more to do.
func (s *schedule) ended(r *run, again time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.running, r.id)
	s.leave(r.lane)
	switch {
	case r.woken:
		if s.running[r.id] == nil {
			s.admit(r.id)
		}
	case !again.IsZero() && time.Until(again) < horizon && s.later.add(r.id, again):
		select {
		case s.kick <- struct{}{}:
		default:
		}
	}
}
