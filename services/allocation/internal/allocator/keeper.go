package allocator

import (
	"context"
	"slices"
	"sync"
	"time"
)

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
