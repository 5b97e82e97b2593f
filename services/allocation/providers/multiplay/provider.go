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
	p.memory.learn(k, func(*known) {})
	made, err := p.client.process(ctx, build.Fleet, order{
		AllocationID: k.id, BuildConfigurationID: build.BuildConfiguration, RegionID: region, Payload: string(req.GetBootstrap()), Restart: true,
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

// server looks an attempt's server up. Multiplay never says that it has no room: here that is said of an allocation that got no server in time. It stays as it is until
// it is released, and may get one yet: whoever asks then is told of that.
func (p *Provider) server(ctx context.Context, k known) (*providerv1.Server, error) {
	a, err := p.looks.look(ctx, k.fleet, k.id)
	if err != nil {
		return nil, err
	}
	k = p.memory.learn(k, a.seenAt)
	s := p.serverOf(k, a)
	if s.GetState() == providerv1.ServerState_SERVER_STATE_STARTING && !k.came && time.Since(k.since) >= p.cfg.GiveUpAfter {
		s.State, s.Failure = providerv1.ServerState_SERVER_STATE_EXITED, provider.NoCapacity
		s.Message = fmt.Sprintf("Multiplay had no server within %v (multiplay.give_up_after)", p.cfg.GiveUpAfter)
	}
	return s, nil
}

func (p *Provider) serverOf(k known, a allocation) *providerv1.Server {
	state := a.state()
	if k.ending {
		state = providerv1.ServerState_SERVER_STATE_STOPPING
	}
	return &providerv1.Server{
		AttemptId: k.attempt, ExternalId: k.external(), State: state, Endpoints: a.endpoints(), Region: hostapi.NameOf(p.cfg.Regions, a.RegionID),
	}
}

// end asks for the end of an allocation, and reports whether it is gone: only the host's word that there is none says so, as what it is asked for waits in a queue
// of its own. Where the answer does not say whether it will, the allocation does, by being gone.
func (p *Provider) end(ctx context.Context, k known) (gone bool, err error) {
	asked, _ := p.memory.of(k.id)
	err = p.client.deallocate(ctx, k.fleet, k.id)
	doubtful := err == nil && asked.ending // a host may take an order for what is gone by now, too
	switch provider.ReasonOf(err) {
	case provider.NotFound:
		return true, nil
	case provider.Ambiguous, provider.Invalid:
		doubtful = ctx.Err() == nil
	}
	if doubtful {
		if _, there := p.looks.look(ctx, k.fleet, k.id); provider.ReasonOf(there) == provider.NotFound {
			return true, nil
		}
	}
	return false, err
}

// Release implements provider.Provider. It is asked again until the allocation is gone, and asks the host again each time: what is in its queue may come to nothing.
func (p *Provider) Release(ctx context.Context, req *providerv1.ReleaseRequest) (*providerv1.ReleaseResponse, error) {
	unlock, err := p.book.End(ctx, req.GetAttemptId())
	if err != nil {
		return nil, err
	}
	defer unlock()
	state := providerv1.ServerState_SERVER_STATE_EXITED
	for _, k := range p.places(req.GetDeployment(), req.GetAttemptId(), req.GetExternalId()) {
		gone, err := p.end(ctx, k)
		if err != nil {
			return nil, err
		}
		if !gone {
			p.memory.learn(k, (*known).ends)
			state = providerv1.ServerState_SERVER_STATE_STOPPING
		}
	}
	if state == providerv1.ServerState_SERVER_STATE_EXITED {
		p.memory.gone(allocationID(req.GetDeployment(), req.GetAttemptId()))
	}
	return &providerv1.ReleaseResponse{State: state}, nil
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
				servers[n] = p.serverOf(p.memory.learn(k, a.seenAt), a)
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
