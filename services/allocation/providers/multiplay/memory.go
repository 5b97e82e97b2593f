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
	// keep is how long an attempt is known of which nothing is heard any more: longer than a request can be late, and than nobody asks about a server that is wanted.
	keep = 10 * time.Minute
	// tidyEvery is how often those are forgotten of which nothing was heard.
	tidyEvery = time.Minute
)

// known is what this process knows of an attempt. Multiplay has no place for it: an allocation has an id, from which no attempt can be read.
type known struct {
	deployment, attempt string
	fleet, id           string
	since               time.Time // it is known, or seen
	heard               time.Time // of it, the last time
	seen                bool      // at the host
	came                bool      // a server, which is then not given up, whatever an old answer says
	ending              bool      // the host was asked to end it
	unanswered          bool      // a request for its server, which may be late
}

// memory is what this process knows of its attempts. The zero value is empty. It is safe for concurrent use.
type memory struct {
	mu sync.Mutex
	// byID are the attempts by the ids of their allocations. Overflow: the oldest is forgotten, and is not listed any more.
	byID map[string]known
	tidy time.Time // the last time
}

// atHost notes that the host has it. From then on it has time to come.
func (k *known) atHost() {
	if !k.seen {
		k.seen, k.since = true, time.Now()
	}
}

// ends notes that the host was asked to end it, which it has to be at the host for.
func (k *known) ends() {
	k.atHost()
	k.ending = true
}

// seenAt notes what the host says of an allocation.
func (a allocation) seenAt(k *known) {
	k.atHost()
	k.came = k.came || a.Fulfilled != ""
}

// learn notes an attempt, changes what is known of it, and returns that.
func (m *memory) learn(k known, change func(*known)) known {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	if old, ok := m.byID[k.id]; ok {
		k = old
	} else {
		k.since = now
	}
	change(&k)
	k.heard = now
	if m.byID == nil {
		m.byID = make(map[string]known)
	}
	m.byID[k.id] = k
	if now.Sub(m.tidy) > tidyEvery {
		m.tidyUp(now)
	}
	if len(m.byID) > maxKnown {
		m.forgetOldest()
	}
	return k
}

// tidyUp forgets those of which nothing was heard for long: other processes may have had to do with their ends.
func (m *memory) tidyUp(now time.Time) {
	m.tidy = now
	for id, k := range m.byID {
		if now.Sub(k.heard) > keep {
			delete(m.byID, id)
		}
	}
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

// gone forgets an attempt that the host has nothing of, unless it may yet come to have something.
func (m *memory) gone(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k, ok := m.byID[id]
	switch {
	case !ok:
	case k.unanswered:
		k.ending = false
		m.byID[id] = k
	default:
		delete(m.byID, id)
	}
}

// page returns the next attempts of a deployment after an id, in the order of their ids.
func (m *memory) page(deployment, after string, size int) []known {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tidyUp(time.Now())
	var page []known
	for id, k := range m.byID {
		if k.deployment == deployment && id > after {
			page = append(page, k)
		}
	}
	slices.SortFunc(page, func(a, b known) int { return strings.Compare(a.id, b.id) })
	return page[:min(len(page), size)]
}
