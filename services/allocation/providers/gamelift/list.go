package gamelift

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/gamelift/types"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
)

// List implements provider.Provider. A page of it is a page of one fleet's sessions. A placement that waits is no server yet, and in no list of GameLift's.
func (p *Provider) List(ctx context.Context, req *providerv1.ListRequest) (*providerv1.ListResponse, error) {
	fleets, err := p.fleets(ctx)
	if err != nil {
		return nil, err
	}
	at, page, ok := strings.Cut(req.GetPageToken(), "|")
	n, there := slices.BinarySearch(fleets, at)
	switch {
	case req.GetPageToken() != "" && !ok:
		return nil, provider.Failure(provider.Invalid, "page_token: is none of a list of this provider")
	case n == len(fleets):
		return new(providerv1.ListResponse), nil
	case !there: // it is no destination any more
		page = ""
	}
	resp := new(providerv1.ListResponse)
	next, err := p.page(ctx, req.GetDeployment(), fleets[n], page, resp)
	switch {
	case err != nil:
		return nil, err
	case next != "":
		resp.NextPageToken = fleets[n] + "|" + next
	case n+1 < len(fleets):
		resp.NextPageToken = fleets[n+1] + "|"
	}
	return resp, nil
}

// page adds a page of the sessions of a fleet. The first has those that are coming up too, which are few: they are asked for before, so that none is missed by
// becoming active meanwhile, and left out of the pages after it, so that none is there twice.
func (p *Provider) page(ctx context.Context, deployment, fleet, page string, into *providerv1.ListResponse) (next string, err error) {
	if page == "" {
		early := make(map[string]bool)
		for token, more := "", true; more; more = token != "" {
			if token, err = p.add(ctx, deployment, fleet, types.GameSessionStatusActivating, token, early, into); err != nil {
				return "", err
			}
		}
		p.early.Store(fleet, early)
	}
	early := make(map[string]bool)
	if known, ok := p.early.Load(fleet); ok {
		early = maps.Clone(known.(map[string]bool))
	}
	return p.add(ctx, deployment, fleet, types.GameSessionStatusActive, page, early, into)
}

// add adds a page of sessions with a status, without those that were seen, and notes that they are.
func (p *Provider) add(
	ctx context.Context, deployment, fleet string, status types.GameSessionStatus, page string, seen map[string]bool, into *providerv1.ListResponse,
) (next string, err error) {
	region, id, _ := strings.Cut(fleet, "/")
	out, err := p.client.listSessions(ctx, region, id, status, page)
	if provider.ReasonOf(err) == provider.NotFound { // the fleet is not in this Region, or not any more
		return "", nil
	}
	if err != nil {
		return "", err
	}
	for _, found := range out.GameSessions {
		arn, attempt := aws.ToString(found.GameSessionId), marked(deployment, found)
		s := p.ofSession(region, attempt, &found)
		if attempt != "" && !seen[arn] && s.server.GetState() < stateStopping {
			into.Servers = append(into.Servers, s.server)
		}
		seen[arn] = true
	}
	return aws.ToString(out.NextToken), nil
}

// fleets are all that servers may be on, each once, as REGION/ID and in order.
func (p *Provider) fleets(ctx context.Context) ([]string, error) {
	var all []string
	for _, build := range p.cfg.Builds {
		for _, region := range awsRegions(p.cfg) {
			some, err := p.fleetsOf(ctx, build, region)
			if err != nil {
				return nil, err
			}
			all = append(all, some...)
		}
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

func (p *Provider) fleetsOf(ctx context.Context, build Build, region string) ([]string, error) {
	var all []string
	if build.Queue == "" {
		fleets, err := p.direct(ctx, build, region)
		for _, fleet := range fleets {
			all = append(all, region+"/"+fleet)
		}
		return all, err
	}
	for _, fleet := range build.AlsoFleets {
		home := region
		if parts := strings.SplitN(fleet, ":", 6); len(parts) == 6 {
			home = parts[3]
		}
		all = append(all, home+"/"+lastPart(fleet))
	}
	arns, err := p.client.destinations(ctx, region, build.Queue)
	if err != nil && provider.ReasonOf(err) != provider.NotFound { // it is not in this Region, or not any more
		return nil, err
	}
	for _, arn := range arns {
		parts := strings.SplitN(arn, ":", 6)
		if len(parts) != 6 {
			continue
		}
		to := Build{Fleet: arn}
		if strings.HasPrefix(parts[5], "alias/") {
			to = Build{Alias: arn}
		}
		fleet, err := p.fleet(ctx, to, parts[3])
		switch {
		case err == nil:
			all = append(all, parts[3]+"/"+fleet)
		case provider.ReasonOf(err) != provider.NotFound:
			return nil, err
		}
	}
	return all, nil
}
