package edgegap

import (
	"context"
	"time"

	"github.com/berth-dev/berth/sdk/go/provider"
)

// adopt takes a deployment in the list for its attempt's, of which nothing else is known, unless it has ended: that may be one that a refusal left behind, of which
// another process knows.
func (p *Provider) adopt(ctx context.Context, t target, id string) (bool, error) {
	d, err := p.client.status(ctx, id)
	switch {
	case provider.ReasonOf(err) == provider.NotFound:
		return false, nil
	case provider.ReasonOf(err) == provider.RateLimited, err != nil && ctx.Err() != nil:
		return false, err
	case err != nil: // one whose status cannot be had hides no others
		return true, nil //nolint:nilerr // it is in the list, whatever it does
	case over(p.server(t.attempt, d)):
		p.bury(ctx, d)
		return false, nil
	}
	p.memory.has(t.key(), id)
	return true, nil
}

// discard tells the deployments to stop that refusals left behind, in a time that leaves enough of the call's: whoever calls wants something else. What is not told now
// is told another time.
func (p *Provider) discard(ctx context.Context, t target) {
	k, _ := p.memory.Get(t.key())
	if len(k.unstopped) == 0 {
		return
	}
	ctx, cancel := aside(ctx, p.limits.aside)
	defer cancel()
	for _, id := range k.unstopped {
		if _, err := p.end(ctx, id); err == nil {
			p.memory.stopped(t.key(), id)
		}
	}
}

// bury stops a deployment in error, which counts until it is, when it has been seen to be for a while: it was left behind by a refusal of which another process knew, or
// nobody is left who asked for it. Before that, whoever did has to see why it is.
func (p *Provider) bury(ctx context.Context, d deployment) {
	if !failed(d) {
		return
	}
	since := time.Now()
	p.broken.Update(d.RequestID, func(at *time.Time) {
		if at.IsZero() {
			*at = since
		}
		since = *at
	})
	if time.Since(since) < p.limits.bury {
		return
	}
	ctx, cancel := aside(ctx, p.limits.aside)
	defer cancel()
	_ = p.client.stopDeployment(ctx, d.RequestID) // or the next time
}

// aside returns a context that ends soon, and well before the other one.
func aside(ctx context.Context, soon time.Duration) (context.Context, context.CancelFunc) {
	if at, ok := ctx.Deadline(); ok {
		soon = min(soon, time.Until(at)/2)
	}
	return context.WithTimeout(ctx, soon)
}
