package allocator

import (
	"context"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/services/allocation/internal/placement"
)

// Elsewhere returns an error, which says why, unless a provider other than the allocation's seems to have room for another server for its instance: the policy
// allows it, it is neither drained nor resting, it has not as many servers as it may have, and nobody waits for room there: also nobody whom this one would
// overtake, as its match runs, and would have to wait, too. No provider is asked, so one may still say that it is full.
func (w *Worker) Elsewhere(ctx context.Context, a Allocation) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	now := time.Now()
	next := newAllocation(Wish{Namespace: a.Namespace, InstanceID: a.InstanceID, Placement: a.Placement, Setbacks: a.Setbacks}, now)
	next.Begin(w.cfg.Explain(a.Placement.request(a.ID, a.Namespace)), now)
	var reasons []string
	for _, c := range next.Explanation.Candidates {
		why, err := w.occupied(ctx, a.Provider, &c)
		switch {
		case err != nil:
			return err
		case why != "":
			reasons = append(reasons, c.place()+": "+why)
			continue
		}
		others, err := w.cfg.Lines.Ahead(ctx, next.line(), time.UnixMicro(math.MaxInt64)) // whatever their turns
		if err == nil && others >= w.keeper.window(next.line()) {
			err = errs.New(errs.PlacementImpossible, "%d others wait for room there", others)
		}
		return err
	}
	return errs.New(errs.PlacementImpossible, "no other provider has room: %s", bounded(strings.Join(reasons, "; "), maxMessage))
}

// occupied says why a candidate has no room for an instance that leaves a provider; empty: it seems to have.
func (w *Worker) occupied(ctx context.Context, left string, c *Candidate) (string, error) {
	if c.Exclusion != placement.None {
		return c.Message, nil
	}
	if c.Provider == left {
		return "the instance is there", nil
	}
	for _, h := range w.Health() {
		if h.Provider == c.Provider && h.Region == c.Region && h.Resting {
			return "it rests: " + h.Message, nil
		}
	}
	p, ok := w.provider(c.Provider)
	if !ok {
		return "it is not configured any more", nil
	}
	if p.Info.MaxServers == 0 {
		return "", nil
	}
	n, err := w.cfg.Slots.Count(ctx, c.Provider)
	if err == nil && n >= p.Info.MaxServers {
		return fmt.Sprintf("it has as many servers as it may have, %d", p.Info.MaxServers), nil
	}
	return "", err
}
