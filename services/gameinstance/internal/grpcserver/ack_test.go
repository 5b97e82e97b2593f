package grpcserver

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	sessionv1 "github.com/berth-dev/berth/pkg/gen/berth/session/v1"

	"github.com/berth-dev/berth/services/gameinstance/internal/session"
)

// farMailboxes takes its time for each acknowledgement, and fails those of one instance.
type farMailboxes struct {
	session.Mailboxes
	bad string
}

var errCut = errors.New("the connection broke")

func (m farMailboxes) Ack(ctx context.Context, instanceID string, _, _ int64) error {
	if instanceID == m.bad {
		return errCut
	}
	select {
	case <-time.After(125 * time.Millisecond):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// A batch took longer over a slow line than the gateway waits for it: it was sent again and again, and what was acknowledged was delivered again meanwhile.
func TestABatchOfAcknowledgementsIsWrittenInTimeOverASlowLine(t *testing.T) {
	const patience = 5 * time.Second // of the gateway
	for name, bad := range map[string]string{"good": "", "one fails": "7"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := NewSession(session.New(session.Config{Mailboxes: farMailboxes{bad: bad}}), nil, nil)
				req := &sessionv1.AckNotificationsRequest{}
				for range 100 {
					req.Acks = append(req.Acks, &sessionv1.MailboxAck{InstanceId: "1", LinkEpoch: 1, Offset: 1})
				}
				req.Acks[7].InstanceId = "7"
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				_, err := s.AckNotifications(ctx, req)
				if bad == "" && err != nil || bad != "" && (!errors.Is(err, errCut) || errors.Is(err, context.DeadlineExceeded)) {
					t.Errorf("answered %v", err)
				}
			})
		})
	}
}
