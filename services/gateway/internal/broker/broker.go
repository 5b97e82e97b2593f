// Package broker is the gateway's one subscription in the store: the channel on which game-instance publishes to this life of the gateway. Nothing
// depends on a message arriving; that the channel works is proven, by sending oneself something, and not believed.
package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	eventv1 "github.com/berth-dev/berth/pkg/gen/berth/event/v1"

	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/services/gateway/internal/metrics"
)

const (
	// canary is what the gateway sends itself: an empty envelope, which nobody else has reason to publish.
	canary = ""
	// silences is how many canaries in a row must stay away for the subscription to count as dead.
	silences = 3

	retryPause = 200 * time.Millisecond
)

// Config configures a Broker.
type Config struct {
	// Client is the store.
	Client *redisx.Store
	// Deliver takes an envelope. It must not block: while it does, the store's buffer for this subscriber fills, and it is cut off when that is full.
	Deliver func(*eventv1.Envelope)
	// Message takes a message that may be lost. It must not block either.
	Message func(Message)
	// Again is called when a subscription that was lost has been made again and has proven itself: what was published in between did not arrive. It must not
	// block.
	Again func()
	// Interval is how often the canary is sent. Default 1 s.
	Interval time.Duration
	// Log is where lost subscriptions are logged.
	Log *slog.Logger
	// Metrics is where they are counted.
	Metrics *metrics.Metrics
}

// Broker holds the subscription. It is safe for concurrent use, except that Run runs once at a time.
type Broker struct {
	client   *redisx.Store
	deliver  func(*eventv1.Envelope)
	message  func(Message)
	again    func()
	interval time.Duration
	log      *slog.Logger
	metrics  *metrics.Metrics
	proven   atomic.Pointer[time.Time] // when something last arrived on the channel
}

// New returns a Broker.
func New(cfg Config) *Broker {
	if cfg.Interval == 0 {
		cfg.Interval = time.Second
	}
	return &Broker{client: cfg.Client, deliver: cfg.Deliver, message: cfg.Message, again: cfg.Again, interval: cfg.Interval, log: cfg.Log, metrics: cfg.Metrics}
}

// Ready returns an error unless the subscription has proven itself lately.
func (b *Broker) Ready(context.Context) error {
	at := b.proven.Load()
	if at == nil {
		return errors.New("the subscription is not made yet")
	}
	if silent := time.Since(*at); silent > silences*b.interval {
		return fmt.Errorf("nothing came back over the subscription for %v", silent.Round(time.Second))
	}
	return nil
}

// Run subscribes to the channel of a gateway's life, and again whenever the subscription is lost, until ctx ends. proven is called whenever it has
// proven itself, and must not block.
func (b *Broker) Run(ctx context.Context, gatewayID string, proven func()) {
	for first := true; ctx.Err() == nil; first = false {
		if !first {
			b.metrics.Resubscribed.Inc()
		}
		missed := !first
		err := b.subscribe(ctx, redisx.GatewayChannel(gatewayID), func() {
			if missed {
				missed = false
				b.again()
			}
			proven()
		})
		b.proven.Store(nil)
		if ctx.Err() != nil {
			return
		}
		b.log.Warn("the subscription in the store was lost; subscribing again", "error", err)
		pause := time.NewTimer(retryPause)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
		}
	}
}

// subscribe holds one subscription until it is dead.
func (b *Broker) subscribe(ctx context.Context, channel string, proven func()) error {
	ctx, cancel := context.WithCancel(ctx)
	sub := b.client.SubscribeTo(ctx, channel)
	defer context.AfterFunc(ctx, func() { _ = sub.Close() })() // a read in the driver does not end with its context
	defer func() { _ = sub.Close() }()

	confirmed := make(chan struct{}, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.sing(ctx, channel, confirmed)
	}()
	defer func() { <-done }()
	defer cancel()

	heard := time.Now()
	for {
		msg, err := sub.ReceiveTimeout(ctx, b.interval)
		var timeout net.Error
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.As(err, &timeout) && timeout.Timeout():
			if time.Since(heard) > silences*b.interval {
				return errors.New("it went silent")
			}
			continue
		case err != nil:
			return err
		}
		switch m := msg.(type) {
		case *redis.Subscription:
			select {
			case confirmed <- struct{}{}:
			default:
			}
		case *redis.Message:
			now := time.Now() // one of its own each time: others read it
			heard = now
			b.proven.Store(&now)
			b.receive(m.Payload)
			proven()
		}
	}
}

// sing sends the canary at once when the subscription is confirmed, and then again and again. A failure shows in the canary's absence.
func (b *Broker) sing(ctx context.Context, channel string, confirmed <-chan struct{}) {
	tick := time.NewTicker(b.interval)
	defer tick.Stop()
	for {
		select {
		case <-confirmed:
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		publishCtx, cancel := context.WithTimeout(ctx, b.interval)
		_ = b.client.PublishAll(publishCtx, map[string][]byte{channel: []byte(canary)})
		cancel()
	}
}

func (b *Broker) receive(payload string) {
	if payload == canary {
		return
	}
	envelope, err := readEnvelope([]byte(payload), b.message)
	if err != nil {
		b.log.Error("an envelope could not be read", "error", err)
		return
	}
	if envelope != nil {
		b.deliver(envelope)
	}
}
