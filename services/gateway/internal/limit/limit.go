// Package limit counts how often each of many may do something: a token bucket for each key, in a table of bounded size.
package limit

import (
	"container/list"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Rate is how often something may happen: Burst times at once, and PerSecond times a second in the long run.
type Rate struct {
	// PerSecond is how much comes back a second; 0: there is no limit.
	PerSecond int `yaml:"per_second" env:"PER_SECOND"`
	// Burst is how much may come at once.
	Burst int `yaml:"burst" env:"BURST"`
}

// off reports whether there is no limit.
func (r Rate) off() bool { return r.PerSecond == 0 }

// Bucket is what one key has left. A nil one is never empty. It is safe for concurrent use.
type Bucket struct {
	limiter *rate.Limiter
	now     func() time.Time
}

// Take takes one token. It returns 0, or how long it takes until there is one; then it has taken none.
func (b *Bucket) Take() time.Duration {
	if b == nil {
		return 0
	}
	now := b.now()
	if b.limiter.AllowN(now, 1) {
		return 0
	}
	return b.wait(now)
}

// Wait returns what Take would, and takes nothing.
func (b *Bucket) Wait() time.Duration {
	if b == nil {
		return 0
	}
	now := b.now()
	if b.limiter.TokensAt(now) >= 1 {
		return 0
	}
	return b.wait(now)
}

// wait returns how long it takes until there is a token. It is never 0, for another may take the one that has just come.
func (b *Bucket) wait(now time.Time) time.Duration {
	missing := 1 - b.limiter.TokensAt(now)
	return max(time.Duration(missing/float64(b.limiter.Limit())*float64(time.Second)), time.Nanosecond)
}

// Table holds buckets by key. When it is full, the one that was not used for longest goes: whoever floods uses theirs all the time. A key that comes back
// begins with a full one. A nil table has no limit. It is safe for concurrent use.
type Table[K comparable] struct {
	rate Rate
	size int
	now  func() time.Time

	mu    sync.Mutex
	byKey map[K]*list.Element
	order *list.List // of entry[K]; the one that was used last is in front
}

type entry[K comparable] struct {
	key    K
	bucket *Bucket
}

// NewTable returns a table of at most size buckets; nil where the rate has no limit.
func NewTable[K comparable](r Rate, size int, now func() time.Time) *Table[K] {
	if r.off() {
		return nil
	}
	return &Table[K]{rate: r, size: size, now: now, byKey: make(map[K]*list.Element), order: list.New()}
}

// Bucket returns the key's bucket. Whoever keeps it goes on to use it when it has left the table.
func (t *Table[K]) Bucket(key K) *Bucket {
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if at, ok := t.byKey[key]; ok {
		t.order.MoveToFront(at)
		return at.Value.(entry[K]).bucket //nolint:forcetypeassert // nothing else is in the list
	}
	if len(t.byKey) >= t.size {
		last := t.order.Back()
		delete(t.byKey, t.order.Remove(last).(entry[K]).key) //nolint:forcetypeassert // as above
	}
	b := &Bucket{limiter: rate.NewLimiter(rate.Limit(t.rate.PerSecond), t.rate.Burst), now: t.now}
	t.byKey[key] = t.order.PushFront(entry[K]{key, b})
	return b
}

// Len returns how many buckets there are.
func (t *Table[K]) Len() int {
	if t == nil {
		return 0
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.byKey)
}
