package edgegap

import (
	"time"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/services/allocation/providers/internal/attempts"
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

// memory keeps knowledge. What is forgotten is looked for by its tags if it is asked for again. It is safe for concurrent use.
type memory struct{ attempts.Recent[knowledge] }

func newMemory() *memory { return &memory{attempts.Recent[knowledge]{Max: maxKnown}} }

// has notes the deployment that an attempt has. What was known of another one is forgotten.
func (m *memory) has(key, id string) {
	m.Update(key, func(k *knowledge) {
		if k.id != id {
			*k = knowledge{id: id}
		}
		k.until = time.Time{}
	})
}

// doubts notes until when an attempt may have a deployment that nobody knows.
func (m *memory) doubts(key string, until time.Time) {
	m.Update(key, func(k *knowledge) { k.until = until })
}
