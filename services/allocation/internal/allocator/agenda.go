package allocator

import (
	"container/heap"
	"time"
)

const (
	// maxAgenda bounds an agenda. Overflow: dropped; the sweep finds what is due.
	maxAgenda = 1 << 16
	// horizon is how far ahead an agenda looks; the rest is the sweep's.
	horizon = time.Minute
)

// agenda knows when allocations that this worker saw are due next, so that nothing has to wait for a sweep.
type agenda struct{ entries entries }

type entry struct {
	id string
	at time.Time
}

// add reports whether nothing else is due earlier.
func (g *agenda) add(id string, at time.Time) bool {
	if len(g.entries) >= maxAgenda {
		return false
	}
	heap.Push(&g.entries, entry{id, at})
	return g.entries[0].id == id
}

func (g *agenda) next() (time.Time, bool) {
	if len(g.entries) == 0 {
		return time.Time{}, false
	}
	return g.entries[0].at, true
}

func (g *agenda) due(now time.Time) []string {
	var ids []string
	for len(g.entries) > 0 && !g.entries[0].at.After(now) {
		if e, ok := heap.Pop(&g.entries).(entry); ok {
			ids = append(ids, e.id)
		}
	}
	return ids
}

type entries []entry

func (e entries) Len() int           { return len(e) }
func (e entries) Less(i, j int) bool { return e[i].at.Before(e[j].at) }
func (e entries) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }
func (e *entries) Push(x any) {
	if v, ok := x.(entry); ok {
		*e = append(*e, v)
	}
}

func (e *entries) Pop() any {
	old := *e
	last := old[len(old)-1]
	*e = old[:len(old)-1]
	return last
}
