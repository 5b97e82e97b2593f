// Package messages publishes what game servers say and may be lost. What is queued while one batch is on its way to the store is the next one: no timer, one
// envelope for each channel, all channels in one go.
package messages

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/redisx"

	"github.com/berth-dev/berth/services/gateway/internal/metrics"
)

const (
	// The queue of each channel holds as much as one envelope may: the next one. A message that finds it full is dropped, and its sender is told.
	maxBytes = 1 << 20
	maxCount = 8192
	// keptBytes is the size up to which a queue's memory is kept for the next batch: what 2,048 messages of 128 bytes need, spread over the channels.
	keptBytes = 256 << 10
	// publishTimeout bounds one publishing. What is queued meanwhile waits, and what does not fit is dropped.
	publishTimeout = time.Second
)

// Message is a message of a game server.
type Message struct {
	// Namespace, Instance and Server say whose it is.
	Namespace, Instance, Server string
	// Sequence is the server's number for it.
	Sequence int64
	// Topic is what it is about, and Data the encoded berth.type.v1.Data. They are not kept.
	Topic, Data []byte
}

// Store is where messages are published.
type Store interface {
	Partition(id string) int
	Partitions() int
	PublishAll(ctx context.Context, messages map[string][]byte) error
}

// Config configures a Publisher.
type Config struct {
	// Store is where it publishes.
	Store Store
	// Gateway returns the id of the gateway's life, by which the servers of a batch are reached, or an error while there is none.
	Gateway func() (string, error)
	// Log is told when the store takes nothing any more.
	Log *slog.Logger
	// Metrics counts.
	Metrics *metrics.Metrics
}

// Publisher publishes the messages of a gateway's servers, those of one instance in the order in which they came. It is safe for concurrent use. Run must run
// for anything to be published.
type Publisher struct {
	cfg      Config
	channels []string
	channel  []uint8       // of each partition, an index of channels
	wake     chan struct{} // has a token when a queue may be non-empty

	mu      sync.Mutex
	queues  []batch // of each channel, bounded by maxBytes and maxCount
	failing bool    // the last batch could not be published
}

// batch is the messages field of a ServerMessages, encoded.
type batch struct {
	raw   []byte
	count int
}

// New returns a Publisher.
func New(cfg Config) *Publisher {
	p := &Publisher{cfg: cfg, channels: redisx.MessageChannels(), wake: make(chan struct{}, 1)}
	p.queues = make([]batch, len(p.channels))
	for partition := range cfg.Store.Partitions() {
		p.channel = append(p.channel, uint8(slices.Index(p.channels, redisx.MessageChannel(partition)))) //nolint:gosec // there are few channels
	}
	return p
}

// What a sender is told. They are made once: under a flood each message is dropped with one.
var (
	errFull = errs.New(errs.ServiceUnavailable, "this gateway has too many messages to pass on; some are dropped").Retry(time.Second)
	errAway = errs.New(errs.StoreUnavailable, "messages cannot be passed on now, and are lost").Retry(time.Second)
)

// Send queues a message, or returns why it is, or is likely to be, lost. It does not block.
func (p *Publisher) Send(m Message) error {
	channel := p.channel[p.cfg.Store.Partition(m.Instance)]
	p.mu.Lock()
	defer p.mu.Unlock()
	q := &p.queues[channel]
	if q.count >= maxCount || (q.count > 0 && len(q.raw)+sizeOf(m) > maxBytes) {
		p.cfg.Metrics.MessagesLost.WithLabelValues(string(errs.ServiceUnavailable)).Inc()
		return errFull
	}
	q.raw = appendMessage(q.raw, m)
	q.count++
	if q.count == 1 {
		select {
		case p.wake <- struct{}{}:
		default:
		}
	}
	if p.failing {
		return errAway
	}
	return nil
}

// Run publishes until ctx ends. What is queued then is lost.
func (p *Publisher) Run(ctx context.Context) error {
	batches, out := make([]batch, len(p.channels)), make(map[string][]byte, len(p.channels))
	for {
		select {
		case <-p.wake:
		case <-ctx.Done():
			return nil
		}
		for p.take(batches) {
			p.publish(ctx, batches, out)
		}
	}
}

// take exchanges empty batches for what is queued; false when nothing is.
func (p *Publisher) take(batches []batch) (some bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range batches {
		batches[i], p.queues[i] = p.queues[i], batches[i]
		some = some || batches[i].count > 0
	}
	return some
}

// publish publishes batches and empties them. out is scratch.
func (p *Publisher) publish(ctx context.Context, batches []batch, out map[string][]byte) {
	gateway, err := p.cfg.Gateway()
	count := 0
	for i := range batches {
		if b := &batches[i]; b.count > 0 {
			b.raw = protowire.AppendString(protowire.AppendTag(b.raw, envelopeGateway, protowire.BytesType), gateway)
			out[p.channels[i]] = b.raw
			count += b.count
		}
	}
	if err == nil {
		publishCtx, cancel := context.WithTimeout(ctx, publishTimeout)
		err = p.cfg.Store.PublishAll(publishCtx, out)
		cancel()
	}
	p.note(ctx, err, count)
	clear(out)
	for i := range batches {
		b := &batches[i]
		b.raw, b.count = b.raw[:0], 0
		if cap(b.raw) > keptBytes {
			b.raw = nil
		}
	}
}

// note records how it went.
func (p *Publisher) note(ctx context.Context, err error, count int) {
	p.mu.Lock()
	was := p.failing
	p.failing = err != nil && ctx.Err() == nil
	p.mu.Unlock()
	switch {
	case err == nil:
		p.cfg.Metrics.MessagesIn.Add(float64(count))
		return
	case !was && ctx.Err() == nil: // the first of a row; the others would say the same
		p.cfg.Log.Warn("messages of game servers could not be published and are lost", "error", err)
	}
	p.cfg.Metrics.MessagesLost.WithLabelValues(string(errs.StoreUnavailable)).Add(float64(count))
}
