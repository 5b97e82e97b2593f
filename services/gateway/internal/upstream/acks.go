package upstream

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/berth-dev/berth/pkg/errs"
	sessionv1 "github.com/berth-dev/berth/pkg/gen/berth/session/v1"
	"github.com/berth-dev/berth/pkg/rpc"
)

const (
	ackBatch = 100 // few enough for a store that is slow; AckNotifications takes 1000
	// maxAcks bounds how many instances' acknowledgements wait. One that finds no place is dropped: its entries are reported undelivered then, and the
	// acknowledgement is made again.
	maxAcks   = 100_000
	ackPacing = 500 * time.Millisecond // after a failure
)

// acks sends acknowledgements: what came while the last batch was under way, the newest of each instance.
type acks struct {
	client sessionv1.SessionServiceClient
	log    *slog.Logger

	mu      sync.Mutex
	waiting map[string]*sessionv1.MailboxAck // by instance id; bounded by maxAcks
	wake    chan struct{}
}

func newAcks(client sessionv1.SessionServiceClient, log *slog.Logger) *acks {
	return &acks{client: client, log: log, waiting: make(map[string]*sessionv1.MailboxAck), wake: make(chan struct{}, 1)}
}

func (a *acks) add(ack *sessionv1.MailboxAck) {
	a.mu.Lock()
	a.put(ack)
	a.mu.Unlock()
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// put keeps an acknowledgement unless a newer one waits. The caller holds mu.
func (a *acks) put(ack *sessionv1.MailboxAck) {
	old, ok := a.waiting[ack.GetInstanceId()]
	switch {
	case !ok && len(a.waiting) >= maxAcks:
	case !ok, ack.GetLinkEpoch() > old.GetLinkEpoch(), ack.GetLinkEpoch() == old.GetLinkEpoch() && ack.GetOffset() > old.GetOffset():
		a.waiting[ack.GetInstanceId()] = ack
	}
}

// batch takes the next acknowledgements out.
func (a *acks) batch() []*sessionv1.MailboxAck {
	a.mu.Lock()
	defer a.mu.Unlock()
	var batch []*sessionv1.MailboxAck
	for id, ack := range a.waiting {
		if len(batch) == ackBatch {
			break
		}
		batch = append(batch, ack)
		delete(a.waiting, id)
	}
	return batch
}

func (a *acks) run(ctx context.Context) {
	for {
		select {
		case <-a.wake:
		case <-ctx.Done():
			return
		}
		for batch := a.batch(); len(batch) > 0; batch = a.batch() {
			if a.send(ctx, batch) {
				continue
			}
			pause := time.NewTimer(ackPacing)
			select {
			case <-pause.C:
			case <-ctx.Done():
				pause.Stop()
				return
			}
		}
	}
}

// send sends a batch. One that got no answer goes back, to be sent again; false then.
func (a *acks) send(ctx context.Context, batch []*sessionv1.MailboxAck) bool {
	ctx, cancel := context.WithTimeout(ctx, unaryTimeout)
	defer cancel()
	_, err := a.client.AckNotifications(ctx, &sessionv1.AckNotificationsRequest{Acks: batch})
	switch {
	case err == nil:
		return true
	case !repeatable(rpc.FromStatus(err)):
		a.log.Error("acknowledgements were refused", "count", len(batch), "error", err)
		return true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, ack := range batch {
		a.put(ack)
	}
	return false
}

// repeatable reports whether a failed call should be made again: the other side was not there, or said to come back.
func repeatable(err error) bool {
	switch errs.ReasonOf(err) {
	case errs.ServiceUnavailable, errs.StoreUnavailable, errs.DeadlineExceeded, errs.Cancelled, errs.Contended:
		return true
	default:
		return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
	}
}
