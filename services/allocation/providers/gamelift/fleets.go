package gamelift

import (
	"context"
	"strings"

	"github.com/berth-dev/berth/sdk/go/provider"
)

// target is where a server was asked for: a queue, or a fleet, which may be the one that an alias stood for then. The alias may point to another one since.
type target struct {
	queue, alias, fleet string
	region              Region
}

// is reports whether a server of a build in a region was asked for there.
func (t target) is(build Build, region Region) bool {
	return t.region == region && t.queue == build.Queue && t.alias == build.Alias && (build.Fleet == "" || t.fleet == lastPart(build.Fleet))
}

// aim returns where to ask for a server. That is remembered before the server is asked for, so that it is found if no answer comes, and need not be looked for
// elsewhere. An attempt stays on the fleet that its alias stood for.
func (p *Provider) aim(ctx context.Context, attempt string, build Build, region Region) (target, error) {
	if known, _ := p.memory.Get(attempt); known.target.is(build, region) {
		return known.target, nil
	}
	at := target{queue: build.Queue, alias: build.Alias, region: region}
	if build.Queue == "" {
		var err error
		if at.fleet, err = p.fleet(ctx, build, region.Region); err != nil {
			return target{}, named(err)
		}
	}
	p.memory.Update(attempt, func(r *record) {
		r.spread = r.spread || r.target != target{}
		r.target = at
	})
	return at, nil
}

// missed forgets where a server was asked for if it is certainly not there for all that this process knows: it may be asked for elsewhere.
func (p *Provider) missed(attempt string, at, before target, err error) {
	if err != nil && provider.ReasonOf(err) != provider.Ambiguous && at != before {
		p.memory.Change(attempt, func(r *record) { r.target = target{} })
	}
}

// find looks for a session that was made without a queue: where it was asked for, and unless it was so there only, on the fleets of all builds.
func (p *Provider) find(ctx context.Context, attempt string, known record) (sighting, error) {
	var asks []ask
	if at := known.target; at.fleet != "" {
		asks = append(asks, func() (sighting, error) { return p.created(ctx, at.fleet, at.region, attempt) })
	}
	if known.only() != (target{}) {
		return first(ctx, attempt, asks...)
	}
	for _, build := range p.cfg.Builds {
		if build.Queue != "" {
			continue
		}
		for _, region := range p.cfg.Regions {
			asks = append(asks, func() (sighting, error) {
				fleets, missing := p.direct(ctx, build, region.Region)
				s, err := p.on(ctx, fleets, region, attempt)
				if provider.ReasonOf(err) == provider.NotFound && missing != nil {
					return sighting{}, missing
				}
				return s, err
			})
		}
	}
	return first(ctx, attempt, asks...)
}

// on asks for the session that one of some fleets has in a region for the attempt.
func (p *Provider) on(ctx context.Context, fleets []string, region Region, attempt string) (sighting, error) {
	var asks []ask
	for _, fleet := range fleets {
		asks = append(asks, func() (sighting, error) { return p.created(ctx, fleet, region, attempt) })
	}
	return first(ctx, attempt, asks...)
}

// created asks for the session that a fleet has in a region for the attempt: its ARN follows from these. A form of ARN that GameLift refuses is the name of none.
func (p *Provider) created(ctx context.Context, fleet string, region Region, attempt string) (sighting, error) {
	for _, arn := range sessionARNs(lastPart(fleet), region, attempt) {
		found, err := p.client.describeSession(ctx, region.Region, arn)
		switch {
		case err == nil:
			return p.ofSession(region.Region, attempt, found), nil
		case provider.ReasonOf(err) == provider.NotFound, codeOf(err) == codeInvalidRequest:
		default:
			return sighting{}, err
		}
	}
	return sighting{}, unknown(attempt)
}

// sessionARNs are the ARNs that a session may have. AWS writes the home Region, and a location that is another one after the fleet. Older pages of its documentation
// have the location in place of the Region.
func sessionARNs(fleet string, at Region, token string) []string {
	arn := func(region, path string) string {
		return "arn:" + partition(at.Region) + ":gamelift:" + region + "::gamesession/" + path
	}
	if at.Location == "" || at.Location == at.Region {
		return []string{arn(at.Region, fleet+"/"+token)}
	}
	return []string{arn(at.Region, fleet+"/"+at.Location+"/"+token), arn(at.Location, fleet+"/"+token)}
}

// homeIn is the Region that a session's ARN names, if it does. It is certain that its fleet is at home there where the location stands by itself.
func homeIn(arn string) (region string, certain bool) {
	parts := strings.SplitN(arn, ":", 6)
	if len(parts) != 6 || !regionName.MatchString(parts[3]) {
		return "", false
	}
	return parts[3], strings.Count(parts[5], "/") == 3
}

// direct are the ids of the fleets that a build without a queue has in a Region, or had before; with an error, only those.
func (p *Provider) direct(ctx context.Context, build Build, region string) ([]string, error) {
	fleet, err := p.fleet(ctx, build, region)
	switch {
	case err == nil:
		return append([]string{fleet}, build.earlier()...), nil
	case provider.ReasonOf(err) == provider.NotFound:
		return build.earlier(), nil
	default:
		return build.earlier(), err
	}
}

// earlier are the ids of the fleets that a build had before.
func (b Build) earlier() []string {
	var ids []string
	for _, fleet := range b.AlsoFleets {
		ids = append(ids, lastPart(fleet))
	}
	return ids
}

// fleet is the id of the fleet of a build without a queue. NOT_FOUND: there is none in that Region.
func (p *Provider) fleet(ctx context.Context, build Build, region string) (string, error) {
	if build.Fleet != "" {
		return lastPart(build.Fleet), nil
	}
	fleet, err := p.client.resolve(ctx, region, build.Alias)
	if codeOf(err) == codeTerminalAlias {
		return "", provider.Failure(provider.NotFound, "%s", words(err))
	}
	return fleet, err
}

// lastPart is the id in an ARN, or the id.
func lastPart(arn string) string { return arn[strings.LastIndex(arn, "/")+1:] }
