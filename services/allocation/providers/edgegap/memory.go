package edgegap

import (
	"slices"
	"time"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/services/allocation/providers/internal/attempts"
)

const (
	// maxKnown is how many attempts are remembered.
	maxKnown = 20_000
	// maxSpent is how many deployments are remembered that refusals left behind for an attempt. One that is forgotten says itself that it is in error.
	maxSpent = 16
)

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
	// spent are deployments that refusals left behind, the newest last: none of them is the attempt's server, whatever is to be seen of it. Overflow: the oldest is
	// forgotten.
	spent []string
	// unstopped are those of them that have yet to be told to stop. Overflow: the oldest is forgotten, and buried like
	// one of another process.
	unstopped []string
}

// memory keeps knowledge. What is forgotten is looked for by its tags if it is asked for again. It is safe for concurrent use.
type memory struct{ attempts.Recent[knowledge] }

func newMemory() *memory { return &memory{attempts.Recent[knowledge]{Max: maxKnown}} }

// has notes the deployment that an attempt has, unless a refusal left it behind. What was known of another one is forgotten.
func (m *memory) has(key, id string) {
	m.Update(key, func(k *knowledge) {
		switch {
		case slices.Contains(k.spent, id):
			return
		case k.id != id:
			*k = knowledge{id: id, spent: k.spent, unstopped: k.unstopped}
		}
		k.until = time.Time{}
	})
}

// spend notes a deployment that a refusal left behind. Somebody may have taken it for the attempt's before the refusal came.
func (m *memory) spend(key, id string) {
	m.Update(key, func(k *knowledge) {
		if k.id == id {
			*k = knowledge{spent: k.spent, unstopped: k.unstopped}
		}
		k.spent, k.unstopped = newest(k.spent, id), newest(k.unstopped, id)
	})
}

// stopped notes that a deployment that a refusal left behind was told to stop.
func (m *memory) stopped(key, id string) {
	m.Change(key, func(k *knowledge) {
		k.unstopped = slices.DeleteFunc(slices.Clone(k.unstopped), func(one string) bool { return one == id })
	})
}

// newest returns the newest of some ids and another one, in a slice of its own: others read the one that there was.
func newest(ids []string, id string) []string {
	ids = append(slices.Clone(ids), id)
	return ids[max(0, len(ids)-maxSpent):]
}

// doubts notes until when an attempt may have a deployment that nobody knows.
func (m *memory) doubts(key string, until time.Time) {
	m.Update(key, func(k *knowledge) { k.until = until })
}
