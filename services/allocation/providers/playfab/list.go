package playfab

import (
	"cmp"
	"context"
	"slices"
	"strings"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/providers/internal/hostapi"
)

// place is where the host lists sessions: a build in a region, with their ids there.
type place struct{ build, region string }

func (a place) compare(b place) int {
	return cmp.Or(strings.Compare(a.build, b.build), strings.Compare(a.region, b.region))
}

// List implements provider.Provider: the sessions that this process knows of, since PlayFab shows no mark. A page of it is a page of one place.
func (p *Provider) List(ctx context.Context, req *providerv1.ListRequest) (*providerv1.ListResponse, error) {
	at, skip, err := p.parseToken(req.GetPageToken())
	if err != nil {
		return nil, err
	}
	places, err := p.places(ctx)
	if err != nil {
		return nil, err
	}
	if at == (place{}) {
		if len(places) == 0 {
			return &providerv1.ListResponse{}, nil
		}
		at = places[0]
	}
	got, err := p.client.sessions(ctx, query{BuildID: at.build, Region: at.region, SkipToken: skip})
	if err != nil && provider.ReasonOf(err) != provider.NotFound { // a build that is gone has no sessions
		return nil, err
	}
	resp := &providerv1.ListResponse{Servers: p.ours(req.GetDeployment(), at, got.MultiplayerServerSummaries)}
	next, found := slices.BinarySearchFunc(places, at, place.compare)
	if found {
		next++
	}
	switch {
	case got.SkipToken != "":
		resp.NextPageToken = token(at, got.SkipToken)
	case next < len(places):
		resp.NextPageToken = token(places[next], "")
	}
	return resp, nil
}

func token(at place, skip string) string { return at.build + "/" + at.region + "/" + skip }

// parseToken returns where a page begins; an empty place is the first one.
func (p *Provider) parseToken(token string) (at place, skip string, err error) {
	if token == "" {
		return place{}, "", nil
	}
	build, rest, _ := strings.Cut(token, "/")
	region, skip, ok := strings.Cut(rest, "/")
	if !ok || !guid(build) || hostapi.NameOf(p.cfg.Regions, region) == "" {
		return place{}, "", provider.Failure(provider.Invalid, "page_token: is none of a list of this provider")
	}
	return place{build, region}, skip, nil
}

// places are all builds, also those that the aliases have now, in all regions, in order.
func (p *Provider) places(ctx context.Context) ([]place, error) {
	var all []place
	for _, b := range p.cfg.Builds {
		builds := []string{b.ID}
		if b.Alias != "" {
			var err error
			if builds, err = p.client.aliased(ctx, b.Alias); err != nil && provider.ReasonOf(err) != provider.NotFound {
				return nil, err
			}
		}
		for _, build := range builds {
			for _, region := range p.cfg.Regions {
				all = append(all, place{build, region})
			}
		}
	}
	slices.SortFunc(all, place.compare)
	return slices.Compact(all), nil
}

// ours are the sessions that are known to be the deployment's.
func (p *Provider) ours(deployment string, at place, sessions []session) []*providerv1.Server {
	var out []*providerv1.Server
	for _, s := range sessions {
		id := strings.ToLower(s.SessionID)
		attempt, known := p.known.Attempt(id, deployment)
		state, ok := stateOf(s.State)
		if !known || !ok || state == providerv1.ServerState_SERVER_STATE_EXITED {
			continue
		}
		out = append(out, &providerv1.Server{
			AttemptId: attempt, ExternalId: id, State: state, Region: p.cfg.regionOf(at.region), Endpoints: endpointsOf(s),
		})
	}
	return out
}
