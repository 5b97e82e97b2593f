package timer

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/services/gameinstance/internal/instance"
)

const (
	// expireAtOnce is how many instances a replica deals with at the same time.
	expireAtOnce = 16
	// expireDeadline bounds what is done for one instance.
	expireDeadline = 10 * time.Second
)

// due is an instance that wants attention, with what the look that found it knew.
type due struct {
	id       string
	at, hold time.Time
	massLoss bool
}

// Mark keeps that the partitions were looked at, and expires nothing. Before the first instance of a keyspace is made, this tells an untouched partition
// from one that was left alone.
func (s *Sweeper) Mark(ctx context.Context) error {
	_, err := s.look(ctx, s.all(), 0)
	return err
}

// Sweep does once what is due, and waits until it is done.
func (s *Sweeper) Sweep(ctx context.Context) error {
	found, err := s.look(ctx, s.all(), sweepLimit)
	return errors.Join(err, s.expire(ctx, found))
}

// begin looks at partitions, and leaves what is due to the background: the next look must not wait for it, or it would take the wait for a gap.
func (s *Sweeper) begin(ctx, bounded context.Context, partitions []int) error {
	found, err := s.look(bounded, partitions, sweepLimit)
	if len(found) > 0 {
		s.expiring.Go(func() {
			if err := s.expire(ctx, found); err != nil && ctx.Err() == nil {
				s.Log.Warn("instances that are due could not be dealt with; the next sweep tries again", "error", err)
			}
		})
	}
	return err
}

// look returns what is due and not being dealt with already.
func (s *Sweeper) look(ctx context.Context, partitions []int, limit int) ([]due, error) {
	if len(partitions) == 0 {
		return nil, nil
	}
	swept, err := s.Store.Sweep(ctx, Look{Partitions: partitions, Gap: s.Gap, Hold: s.Hold, Limit: limit})
	if err == nil && len(partitions) == s.Store.Partitions() {
		s.noteHolds(swept)
	}
	any := false
	for _, p := range swept {
		any = any || len(p.Due) > 0
	}
	if !any {
		return nil, err
	}
	standing, countErr := s.losses.stand(ctx)
	if countErr != nil { // nobody is given up without knowing how the others fare
		return nil, errors.Join(err, countErr)
	}
	return s.claim(swept, standing), err
}

// claim makes what is due this sweep's, unless an earlier one is at it. How much can be claimed is bounded: a look reads so many of each partition, and
// while those are not dealt with it reads the same ones again.
func (s *Sweeper) claim(swept []Swept, massLoss bool) []due {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []due
	for _, p := range swept {
		for _, id := range p.Due {
			if !s.busy[id] {
				s.busy[id] = true
				found = append(found, due{id: id, at: p.Now, hold: p.Hold, massLoss: massLoss})
			}
		}
	}
	return found
}

func (s *Sweeper) release(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.busy, id)
}

// expire deals with what was claimed, a bounded number at a time over all sweeps. When ctx ends, the rest is left to the next sweep.
func (s *Sweeper) expire(ctx context.Context, found []due) error {
	var all sync.WaitGroup
	failed := make([]error, len(found))
	for n, d := range found {
		select {
		case s.slots <- struct{}{}:
		case <-ctx.Done():
			s.release(d.id)
			failed[n] = ctx.Err()
			continue
		}
		all.Go(func() {
			defer func() { s.release(d.id); <-s.slots }()
			failed[n] = s.one(ctx, d)
		})
	}
	all.Wait()
	return errors.Join(failed...)
}

func (s *Sweeper) one(ctx context.Context, d due) error {
	ctx, cancel := context.WithTimeout(ctx, expireDeadline)
	defer cancel()
	held, why := 0, "gap"
	cmd := instance.Expire{At: d.at, Hold: d.hold, Held: &held}
	if d.massLoss {
		cmd.LossLimit = s.MassLoss.Limit
	}
	inst, err := s.Instances.Apply(ctx, "", d.id, instance.Envelope{Actor: "timer"}, cmd)
	switch {
	case errs.Is(err, errs.InstanceUnknown), errs.Is(err, errs.InstanceDeleted):
		return nil
	case err != nil:
		return err
	case len(inst.Outbox) > 0:
		s.Driver.Kick(d.id)
	}
	if d.hold.IsZero() {
		why = "mass_loss"
	}
	if held > 0 {
		s.Metrics.Held.WithLabelValues(why).Add(float64(held))
	}
	return nil
}

// noteHolds says when holds begin and when they are over.
func (s *Sweeper) noteHolds(swept []Swept) {
	held, until := 0, time.Time{}
	for _, p := range swept {
		if !p.Hold.IsZero() {
			held++
		}
		if p.Hold.After(until) {
			until = p.Hold
		}
	}
	s.mu.Lock()
	before := s.held
	s.held = held
	s.mu.Unlock()
	s.Metrics.PartitionsHeld.Set(float64(held))
	switch {
	case before == 0 && held > 0:
		s.Log.Warn("no sweep ran for a while; no server is given up until the hold is over", "partitions", held, "until", until)
	case before > 0 && held == 0:
		s.Log.Info("the hold is over; servers that did not come back are given up")
	}
}
