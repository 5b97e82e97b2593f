package agones

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/berth-dev/berth/sdk/go/bootstrap"
	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/providers/internal/attempts"
	"github.com/berth-dev/berth/services/allocation/providers/internal/hostapi"
	"github.com/berth-dev/berth/services/allocation/providers/internal/kube"
)

const (
	kind         = "agones"
	version      = "1"
	pollInterval = 2 * time.Second
	// settleTime is how long Agones may yet serve a call that was cut off.
	settleTime = 10 * time.Second
	// maxAsks is how often Agones is asked before it is believed that no GameServer is Ready, and askPause how long a pause between is: that, and up to twice as much more.
	maxAsks  = 3
	askPause = 100 * time.Millisecond
	// maxSent is how many attempts are remembered that were asked for.
	maxSent = 50_000
	// maxLooks is how often a GameServer that changes is looked at before its deletion is left to the next call.
	maxLooks = 5
)

// Provider implements provider.Provider. It is safe for concurrent use.
type Provider struct {
	cfg     Config
	client  *client
	from    source
	service *allocator // nil: the cluster allocates
	book    attempts.Book
	poll    time.Duration // of Describe
	settle  time.Duration
	// sent are the attempts that were asked for, and until when a call that went without an answer may yet be served.
	sent attempts.Recent[time.Time]
}

var _ provider.Provider = (*Provider)(nil)

// source is who allocates.
type source interface {
	Allocate(ctx context.Context, o order) (allocationStatus, error)
}

// New returns a Provider. It calls nobody yet.
func New(cfg Config) (*Provider, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	c, err := newClient(cfg.Config)
	if err != nil {
		return nil, err
	}
	p := &Provider{cfg: cfg, client: c, from: c, poll: pollInterval, settle: settleTime, sent: attempts.Recent[time.Time]{Max: maxSent}}
	if cfg.Allocate == byAllocator {
		if p.service, err = newAllocator(cfg.Allocator); err != nil {
			return nil, fmt.Errorf("agones.allocator.%w", err)
		}
		p.from = p.service
	}
	return p, nil
}

// Describe implements provider.Provider.
func (p *Provider) Describe(_ context.Context, req *providerv1.DescribeRequest) (*providerv1.DescribeResponse, error) {
	return hostapi.Describe(req, p.cfg.Builds, p.cfg.Regions, &providerv1.DescribeResponse{
		Kind: kind, Version: version, MaxBootstrapBytes: bootstrap.MaxSize, PollInterval: durationpb.New(p.poll),
	})
}

// order is what Agones is asked for.
func (p *Provider) order(req *providerv1.AllocateRequest) (order, error) {
	build, err := hostapi.Lookup("build", p.cfg.Builds, req.GetBuild())
	if err != nil {
		return order{}, err
	}
	region, err := hostapi.Lookup("region", p.cfg.Regions, req.GetRegion())
	if err != nil {
		return order{}, err
	}
	labels := map[string]string{labelFleet: build.Fleet}
	maps.Copy(labels, build.Labels)
	return order{namespace: region.Namespace, selector: selector{MatchLabels: labels}, patch: patch{
		Labels:      map[string]string{labelDeployment: req.GetDeployment(), labelAttempt: req.GetAttemptId(), labelInstance: req.GetInstanceId()},
		Annotations: map[string]string{annotateDocument: string(req.GetBootstrap()), annotateRegion: req.GetRegion()},
	}}, nil
}

// Allocate implements provider.Provider. Agones gives a server for each request, so that a repeat looks for the first one's before, and each looks afterwards for
// what another process was given: of several, the one that was allocated first is kept. What this process knows nothing of is asked for at once: the allocation service
// asks with Get before it repeats a call.
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
	key := attempts.Marked(req.GetDeployment(), req.GetAttemptId())
	if s, err := p.earlier(ctx, key, req); s != nil || err != nil {
		return &providerv1.AllocateResponse{Server: s}, err
	}
	p.sent.Update(key, func(*time.Time) {})
	made, err := p.ask(ctx, o)
	if err != nil {
		if provider.ReasonOf(err) == provider.Ambiguous {
			p.sent.Change(key, func(until *time.Time) { *until = time.Now().Add(p.settle) })
		}
		return nil, err
	}
	if found, err := p.survey(ctx, p.client.list, req.GetDeployment(), req.GetAttemptId(), ""); err == nil && live(found) {
		s, err := p.describe(found)
		return &providerv1.AllocateResponse{Server: s}, err
	}
	s := &providerv1.Server{ // it is ours, whatever the look failed with; the next one has its ports
		AttemptId: req.GetAttemptId(), ExternalId: o.namespace + "/" + made.GameServerName, State: stateRunning, Region: req.GetRegion(),
	}
	return &providerv1.AllocateResponse{Server: s}, nil
}

