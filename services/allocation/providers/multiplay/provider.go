package multiplay

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/providers/internal/attempts"
	"github.com/berth-dev/berth/services/allocation/providers/internal/hostapi"
)

const (
	kind         = "multiplay"
	version      = "1"
	pollInterval = 2 * time.Second
	// maxBootstrap is what fits as a string, its quotes escaped, into a request of 10 KB.
	maxBootstrap = 8 << 10
)

// Provider implements provider.Provider. It is safe for concurrent use.
type Provider struct {
	cfg    Config
	client *client
	looks  *lookups
	book   attempts.Book
	memory memory
}

var _ provider.Provider = (*Provider)(nil)

// New returns a Provider. It calls nobody yet.
func New(cfg Config) (*Provider, error) {
	cfg = cfg.complete()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	c, err := newClient(cfg)
	if err != nil {
		return nil, fmt.Errorf("multiplay.url: %w", err)
	}
	return &Provider{cfg: cfg, client: c, looks: newLookups(c)}, nil
}

// Describe implements provider.Provider.
func (p *Provider) Describe(_ context.Context, req *providerv1.DescribeRequest) (*providerv1.DescribeResponse, error) {
	return hostapi.Describe(req, p.cfg.Builds, p.cfg.Regions, &providerv1.DescribeResponse{
		Kind: kind, Version: version, MaxBootstrapBytes: maxBootstrap, PollInterval: durationpb.New(pollInterval),
	})
}

// Allocate implements provider.Provider. The allocation's id follows from the attempt, so that a repeat is about the first one's.
func (p *Provider) Allocate(ctx context.Context, req *providerv1.AllocateRequest) (*providerv1.AllocateResponse, error) {
	build, err := hostapi.Lookup("build", p.cfg.Builds, req.GetBuild())
	if err != nil {
		return nil, err
	}
	region, err := hostapi.Lookup("region", p.cfg.Regions, req.GetRegion())
	if err != nil {
		return nil, err
	}
	if n := len(req.GetBootstrap()); n > maxBootstrap {
		return nil, provider.Failure(provider.Invalid, "the bootstrap document has %d bytes; Multiplay carries %d", n, maxBootstrap)
	}
	unlock, err := p.book.Begin(ctx, req.GetAttemptId())
	if err != nil {
		return nil, err
	}
	defer unlock()
	k := p.attempt(req.GetDeployment(), req.GetAttemptId(), build.Fleet)
	if old, ok := p.memory.of(k.id); ok && old.givenUp { // that attempt is over, and its server would be nobody's
		return nil, provider.Failure(provider.NoCapacity, "%s", p.givenUp())
	}
	p.memory.learn(k, func(*known) {})
	made, err := p.client.process(ctx, build.Fleet, order{
		AllocationID: k.id, BuildConfigurationID: build.BuildConfiguration, RegionID: region, Payload: string(req.GetBootstrap()),
	})
	if err == nil && made != k.id {
		err = hostapi.Senseless("Multiplay", p.client.allocate, fmt.Sprintf("it is about allocation %q", hostapi.Clean(made)))
	}
	p.memory.learn(k, func(k *known) {
		if err == nil {
			k.atHost()
		}
		k.unanswered = k.unanswered || provider.ReasonOf(err) == provider.Ambiguous
	})
	if err != nil {
		return nil, err
	}
	return &providerv1.AllocateResponse{Server: &providerv1.Server{
		AttemptId: req.GetAttemptId(), ExternalId: k.external(), State: providerv1.ServerState_SERVER_STATE_STARTING, Region: req.GetRegion(),
	}}, nil
}

func (p *Provider) attempt(deployment, attempt, fleet string) known {
	return known{deployment: deployment, attempt: attempt, fleet: fleet, id: allocationID(deployment, attempt)}
}

// external is the server's id. It has the fleet too, without which an allocation cannot be asked for.
func (k known) external() string { return k.fleet + "/" + k.id }

// places are where an attempt may have an allocation: in the fleet of its external id, or that which is known, or any.
func (p *Provider) places(deployment, attempt, external string) []known {
	if fleet, _, ok := strings.Cut(external, "/"); ok && checkID(fleet) == nil {
		return []known{p.attempt(deployment, attempt, fleet)}
	}
	if k, ok := p.memory.of(allocationID(deployment, attempt)); ok {
		return []known{k}
	}
	var fleets []string
	for _, b := range p.cfg.Builds {
		fleets = append(fleets, b.Fleet)
	}
	slices.Sort(fleets)
	var all []known
	for _, fleet := range slices.Compact(fleets) {
		all = append(all, p.attempt(deployment, attempt, fleet))
	}
	return all
}

