package kubernetes

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/berth-dev/berth/sdk/go/bootstrap"
	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/providers/internal/attempts"
	"github.com/berth-dev/berth/services/allocation/providers/internal/hostapi"
	"github.com/berth-dev/berth/services/allocation/providers/internal/kube"
)

const (
	kind         = "kubernetes"
	version      = "1"
	pollInterval = 2 * time.Second
	// maxWhole is how many Pods are remembered to have their Secret.
	maxWhole = 10_000
)

// Provider implements provider.Provider. It is safe for concurrent use.
type Provider struct {
	cfg       Config
	templates map[string]template
	client    *client
	poll      time.Duration // of Describe
	book      attempts.Book
	whole     attempts.Recent[struct{}] // Pods with a Secret, by UID
	nodes     nodes
}

var _ provider.Provider = (*Provider)(nil)

// New returns a Provider. It calls nobody yet.
func New(cfg Config) (*Provider, error) {
	cfg.Regions = maps.Clone(cfg.Regions) // filled in
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	p := &Provider{cfg: cfg, poll: pollInterval, templates: make(map[string]template), whole: attempts.Recent[struct{}]{Max: maxWhole}}
	for _, name := range slices.Sorted(maps.Keys(cfg.Builds)) {
		t, err := newTemplate(cfg.Builds[name])
		if err == nil {
			err = t.checkReach(cfg.Regions)
		}
		if err != nil {
			return nil, fmt.Errorf("kubernetes.builds.%s.%w", name, err)
		}
		p.templates[name] = t
	}
	var err error
	p.client, err = newClient(cfg.Config)
	return p, err
}

// Describe implements provider.Provider.
func (p *Provider) Describe(_ context.Context, req *providerv1.DescribeRequest) (*providerv1.DescribeResponse, error) {
	return hostapi.Describe(req, p.cfg.Builds, p.cfg.Regions, &providerv1.DescribeResponse{
		Kind: kind, Version: version, MaxBootstrapBytes: bootstrap.MaxSize, PollInterval: durationpb.New(p.poll),
	})
}

// Allocate implements provider.Provider. The name of a Pod follows from its attempt, so that a repeat finds the first one's.
func (p *Provider) Allocate(ctx context.Context, req *providerv1.AllocateRequest) (*providerv1.AllocateResponse, error) {
	t, err := hostapi.Lookup("build", p.templates, req.GetBuild())
	if err != nil {
		return nil, err
	}
	region, err := hostapi.Lookup("region", p.cfg.Regions, req.GetRegion())
	if err != nil {
		return nil, err
	}
	unlock, err := p.book.Begin(ctx, req.GetAttemptId())
	if err != nil {
		return nil, err
	}
	defer unlock()
	o, err := t.order(req, region)
	if err != nil {
		return nil, provider.Failure(provider.Invalid, "kubernetes.builds.%s.pod_spec: %v", req.GetBuild(), err)
	}
	of, found, err := p.ensurePod(ctx, o)
	if err != nil {
		return nil, err
	}
	s, err := p.describe(of)
	if err == nil && s.GetState() == stateStarting && of.Status.Phase == pending { // one that runs has it
		err = p.ensureSecret(ctx, of, found, req.GetBootstrap())
	}
	if err != nil {
		return nil, err
	}
	return &providerv1.AllocateResponse{Server: s}, nil
}

// ensurePod makes a Pod, or finds the one that an earlier call made, which may have a Secret and run. A call without an answer is repeated once: it makes a Pod
// only if that one did not. A refusal of the repeat says nothing of the first.
func (p *Provider) ensurePod(ctx context.Context, o order) (of pod, found bool, err error) {
	of, err = p.client.makePod(ctx, o)
	unsure := provider.ReasonOf(err) == provider.Ambiguous && ctx.Err() == nil
	if unsure {
		of, err = p.client.makePod(ctx, o)
	}
	if err == nil {
		return of, false, nil
	}
	refused := err
	if kube.Exists(refused) || provider.ReasonOf(refused) == provider.Quota { // an API server looks at quotas before it looks at the name
		of, err = p.client.pod(ctx, o.Meta.Namespace, o.Meta.Name)
		switch {
		case err == nil && !marked(of, o.Meta.Labels[labelDeployment], o.Meta.Labels[labelAttempt]):
			return of, false, provider.Failure(provider.Invalid, "Pod %s/%s is there, and is not Berth's: it has no label %s with the attempt; delete it", o.Meta.Namespace, o.Meta.Name, labelAttempt)
		case err == nil:
			return of, true, nil
		case provider.ReasonOf(err) != provider.NotFound:
			return of, false, doubt(err, "Pod %s/%s may be there, and cannot be looked up", o.Meta.Namespace, o.Meta.Name)
		case kube.Exists(refused):
			refused = provider.Failure(provider.Unavailable, "Pod %s/%s was there, and is gone meanwhile", o.Meta.Namespace, o.Meta.Name)
		}
	}
	if unsure {
		return of, false, doubt(refused, "Pod %s/%s may be there; it was asked for once more", o.Meta.Namespace, o.Meta.Name)
	}
	return of, false, refused
}

