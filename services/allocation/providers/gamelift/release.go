package gamelift

import (
	"cmp"
	"context"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/gamelift/types"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
)

// Release implements provider.Provider. A placement that waits is stopped; a server is told to end, and after a grace ended by force.
func (p *Provider) Release(ctx context.Context, req *providerv1.ReleaseRequest) (*providerv1.ReleaseResponse, error) {
	unlock, err := p.book.End(ctx, req.GetAttemptId())
	if err != nil {
		return nil, err
	}
	defer unlock()
	known, ok := p.memory.Get(req.GetAttemptId())
	if ok && known.state() >= stateStopping && p.fresh(known) {
		return &providerv1.ReleaseResponse{State: known.state()}, nil
	}
	s, direct, err := p.end(ctx, req.GetAttemptId(), req.GetExternalId(), known)
	if provider.ReasonOf(err) == provider.NotFound {
		return &providerv1.ReleaseResponse{State: stateExited}, nil
	}
	if err != nil {
		return nil, err
	}
	if s.server.GetState() < stateStopping { // it comes up yet, and is told to end by a later call
		return &providerv1.ReleaseResponse{State: stateStopping}, nil
	}
	return &providerv1.ReleaseResponse{State: p.memory.put(req.GetAttemptId(), s, direct).GetState()}, nil
}

// end ends an attempt's server, wherever it is, and returns what there is of it then.
func (p *Provider) end(ctx context.Context, attempt, external string, known record) (s sighting, direct bool, err error) {
	if arn := cmp.Or(known.session, sessionARN(external)); arn != "" {
		s, err = p.endSession(ctx, attempt, arn, known)
		return s, known.session == "" || known.direct, err
	}
	var places []ask
	for _, region := range p.placementRegions(external, known) {
		places = append(places, func() (sighting, error) { return p.stop(ctx, region, attempt, known) })
	}
	if mayBeDirect(external, known) {
		places = append(places, func() (sighting, error) {
			direct = true
			found, err := p.find(ctx, attempt, known)
			if err != nil {
				return sighting{}, err
			}
			return p.endSession(ctx, attempt, found.session, record{sighting: found, direct: true})
		})
	}
	s, err = first(ctx, attempt, places...)
	return s, direct, err
}

// stop stops a placement, or ends its session if it has one already.
func (p *Provider) stop(ctx context.Context, region, attempt string, known record) (sighting, error) {
	stopped, err := p.client.stopPlacement(ctx, region, attempt)
	if err == nil {
		return ofPlacement(region, stopped), nil
	}
	if provider.ReasonOf(err) != provider.Invalid {
		return sighting{}, err
	}
	found, err := p.client.describePlacement(ctx, region, attempt) // it is not pending any more
	if err != nil {
		return sighting{}, err
	}
	s := ofPlacement(region, found)
	if s.session == "" {
		return s, nil
	}
	p.memory.put(attempt, s, false)
	known.region, known.session = region, s.session
	return p.endSession(ctx, attempt, s.session, known)
}

// endSession tells a server to end; once it was, it looks whether it did, and after the grace ends it by force.
func (p *Provider) endSession(ctx context.Context, attempt, arn string, known record) (sighting, error) {
	now, err := p.session(ctx, attempt, arn, known.sighting)
	if err != nil || now.server.GetState() == stateExited {
		return now, err
	}
	mode := types.TerminationModeTriggerOnProcessTerminate
	switch {
	case known.told.IsZero():
	case known.noForce || time.Since(known.told) < p.cfg.StopGrace:
		now.server.State = stateStopping
		return now, nil
	default:
		mode = types.TerminationModeForceTerminate
	}
	ended, err := p.client.terminateSession(ctx, now.region, arn, mode)
	switch {
	case err == nil:
		now = p.ofSession(now.region, attempt, ended)
	case codeOf(err) == codeSessionStatus && now.server.GetState() == stateStarting: // not yet
		return now, nil
	case codeOf(err) == codeSessionStatus: // it ended meanwhile, which the next look shows
	case provider.ReasonOf(err) == provider.Invalid && mode == types.TerminationModeForceTerminate:
		p.memory.Change(attempt, func(r *record) { r.noForce = true })
	default:
		return sighting{}, err
	}
	now.server.State = max(now.server.GetState(), stateStopping)
	p.memory.put(attempt, now, known.direct)
	p.memory.Change(attempt, func(r *record) {
		if r.told.IsZero() {
			r.told = time.Now()
		}
	})
	return now, nil
}
