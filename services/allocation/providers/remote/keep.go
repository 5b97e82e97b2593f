package remote

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
)

// errRefused says that a plugin answers, and must not be called.
var errRefused = errors.New("cannot be used")

// keep asks the plugin what it is, and again whenever it was away, until ctx ends. looked is called after each look.
func (p *Provider) keep(ctx context.Context, looked func()) {
	defer close(p.ended)
	for pause := minPause; ctx.Err() == nil; {
		select {
		case <-p.lost: // of a connection before this look
		default:
		}
		d, err := p.look(ctx)
		if ctx.Err() != nil {
			return
		}
		p.note(ctx, d, err)
		looked()
		if err == nil {
			pause = minPause
			p.attend(ctx)
			continue
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause/2 + rand.N(pause)):
		}
		pause = min(2*pause, maxPause)
	}
}

// look asks for the plugin's health and for what it is.
func (p *Provider) look(ctx context.Context) (*providerv1.DescribeResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	if err := p.health(ctx); err != nil {
		return nil, err
	}
	d, err := p.plugin.Describe(ctx, &providerv1.DescribeRequest{ContractMin: provider.Contract, ContractMax: provider.Contract})
	switch {
	case provider.ReasonOf(err) == provider.Invalid, status.Code(err) == codes.Unimplemented:
		return nil, fmt.Errorf("the plugin %w: it refuses version %d of %s: %s", errRefused, provider.Contract, providerv1.ProviderService_ServiceDesc.ServiceName, words(status.Convert(err).Message()))
	case err != nil:
		return nil, away(err)
	}
	if err = checkDescription(d); err != nil {
		return nil, fmt.Errorf("the plugin %w: %w", errRefused, err)
	}
	return d, nil
}

// health returns an error unless the plugin is well. One that does not speak grpc.health.v1 is well while it answers.
func (p *Provider) health(ctx context.Context) error {
	resp, err := healthv1.NewHealthClient(p.conn).Check(ctx, new(healthv1.HealthCheckRequest))
	switch code := status.Code(err); {
	case code == codes.Unimplemented || code == codes.NotFound:
		return nil
	case err != nil:
		return away(err)
	case resp.GetStatus() != healthv1.HealthCheckResponse_SERVING:
		return fmt.Errorf("the plugin says that it is not well: %s", resp.GetStatus())
	}
	return nil
}

func away(err error) error {
	st := status.Convert(err)
	if st.Code() == codes.DeadlineExceeded {
		return errors.New("the plugin does not answer: " + words(st.Message()))
	}
	return errors.New("the plugin is away: " + words(st.Message()))
}

// attend returns once the plugin was away or is not well.
func (p *Provider) attend(ctx context.Context) {
	tick := time.NewTicker(healthEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.lost:
			return
		case <-tick.C:
			ctx, cancel := context.WithTimeout(ctx, lookTimeout)
			err := p.health(ctx)
			cancel()
			if err != nil {
				return
			}
		}
	}
}

// note keeps how a look ended, and logs what is new. A plugin that is away is described as before; one that must not be called is not.
func (p *Provider) note(ctx context.Context, d *providerv1.DescribeResponse, err error) {
	p.mu.Lock()
	before := p.problem
	switch {
	case err == nil:
		p.described, p.problem = d, ""
	case errors.Is(err, errRefused):
		p.described, p.problem = nil, err.Error()
	default:
		p.problem = err.Error()
	}
	now := p.problem
	p.mu.Unlock()
	switch {
	case err == nil:
		p.log.InfoContext(ctx, "plugin is there", "kind", d.GetKind(), "version", d.GetVersion(), "builds", d.GetBuilds(), "regions", d.GetRegions())
	case now != before:
		p.log.ErrorContext(ctx, "plugin is not there", "error", err)
	}
}
