package messages

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/redisx"
)

const (
	// The queue holds so much for all gateways together, and at most maxCount messages. One that finds it full is dropped, and its sender is told.
	maxBytes = 4 << 20
	maxCount = 1 << 15
	// keptBytes is the size up to which the memory for a gateway is kept for its next batch, and maxKept of how many gateways.
	keptBytes = 64 << 10
	maxKept   = 1024
	// publishTimeout bounds one publishing. What is queued meanwhile waits, and what does not fit is dropped.
	publishTimeout = time.Second
)

// Store is what messages go over.
type Store interface {
	PublishAll(ctx context.Context, messages map[string][]byte) error
}

// Sender publishes what backends say to game servers. What is queued while one batch is on its way is the next: no timer, one envelope for each gateway, all
// gateways in one go. Messages about one instance keep their order. It is safe for concurrent use. Run must run for anything to be published.
type Sender struct {
	store   Store
	routes  *routes
	log     *slog.Logger
	metrics *Metrics
	wake    chan struct{} // has a token when the queue may be non-empty

	mu           sync.Mutex
	queue        map[string][]byte // encoded envelopes by the gateway's channel; bounded by maxBytes and maxCount
	bytes, count int
	failing      bool     // the last batch could not be published
	spare        [][]byte // empty memory for envelopes
}

func newSender(store Store, r *routes, log *slog.Logger, m *Metrics) *Sender {
	return &Sender{store: store, routes: r, log: log, metrics: m, wake: make(chan struct{}, 1), queue: make(map[string][]byte)}
}

// What a sender is told. They are made once: under a flood each message is dropped with one.
var (
	errFull = errs.New(errs.ServiceUnavailable, "too many ephemeral messages are queued here, so this one is lost; send fewer").Retry(time.Second)
	errAway = errs.New(errs.StoreUnavailable, "messages cannot be passed on now; this one is likely to be lost").Retry(time.Second)
)

// Send queues a message for the server of an instance; data is an encoded berth.type.v1.Data. It returns an *errs.Error where it is known that nobody will get
// it: INSTANCE_UNKNOWN, NOT_CONNECTED, or that too much is queued; and where nothing can be passed on now. It may have to read the instance's record.
func (s *Sender) Send(ctx context.Context, namespace, instanceID, topic string, data []byte) error {
	gateway, err := s.routes.find(ctx, namespace, instanceID)
	if err != nil {
		return err
	}
	channel, size := redisx.GatewayChannel(gateway), sizeOf(instanceID, topic, data)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.count >= maxCount || s.bytes+size > maxBytes {
		s.metrics.lost.Inc()
		return errFull
	}
	envelope, ok := s.queue[channel]
	if !ok && len(s.spare) > 0 {
		envelope, s.spare = s.spare[len(s.spare)-1], s.spare[:len(s.spare)-1]
	}
	s.queue[channel] = appendMessage(envelope, instanceID, topic, data)
	s.bytes += size
	s.count++
	if s.count == 1 {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
	if s.failing {
		return errAway
	}
	return nil
}

// Run publishes until ctx ends. What is queued then is lost.
func (s *Sender) Run(ctx context.Context) error {
	batch := make(map[string][]byte)
	for {
		select {
		case <-s.wake:
		case <-ctx.Done():
			return nil
		}
		for {
			var count int
			if batch, count = s.take(batch); count == 0 {
				break
			}
			publishCtx, cancel := context.WithTimeout(ctx, publishTimeout)
			err := s.store.PublishAll(publishCtx, batch)
			cancel()
			s.published(ctx, batch, count, err)
		}
	}
}

// take exchanges an empty batch for what is queued.
func (s *Sender) take(empty map[string][]byte) (batch map[string][]byte, count int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	batch, count = s.queue, s.count
	s.queue, s.bytes, s.count = empty, 0, 0
	return batch, count
}

// published records how it went, and empties the batch.
func (s *Sender) published(ctx context.Context, batch map[string][]byte, count int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for channel, envelope := range batch {
		if cap(envelope) <= keptBytes && len(s.spare) < maxKept {
			s.spare = append(s.spare, envelope[:0])
		}
		delete(batch, channel)
	}
	was := s.failing
	s.failing = err != nil && ctx.Err() == nil
	switch {
	case err == nil:
		s.metrics.sent.Add(float64(count))
		return
	case !was && s.failing: // the first of a row; the others would say the same
		s.log.Warn("ephemeral messages of backends could not be published and are lost", "error", err)
	}
	s.metrics.lost.Add(float64(count))
}
