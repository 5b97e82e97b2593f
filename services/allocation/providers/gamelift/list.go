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

// gap is why the game sessions of a Region cannot be listed, or not all.
type gap struct {
	region string
	error
}

// entry is one of a list that is no server, and says what is not in it. Whoever reads the list passes it over, tells people, and deals with the others.
func (g gap) entry() *providerv1.Server {
	return &providerv1.Server{Message: "the game sessions in " + g.region + " cannot be listed: " + words(g.error)}
}

// heardMark begins the token of a page if GameLift has answered for one before.
const heardMark = "+"

// List implements provider.Provider. A page of it is a page of one fleet's sessions. A placement that waits is no server yet, and in no list of GameLift's. A Region
// that cannot be asked, which may be closed to Berth or be none, hides no servers of others: an entry says so. If none can be asked, the list fails.
func (p *Provider) List(ctx context.Context, req *providerv1.ListRequest) (*providerv1.ListResponse, error) {
	fleets, missing := p.fleets(ctx)
	token, heard := strings.CutPrefix(req.GetPageToken(), heardMark)
	at, page, ok := strings.Cut(token, "|")
	if req.GetPageToken() != "" && !ok {
		return nil, provider.Failure(provider.Invalid, "page_token: is none of a list of this provider")
	}
	resp, next := new(providerv1.ListResponse), ""
	var gaps []gap
	if n, there := slices.BinarySearch(fleets, at); n < len(fleets) {
		if !there { // it is no destination any more
			page = ""
		}
		more, err := p.page(ctx, req.GetDeployment(), fleets[n], page, resp)
		if err != nil {
			gaps = append(gaps, gap{homeOf(fleets[n]), err})
		}
		heard = heard || err == nil
		switch {
		case more != "":
			next = fleets[n] + "|" + more
		case n+1 < len(fleets):
			next = fleets[n+1] + "|"
		}
	}
	if next == "" {
		gaps = append(gaps, missing...)
	}
	for _, g := range gaps {
		if next == "" && !heard || ctx.Err() != nil || provider.ReasonOf(g.error) == provider.RateLimited { // it can be listed in a moment
			return nil, g.error
		}
		resp.Servers = append(resp.Servers, g.entry())
	}
	if resp.NextPageToken = next; next != "" && heard {
		resp.NextPageToken = heardMark + next
	}
	return resp, nil
}

// page adds a page of the sessions of a fleet. The first has those that are coming up or ending too, which are few: they are asked for before, so that none is missed
// by becoming active meanwhile, and left out of the pages after it, so that none is there twice. One that has to end is there until it has: it may have to be told again.
func (p *Provider) page(ctx context.Context, deployment, fleet, page string, into *providerv1.ListResponse) (next string, err error) {
	if page == "" {
		early := make(map[string]bool)
		for _, status := range []types.GameSessionStatus{types.GameSessionStatusTerminating, types.GameSessionStatusActivating} {
			for token, more := "", true; more; more = token != "" {
				if token, err = p.add(ctx, deployment, fleet, status, token, early, into); err != nil {
					return "", err
				}
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
		if attempt != "" && !seen[arn] && s.server.GetState() < stateExited {
			into.Servers = append(into.Servers, s.server)
		}
		seen[arn] = true
	}
	return aws.ToString(out.NextToken), nil
}

// fleets are all that servers may be on, each once, as REGION/ID and in order, with what is in the way of knowing them all, once for each Region. One that gives no
// answer is not waited for again.
func (p *Provider) fleets(ctx context.Context) (all []string, gaps []gap) {
	known, away := make(map[string]bool), make(map[string]bool)
	for _, build := range p.cfg.Builds {
		for _, region := range awsRegions(p.cfg) {
			if away[region] {
				continue
			}
			some, missing := p.fleetsOf(ctx, build, region)
			all = append(all, some...)
			for _, g := range missing {
				if !known[g.region] {
					gaps = append(gaps, g)
				}
				known[g.region], away[g.region] = true, away[g.region] || codeOf(g.error) == ""
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all), gaps
}

// homeOf is the Region of a fleet in a list of fleets.
func homeOf(fleet string) string {
	region, _, _ := strings.Cut(fleet, "/")
	return region
}

// fleetsOf are those of a build in a Region, or that its queue there has in any.
func (p *Provider) fleetsOf(ctx context.Context, build Build, region string) (all []string, gaps []gap) {
	if build.Queue == "" {
		fleets, err := p.direct(ctx, build, region)
		for _, fleet := range fleets {
			all = append(all, region+"/"+fleet)
		}
		if err != nil {
			gaps = append(gaps, gap{region, err})
		}
		return all, gaps
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
		return all, []gap{{region, err}}
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
			gaps = append(gaps, gap{parts[3], err})
		}
	}
	return all, gaps
}
