package playfab

import (
	"sync/atomic"
	"time"
)

// Clock is a clock that is put forward by hand. It is safe for concurrent use.
type Clock struct {
	start time.Time
	later atomic.Int64
}

// Add puts it forward.
func (c *Clock) Add(d time.Duration) { c.later.Add(int64(d)) }

// SetClock has a provider's tokens told the time by a clock that starts then.
func SetClock(p *Provider, start time.Time) *Clock {
	c := &Clock{start: start}
	p.client.tokens.now = func() time.Time { return c.start.Add(time.Duration(c.later.Load())) }
	return c
}
