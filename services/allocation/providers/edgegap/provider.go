package edgegap

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/berth-dev/berth/pkg/ids"
	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/providers/internal/attempts"
	"github.com/berth-dev/berth/services/allocation/providers/internal/hostapi"
)

const (
	kind    = "edgegap"
	version = "1"
	// maxBootstrap is what a variable may have: 4 KB, which may be meant as 4000 bytes.
	maxBootstrap = 4000
	// bootstrapVariable is where a server of Berth looks for its bootstrap document.
	bootstrapVariable = "BERTH_BOOTSTRAP"
	// underWay is longer than any call takes.
	underWay = time.Hour
)

// limits are how often and how long. Tests have others.
type limits struct {
	create, look, list float64       // calls in a second, as published
	poll               time.Duration // how often a server is asked about
	settle             time.Duration // after which a list has all that was made, and a call that got no answer has had its effect
	aside              time.Duration // that a stop may take that nobody asked for
	bury               time.Duration // after which nobody waits to learn why a deployment is in error
	fresh              time.Duration // for which a server that ran is not asked about again: 20 looks in a second are for all servers
}

func usual() limits {
	return limits{create: 40, look: 20, list: 10, poll: 2 * time.Second, settle: 10 * time.Second, aside: 2 * time.Second, bury: 5 * time.Minute, fresh: 30 * time.Second}
}

// Provider implements provider.Provider. It is safe for concurrent use.
type Provider struct {
	cfg    Config
	limits limits
	client *client
	book   attempts.Book
	memory *memory
	// broken is since when deployments are known to be in error, by their ids.
	broken attempts.Recent[time.Time]
}

var _ provider.Provider = (*Provider)(nil)

// New returns a Provider. It calls nobody yet.
func New(cfg Config) (*Provider, error) { return newProvider(cfg, usual()) }

func newProvider(cfg Config, l limits) (*Provider, error) {
	if cfg.URL == "" {
		cfg.URL = DefaultURL
	}
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	c, err := newClient(cfg, l)
	if err != nil {
		return nil, fmt.Errorf("edgegap.url: %w", err)
	}
	return &Provider{cfg: cfg, limits: l, client: c, memory: newMemory(), broken: attempts.Recent[time.Time]{Max: maxKnown}}, nil
}

// Describe implements provider.Provider.
func (p *Provider) Describe(_ context.Context, req *providerv1.DescribeRequest) (*providerv1.DescribeResponse, error) {
	return hostapi.Describe(req, p.cfg.Builds, p.cfg.Regions, &providerv1.DescribeResponse{
		Kind: kind, Version: version, MaxBootstrapBytes: maxBootstrap, PollInterval: durationpb.New(p.limits.poll),
	})
}

// Allocate implements provider.Provider. What this process knows nothing of is asked for at once: the allocation service asks with Get before it repeats a call,
// and should two deployments come of it all the same, the younger is stopped when one of them runs.
func (p *Provider) Allocate(ctx context.Context, req *providerv1.AllocateRequest) (*providerv1.AllocateResponse, error) {
	o, err := p.order(req)
	if err != nil {
		return nil, err
	}
	unlock, err := p.book.Begin(ctx, req.GetAttemptId())
	if err != nil {
		return nil, err
	}
	defer unlock()
	t := target{req.GetDeployment(), req.GetAttemptId()}
	s, err := p.earlier(ctx, t)
	if err != nil {
		return nil, ambiguous(t, err)
	}
	if s == nil {
		if s, err = p.start(ctx, t, o); err != nil {
			return nil, err
		}
	}
	s.Region = req.GetRegion()
	return &providerv1.AllocateResponse{Server: s}, nil
}

// order is what the host is asked for.
func (p *Provider) order(req *providerv1.AllocateRequest) (order, error) {
	build, err := hostapi.Lookup("build", p.cfg.Builds, req.GetBuild())
	if err != nil {
		return order{}, err
	}
	region, err := hostapi.Lookup("region", p.cfg.Regions, req.GetRegion())
	if err != nil {
		return order{}, err
	}
	t := target{req.GetDeployment(), req.GetAttemptId()}
	if ids.AttemptInstance(t.attempt) == "" || len(t.attempt) > maxTag {
		return order{}, provider.Failure(provider.Invalid, "attempt_id: %q is not the id of an instance and a number, up to %d characters: it has to be a tag by which it is found again", t.attempt, maxTag)
	}
	return order{
		Application: build.App, Version: build.Version, Tags: t.tags(),
		Users:     []user{{Type: "geo_coordinates", Data: place{Latitude: *region.Latitude, Longitude: *region.Longitude}}},
		Variables: []variable{{Key: bootstrapVariable, Value: string(req.GetBootstrap()), IsHidden: true}},
	}, nil
}

// earlier returns what an earlier call for the attempt started; nil: nothing.
func (p *Provider) earlier(ctx context.Context, t target) (*providerv1.Server, error) {
	k, _ := p.memory.Get(t.key())
	switch {
	case k.id != "":
		s, err := p.look(ctx, t, k.id)
		if err == nil && s == nil {
			s = &providerv1.Server{AttemptId: t.attempt, ExternalId: k.id, State: exited, Message: host + " does not know it any more"}
		}
		return s, err
	case time.Now().Before(k.until):
		return p.find(ctx, t)
	default:
		return nil, nil
	}
}

