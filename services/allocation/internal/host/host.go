// Package host calls providers for the allocator: through the messages of the provider contract, built-in or not.
package host

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"buf.build/go/protovalidate"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/status"

	"github.com/berth-dev/berth/pkg/tracing"
	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/internal/allocator"
	"github.com/berth-dev/berth/services/allocation/internal/wire"
)

const (
	describeTimeout = 10 * time.Second
	// minPoll keeps a provider that names no poll interval, or none in earnest, from being asked without a pause.
	minPoll     = 10 * time.Millisecond
	defaultPoll = time.Second
)

// Host is a provider as the allocator sees it. It is safe for concurrent use.
type Host struct {
	name       string
	deployment string
	provider   provider.Provider
	calls      *Metrics
	tracer     *tracing.Tracer
}

// Config says how to reach a provider.
type Config struct {
	// Name is its name in the configuration.
	Name string
	// Deployment is what its servers are marked with.
	Deployment string
	// Provider is the provider.
	Provider provider.Provider
	// Metrics counts the calls.
	Metrics *Metrics
	// Tracer makes spans of allocations; nil: there are none.
	Tracer *tracing.Tracer
}

// Living is what a provider implements beside provider.Provider that can be away, and may be something else once it is back.
type Living interface {
	// Status returns what the provider is, nil while that is not known, and what is wrong with it now, for people.
	Status() (*providerv1.DescribeResponse, string)
}

// Open asks the provider what it is and returns it under its configured name. One that is [Living] may be away: it is then there without builds, and
// [Host.Current] says more later.
func Open(ctx context.Context, cfg Config) (allocator.Provider, error) {
	h := &Host{cfg.Name, cfg.Deployment, cfg.Provider, cfg.Metrics, cfg.Tracer}
	info := allocator.ProviderInfo{Name: cfg.Name, PollInterval: defaultPoll}
	if _, living := cfg.Provider.(Living); living {
		info, _ = h.Current(info)
		return allocator.Provider{Info: info, Host: h}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, describeTimeout)
	defer cancel()
	d, err := cfg.Provider.Describe(ctx, &providerv1.DescribeRequest{ContractMin: provider.Contract, ContractMax: provider.Contract})
	if err != nil {
		return allocator.Provider{}, fmt.Errorf("provider %q: %w", cfg.Name, err)
	}
	if v := cmp.Or(d.GetContract(), provider.Contract); v != provider.Contract {
		return allocator.Provider{}, fmt.Errorf("provider %q: it speaks version %d of the provider contract, and this allocation service version %d: use releases that fit", cfg.Name, v, provider.Contract)
	}
	return allocator.Provider{Info: describe(info, d), Host: h}, nil
}

// Current returns info with what the provider says now that it is, and what is wrong with it now, for people; empty: nothing. It never blocks. Only what is
// [Living] changes.
func (h *Host) Current(info allocator.ProviderInfo) (allocator.ProviderInfo, string) {
	living, ok := h.provider.(Living)
	if !ok {
		return info, ""
	}
	d, problem := living.Status()
	if d == nil {
		info.Regions, info.Builds, info.Unanswered = nil, nil, true
		return info, problem
	}
	return describe(info, d), problem
}

// describe returns info with what a provider says that it is. What the configuration says stays.
func describe(info allocator.ProviderInfo, d *providerv1.DescribeResponse) allocator.ProviderInfo {
	info.Kind, info.Regions, info.Builds, info.Unanswered = d.GetKind(), d.GetRegions(), d.GetBuilds(), false
	info.MaxBootstrap, info.PollInterval = d.GetMaxBootstrapBytes(), defaultPoll
	if d.GetPollInterval() != nil {
		info.PollInterval = max(minPoll, d.GetPollInterval().AsDuration())
	}
	return info
}

// Allocate implements allocator.Host.
func (h *Host) Allocate(ctx context.Context, o allocator.Order) (allocator.Server, error) {
	start := time.Now()
	ctx, span := h.tracer.Start(tracing.WithParent(ctx, o.Traceparent), "provider allocate")
	resp, err := h.provider.Allocate(ctx, &providerv1.AllocateRequest{
		AttemptId: o.Attempt, Namespace: o.Namespace, InstanceId: o.InstanceID, Build: o.Build, Region: o.Region, Labels: o.Labels, Bootstrap: o.Bootstrap,
		Deployment: h.deployment,
	})
	span.End(result(err))
	if err = h.done("allocate", start, err); err != nil {
		return allocator.Server{}, err
	}
	return server(resp.GetServer())
}

// Get implements allocator.Host.
func (h *Host) Get(ctx context.Context, attempt, externalID string) (allocator.Server, error) {
	start := time.Now()
	resp, err := h.provider.Get(ctx, &providerv1.GetRequest{AttemptId: attempt, ExternalId: externalID, Deployment: h.deployment})
	if err = h.done("get", start, err); err != nil {
		return allocator.Server{}, err
	}
	return server(resp.GetServer())
}

// Release implements allocator.Host.
func (h *Host) Release(ctx context.Context, attempt, externalID string) (bool, error) {
	start := time.Now()
	resp, err := h.provider.Release(ctx, &providerv1.ReleaseRequest{AttemptId: attempt, ExternalId: externalID, Deployment: h.deployment})
	if err = h.done("release", start, err); err != nil {
		return false, err
	}
	return resp.GetState() == providerv1.ServerState_SERVER_STATE_EXITED, nil
}

