package allocator

import (
	"context"
	"fmt"
	"hash/fnv"
	"slices"
	"sync"
	"time"
)

// Lines keeps those who wait for room in their order: one line for all who wait for the same places.
type Lines interface {
	// Enter puts an allocation into a line, or leaves it where it is, and reports false when limit wait for the build already.
	Enter(ctx context.Context, l Line, id string, turn time.Time, limit int) (bool, error)
	// Leave takes it out.
	Leave(ctx context.Context, l Line, id string) error
	// Ahead returns how many come before a turn.
	Ahead(ctx context.Context, l Line, turn time.Time) (int, error)
	// Front returns the first n.
	Front(ctx context.Context, l Line, n int) ([]string, error)
	// Waiting returns how many wait for a build in all lines.
	Waiting(ctx context.Context, build string) (int, error)
	// Waiters returns who waits for a build, at most limit after leaving skip out.
	Waiters(ctx context.Context, build string, skip, limit int) ([]Waiter, error)
}

// Line names a line: who waits for a server of the same build at the same places.
type Line struct {
	// Build is the build.
	Build string
	// Where stands for the places.
	Where string
}

// Waiter is one who waits.
type Waiter struct {
	// ID is the allocation's.
	ID string
	// Line is where.
	Line Line
}

const (
	// perPriority is how much waiting a point of priority is worth.
	perPriority = 30 * time.Second
	// lookAtLines is how often a worker looks whether others have come to the front of a line.
	lookAtLines = time.Second
	// maxWindow bounds how many of a line try at once. One does while there is no room; with each that gets a server there are twice as many.
	maxWindow = 128
)

// idle is how often an allocation that waits behind others looks for itself; whoever comes to the front is woken before that.
var idle = backoff{45 * time.Second, 45 * time.Second}

// turn says whose turn it is first: the earlier, the more priority.
func (a *Allocation) turn() time.Time {
	return a.CreateTime.Add(-perPriority * time.Duration(a.Placement.Priority))
}

// line is where the allocation waits, by its last round.
func (a *Allocation) line() Line {
	var places []string
	for _, c := range a.Explanation.Candidates {
		if c.possible() {
			places = append(places, c.Provider+"\x00"+c.Region)
		}
	}
	slices.Sort(places)
	h := fnv.New64a()
	for _, p := range places {
		_, _ = h.Write([]byte(p + "\x00")) // fnv never fails
	}
	return Line{Build: a.Placement.Build, Where: fmt.Sprintf("%016x", h.Sum64())}
}

// WaitsBehind records that others come first.
func (a *Allocation) WaitsBehind(ahead int, now time.Time) {
	a.RoundAt = time.Time{}
	a.waitsUntil(now.Add(idle.after(a.ID, a.Rounds)), now)
	a.say(fmt.Sprintf("waits for room; %d come before it", ahead))
}

// Nudged records that there may be room: it is the turn of this allocation, or providers have taken servers back.
func (a *Allocation) Nudged(freed []string, now time.Time) {
	if a.State != Queued || a.WaitSince.IsZero() {
		return
	}
	a.CallAt = now
	for i, c := range a.Explanation.Candidates {
		if n := len(c.Tries); n > 0 && c.Tries[n-1].Failure == NoCapacity.String() && slices.Contains(freed, c.Provider) {
			a.change(i, func(c *Candidate) { c.NotBefore = time.Time{} })
		}
	}
}

// keeper wakes those who come to the front of the lines that this worker's allocations wait in. It is safe for concurrent use.
type keeper struct {
	store Lines
	nudge func(id string, freed []string)
	kick  chan struct{} // full: it has been said

	mu    sync.Mutex
	known map[Line]*waiting // those that were not empty when they were looked at last
	freed []string          // providers that took servers back since then
	took  int               // how many servers were ever taken back
}

type waiting struct {
	window  int
	freed   int      // how many servers were taken back that nobody of the line has got yet: they are no sign of room for more
	front   []string // who was in the window and has been woken
	entries int      // how often one has entered
}

func newKeeper(store Lines, nudge func(string, []string)) *keeper {
	return &keeper{store: store, nudge: nudge, kick: make(chan struct{}, 1), known: make(map[Line]*waiting)}
}

// window is how many of a line may try at once.
func (k *keeper) window(l Line) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	if w := k.known[l]; w != nil {
		return w.window
	}
	return 1
}

// entered says that one waits in a line, and whether it has tried, since so many servers had been taken back, and found no room. Others have got those; what was
// taken back while it tried is there yet.
func (k *keeper) entered(l Line, tried bool, since int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	w := k.know(l)
	w.entries++
	if tried {
		w.window, w.freed = 1, min(w.freed, k.took-since)
	}
}

