package allocator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// UnreadableError says that allocations are stored and cannot be read. What comes with it holds for all others.
type UnreadableError struct {
	// IDs are the allocations, and what is wrong with the record of each.
	IDs map[string]error
}

// Error implements error. It names one of them.
func (e *UnreadableError) Error() string {
	for id, err := range e.IDs {
		return fmt.Sprintf("the records of %d allocations cannot be read, such as that of %s: %v", len(e.IDs), id, err)
	}
	return "records of allocations cannot be read"
}

// Unreadable returns what cannot be read, for whoever passes it over, or the error, if it is another one.
func Unreadable(err error) (map[string]error, error) {
	var some *UnreadableError
	if errors.As(err, &some) {
		return some.IDs, nil
	}
	return nil, err
}

// passedEvery is how often it is said at most that records are passed over: they are met at each look.
const passedEvery = time.Minute

// PassedOver counts the records that were passed over because they cannot be read, and logs that there are such. It is safe for concurrent use.
type PassedOver struct {
	log *slog.Logger

	mu    sync.Mutex
	count int
	said  time.Time // when it was logged last
}

// over is Unreadable, for a caller that passes over what cannot be read.
func (p *PassedOver) over(ctx context.Context, err error) (map[string]error, error) {
	broken, other := Unreadable(err)
	if len(broken) == 0 {
		return broken, other
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.count += len(broken)
	if now := time.Now(); p.said.IsZero() || now.Sub(p.said) >= passedEvery {
		p.said = now
		p.log.ErrorContext(ctx, "records of allocations are passed over", keyError, err)
	}
	return broken, nil
}

// Count returns how many were passed over; one that is met again counts again.
func (p *PassedOver) Count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.count
}
