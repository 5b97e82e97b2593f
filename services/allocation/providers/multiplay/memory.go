package multiplay

import (
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// maxKnown is how many attempts are known at once.
	maxKnown = 20_000
	// lateFor is how long an attempt is known after its release, if a request for its server got no answer: that may be late, and come after all.
	lateFor = 10 * time.Minute
)

// known is what this process knows of an attempt. Multiplay has no place for it: an allocation has an id, from which no attempt can be read.
type known struct {
	deployment, attempt string
	fleet, id           string
	since               time.Time // it is known, or seen
	seen                bool      // at the host
	unanswered          bool      // a request for its server
	givenUp             bool      // without a server, and given back
	released            time.Time // zero: it is not
}

// memory is what this process knows of its attempts. The zero value is empty. It is safe for concurrent use.
type memory struct {
	mu sync.Mutex
	// byID are the attempts by the ids of their allocations. Overflow: the oldest is forgotten, and is not listed any more.
	byID map[string]known
}

// atHost notes that the host has it. From then on it has time to come.
func (k *known) atHost() {
	if !k.seen {
		k.seen, k.since = true, time.Now()
	}
}

// learn notes an attempt, changes what is known of it, and returns that.
func (m *memory) learn(k known, change func(*known)) known {
	m.mu.Lock()
	defer m.mu.Unlock()
	if old, ok := m.byID[k.id]; ok {
		k = old
	} else {
		k.since = time.Now()
	}
	change(&k)
	if m.byID == nil {
		m.byID = make(map[string]known)
	}
	m.byID[k.id] = k
	if len(m.byID) > maxKnown {
		m.forgetOldest()
	}
	return k
}

func (m *memory) forgetOldest() {
	oldest := known{since: time.Now()}
	for _, k := range m.byID {
		if !k.since.After(oldest.since) {
			oldest = k
		}
	}
	delete(m.byID, oldest.id)
}

// of returns what is known of an allocation.
func (m *memory) of(id string) (known, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k, ok := m.byID[id]
	return k, ok
}

// release forgets an attempt, unless the host may yet come to have something of it.
func (m *memory) release(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k, ok := m.byID[id]
	switch {
	case !ok:
	case !k.unanswered:
		delete(m.byID, id)
	case k.released.IsZero():
		k.released = time.Now()
		m.byID[id] = k
	}
}

// page returns the next attempts of a deployment after an id, in the order of their ids.
func (m *memory) page(deployment, after string, size int) []known {
	m.mu.Lock()
	defer m.mu.Unlock()
	var page []known
	for id, k := range m.byID {
		switch {
		case !k.released.IsZero() && time.Since(k.released) > lateFor:
			delete(m.byID, id)
		case k.deployment == deployment && id > after && !k.givenUp:
			page = append(page, k)
		}
	}
	slices.SortFunc(page, func(a, b known) int { return strings.Compare(a.id, b.id) })
	return page[:min(len(page), size)]
}
