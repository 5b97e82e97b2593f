// Package messages carries what game servers and backends say to each other and may be lost: over the store's pub/sub only, in batches, and by way of the
// gateways, which read and write the same envelopes at their end.
package messages

import (
	"context"
	"log/slog"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/berth-dev/berth/pkg/app"
	"github.com/berth-dev/berth/pkg/redisx"
)

// Message is something that a game server said.
type Message struct {
	// Namespace, Instance and Server say whose it is.
	Namespace, Instance, Server []byte
	// Sequence is the server's number for it.
	Sequence int64
	// Topic is what it is about, and Data the encoded berth.type.v1.Data.
	Topic, Data []byte
}

// Metrics count messages. They are safe for concurrent use.
type Metrics struct {
	received, sent, lost prometheus.Counter
	resubscribed         prometheus.Counter
}

// NewMetrics returns metrics that are registered with reg.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	counter := func(name, help string) prometheus.Counter {
		return app.Register(reg, prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help}))
	}
	return &Metrics{
		received:     counter("berth_messages_received_total", "Ephemeral messages of game servers that somebody here wanted."),
		sent:         counter("berth_messages_sent_total", "Ephemeral messages of backends that were published."),
		lost:         counter("berth_messages_lost_total", "Ephemeral messages of backends that were dropped: the queue was full, or the store away."),
		resubscribed: counter("berth_messages_resubscribed_total", "Subscriptions to messages of game servers that were lost and made again."),
	}
}

// Config configures an Exchange.
type Config struct {
	// Store is what messages go over.
	Store *redisx.Store
	// Instances reads instances, to find their gateways.
	Instances Instances
	// Log is told of messages that are lost.
	Log *slog.Logger
	// Metrics counts.
	Metrics *Metrics
}

// Exchange sends and receives. It is safe for concurrent use. Run must run.
type Exchange struct {
	*Sender
	*Receiver
}

// New returns an Exchange.
func New(cfg Config) *Exchange {
	r := newRoutes(cfg.Instances)
	return &Exchange{newSender(cfg.Store, r, cfg.Log, cfg.Metrics), newReceiver(cfg.Store, r, cfg.Log, cfg.Metrics)}
}

// Run sends and receives until ctx ends.
func (e *Exchange) Run(ctx context.Context) error {
	var running sync.WaitGroup
	running.Go(func() { _ = e.Sender.Run(ctx) }) // it ends without an error
	err := e.Receiver.Run(ctx)
	running.Wait()
	return err
}
