package attempts

import "sync"

// maxKnown is how many servers are remembered.
const maxKnown = 50_000

// Known are the servers that this process knows of from its own calls, by their names at the host: for hosts that have no place for a mark that can be read
// again. The zero value is empty. It is safe for concurrent use.
type Known struct {
	mu     sync.Mutex
	byName map[string]origin
	// names are those in byName, in a ring, of which next is the oldest once it is full. Overflow: the oldest is forgotten.
	names []string
	next  int
}

// origin says whose a server is.
type origin struct{ deployment, attempt string }

// Learn notes whose server has the name, and reports whether that was known before.
func (k *Known) Learn(name, deployment, attempt string) (before bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, before = k.byName[name]; before {
		return true
	}
	if k.byName == nil {
		k.byName = make(map[string]origin)
	}
	if len(k.names) < maxKnown {
		k.names = append(k.names, name)
	} else {
		delete(k.byName, k.names[k.next])
		k.names[k.next] = name
		k.next = (k.next + 1) % maxKnown
	}
	k.byName[name] = origin{deployment, attempt}
	return false
}

// Attempt returns the attempt of the deployment's server with the name; false if it is none of which this process knows.
func (k *Known) Attempt(name, deployment string) (attempt string, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	o, ok := k.byName[name]
	return o.attempt, ok && o.deployment == deployment
}
