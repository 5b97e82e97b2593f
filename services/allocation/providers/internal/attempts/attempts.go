// Package attempts keeps what a provider has to know about attempts for a while, whatever its host: which are being worked on, and which are over.
package attempts

import (
	"context"
	"sync"

	"github.com/berth-dev/berth/sdk/go/provider"
)

// maxReleased is how many released attempts are remembered.
const maxReleased = 10_000

// Book is a provider's memory. The zero value is empty. It is safe for concurrent use.
type Book struct {
	mu   sync.Mutex
	busy map[string]*turn
	// released are the attempts that nobody wants any more. By the time that one is forgotten no call for it is under way.
	released Recent[struct{}]
}

// turn is held by whoever works on an attempt.
type turn struct {
	held    chan struct{} // one place
	waiting int
}

// Lock waits until nobody else works on the attempt, and returns what ends that; or the context's error.
func (b *Book) Lock(ctx context.Context, attempt string) (unlock func(), err error) {
	b.mu.Lock()
	t := b.busy[attempt]
	if t == nil {
		t = &turn{held: make(chan struct{}, 1)} // full: the next one waits
		if b.busy == nil {
			b.busy = make(map[string]*turn)
		}
		b.busy[attempt] = t
	}
	t.waiting++
	b.mu.Unlock()
	select {
	case t.held <- struct{}{}:
		return func() { <-t.held; b.leave(attempt, t) }, nil
	case <-ctx.Done():
		b.leave(attempt, t)
		return nil, ctx.Err()
	}
}

func (b *Book) leave(attempt string, t *turn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if t.waiting--; t.waiting == 0 {
		delete(b.busy, attempt)
	}
}

// Release notes that nobody wants the attempt any more.
func (b *Book) Release(attempt string) { b.released.update(maxReleased, attempt, func(*struct{}) {}) }

// Released reports whether nobody wants the attempt any more.
func (b *Book) Released(attempt string) bool {
	_, released := b.released.Get(attempt)
	return released
}

// Begin is what every Allocate begins with: it waits for the attempt's turn, and refuses one that was released.
func (b *Book) Begin(ctx context.Context, attempt string) (unlock func(), err error) {
	unlock, err = b.Lock(ctx, attempt)
	if err != nil {
		return nil, provider.Failure(provider.Unavailable, "attempt %s: another call for it is under way; this one was cut off before it was sent", attempt)
	}
	if b.Released(attempt) {
		unlock()
		return nil, provider.Failure(provider.Invalid, "attempt %s was released before", attempt)
	}
	return unlock, nil
}

// End is what every Release begins with: it notes the release first, and waits for the attempt's turn.
func (b *Book) End(ctx context.Context, attempt string) (unlock func(), err error) {
	b.Release(attempt)
	unlock, err = b.Lock(ctx, attempt)
	if err != nil {
		return nil, provider.Failure(provider.Unavailable, "attempt %s: another call for it is under way; this one was cut off before it was sent", attempt)
	}
	return unlock, nil
}