// doubt makes AMBIGUOUS of a failure, with its words and its time to wait.
func doubt(err error, format string, args ...any) error {
	return provider.RetryAfter(provider.Failure(provider.Ambiguous, format+": %s", append(args, words(err))...), provider.RetryAfterOf(err))
}

// words are what a failure says to people.
func words(err error) string { return grpcstatus.Convert(err).Message() }

// ensureSecret makes the Secret of a Pod, if no earlier call did: nobody else makes one under a name that only the Pod says. A new Pod that cannot have one is
// deleted: it would wait for ever. One that was found, or whose Secret may be there, is not: a call is refused before the name is looked at.
func (p *Provider) ensureSecret(ctx context.Context, of pod, found bool, document []byte) error {
	var err error
	unsure := false
	if of.secret() == "" {
		err = provider.Failure(provider.Invalid, "Pod %s/%s has no %s from a Secret: does a webhook change Pods?", of.Meta.Namespace, of.Meta.Name, bootstrap.EnvDocument)
	} else {
		err = p.client.makeSecret(ctx, of, document)
		if unsure = provider.ReasonOf(err) == provider.Ambiguous; unsure && ctx.Err() == nil {
			err = p.client.makeSecret(ctx, of, document)
		}
	}
	switch {
	case err == nil, kube.Exists(err):
		p.whole.Update(of.Meta.UID, func(*struct{}) {})
		return nil
	case found, unsure:
		return doubt(err, "Pod %s/%s is there, and may have no Secret", of.Meta.Namespace, of.Meta.Name)
	default:
		return p.undo(ctx, of, err)
	}
}

// undo deletes a new Pod that has no Secret, and returns why.
func (p *Provider) undo(ctx context.Context, of pod, why error) error {
	now := int64(0)
	if err := p.client.deletePod(ctx, of, &now); err != nil && provider.ReasonOf(err) != provider.NotFound {
		return provider.Failure(provider.Ambiguous, "Pod %s/%s is left without a Secret (%s), and cannot be deleted: %s", of.Meta.Namespace, of.Meta.Name, words(why), words(err))
	}
	return why
}

// marked reports whether a Pod is the attempt's.
func marked(found pod, deployment, attempt string) bool {
	return found.Meta.Labels[labelDeployment] == deployment && found.Meta.Labels[labelAttempt] == attempt
}

// describe makes a server of a Pod, without its addresses.
func (p *Provider) describe(found pod) (*providerv1.Server, error) {
	now, ok := statusOf(found, p.cfg.PendingTimeout, time.Now())
	if !ok {
		return nil, hostapi.Senseless(kube.Host, p.client.look, fmt.Sprintf("a Pod in phase %q", hostapi.Clean(found.Status.Phase)))
	}
	return &providerv1.Server{
		AttemptId: found.Meta.Labels[labelAttempt], ExternalId: found.Meta.Namespace + "/" + found.Meta.Name, State: now.state, Message: now.words, Failure: now.failure,
		Region: found.Meta.Annotations[annotateRegion],
	}, nil
}