// earlier returns what an earlier call of this process for the attempt was given; nil: nothing, and nothing comes of one any more.
func (p *Provider) earlier(ctx context.Context, key string, req *providerv1.AllocateRequest) (*providerv1.Server, error) {
	until, sent := p.sent.Get(key)
	if !sent {
		return nil, nil
	}
	found, err := p.survey(ctx, p.client.doubt, req.GetDeployment(), req.GetAttemptId(), "")
	switch {
	case err == nil:
		return p.describe(found)
	case provider.ReasonOf(err) != provider.NotFound:
		return nil, err
	case time.Now().Before(until):
		return nil, provider.Failure(provider.Ambiguous, "Agones: a call for the attempt was cut off, and may yet be served; another GameServer is asked for %v after it", p.settle)
	}
	return nil, nil
}

// ask allocates. At high rates Agones says now and then that no GameServer is Ready though there are some.
func (p *Provider) ask(ctx context.Context, o order) (made allocationStatus, err error) {
	for n := 1; ; n++ {
		made, err = p.from.Allocate(ctx, o)
		if provider.ReasonOf(err) != provider.NoCapacity || n == maxAsks {
			return made, o.notIn(err)
		}
		pause := time.NewTimer(askPause + rand.N(2*askPause))
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return made, o.notIn(err)
		}
	}
}

// describe makes a server of a GameServer.
func (p *Provider) describe(g gameServer) (*providerv1.Server, error) {
	state, words, ok := stateOf(g)
	if !ok {
		return nil, hostapi.Senseless(kube.Host, p.client.look, fmt.Sprintf("a GameServer in state %q", hostapi.Clean(g.Status.State)))
	}
	s := &providerv1.Server{
		AttemptId: g.Meta.Labels[labelAttempt], ExternalId: g.Meta.Namespace + "/" + g.Meta.Name, State: state, Message: words, Region: g.Meta.Annotations[annotateRegion],
	}
	if live(g) {
		s.Endpoints = endpointsOf(g)
	}
	return s, nil
}

