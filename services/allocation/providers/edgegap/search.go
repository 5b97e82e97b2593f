package edgegap

import (
	"context"
	"slices"
	"time"

	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/berth-dev/berth/pkg/ids"
	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
)

// firstWait is the time between the first two looks for a deployment that a list may not have yet. It doubles from look to look.
const firstWait = 250 * time.Millisecond

// target is an attempt whose deployment is meant.
type target struct{ deployment, attempt string }

func (t target) key() string { return t.deployment + "/" + t.attempt }

// tags are the marks of the attempt's deployment.
func (t target) tags() []string { return []string{mark(t.deployment), t.attempt} }

// attemptOf returns the attempt of a deployment that has the mark; "" if it has not.
func attemptOf(tags []string, mark string) string {
	if !slices.Contains(tags, mark) {
		return ""
	}
	if i := slices.IndexFunc(tags, func(tag string) bool { return ids.AttemptInstance(tag) != "" }); i >= 0 {
		return tags[i]
	}
	return ""
}

// marked returns the ids of the attempt's deployments that the list has, the oldest first, without those that are known to be left behind by refusals.
func (p *Provider) marked(ctx context.Context, t target) (found []string, err error) {
	for at := firstPage; at.page > 0; {
		var page []listed
		if page, at, err = p.client.tagged(ctx, t.attempt, at); err != nil {
			return nil, err
		}
		for _, one := range page {
			if attemptOf(one.Tags, mark(t.deployment)) == t.attempt && !slices.Contains(found, one.RequestID) { // or it would be taken for a second one
				found = append(found, one.RequestID)
			}
		}
	}
	k, _ := p.memory.Get(t.key()) // after the list: an order that was refused meanwhile is known by now
	return slices.DeleteFunc(found, func(id string) bool { return slices.Contains(k.spent, id) }), nil
}

// survey looks for the attempt's deployments. Of several it keeps the oldest that has not ended, in whichever process it runs, and stops the others. nil: the list
// has none.
func (p *Provider) survey(ctx context.Context, t target) (kept *providerv1.Server, err error) {
	found, err := p.marked(ctx, t)
	if err != nil {
		return nil, err
	}
	p.discard(ctx, t)
	var ended *providerv1.Server
	for _, id := range found {
		d, err := p.client.status(ctx, id)
		if provider.ReasonOf(err) == provider.NotFound {
			continue
		}
		if err != nil {
			return nil, err
		}
		switch s := p.server(t.attempt, d); {
		case over(s):
			p.bury(ctx, d)
			ended = s
		case kept == nil:
			kept = s
		default:
			if err := p.client.stopDeployment(ctx, id); err != nil && provider.ReasonOf(err) != provider.NotFound {
				return nil, err
			}
		}
	}
	if kept == nil {
		return ended, nil
	}
	p.memory.has(t.key(), kept.GetExternalId())
	return kept, nil
}

func over(s *providerv1.Server) bool { return s.GetState() == exited || s.GetState() == stopping }

// meet is told of an attempt. If this process knows nothing of it, another one may have asked for a deployment just now.
func (p *Provider) meet(t target) {
	if _, ok := p.memory.Get(t.key()); !ok {
		p.memory.doubts(t.key(), time.Now().Add(p.limits.settle))
	}
}

// find looks for the attempt's deployment until the list can be believed that there is none. nil: so it is. One that has ended is an answer only then: it may be
// what a refusal left behind, of which another process knows, and the newest may come into the list yet.
func (p *Provider) find(ctx context.Context, t target) (*providerv1.Server, error) {
	if !p.book.Released(t.attempt) {
		p.meet(t)
	}
	var ended *providerv1.Server // which the list may have no more in the end
	for wait := firstWait; ; wait *= 2 {
		s, err := p.survey(ctx, t)
		if err != nil || s != nil && !over(s) {
			return s, err
		}
		if s != nil {
			ended = s
		}
		k, _ := p.memory.Get(t.key())
		left := time.Until(k.until)
		if left <= 0 || p.book.Released(t.attempt) {
			return ended, nil
		}
		timer := time.NewTimer(min(wait, left))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, provider.Failure(provider.Unavailable, "attempt %s: a deployment may yet come into the list of %s", t.attempt, host)
		}
	}
}

// look asks for the status of the attempt's deployment. nil: the host does not know it.
func (p *Provider) look(ctx context.Context, t target, id string) (*providerv1.Server, error) {
	d, err := p.client.status(ctx, id)
	if provider.ReasonOf(err) == provider.NotFound {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	s := p.server(t.attempt, d)
	if over(s) { // it may be the younger of two, which was stopped
		other, err := p.survey(ctx, t)
		if err != nil {
			return nil, err
		}
		if other != nil && !over(other) {
			return other, nil
		}
		return s, nil
	}
	p.memory.has(t.key(), id)
	if s.GetState() == running {
		return p.ran(ctx, t, s), nil
	}
	return s, nil
}

// ran is told of a deployment that runs. Once it makes sure that there is no other one of the attempt, before anybody plays there.
func (p *Provider) ran(ctx context.Context, t target, s *providerv1.Server) *providerv1.Server {
	if k, _ := p.memory.Get(t.key()); !k.alone {
		kept, err := p.survey(ctx, t)
		switch {
		case err != nil || kept == nil: // the list cannot be had, or does not have it yet: the next time
			return s
		case kept.GetExternalId() != s.GetExternalId():
			return kept
		}
		p.memory.Update(t.key(), func(k *knowledge) { k.alone = true })
	}
	if len(s.GetEndpoints()) > 0 {
		p.memory.Update(t.key(), func(k *knowledge) { k.last, k.at = proto.CloneOf(s), time.Now() })
	}
	return s
}

// ambiguous is what a call fails with that could not learn whether an earlier one for the attempt started something.
func ambiguous(t target, err error) error {
	failure := provider.Failure(provider.Ambiguous, "attempt %s: whether an earlier call started a deployment is not known: %s", t.attempt, status.Convert(err).Message())
	if after := provider.RetryAfterOf(err); after > 0 {
		failure = provider.RetryAfter(failure, after)
	}
	return failure
}
