package allocator

import (
	"context"
	"time"

	"github.com/berth-dev/berth/pkg/errs"
)

// Cancel records that people do not want the server any more. The instance is told that there is none, and says what becomes of it. It reports whether that
// changed anything.
func (a *Allocation) Cancel(reason string, now time.Time) (bool, error) {
	switch {
	case a.State == Bound:
		return false, errs.New(errs.StateNotAllowed, "allocation %s is BOUND: its server is linked. Terminate or replace the instance's server instead", a.ID)
	case a.State >= Releasing, a.Report == ReportFailed && a.Failure == "":
		return false, nil
	}
	message := "cancelled"
	if reason != "" {
		message += ": " + reason
	}
	a.say(message)
	a.Failure = ""
	a.owe(ReportFailed, now)
	return true, nil
}

// Cancel stores that an allocation is to be given up.
func (s *Service) Cancel(ctx context.Context, namespace, id, reason string) (Allocation, error) {
	return s.change(ctx, id, func(a Allocation, now time.Time) (Allocation, bool, error) {
		if a.Rev == 0 || a.Namespace != namespace {
			return a, false, unknown(namespace, id)
		}
		changed, err := a.Cancel(reason, now)
		return a, changed, err
	})
}
