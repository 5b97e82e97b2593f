package allocator

import (
	"context"
	"slices"
	"sync"
	"time"
)

const (
	// lookAtLines is how often a worker looks whether others have come to the front of a line, and whether those there do wait.
	lookAtLines = time.Second
	// searchLines is how often it searches for lines of allocations that it has never seen.
	searchLines = 5 * time.Second
	// maxWindow bounds how many of a line try at once. One does while there is no room; with each that gets a server there are twice as many.
	maxWindow = 128
)

// nudge tells one who waits in a line that there may be room; from are the providers that took servers back.
type nudge struct {
	line Line
	from []string
}

// keeper wakes those who come to the front of lines. It is safe for concurrent use.
type keeper struct {
	store  Lines
	nudge  func(id string, n nudge) bool
	audit  func(ctx context.Context, waiters []Waiter) (stale int, err error)
	builds func() []string
	kick   chan struct{} // full: it has been said

	mu     sync.Mutex
	known  map[Line]*waiting // those that were not empty when they were looked at last
	crowds []Crowd           // who waits for what, when that was looked at last
	gives  gives             // so far
	recent []string          // providers that took servers back since lines were searched last
}

// gives counts servers that were given back: took those that providers were asked to take, told those of which it was said that they did.
type gives struct{ took, told int }

type waiting struct {
	window  int
	freed   int              // how many servers were taken back that nobody of the line has got yet: they are no sign of room for more
	from    []string         // providers that took servers back since one tried in vain
	news    bool             // one has since the last look
	front   []string         // who was in the window and has been woken
	unheard map[string]nudge // who of them is woken again a second later: the store was away, or somebody else has them; at most the front
	entries int              // how often one has entered
}

// newKeeper returns a keeper of the lines of builds. nudge reports false when there is no place for the one who is to be woken; audit takes those out of their lines
// who do not wait in them, and says how many there were.
func newKeeper(store Lines, builds func() []string, nudge func(string, nudge) bool, audit func(context.Context, []Waiter) (int, error)) *keeper {
	return &keeper{store: store, builds: builds, nudge: nudge, audit: audit, kick: make(chan struct{}, 1), known: make(map[Line]*waiting)}
}

// window is how many of a line may try at once.
func (k *keeper) window(l Line) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	if w := k.known[l]; w != nil {
		return w.width()
	}
	return 1
}

// width is how many may try: as many as there seems to be room for, and as many as have left room that nobody has got yet.
func (w *waiting) width() int { return max(w.window, min(w.freed, maxWindow)) }

// entered says that one waits in a line, and whether it has tried, since so many servers had been given back, and found no room. Others have got those; what was
// taken back while it tried is there yet.
func (k *keeper) entered(l Line, tried bool, since gives) {
	k.mu.Lock()
	defer k.mu.Unlock()
	w := k.know(l)
	w.entries++
	if !tried {
		return
	}
	w.window, w.freed = 1, min(w.freed, k.gives.took-since.took)
	if k.gives.told == since.told {
		w.from = nil
	}
}

// given returns how many servers were given back so far.
func (k *keeper) given() gives {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.gives
}

