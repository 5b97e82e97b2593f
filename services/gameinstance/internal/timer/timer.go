// Package timer wakes instances when they are due, and sees to gateways whose lease ran out. Every replica may do it at once: what comes of it is decided by
// compare-and-set on the instance.
package timer

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/services/gameinstance/internal/instance"
)

// Store knows who is due.
type Store interface {
	Due(ctx context.Context, limitPerPartition int64) ([]string, error)
}

// Instances is what the timer needs of instances.
type Instances interface {
	Apply(ctx context.Context, namespace, id string, env instance.Envelope, cmd instance.Command) (*instance.Instance, error)
}

// Driver drives outboxes.
type Driver interface{ Kick(instanceID string) }

// Reaper sees to links whose gateway or socket is gone.
type Reaper interface {
	Reap(ctx context.Context) error
	Audit(ctx context.Context) error
}

const (
	sweepEvery = 250 * time.Millisecond
	sweepLimit = 64
	reapEvery  = time.Second
	auditEvery = 30 * time.Second
	// roundDeadline bounds one round of any of them; what is left over is done in the next.
	roundDeadline = 30 * time.Second
)

// Sweeper sweeps periodically.
type Sweeper struct {
	Store     Store
	Instances Instances
	Driver    Driver
	Reaper    Reaper
	Log       *slog.Logger
}

// Run sweeps until ctx is cancelled. Deadlines, leases and the audit have rounds of their own: a gateway that is lost with thousands of links must not keep
// deadlines waiting.
func (s *Sweeper) Run(ctx context.Context) error {
	var rounds sync.WaitGroup
	rounds.Go(func() { s.every(ctx, sweepEvery, "sweep", s.Sweep) })
	rounds.Go(func() { s.every(ctx, reapEvery, "reap", s.Reaper.Reap) })
	rounds.Go(func() { s.every(ctx, auditEvery, "audit", s.Reaper.Audit) })
	rounds.Wait()
	return nil
}

func (s *Sweeper) every(ctx context.Context, interval time.Duration, what string, do func(context.Context) error) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.round(ctx, what, do)
		}
	}
}

func (s *Sweeper) round(ctx context.Context, what string, do func(context.Context) error) {
	bounded, cancel := context.WithTimeout(ctx, roundDeadline)
	defer cancel()
	if err := do(bounded); err != nil && ctx.Err() == nil {
		s.Log.Warn("a round failed; the next one follows", "what", what, "error", err)
	}
}

// Sweep does once what is due.
func (s *Sweeper) Sweep(ctx context.Context) error {
	due, err := s.Store.Due(ctx, sweepLimit)
	if err != nil {
		return err
	}
	var failed []error
	for _, id := range due {
		inst, err := s.Instances.Apply(ctx, "", id, instance.Envelope{Actor: "timer"}, instance.Expire{})
		switch {
		case errs.Is(err, errs.InstanceUnknown), errs.Is(err, errs.InstanceDeleted):
			continue
		case err != nil:
			failed = append(failed, err)
		case len(inst.Outbox) > 0:
			s.Driver.Kick(id)
		}
	}
	return errors.Join(failed...)
}
