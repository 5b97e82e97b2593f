package allocator

import (
	"context"
	"fmt"
	"hash/fnv"
	"slices"
	"time"
)

// Lines keeps those who wait for room in their order: one line for all who wait for the same places.
type Lines interface {
	// Enter puts one into a line, or leaves it where it is, and reports false when limit wait for the build already.
	Enter(ctx context.Context, w Waiter, turn time.Time, limit int) (bool, error)
	// Leave takes it out; with Since, only if it has not come back into the line since.
	Leave(ctx context.Context, w Waiter) error
	// Ahead returns how many come before a turn.
	Ahead(ctx context.Context, l Line, turn time.Time) (int, error)
	// Front returns the first n.
	Front(ctx context.Context, l Line, n int) ([]Waiter, error)
	// Waiters returns who waits for a build, at most limit after leaving skip out.
	Waiters(ctx context.Context, build string, skip, limit int) ([]Waiter, error)
	// Crowds says who waits for builds. It returns what it has also with an error.
	Crowds(ctx context.Context, builds []string) ([]Crowd, error)
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
	// Since is since when.
	Since time.Time
}

// Crowd is who waits for a build.
type Crowd struct {
	// Build is the build.
	Build string
	// Waiting is how many wait.
	Waiting int
	// Longest is for how long the one that has waited longest does; 0: nobody waits.
	Longest time.Duration
	// Lines are the lines that are not empty.
	Lines []Line
}

// perPriority is how much waiting a point of priority is worth.
const perPriority = 30 * time.Second

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
func (a *Allocation) Nudged(from []string, now time.Time) {
	if a.State != Queued || a.WaitSince.IsZero() {
		return
	}
	a.CallAt = now
	for i, c := range a.Explanation.Candidates {
		if n := len(c.Tries); n > 0 && c.Tries[n-1].Failure == NoCapacity.String() && slices.Contains(from, c.Provider) {
			a.change(i, func(c *Candidate) { c.NotBefore = time.Time{} })
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
	h.given = h.w.keeper.given()
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
	ok, err := h.w.cfg.Lines.Enter(callCtx, Waiter{h.id, l, h.a.WaitSince}, h.a.turn(), h.w.cfg.QueueLimit)
	switch {
	case err != nil:
		return err
	case !ok:
		h.a.Fails(fmt.Sprintf("%d wait for build %q, and no more may; %s", h.w.cfg.QueueLimit, l.Build, h.a.Explanation.Words()), h.now())
	default:
		h.w.keeper.entered(l, h.passed, h.given)
	}
	return nil
}

// leave takes the allocation out of a line, and says so. If that fails, whoever looks at the line next does it.
func (h *hold) leave(ctx context.Context, l Line, served bool) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	if err := h.w.cfg.Lines.Leave(ctx, Waiter{ID: h.id, Line: l}); err != nil {
		h.w.cfg.Log.DebugContext(ctx, "a place in a line is left to whoever looks at it next", keyAllocation, h.id, keyError, err)
	}
	h.w.keeper.left(l, served)
}
