package edgegap

import (
	"slices"
	"sync"
	"time"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
)

// maxKnown is how many attempts are remembered.
const maxKnown = 20_000

// knowledge is what this process knows of an attempt.
type knowledge struct {
	// id of its deployment; empty: none is known.
	id string
	// until is how long it may have one that no list has yet: a call for it got no answer.
	until time.Time
	// alone: when it ran, no other deployment of the attempt was to be found.
	alone bool
	// last is what was seen of it while it ran, at that time.
	last *providerv1.Server
	at   time.Time
}

// memory keeps knowledge. The zero value is empty. It is safe for concurrent use.
type memory struct {
	mu    sync.Mutex
	known map[string]knowledge
	// order are the attempts, the oldest first. Overflow: the oldest is forgotten, and is looked for by its tags if it is asked for again.
	order []string
}

func (m *memory) of(key string) (k knowledge, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k, ok = m.known[key]
	return k, ok
}

// update changes what is known.
func (m *memory) update(key string, change func(*knowledge)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k, ok := m.known[key]
	if !ok {
		if m.known == nil {
			m.known = make(map[string]knowledge)
		}
		if len(m.order) == maxKnown {
			delete(m.known, m.order[0])
			m.order = slices.Delete(m.order, 0, 1)
		}
		m.order = append(m.order, key)
	}
	change(&k)
	m.known[key] = k
}

// has notes the deployment that an attempt has. What was known of another one is forgotten.
func (m *memory) has(key, id string) {
	m.update(key, func(k *knowledge) {
		if k.id != id {
			*k = knowledge{id: id}
		}
		k.until = time.Time{}
	})
}

// doubts notes until when an attempt may have a deployment that nobody knows.
func (m *memory) doubts(key string, until time.Time) {
	m.update(key, func(k *knowledge) { k.until = until })
}
