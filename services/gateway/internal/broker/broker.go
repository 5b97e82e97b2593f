// Package broker is the gateway's one subscription in the store: the channel on which game-instance publishes to this life of the gateway. Nothing
// depends on a message arriving; that the channel works is proven, by sending oneself something, and not believed.
package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	eventv1 "github.com/berth-dev/berth/pkg/gen/berth/event/v1"

	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/services/gateway/internal/metrics"
)

const retryPause = 200 * time.Millisecond

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
	// Interval is how often the subscription is proven to work. Default 1 s.
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
	if silent := time.Since(*at); silent > redisx.Silences*b.interval {
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
		err := b.client.Listen(ctx, redisx.GatewayChannel(gatewayID), b.interval, func(payload string) {
			now := time.Now() // one of its own each time: others read it
			b.proven.Store(&now)
			b.receive(payload)
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

func (b *Broker) receive(payload string) {
	if payload == "" { // the proof
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