// namespaces are that of an external id, or all where there is none.
func (p *Provider) namespaces(external string) []string {
	if namespace, _, ok := strings.Cut(external, "/"); ok {
		return []string{namespace}
	}
	var all []string
	for _, r := range p.cfg.Regions {
		all = append(all, r.Namespace)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// find looks an attempt's Pod up.
func (p *Provider) find(ctx context.Context, deployment, attempt, external string) (pod, error) {
	name := podName(deployment, attempt)
	for _, namespace := range p.namespaces(external) {
		found, err := p.client.pod(ctx, namespace, name)
		switch {
		case provider.ReasonOf(err) == provider.NotFound:
		case err != nil:
			return pod{}, err
		case marked(found, deployment, attempt):
			return found, nil
		}
	}
	return pod{}, provider.Failure(provider.NotFound, "Kubernetes has no Pod %s", name)
}

// half reports whether a Pod surely has no Secret: whoever made it did not get that far. One that it has stays, and is not asked for again.
func (p *Provider) half(ctx context.Context, found pod) bool {
	if _, ok := p.whole.Get(found.Meta.UID); ok {
		return false
	}
	err := p.client.tryMakeSecret(ctx, found)
	if kube.Exists(err) {
		p.whole.Update(found.Meta.UID, func(*struct{}) {})
	}
	return err == nil
}

// Get implements provider.Provider. A Pod without its Secret is no server yet: the next Allocate makes it one.
func (p *Provider) Get(ctx context.Context, req *providerv1.GetRequest) (*providerv1.GetResponse, error) {
	found, err := p.find(ctx, req.GetDeployment(), req.GetAttemptId(), req.GetExternalId())
	if err != nil {
		return nil, err
	}
	s, err := p.describe(found)
	if err != nil {
		return nil, err
	}
	if s.GetState() == stateStarting && p.half(ctx, found) {
		return nil, provider.Failure(provider.NotFound, "Pod %s/%s has no Secret: whoever made it did not get that far", found.Meta.Namespace, found.Meta.Name)
	}
	if s.GetState() == stateStarting || s.GetState() == stateRunning {
		p.locate(ctx, found, s)
	}
	return &providerv1.GetResponse{Server: s}, nil
}

// locate fills in the addresses of a server, once it has a node. One whose address cannot be found runs all the same, and its message says what to do about that.
func (p *Provider) locate(ctx context.Context, found pod, s *providerv1.Server) {
	in, ok := p.cfg.Regions[s.GetRegion()]
	if !ok || found.Spec.NodeName == "" {
		return
	}
	host := in.Address
	switch in.Address {
	case podIP:
		host = found.Status.PodIP
	case internalIP:
		host = found.Status.HostIP
	case externalIP, externalDNS:
		var err error
		host, err = p.nodes.address(ctx, p.client, found.Spec.NodeName, in.Address)
		switch {
		case err != nil:
			s.Message = fmt.Sprintf("the %s of node %s cannot be looked up: %s; allow it, or set kubernetes.regions.%s.address", in.Address, found.Spec.NodeName, words(err), s.GetRegion())
		case host == "":
			s.Message = fmt.Sprintf("node %s has no %s: set kubernetes.regions.%s.address", found.Spec.NodeName, in.Address, s.GetRegion())
		}
	}
	s.Endpoints = endpointsOf(found, in, host)
}

// Release implements provider.Provider. A Pod has the time of its terminationGracePeriodSeconds; its Secret goes with it.
func (p *Provider) Release(ctx context.Context, req *providerv1.ReleaseRequest) (*providerv1.ReleaseResponse, error) {
	unlock, err := p.book.End(ctx, req.GetAttemptId())
	if err != nil {
		return nil, err
	}
	defer unlock()
	found, err := p.find(ctx, req.GetDeployment(), req.GetAttemptId(), req.GetExternalId())
	if err == nil && found.Meta.Deleted == nil {
		err = p.client.deletePod(ctx, found, nil)
	}
	switch {
	case provider.ReasonOf(err) == provider.NotFound:
		return &providerv1.ReleaseResponse{State: stateExited}, nil
	case err != nil && !kube.Replaced(err): // what is there now is looked at by the repeat
		return nil, err
	}
	return &providerv1.ReleaseResponse{State: stateStopping}, nil
}

// List implements provider.Provider. A page of it is a page of a namespace's Pods.
func (p *Provider) List(ctx context.Context, req *providerv1.ListRequest) (*providerv1.ListResponse, error) {
	namespaces := p.namespaces("")
	n, page, err := kube.ParsePage(req.GetPageToken(), len(namespaces))
	if err != nil {
		return nil, err
	}
	found, err := p.client.pods(ctx, namespaces[n], labelManager+"="+manager+","+labelDeployment+"="+req.GetDeployment(), page)
	if err != nil {
		return nil, err
	}
	resp := new(providerv1.ListResponse)
	for _, one := range found.Items {
		s, err := p.describe(one)
		if err != nil {
			return nil, err
		}
		if one.Status.Phase != succeeded && one.Status.Phase != failed && s.GetAttemptId() != "" {
			resp.Servers = append(resp.Servers, s)
		}
	}
	resp.NextPageToken = kube.NextPage(n, len(namespaces), found.Meta)
	return resp, nil
}

// Close ends the connections to the API server.
func (p *Provider) Close(context.Context) error {
	p.client.api.Close()
	return nil
}