// namespaces are those of the regions, and that of an external id: its region may have been taken out of the configuration, and its server is there all the same.
func (p *Provider) namespaces(external string) []string {
	var all []string
	if namespace, _, ok := strings.Cut(external, "/"); ok && kube.CheckNamespace(namespace) == nil {
		all = append(all, namespace)
	}
	for _, r := range p.cfg.Regions {
		all = append(all, r.Namespace)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// marked returns the attempt's GameServers, in whichever state.
func (p *Provider) marked(ctx context.Context, op *hostapi.Operation, deployment, attempt, external string) (all []gameServer, err error) {
	for _, namespace := range p.namespaces(external) {
		found, err := p.client.gameServers(ctx, op, namespace, labelDeployment+"="+deployment+","+labelAttempt+"="+attempt, "") // a page has room for all
		if err != nil {
			return nil, err
		}
		all = append(all, found.Items...)
	}
	return all, nil
}

// survey finds the attempt's GameServer. Of several that live it keeps the first, and deletes the others.
func (p *Provider) survey(ctx context.Context, op *hostapi.Operation, deployment, attempt, external string) (kept gameServer, err error) {
	all, err := p.marked(ctx, op, deployment, attempt, external)
	if err != nil {
		return kept, err
	}
	if len(all) == 0 {
		return kept, provider.Failure(provider.NotFound, "Agones has no GameServer with the label %s=%s", labelAttempt, attempt)
	}
	slices.SortFunc(all, earlier)
	first := slices.IndexFunc(all, live)
	if first < 0 {
		return all[0], nil
	}
	for _, other := range all[first+1:] {
		if live(other) {
			if err := p.end(ctx, other); err != nil {
				return kept, err
			}
		}
	}
	return all[first], nil
}

// end deletes a GameServer that was found to be an attempt's, unless it is gone, or is not the attempt's any more: what has changed since is looked at again.
func (p *Provider) end(ctx context.Context, g gameServer) error {
	for range maxLooks {
		err := p.client.remove(ctx, g)
		if provider.ReasonOf(err) == provider.NotFound {
			return nil
		}
		if !kube.Replaced(err) {
			return err
		}
		now, err := p.client.gameServer(ctx, g.Meta.Namespace, g.Meta.Name)
		switch {
		case provider.ReasonOf(err) == provider.NotFound:
			return nil
		case err != nil:
			return err
		case !same(now, g) || returned(now) || now.Meta.Deleted != nil:
			return nil
		}
		g = now
	}
	return provider.Failure(provider.Unavailable, "%s: the GameServer %s changes faster than it can be deleted", kube.Host, hostapi.Clean(g.Meta.Name))
}

// Get implements provider.Provider.
func (p *Provider) Get(ctx context.Context, req *providerv1.GetRequest) (*providerv1.GetResponse, error) {
	found, err := p.find(ctx, req)
	if err != nil {
		return nil, err
	}
	s, err := p.describe(found)
	return &providerv1.GetResponse{Server: s}, err
}

// find looks the server up by its name, if that is known and it still is the attempt's, and else by its labels.
func (p *Provider) find(ctx context.Context, req *providerv1.GetRequest) (gameServer, error) {
	namespace, name, ok := strings.Cut(req.GetExternalId(), "/")
	if ok && name != "" && kube.CheckNamespace(namespace) == nil {
		g, err := p.client.gameServer(ctx, namespace, name)
		ours := g.Meta.Labels[labelDeployment] == req.GetDeployment() && g.Meta.Labels[labelAttempt] == req.GetAttemptId()
		if err == nil && ours && live(g) || err != nil && provider.ReasonOf(err) != provider.NotFound {
			return g, err
		}
	}
	return p.survey(ctx, p.client.list, req.GetDeployment(), req.GetAttemptId(), req.GetExternalId())
}

// Release implements provider.Provider. All that was ever allocated for the attempt is deleted, but what others may have by now.
func (p *Provider) Release(ctx context.Context, req *providerv1.ReleaseRequest) (*providerv1.ReleaseResponse, error) {
	unlock, err := p.book.End(ctx, req.GetAttemptId())
	if err != nil {
		return nil, err
	}
	defer unlock()
	all, err := p.marked(ctx, p.client.list, req.GetDeployment(), req.GetAttemptId(), req.GetExternalId())
	if err != nil {
		return nil, err
	}
	state := stateExited
	for _, g := range all {
		if returned(g) {
			continue
		}
		state = stateStopping
		if g.Meta.Deleted == nil {
			if err := p.end(ctx, g); err != nil {
				return nil, err
			}
		}
	}
	return &providerv1.ReleaseResponse{State: state}, nil
}

// List implements provider.Provider. A page of it is a page of a namespace's GameServers.
func (p *Provider) List(ctx context.Context, req *providerv1.ListRequest) (*providerv1.ListResponse, error) {
	namespaces := p.namespaces("")
	n, page, err := kube.ParsePage(req.GetPageToken(), len(namespaces))
	if err != nil {
		return nil, err
	}
	found, err := p.client.gameServers(ctx, p.client.list, namespaces[n], labelDeployment+"="+req.GetDeployment(), page)
	if err != nil {
		return nil, err
	}
	resp := new(providerv1.ListResponse)
	for _, g := range found.Items {
		s, err := p.describe(g)
		if err != nil {
			return nil, err
		}
		if live(g) && s.GetAttemptId() != "" { // the others end by themselves
			resp.Servers = append(resp.Servers, s)
		}
	}
	resp.NextPageToken = kube.NextPage(n, len(namespaces), found.Meta)
	return resp, nil
}

// Close ends the connections to the API server and the allocator.
func (p *Provider) Close(context.Context) error {
	p.client.api.Close()
	if p.service != nil {
		p.service.Close()
	}
	return nil
}
