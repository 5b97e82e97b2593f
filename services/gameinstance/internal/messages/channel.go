package messages

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/berth-dev/berth/pkg/redisx"
)

const (
	// heartbeat is how often a channel is proven: something is published on it that has no messages, and has to arrive.
	heartbeat = time.Second
	// silences is how many heartbeats in a row must stay away for a subscription to count as dead.
	silences = 3

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
			if err := c.subscribe(living); living.Err() == nil {
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

// subscribe holds one subscription until it is dead or ctx ends.
func (c *channel) subscribe(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	sub := c.store.SubscribeTo(ctx, c.name)
	defer context.AfterFunc(ctx, func() { _ = sub.Close() })() // a read in the driver does not end with its context
	defer func() { _ = sub.Close() }()
	var proving sync.WaitGroup
	defer proving.Wait()
	defer cancel()

	heard := time.Now()
	for {
		msg, err := sub.ReceiveTimeout(ctx, heartbeat)
		var timeout net.Error
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.As(err, &timeout) && timeout.Timeout():
			if time.Since(heard) > silences*heartbeat {
				return errors.New("it went silent")
			}
			continue
		case err != nil:
			return err
		}
		heard = time.Now()
		switch m := msg.(type) {
		case *redis.Subscription:
			proving.Go(func() { c.prove(ctx) })
		case *redis.Message:
			c.receive(m.Payload)
		}
	}
}

// prove publishes on the channel again and again, at first at once. A failure shows in what does not arrive.
func (c *channel) prove(ctx context.Context) {
	for ctx.Err() == nil {
		publishCtx, cancel := context.WithTimeout(ctx, heartbeat)
		_ = c.store.PublishAll(publishCtx, map[string][]byte{c.name: nil})
		cancel()
		pause(ctx, heartbeat)
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
