package attempts

import "sync"

// Recent remembers a value for each of the newest names. It is safe for concurrent use.
type Recent[V any] struct {
	// Max is how many names there are. Needed.
	Max int

	mu     sync.Mutex
	values map[string]V
	// names are those in values, in a ring, of which next is the oldest once it is full. Overflow: the oldest is forgotten.
	names []string
	next  int
}

// Get returns what is remembered of a name; false: nothing is.
func (r *Recent[V]) Get(name string) (v V, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	v, ok = r.values[name]
	return v, ok
}

// Update changes what is remembered of a name, and reports whether it was known. One that is new begins with the zero value.
func (r *Recent[V]) Update(name string, change func(*V)) (known bool) {
	return r.update(r.Max, name, change)
}

func (r *Recent[V]) update(most int, name string, change func(*V)) (known bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	v, known := r.values[name]
	if !known {
		r.make(most, name)
	}
	change(&v)
	r.values[name] = v
	return known
}

// make makes room for a name. The lock is held.
func (r *Recent[V]) make(most int, name string) {
	if r.values == nil {
		r.values = make(map[string]V)
	}
	if len(r.names) < most {
		r.names = append(r.names, name)
		return
	}
	delete(r.values, r.names[r.next])
	r.names[r.next] = name
	r.next = (r.next + 1) % most
}

// Change changes what is remembered of a name, if anything is.
func (r *Recent[V]) Change(name string, change func(*V)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if v, ok := r.values[name]; ok {
		change(&v)
		r.values[name] = v
	}
}