// tooks returns how many servers were ever taken back.
func (k *keeper) tooks() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.took
}

// know returns what is known of a line. The lock is held.
func (k *keeper) know(l Line) *waiting {
	if k.known[l] == nil {
		k.known[l] = &waiting{window: 1}
	}
	return k.known[l]
}

// left says that one has left a line, and whether with a server.
func (k *keeper) left(l Line, served bool) {
	k.mu.Lock()
	switch w := k.know(l); {
	case served && w.freed > 0:
		w.freed--
	case served:
		w.window = min(2*w.window, maxWindow)
	}
	k.mu.Unlock()
	k.look()
}

// takesBack counts a server that a provider is about to take back, before it does: whoever gets its place at once found no other room. -1: it did not.
func (k *keeper) takesBack(n int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.took += n
	for _, w := range k.known {
		w.freed = max(0, w.freed+n)
	}
}

// tookBack says that a provider has room for one more.
func (k *keeper) tookBack(provider string) {
	k.mu.Lock()
	waits := len(k.known) > 0
	if waits && !slices.Contains(k.freed, provider) {
		k.freed = append(k.freed, provider)
	}
	k.mu.Unlock()
	if waits {
		k.look()
	}
}

func (k *keeper) look() {
	select {
	case k.kick <- struct{}{}:
	default:
	}
}

// run looks at the lines whenever something has happened, and once a second, until ctx ends.
func (k *keeper) run(ctx context.Context) {
	tick := time.NewTicker(lookAtLines)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-k.kick:
		}
		k.mu.Lock()
		freed := k.freed
		k.freed = nil
		lines := make([]Line, 0, len(k.known))
		for l := range k.known {
			lines = append(lines, l)
		}
		k.mu.Unlock()
		for _, l := range lines {
			k.lookAt(ctx, l, freed)
		}
	}
}

// lookAt wakes who has come to the front; all there, if a provider took a server back.
func (k *keeper) lookAt(ctx context.Context, l Line, freed []string) {
	k.mu.Lock()
	w := k.known[l]
	window, entries := w.window, w.entries
	k.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	ids, err := k.store.Front(ctx, l, window)
	if err != nil {
		return // the next look is soon
	}
	k.mu.Lock()
	before := w.front
	w.front = ids
	if len(ids) == 0 && w.entries == entries {
		delete(k.known, l)
	}
	k.mu.Unlock()
	for _, id := range ids {
		if len(freed) > 0 || !slices.Contains(before, id) {
			k.nudge(id, freed)
		}
	}
}

// gate lets an allocation begin a round if it is its turn; otherwise it waits without asking anybody.
func (h *hold) gate(ctx context.Context) (bool, error) {
	if h.a.Provider != "" || h.passed {
		return true, nil
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	l := h.a.line()
	h.tooks = h.w.keeper.tooks()
	ahead, err := h.w.cfg.Lines.Ahead(ctx, l, h.a.turn())
	if err != nil {
		return false, err
	}
	if ahead >= h.w.keeper.window(l) {
		h.a.WaitsBehind(ahead, h.now())
		return false, nil
	}
	h.passed = true
	return true, nil
}

// queueUp has an allocation that waits stand in its line. That it waits is stored before, so that whoever takes it up knows that it has to leave it again.
func (h *hold) queueUp(ctx context.Context) error {
	l := h.a.line()
	if h.stored.WaitSince.IsZero() || l != h.stored.line() {
		if err := h.commit(ctx, Change{Keep: true}); err != nil {
			return err
		}
	}
	callCtx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	ok, err := h.w.cfg.Lines.Enter(callCtx, l, h.id, h.a.turn(), h.w.cfg.QueueLimit)
	switch {
	case err != nil:
		return err
	case !ok:
		h.a.Fails(fmt.Sprintf("%d wait for build %q, and no more may; %s", h.w.cfg.QueueLimit, l.Build, h.a.Explanation.Words()), h.now())
	default:
		h.w.keeper.entered(l, h.passed, h.tooks)
	}
	return nil
}

// leave takes the allocation out of a line, and says so. If that fails, an audit does it.
func (h *hold) leave(ctx context.Context, l Line, served bool) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	if err := h.w.cfg.Lines.Leave(ctx, l, h.id); err != nil {
		h.w.cfg.Log.DebugContext(ctx, "a place in a line is left to the audit", keyAllocation, h.id, keyError, err)
	}
	h.w.keeper.left(l, served)
}