// know returns what is known of a line. The lock is held.
func (k *keeper) know(l Line) *waiting {
	if k.known[l] == nil {
		k.known[l] = &waiting{window: 1, from: k.recent}
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
	k.gives.took += n
	for _, w := range k.known {
		w.freed = max(0, w.freed+n)
	}
}

// tookBack says that a provider has room for one more.
func (k *keeper) tookBack(provider string) {
	k.mu.Lock()
	k.gives.told++
	k.recent = union(k.recent, []string{provider})
	waits := len(k.known) > 0
	for _, w := range k.known {
		w.from, w.news = union(w.from, []string{provider}), true
	}
	k.mu.Unlock()
	if waits {
		k.look()
	}
}

// unheard says that one was woken in vain: it is woken again within a second, if it is in front by then.
func (k *keeper) unheard(id string, n nudge) {
	k.mu.Lock()
	defer k.mu.Unlock()
	w := k.known[n.line]
	if w == nil || !slices.Contains(w.front, id) {
		return
	}
	if w.unheard == nil {
		w.unheard = make(map[string]nudge)
	}
	w.unheard[id] = n.with(w.unheard[id]) // for a second
}

func (k *keeper) look() {
	select {
	case k.kick <- struct{}{}:
	default:
	}
}

// run looks at the lines whenever something has happened, and once a second, until ctx ends.
func (k *keeper) run(ctx context.Context) {
	tick, search := time.NewTicker(lookAtLines), time.NewTicker(searchLines)
	defer tick.Stop()
	defer search.Stop()
	k.search(ctx)
	for {
		second := false
		select {
		case <-ctx.Done():
			return
		case <-search.C:
			k.search(ctx)
		case <-tick.C:
			second = true
		case <-k.kick:
		}
		for _, l := range k.lines() {
			k.lookAt(ctx, l, second)
		}
	}
}

func (k *keeper) lines() []Line {
	k.mu.Lock()
	defer k.mu.Unlock()
	lines := make([]Line, 0, len(k.known))
	for l := range k.known {
		lines = append(lines, l)
	}
	return lines
}

// search finds the lines that there are, whoever has made them: they may have nobody else left who looks at them.
func (k *keeper) search(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	k.mu.Lock()
	recent := k.recent
	k.recent = nil
	k.mu.Unlock()
	crowds, err := k.store.Crowds(ctx, k.builds()) // what of the store is away is searched again soon
	k.mu.Lock()
	defer k.mu.Unlock()
	k.crowds = crowds
	since := k.recent
	k.recent = union(since, recent) // for the lines that are new
	for _, c := range crowds {
		for _, l := range c.Lines {
			k.know(l)
		}
	}
	if err == nil {
		k.recent = since
	}
}

// seen returns who waits, as of the last search.
func (k *keeper) seen() []Crowd {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.crowds
}

// lookAt wakes who has come to the front; all there, if a provider took a server back. Once a second it finds out who of them do not wait, and wakes those again
// who were woken in vain.
func (k *keeper) lookAt(ctx context.Context, l Line, second bool) {
	k.mu.Lock()
	w := k.known[l]
	window, entries, news := w.width(), w.entries, w.news
	w.news = false
	k.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	ids, err := k.front(ctx, l, window, second)
	k.mu.Lock()
	if err != nil {
		w.news = w.news || news // the next look is soon
		k.mu.Unlock()
		return
	}
	before, from := w.front, w.from
	w.front = ids
	var unheard map[string]nudge
	if second {
		unheard, w.unheard = w.unheard, nil
	}
	if len(ids) == 0 && w.entries == entries {
		delete(k.known, l)
	}
	k.mu.Unlock()
	for _, id := range ids {
		again, missed := unheard[id]
		n := nudge{l, from}.with(again)
		if (missed || news || !slices.Contains(before, id)) && !k.nudge(id, n) {
			k.unheard(id, n)
		}
	}
}

// front returns the first of a line; with audit, those whom a crash left there and who do not wait in it are taken out first.
func (k *keeper) front(ctx context.Context, l Line, window int, audit bool) ([]string, error) {
	for most := window; ; most = maxWindow {
		waiters, err := k.store.Front(ctx, l, most)
		if err != nil {
			return nil, err
		}
		if audit {
			if stale, err := k.audit(ctx, waiters); err == nil && stale > 0 {
				continue // there may be more of them
			}
		}
		ids := make([]string, 0, window)
		for _, w := range waiters[:min(window, len(waiters))] {
			ids = append(ids, w.ID)
		}
		return ids, nil
	}
}

// with is a nudge that says what another one said, too.
func (n nudge) with(other nudge) nudge { return nudge{n.line, union(n.from, other.from)} }

// union returns what is in a or b, once. It leaves both as they are.
func union(a, b []string) []string {
	all := slices.Concat(a, b)
	slices.Sort(all)
	return slices.Compact(all)
}
