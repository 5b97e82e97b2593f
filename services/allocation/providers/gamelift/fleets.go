package gamelift

import (
	"cmp"
	"context"
	"strings"

	"github.com/berth-dev/berth/sdk/go/provider"
)

// target is the fleet that an alias stood for when a server was asked for. The alias may point to another one since.
type target struct {
	alias, fleet string
	region       Region
}

// is reports whether a server of a build in a region was asked for there.
func (t target) is(build Build, region Region) bool {
	return t.fleet != "" && t.alias == build.Alias && t.region == region
}

// aim returns where to ask for a server. What an alias stands for is remembered before the server is asked for, so that it is found if no answer comes; an
// attempt stays there.
func (p *Provider) aim(ctx context.Context, attempt string, build Build, region Region) (target, error) {
	if build.Fleet != "" {
		return target{fleet: build.Fleet, region: region}, nil
	}
	if known, _ := p.memory.Get(attempt); known.target.is(build, region) {
		return known.target, nil
	}
	fleet, err := p.fleet(ctx, build, region.Region)
	if err != nil {
		return target{}, err
	}
	at := target{alias: build.Alias, fleet: fleet, region: region}
	p.memory.Update(attempt, func(r *record) { r.target = at })
	return at, nil
}

// find looks for a session that was made without a queue: where it was asked for, as far as that is known, and on the fleets of all builds.
func (p *Provider) find(ctx context.Context, attempt string, known record) (sighting, error) {
	if known.target.fleet != "" {
		s, err := p.created(ctx, known.target.fleet, known.target.region, attempt)
		if provider.ReasonOf(err) != provider.NotFound {
			return s, err
		}
	}
	for _, build := range p.cfg.Builds {
		if build.Queue != "" {
			continue
		}
		for _, region := range p.cfg.Regions {
			fleets, err := p.direct(ctx, build, region.Region)
			if err != nil {
				return sighting{}, err
			}
			s, err := p.on(ctx, fleets, region, attempt)
			if provider.ReasonOf(err) != provider.NotFound {
				return s, err
			}
		}
	}
	return sighting{}, unknown(attempt)
}

// on asks for the session that one of some fleets has in a region for the attempt.
func (p *Provider) on(ctx context.Context, fleets []string, region Region, attempt string) (sighting, error) {
	for _, fleet := range fleets {
		s, err := p.created(ctx, fleet, region, attempt)
		if provider.ReasonOf(err) != provider.NotFound {
			return s, err
		}
	}
	return sighting{}, unknown(attempt)
}

// created asks for the session that a fleet has in a region for the attempt: its ARN follows from these.
func (p *Provider) created(ctx context.Context, fleet string, region Region, attempt string) (sighting, error) {
	arn := "arn:" + partition(region.Region) + ":gamelift:" + cmp.Or(region.Location, region.Region) + "::gamesession/" + lastPart(fleet) + "/" + attempt
	found, err := p.client.describeSession(ctx, region.Region, arn)
	if err != nil {
		return sighting{}, err
	}
	return p.ofSession(region.Region, attempt, found), nil
}

// direct are the ids of the fleets that a build without a queue has in a Region, or had before.
func (p *Provider) direct(ctx context.Context, build Build, region string) ([]string, error) {
	var ids []string
	fleet, err := p.fleet(ctx, build, region)
	switch {
	case err == nil:
		ids = append(ids, fleet)
	case provider.ReasonOf(err) != provider.NotFound:
		return nil, err
	}
	return append(ids, build.earlier()...), nil
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
