package messages

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/berth-dev/berth/pkg/redisx"
)

const (
	// heartbeat is how often a channel is proven to work.
	heartbeat  = time.Second
	retryPause = 200 * time.Millisecond
)

// channel is one channel of the store, which is subscribed to while somebody watches it.
type channel struct {
	name    string
	store   *redisx.Store
	order   order
	log     *slog.Logger
	metrics *Metrics
	wake    chan struct{} // has a token when the first watcher may have come

	mu       sync.Mutex // also held while messages are handed over
	watchers []*watcher
	leave    context.CancelFunc // ends the subscription; nil: there is none, or none any more
	up       chan struct{}      // closed while the subscription is known to work
}

func newChannel(name string, store *redisx.Store, r *routes, log *slog.Logger, m *Metrics) *channel {
	return &channel{
		name: name, store: store, log: log, metrics: m, order: order{routes: r, last: make(map[string]*last)},
		wake: make(chan struct{}, 1), up: make(chan struct{}),
	}
}

func (c *channel) add(w *watcher) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.watchers = append(c.watchers, w)
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// remove ends a watcher. When it returns nothing is being handed to it.
func (c *channel) remove(w *watcher) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.watchers = slices.DeleteFunc(c.watchers, func(other *watcher) bool { return other == w })
	if len(c.watchers) == 0 {
		c.end()
		clear(c.order.last) // whoever comes next may come much later
	}
}

// end ends the subscription, if there is one. The caller holds mu.
func (c *channel) end() {
	if c.leave == nil {
		return
	}
	c.leave()
	c.leave = nil
	select {
	case <-c.up:
		c.up = make(chan struct{})
	default:
	}
}

// subscribed waits until the subscription works.
func (c *channel) subscribed(ctx context.Context) error {
	c.mu.Lock()
	up := c.up
	c.mu.Unlock()
	select {
	case <-up:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// run subscribes whenever somebody watches, until ctx ends.
func (c *channel) run(ctx context.Context) {
	for {
		select {
		case <-c.wake:
		case <-ctx.Done():
			return
		}
		for {
			living, ok := c.enter(ctx)
			if !ok {
				break
			}
			if err := c.store.Listen(living, c.name, heartbeat, c.receive); living.Err() == nil {
				c.log.Warn("a subscription to messages of game servers was lost; subscribing again", "channel", c.name, "error", err)
				c.metrics.resubscribed.Inc()
				c.exit()
				pause(ctx, retryPause)
			}
		}
	}
}

// enter begins a subscription if somebody watches; its context ends with the last watcher.
func (c *channel) enter(ctx context.Context) (context.Context, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.watchers) == 0 || ctx.Err() != nil {
		return nil, false
	}
	living, leave := context.WithCancel(ctx)
	c.leave = leave
	return living, true
}

// exit notes that the subscription is dead.
func (c *channel) exit() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.end()
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// receive takes what came over the channel.
func (c *channel) receive(payload string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.leave == nil { // the last one to want it has gone
		return
	}
	select {
	case <-c.up:
	default:
		close(c.up)
	}
	if payload == "" {
		return
	}
	wanted, err := c.order.dispatch([]byte(payload), c.watchers)
	c.metrics.received.Add(float64(wanted))
	if err != nil {
		c.log.Error("an envelope of messages could not be read", "channel", c.name, "error", err)
	}
}
