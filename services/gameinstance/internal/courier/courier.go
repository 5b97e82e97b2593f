// Package courier publishes news for gateways on Redis, in batches: what queued up while the last batch was under way goes with the next.
// Losing news loses nothing: the mailbox is the truth, and gateways ask for what they missed.
package courier

import (
	"context"
	"log/slog"
	"time"

	"google.golang.org/protobuf/proto"

	eventv1 "github.com/berth-dev/berth/pkg/gen/berth/event/v1"
	"github.com/berth-dev/berth/services/gameinstance/internal/instance"
	"github.com/berth-dev/berth/services/gameinstance/internal/wire"
)

// Publisher publishes one message for each of several gateways.
type Publisher interface {
	PublishToGateways(ctx context.Context, messages map[string][]byte) error
}

const (
	queueSize    = 4096
	maxBatch     = 512
	sendDeadline = 2 * time.Second
)

type news struct {
	gatewayID  string
	deliveries []instance.Delivery
	replaced   *eventv1.SessionReplaced
	assigned   *eventv1.ServerAssignment
}

// Courier is safe for concurrent use.
type Courier struct {
	publisher Publisher
	log       *slog.Logger
	queue     chan news
}

// New returns a Courier. Run must be called for anything to be sent.
func New(p Publisher, log *slog.Logger) *Courier {
	// When the queue is full, news is dropped: the gateway finds it in the mailbox at its next renewal.
	return &Courier{publisher: p, log: log, queue: make(chan news, queueSize)}
}

// Deliver implements instance.Courier.
func (c *Courier) Deliver(gatewayID string, deliveries []instance.Delivery) {
	c.enqueue(news{gatewayID: gatewayID, deliveries: deliveries})
}

// Replaced implements session.Herald.
func (c *Courier) Replaced(gatewayID, serverID string, epoch int64) {
	c.enqueue(news{gatewayID: gatewayID, replaced: &eventv1.SessionReplaced{ServerId: serverID, SessionEpoch: epoch}})
}

// Assigned implements registry.Herald.
func (c *Courier) Assigned(gatewayID, serverID, instanceID string) {
	c.enqueue(news{gatewayID: gatewayID, assigned: &eventv1.ServerAssignment{ServerId: serverID, InstanceId: instanceID}})
}

func (c *Courier) enqueue(n news) {
	select {
	case c.queue <- n:
	default:
		c.log.Warn("news dropped: the queue is full", "gateway_id", n.gatewayID)
	}
}

// Run sends until ctx is cancelled.
func (c *Courier) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case n := <-c.queue:
			c.send(ctx, c.batch(n))
		}
	}
}

// batch takes what is queued, without waiting.
func (c *Courier) batch(first news) []news {
	batch := []news{first}
	for len(batch) < maxBatch {
		select {
		case n := <-c.queue:
			batch = append(batch, n)
		default:
			return batch
		}
	}
	return batch
}

func (c *Courier) send(ctx context.Context, batch []news) {
	envelopes := make(map[string]*eventv1.Envelope)
	for _, n := range batch {
		e := envelopes[n.gatewayID]
		if e == nil {
			e = &eventv1.Envelope{}
			envelopes[n.gatewayID] = e
		}
		for _, d := range n.deliveries {
			m, err := wire.Delivery(d)
			if err != nil {
				c.log.Error("mailbox entry cannot be sent", "instance_id", d.InstanceID, "error", err)
				continue
			}
			e.Deliveries = append(e.Deliveries, m)
		}
		if n.replaced != nil {
			e.Replaced = append(e.Replaced, n.replaced)
		}
		if n.assigned != nil {
			e.Assignments = append(e.Assignments, n.assigned)
		}
	}
	messages := make(map[string][]byte, len(envelopes))
	for gateway, e := range envelopes {
		b, err := proto.Marshal(e)
		if err != nil {
			c.log.Error("news cannot be encoded", "error", err)
			continue
		}
		messages[gateway] = b
	}
	ctx, cancel := context.WithTimeout(ctx, sendDeadline)
	defer cancel()
	if err := c.publisher.PublishToGateways(ctx, messages); err != nil {
		c.log.Warn("news lost on the way; gateways will ask for it", "error", err)
	}
}