// start asks for a deployment.
func (p *Provider) start(ctx context.Context, t target, o order) (*providerv1.Server, error) {
	p.memory.doubts(t.key(), time.Now().Add(underWay))
	id, err := p.client.deploy(ctx, o)
	var full *noRoom
	switch {
	case err == nil:
		p.memory.has(t.key(), id)
		return &providerv1.Server{AttemptId: t.attempt, ExternalId: id, State: starting}, nil
	case errors.As(err, &full):
		p.memory.doubts(t.key(), time.Time{})
		if full.leftover != "" {
			p.memory.spend(t.key(), full.leftover)
		}
		p.discard(ctx, t)
		return nil, full.error
	case provider.ReasonOf(err) == provider.Ambiguous:
		p.memory.doubts(t.key(), time.Now().Add(p.limits.settle))
	default:
		p.memory.doubts(t.key(), time.Time{})
	}
	return nil, err
}

// Get implements provider.Provider.
func (p *Provider) Get(ctx context.Context, req *providerv1.GetRequest) (*providerv1.GetResponse, error) {
	t := target{req.GetDeployment(), req.GetAttemptId()}
	k, _ := p.memory.Get(t.key())
	if k.last != nil && time.Since(k.at) < p.limits.fresh {
		return &providerv1.GetResponse{Server: proto.CloneOf(k.last)}, nil
	}
	id := k.id // which is the oldest of several, where the caller may know another one
	if id == "" {
		id = req.GetExternalId()
	}
	var s *providerv1.Server
	var err error
	if id != "" {
		s, err = p.look(ctx, t, id)
	}
	if s == nil && err == nil {
		s, err = p.find(ctx, t)
	}
	switch {
	case err != nil:
		return nil, err
	case s == nil:
		return nil, provider.Failure(provider.NotFound, "%s has no deployment with the tag %s", host, t.attempt)
	}
	return &providerv1.GetResponse{Server: s}, nil
}

// Release implements provider.Provider.
func (p *Provider) Release(ctx context.Context, req *providerv1.ReleaseRequest) (*providerv1.ReleaseResponse, error) {
	unlock, err := p.book.End(ctx, req.GetAttemptId())
	if err != nil {
		return nil, err
	}
	defer unlock()
	t := target{req.GetDeployment(), req.GetAttemptId()}
	if req.GetExternalId() == "" {
		p.meet(t)
	}
	p.memory.Update(t.key(), func(k *knowledge) { k.last = nil }) // from here on its status counts
	k, _ := p.memory.Get(t.key())
	known := slices.Compact([]string{req.GetExternalId(), k.id})
	gone, err := p.endAll(ctx, known) // whether or not the list can be had
	if err != nil {
		return nil, err
	}
	p.discard(ctx, t)
	left, _ := p.memory.Get(t.key())
	gone = gone && len(left.unstopped) == 0
	if !k.alone {
		found, err := p.marked(ctx, t)
		if err != nil {
			return nil, err
		}
		others, err := p.endAll(ctx, slices.DeleteFunc(found, func(id string) bool { return slices.Contains(known, id) }))
		if err != nil {
			return nil, err
		}
		gone = gone && others
	}
	if !gone || time.Now().Before(k.until) { // one may yet come of a call that got no answer
		return &providerv1.ReleaseResponse{State: stopping}, nil
	}
	p.memory.Update(t.key(), func(k *knowledge) { *k = knowledge{} })
	return &providerv1.ReleaseResponse{State: exited}, nil
}

// endAll stops deployments, and reports whether all are gone.
func (p *Provider) endAll(ctx context.Context, all []string) (gone bool, err error) {
	gone = true
	for _, id := range all {
		ended, err := p.end(ctx, id)
		if err != nil {
			return false, err
		}
		gone = gone && ended
	}
	return gone, nil
}

// end stops a deployment, and reports whether it is gone.
func (p *Provider) end(ctx context.Context, id string) (gone bool, err error) {
	if id == "" {
		return true, nil
	}
	err = p.client.stopDeployment(ctx, id)
	switch provider.ReasonOf(err) {
	case provider.NotFound:
		return true, nil
	case provider.Invalid: // it may be about to end; its status is the truth
		if d, err := p.client.status(ctx, id); err == nil && stateOf(d) != running && stateOf(d) != starting {
			return stateOf(d) == exited, nil
		}
	}
	return false, err
}

// List implements provider.Provider.
func (p *Provider) List(ctx context.Context, req *providerv1.ListRequest) (*providerv1.ListResponse, error) {
	at, err := parseToken(req.GetPageToken())
	if err != nil {
		return nil, err
	}
	tag := mark(req.GetDeployment())
	page, next, err := p.client.tagged(ctx, tag, at)
	if err != nil {
		return nil, err
	}
	resp := new(providerv1.ListResponse)
	for _, one := range page {
		attempt := attemptOf(one.Tags, tag)
		if attempt == "" {
			continue
		}
		kept, err := p.kept(ctx, target{req.GetDeployment(), attempt}, one.RequestID)
		if err != nil {
			return nil, err
		}
		if kept {
			resp.Servers = append(resp.Servers, serverOf(attempt, one))
		}
	}
	resp.NextPageToken = next.token()
	return resp, nil
}

func serverOf(attempt string, one listed) *providerv1.Server {
	s := &providerv1.Server{AttemptId: attempt, ExternalId: one.RequestID, State: starting}
	if one.Ready {
		s.State = running
	}
	return s
}

// kept reports whether a deployment in the list is the one that its attempt has. If not, it is stopped.
func (p *Provider) kept(ctx context.Context, t target, id string) (bool, error) {
	k, _ := p.memory.Get(t.key())
	switch {
	case slices.Contains(k.spent, id):
		p.discard(ctx, t)
		return false, nil
	case k.id == id:
		return true, nil
	case k.id == "" && !p.book.Released(t.attempt):
		return p.adopt(ctx, t, id)
	}
	s, err := p.survey(ctx, t) // two, or one that was released and that the list still has
	return s.GetExternalId() == id && !over(s), err
}

// Close ends the connections to the host.
func (p *Provider) Close(context.Context) error {
	p.client.api.Close()
	return nil
}
