package hostapi

import (
	"context"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/berth-dev/berth/sdk/go/provider"
)

// Operation is a kind of call that a host counts by itself. It is safe for concurrent use.
type Operation struct {
	// Name completes "the host refuses to …".
	Name string
	// Write says that it has an effect, such as a server.
	Write bool

	limiter *rate.Limiter // nil: no limit known
	mu      sync.Mutex
	until   time.Time // the host wants to be left alone
}

// Read returns an operation without an effect, which may be called that often a second; 0: no limit known.
func Read(name string, perSecond float64) *Operation { return newOperation(name, false, perSecond) }

// Write returns one with an effect.
func Write(name string, perSecond float64) *Operation { return newOperation(name, true, perSecond) }

func newOperation(name string, write bool, perSecond float64) *Operation {
	op := &Operation{Name: name, Write: write}
	if perSecond > 0 { // what is let through at once comes on top in the first second: a part of what the host allows
		op.limiter = rate.NewLimiter(rate.Limit(perSecond), max(1, int(perSecond/4)))
	}
	return op
}

// Wait waits for a call's turn, as a Client does before each: for a host whose calls another client makes. It fails with RATE_LIMITED if that is not within the
// context's time.
func (o *Operation) Wait(ctx context.Context) error { return o.wait(ctx) }

// Heed leaves the host alone for as long as a failure asks for, as a Client does. Calls of that kind fail meanwhile without being made.
func (o *Operation) Heed(err error) {
	after := provider.RetryAfterOf(err)
	switch reason := provider.ReasonOf(err); {
	case reason == provider.RateLimited && after == 0:
		o.rest(usualRest)
	case reason == provider.RateLimited, reason == provider.Unavailable:
		o.rest(after)
	}
}

// rest leaves the host alone for a while. Whoever calls meanwhile is told so without it.
func (o *Operation) rest(after time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if until := time.Now().Add(after); until.After(o.until) {
		o.until = until
	}
}

func (o *Operation) resting() time.Duration {
	o.mu.Lock()
	defer o.mu.Unlock()
	return time.Until(o.until)
}

// wait waits for the call's turn, or fails with RATE_LIMITED if that is not within the context's time.
func (o *Operation) wait(ctx context.Context) error {
	if left := o.resting(); left > 0 {
		return limited("the host wants no more calls to %s for now", o.Name, left)
	}
	if o.limiter == nil {
		return nil
	}
	turn := o.limiter.Reserve()
	delay := turn.Delay()
	if delay == 0 {
		return nil
	}
	if at, ok := ctx.Deadline(); ok && time.Until(at) < delay {
		turn.Cancel()
		return limited("the host allows no more calls to %s for now", o.Name, delay)
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		turn.Cancel()
		return provider.Failure(provider.Unavailable, "%s: the call was cut off before it was sent", o.Name)
	}
}

func limited(format, name string, after time.Duration) error {
	return provider.RetryAfter(provider.Failure(provider.RateLimited, format, name), after)
}