// maxAttempt is the longest id of an attempt, in bytes.
const maxAttempt = 48

// List returns a page of the servers that carry the deployment's mark; the first one for "". An entry that can be none does not spoil the others.
func (h *Host) List(ctx context.Context, page string) (allocator.Page, error) {
	start := time.Now()
	resp, err := h.provider.List(ctx, &providerv1.ListRequest{PageToken: page, Deployment: h.deployment})
	if err = h.done("list", start, err); err != nil {
		return allocator.Page{}, err
	}
	out := allocator.Page{Servers: make([]allocator.Listed, 0, len(resp.GetServers())), Next: resp.GetNextPageToken()}
	for _, s := range resp.GetServers() {
		one, err := server(s)
		switch {
		case err != nil && s.GetState() == providerv1.ServerState_SERVER_STATE_UNSPECIFIED && s.GetMessage() != "":
			out.Nonsense = append(out.Nonsense, s.GetMessage()) // whoever handed it on has seen what is wrong
		case err != nil:
			out.Nonsense = append(out.Nonsense, err.Error())
		case s.GetAttemptId() == "" || len(s.GetAttemptId()) > maxAttempt:
			out.Nonsense = append(out.Nonsense, fmt.Sprintf("an attempt_id of %d bytes cannot be one of Berth's", len(s.GetAttemptId())))
		default:
			out.Servers = append(out.Servers, allocator.Listed{Attempt: s.GetAttemptId(), Server: one})
		}
	}
	return out, nil
}

// done counts a call and returns its error as a failure.
func (h *Host) done(call string, start time.Time, err error) error {
	h.calls.observe(h.name, call, cmp.Or(result(err), "OK"), time.Since(start))
	if err == nil {
		return nil
	}
	return &allocator.Failure{Kind: kind(provider.ReasonOf(err)), Message: words(err), RetryAfter: provider.RetryAfterOf(err)}
}

// result is the reason of a failure without its prefix; "" where there is none.
func result(err error) string {
	if err == nil {
		return ""
	}
	return strings.TrimPrefix(provider.ReasonOf(err).String(), "FAILURE_REASON_")
}

func words(err error) string {
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return "no answer in time"
	case errors.Is(err, context.Canceled):
		return "the call was cut off"
	default:
		return status.Convert(err).Message()
	}
}

func kind(r providerv1.FailureReason) allocator.FailureKind {
	switch r {
	case provider.NoCapacity:
		return allocator.NoCapacity
	case provider.Quota:
		return allocator.Quota
	case provider.RateLimited:
		return allocator.RateLimited
	case provider.Unavailable:
		return allocator.Unavailable
	case provider.Invalid:
		return allocator.Invalid
	case provider.Unauthenticated:
		return allocator.Unauthenticated
	case provider.NotFound:
		return allocator.NotFound
	default:
		return allocator.Ambiguous
	}
}

// server checks what a provider says of a server before anything is built on it.
func server(s *providerv1.Server) (allocator.Server, error) {
	out := allocator.Server{ExternalID: s.GetExternalId(), PoolServer: s.GetServerId(), Region: s.GetRegion(), Message: s.GetMessage()}
	switch s.GetState() {
	case providerv1.ServerState_SERVER_STATE_STARTING:
		out.State = allocator.ServerStarting
	case providerv1.ServerState_SERVER_STATE_RUNNING:
		out.State = allocator.ServerRunning
	case providerv1.ServerState_SERVER_STATE_STOPPING:
		out.State = allocator.ServerStopping
	case providerv1.ServerState_SERVER_STATE_EXITED:
		out.State = allocator.ServerExited
	default:
		return out, &allocator.Failure{Kind: allocator.Ambiguous, Message: "the provider's answer names no state of the server"}
	}
	switch reason := s.GetFailure(); {
	case reason == providerv1.FailureReason_FAILURE_REASON_UNSPECIFIED:
	case out.State != allocator.ServerExited || reason == provider.Ambiguous || reason == provider.NotFound:
		return out, &allocator.Failure{Kind: allocator.Ambiguous, Message: fmt.Sprintf("the provider's answer names the failure %v of a server that is %v, which cannot be", reason, s.GetState())}
	default:
		out.Failure = &allocator.Failure{Kind: kind(reason), Message: s.GetMessage()}
	}
	for _, e := range s.GetEndpoints() {
		if err := protovalidate.Validate(e); err != nil { // the instance would refuse it
			return out, &allocator.Failure{Kind: allocator.Ambiguous, Message: fmt.Sprintf("the provider's answer has an endpoint that cannot be: %v", err)}
		}
	}
	out.Endpoints = wire.FromEndpoints(s.GetEndpoints())
	return out, nil
}

// Metrics counts calls to providers. All hosts of a service share one.
type Metrics struct{ seconds *prometheus.HistogramVec }

// NewMetrics registers the metrics.
func NewMetrics(reg prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "berth_provider_call_seconds", Help: "Time that a call to a provider took, by provider, call and OK or the failure's reason.",
		Buckets: prometheus.ExponentialBuckets(0.001, 2, 16),
	}, []string{"provider", "call", "result"})}
	if err := reg.Register(m.seconds); err != nil {
		return nil, fmt.Errorf("metrics of providers: %w", err)
	}
	return m, nil
}

func (m *Metrics) observe(name, call, result string, took time.Duration) {
	m.seconds.WithLabelValues(name, call, result).Observe(took.Seconds())
}