// Get implements provider.Provider.
func (p *Provider) Get(ctx context.Context, req *providerv1.GetRequest) (*providerv1.GetResponse, error) {
	for _, k := range p.places(req.GetDeployment(), req.GetAttemptId(), req.GetExternalId()) {
		s, err := p.server(ctx, k)
		if provider.ReasonOf(err) == provider.NotFound {
			continue
		}
		if err != nil {
			return nil, err
		}
		return &providerv1.GetResponse{Server: s}, nil
	}
	return nil, provider.Failure(provider.NotFound, "Multiplay has no allocation %s", allocationID(req.GetDeployment(), req.GetAttemptId()))
}

// server looks an attempt's server up, and gives it up if it has not come in time.
func (p *Provider) server(ctx context.Context, k known) (*providerv1.Server, error) {
	if old, ok := p.memory.of(k.id); ok && old.givenUp {
		return p.exited(old), nil
	}
	a, err := p.looks.look(ctx, k.fleet, k.id)
	if err != nil {
		return nil, err
	}
	k = p.memory.learn(k, (*known).atHost)
	if a.Fulfilled == "" && time.Since(k.since) >= p.cfg.GiveUpAfter {
		return p.giveUp(ctx, k)
	}
	return p.serverOf(k, a), nil
}

func (p *Provider) serverOf(k known, a allocation) *providerv1.Server {
	return &providerv1.Server{
		AttemptId: k.attempt, ExternalId: k.external(), State: a.state(), Endpoints: a.endpoints(), Region: hostapi.NameOf(p.cfg.Regions, a.RegionID),
	}
}

// giveUp takes an allocation back that got no server. Multiplay never says that it has no room.
func (p *Provider) giveUp(ctx context.Context, k known) (*providerv1.Server, error) {
	unlock, err := p.book.Lock(ctx, k.attempt) // or it would be asked for again in between
	if err != nil {
		return nil, provider.Failure(provider.Unavailable, "attempt %s: another call for it is under way", k.attempt)
	}
	defer unlock()
	if err := p.end(ctx, k); err != nil {
		return nil, err
	}
	return p.exited(p.memory.learn(k, func(k *known) { k.givenUp = true })), nil
}

// end ends an allocation. Where the answer does not say whether it did, or that there is nothing to end, the allocation does, by being gone.
func (p *Provider) end(ctx context.Context, k known) error {
	err := p.client.deallocate(ctx, k.fleet, k.id)
	switch provider.ReasonOf(err) {
	case provider.NotFound:
		return nil
	case provider.Ambiguous, provider.Invalid:
		if ctx.Err() != nil {
			return err
		}
		if _, there := p.looks.look(ctx, k.fleet, k.id); provider.ReasonOf(there) == provider.NotFound {
			return nil
		}
	}
	return err
}

func (p *Provider) givenUp() string {
	return fmt.Sprintf("Multiplay had no server within %v (multiplay.give_up_after); its allocation was given back", p.cfg.GiveUpAfter)
}

func (p *Provider) exited(k known) *providerv1.Server {
	return &providerv1.Server{
		AttemptId: k.attempt, ExternalId: k.external(), State: providerv1.ServerState_SERVER_STATE_EXITED, Message: p.givenUp(), Failure: provider.NoCapacity,
	}
}

// Release implements provider.Provider.
func (p *Provider) Release(ctx context.Context, req *providerv1.ReleaseRequest) (*providerv1.ReleaseResponse, error) {
	unlock, err := p.book.End(ctx, req.GetAttemptId())
	if err != nil {
		return nil, err
	}
	defer unlock()
	for _, k := range p.places(req.GetDeployment(), req.GetAttemptId(), req.GetExternalId()) {
		if err := p.end(ctx, k); err != nil {
			return nil, err
		}
	}
	p.memory.gone(allocationID(req.GetDeployment(), req.GetAttemptId()))
	return &providerv1.ReleaseResponse{State: providerv1.ServerState_SERVER_STATE_EXITED}, nil
}

// List implements provider.Provider. It has those servers that this process knows of from its own calls, and that the host still has.
func (p *Provider) List(ctx context.Context, req *providerv1.ListRequest) (*providerv1.ListResponse, error) {
	page := p.memory.page(req.GetDeployment(), req.GetPageToken(), maxList)
	servers, failures := make([]*providerv1.Server, len(page)), make([]error, len(page))
	var all sync.WaitGroup
	for n, k := range page {
		all.Go(func() {
			a, err := p.looks.look(ctx, k.fleet, k.id)
			if err == nil {
				servers[n] = p.serverOf(p.memory.learn(k, (*known).atHost), a)
			}
			failures[n] = err
		})
	}
	all.Wait()
	resp := new(providerv1.ListResponse)
	for n, err := range failures {
		switch {
		case err == nil:
			resp.Servers = append(resp.Servers, servers[n])
		case provider.ReasonOf(err) != provider.NotFound:
			return nil, err
		default:
			p.memory.gone(page[n].id)
		}
	}
	if len(page) == maxList {
		resp.NextPageToken = page[len(page)-1].id
	}
	return resp, nil
}

// Close ends the connections to the host, and what is under way on them.
func (p *Provider) Close(context.Context) error {
	p.looks.close()
	p.client.close()
	return nil
}
