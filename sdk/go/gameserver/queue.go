package gameserver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
)

// QueuePolicy bounds the calls of one instance that Berth has not answered, and says what becomes of one more. Calls wait while there is no
// connection, and while the one that there is has as many under way as the gateway allows. Each is made once, in the order in which they came.
// None takes the place of another: a data update that follows another one may be on a condition, or merge, and each caller is told of its own.
type QueuePolicy struct {
	// MaxCalls is how many calls wait; 0 means 1024.
	MaxCalls int
	// MaxBytes is how many bytes their requests have together, as encoded; 0 means 8 MiB. A single call may have more.
	MaxBytes int
	// WhenFull says what becomes of a call that does not fit.
	WhenFull WhenFull
}

// WhenFull is what becomes of a call for which there is no room.
type WhenFull int

const (
	// Block lets the call wait for room until its context ends. It is the default.
	Block WhenFull = iota
	// Fail fails the call at once with ErrQueueFull.
	Fail
)

// Defaults of QueuePolicy.
const (
	defaultMaxCalls = 1024
	defaultMaxBytes = 8 << 20
)

// ErrQueueFull is the error of calls for which there is no room, where the policy is Fail. Nothing was sent.
var ErrQueueFull = errors.New("gameserver: too many calls wait for Berth's answers")

// WithQueue bounds the calls of an instance that wait. Connect and Open fail if a bound is negative or WhenFull is not known.
func WithQueue(policy QueuePolicy) Option { return func(o *options) { o.queue = policy } }

// complete fills in the defaults.
func (p QueuePolicy) complete() (QueuePolicy, error) {
	if p.MaxCalls < 0 || p.MaxBytes < 0 || p.WhenFull != Block && p.WhenFull != Fail {
		return p, fmt.Errorf("the queue's policy %+v: bounds are above 0, or 0 for the default, and WhenFull is Block or Fail", p)
	}
	p.MaxCalls, p.MaxBytes = cmp.Or(p.MaxCalls, defaultMaxCalls), cmp.Or(p.MaxBytes, defaultMaxBytes)
	return p, nil
}

// room is what is left for calls that wait.
type room struct {
	policy QueuePolicy

	mu    sync.Mutex
	calls int
	bytes int
	freed chan struct{} // closed when there may be room; nil if nobody waits for that
}

// take takes room for a call. It waits for it, or does not, as the policy says.
func (r *room) take(ctx context.Context, done <-chan struct{}, bytes int) error {
	for {
		freed := r.tryTake(bytes)
		switch {
		case freed == nil:
			return nil
		case r.policy.WhenFull == Fail:
			return ErrQueueFull
		}
		select {
		case <-freed:
		case <-ctx.Done():
			return ctx.Err()
		case <-done:
			return ErrClosed
		}
	}
}

// tryTake takes room, or returns what is closed when there may be some.
func (r *room) tryTake(bytes int) (freed <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.calls == 0 || r.calls < r.policy.MaxCalls && r.bytes+bytes <= r.policy.MaxBytes {
		r.calls++
		r.bytes += bytes
		return nil
	}
	if r.freed == nil {
		r.freed = make(chan struct{})
	}
	return r.freed
}

// give gives back what a call took.
func (r *room) give(bytes int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls--
	r.bytes -= bytes
	if r.freed != nil {
		close(r.freed)
		r.freed = nil
	}
}
