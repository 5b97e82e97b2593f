package session

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"
)

// renewable renews every lease.
type renewable struct{ Gateways }

func (renewable) RenewGateway(context.Context, string, time.Duration) (time.Time, error) {
	return time.UnixMicro(1), nil
}

// away does not say which entries wait: at once, or never.
type away struct {
	Mailboxes
	hangs bool
}

func (m away) Undelivered(ctx context.Context, _ string, _ time.Duration) ([]string, error) {
	if !m.hangs {
		return nil, errors.New("the connection broke")
	}
	<-ctx.Done()
	return nil, ctx.Err()
}

// A gateway whose lease had been renewed was told that it was not, because the look for undelivered entries after it failed; some of those in a row, and it would take
// its lease for lost.
func TestALeaseIsRenewedAlsoIfNobodySaysWhatIsUndelivered(t *testing.T) {
	for name, hangs := range map[string]bool{"fails": false, "hangs": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := New(Config{Gateways: renewable{}, Mailboxes: away{hangs: hangs}, Log: slog.New(slog.DiscardHandler)})
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
				defer cancel()
				renewal, err := s.Renew(ctx, "gw", 10*time.Second)
				if err != nil || renewal.Known.IsZero() || ctx.Err() != nil {
					t.Errorf("renewed: %v, %v; the caller still waits: %v", renewal.Known, err, ctx.Err() == nil)
				}
			})
		})
	}
}
