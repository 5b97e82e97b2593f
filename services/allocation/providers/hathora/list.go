package hathora

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/providers/internal/attempts"
	"github.com/berth-dev/berth/services/allocation/providers/internal/hostapi"
)

// List implements provider.Provider. A page of it is a page of one application's processes, with all their rooms.
func (p *Provider) List(ctx context.Context, req *providerv1.ListRequest) (*providerv1.ListResponse, error) {
	apps := p.apps("")
	at, err := parsePlace(req.GetPageToken(), len(apps))
	if err != nil {
		return nil, err
	}
	app := apps[at.app]
	page, err := p.client.processes(ctx, app, at.before)
	if provider.ReasonOf(err) == provider.NotFound { // the application is gone, and its processes with it
		page, err = nil, nil
	}
	if err != nil {
		return nil, err
	}
	resp := new(providerv1.ListResponse)
	fresh := at.fresh(page)
	for _, one := range fresh {
		rooms, err := p.client.rooms(ctx, app, one.ProcessID)
		if err != nil && provider.ReasonOf(err) != provider.NotFound {
			return nil, err
		}
		resp.Servers = append(resp.Servers, p.marked(req.GetDeployment(), app, one, rooms)...)
	}
	if next := at.after(page, len(fresh)); next.app < len(apps) {
		resp.NextPageToken = next.String()
	}
	return resp, nil
}

// place is where a page of a list begins.
type place struct {
	// app is the application's number.
	app int
	// before says how new the newest process of the page may be, in milliseconds since 1970; 0: it may be any.
	before int64
	// seen are the processes of the last millisecond before that which earlier pages had: the API knows no place between two of the same one.
	seen []string
}

// fresh are the processes of a page that no earlier page had.
func (at place) fresh(page []process) []process {
	return slices.DeleteFunc(slices.Clone(page), func(one process) bool {
		return at.before > 0 && one.CreatedAt.UnixMilli() >= at.before || slices.Contains(at.seen, one.ProcessID)
	})
}

// after is the place after a page, which had that many fresh processes. It is never the same: a list comes to an end whatever the host answers.
func (at place) after(page []process, fresh int) place {
	if len(page) == 0 {
		return place{app: at.app + 1}
	}
	oldest := slices.MinFunc(page, func(a, b process) int { return a.CreatedAt.Compare(b.CreatedAt) }).CreatedAt.UnixMilli()
	switch {
	case at.before > 0 && oldest >= at.before: // before does not mean to the host what it means here
		return place{app: at.app + 1}
	case fresh == 0: // that millisecond is done
		return place{app: at.app, before: oldest}
	}
	next := place{app: at.app, before: oldest + 1}
	if next.before == at.before {
		next.seen = at.seen
	}
	for _, one := range at.fresh(page) {
		if one.CreatedAt.UnixMilli() == oldest {
			next.seen = append(next.seen, one.ProcessID)
		}
	}
	return next
}

// String is the place as the token of a page.
func (at place) String() string {
	return fmt.Sprintf("%d/%d/%s", at.app, at.before, strings.Join(at.seen, ","))
}

func parsePlace(token string, apps int) (at place, err error) {
	if token == "" {
		return place{}, nil
	}
	parts := strings.SplitN(token, "/", 3)
	if len(parts) == 3 {
		at.app, err = strconv.Atoi(parts[0])
	}
	if err == nil && len(parts) == 3 {
		at.before, err = strconv.ParseInt(parts[1], 10, 64)
	}
	if err != nil || len(parts) != 3 || at.app < 0 || at.app >= apps {
		return place{}, provider.Failure(provider.Invalid, "page_token: is none of a list of this provider")
	}
	if parts[2] != "" {
		at.seen = strings.Split(parts[2], ",")
	}
	return at, nil
}

// marked are the rooms that carry the deployment's mark.
func (p *Provider) marked(deployment, app string, on process, rooms []room) []*providerv1.Server {
	var out []*providerv1.Server
	for _, r := range rooms {
		attempt, ours := attempts.Unmarked(mark(deployment), r.RoomID)
		state, ok := stateOf(r.Status)
		if !ours || !ok || state == providerv1.ServerState_SERVER_STATE_EXITED {
			continue
		}
		out = append(out, &providerv1.Server{AttemptId: attempt, ExternalId: externalID(app, r.RoomID), State: state, Region: hostapi.NameOf(p.cfg.Regions, on.Region)})
	}
	return out
}
