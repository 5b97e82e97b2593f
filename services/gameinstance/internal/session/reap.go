package session

import (
	"context"
	"errors"
	"time"
)

// Bounds of what a look at the leases may conclude.
const (
	// leaseGap is how long nobody may have looked. Looks follow each other by a second.
	leaseGap = 3 * time.Second
	// leaseHold is how long after a gap no lease counts as run out. Gateways renew every 2 s, and connect again within another.
	leaseHold = 15 * time.Second
)

// reaping is what Reap remembers from one look to the next.
type reaping struct {
	looked time.Time // when the leases were last read; zero: never
	hold   time.Time // until when none counts as run out
}

// saw notes a look, and reports whether leases that ran out may be believed. Where this replica could not look for a while, because the store or itself was
// away, gateways could not renew either: they are given the time to.
func (r *reaping) saw(now time.Time) (believe bool) {
	if now.Sub(r.looked) > leaseGap {
		r.hold = now.Add(leaseHold)
	}
	r.looked = now
	return !now.Before(r.hold)
}

// Reap sees to the links of gateways whose lease is over: they count as disconnected. It is for one goroutine.
func (s *Service) Reap(ctx context.Context) error {
	gone, ranOut, err := s.Gateways.ExpiredGateways(ctx)
	if err != nil {
		return err
	}
	var failed []error
	if s.reaping.saw(time.Now()) {
		for _, gateway := range ranOut { // first: a gateway that has lost some of its links must not go on with the others
			over, err := s.Gateways.CondemnGateway(ctx, gateway)
			if failed = append(failed, err); over {
				gone = append(gone, gateway)
			}
		}
	}
	for _, gateway := range gone {
		failed = append(failed, s.reap(ctx, gateway))
	}
	return errors.Join(failed...)
}
