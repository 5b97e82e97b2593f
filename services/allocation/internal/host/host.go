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
	name     string
	provider provider.Provider
	calls    *Metrics
	tracer   *tracing.Tracer
}

// Open asks the provider what it is and returns it under its configured name. A tracer makes spans of its allocations; nil: there are none.
func Open(ctx context.Context, name string, p provider.Provider, m *Metrics, t *tracing.Tracer) (allocator.Provider, error) {
	ctx, cancel := context.WithTimeout(ctx, describeTimeout)
	defer cancel()
	d, err := p.Describe(ctx, &providerv1.DescribeRequest{})
	if err != nil {
		return allocator.Provider{}, fmt.Errorf("provider %q: %w", name, err)
	}
	poll := defaultPoll
	if d.GetPollInterval() != nil {
		poll = max(minPoll, d.GetPollInterval().AsDuration())
	}
	info := allocator.ProviderInfo{
		Name: name, Kind: d.GetKind(), Regions: d.GetRegions(), Builds: d.GetBuilds(), PollInterval: poll, MaxBootstrap: d.GetMaxBootstrapBytes(),
	}
	return allocator.Provider{Info: info, Host: &Host{name, p, m, t}}, nil
}

// Allocate implements allocator.Host.
func (h *Host) Allocate(ctx context.Context, o allocator.Order) (allocator.Server, error) {
	start := time.Now()
	ctx, span := h.tracer.Start(tracing.WithParent(ctx, o.Traceparent), "provider allocate")
	resp, err := h.provider.Allocate(ctx, &providerv1.AllocateRequest{
		AttemptId: o.Attempt, Namespace: o.Namespace, InstanceId: o.InstanceID, Build: o.Build, Region: o.Region, Labels: o.Labels, Bootstrap: o.Bootstrap,
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
	resp, err := h.provider.Get(ctx, &providerv1.GetRequest{AttemptId: attempt, ExternalId: externalID})
	if err = h.done("get", start, err); err != nil {
		return allocator.Server{}, err
	}
	return server(resp.GetServer())
}

// Release implements allocator.Host.
func (h *Host) Release(ctx context.Context, attempt, externalID string) (bool, error) {
	start := time.Now()
	resp, err := h.provider.Release(ctx, &providerv1.ReleaseRequest{AttemptId: attempt, ExternalId: externalID})
	if err = h.done("release", start, err); err != nil {
		return false, err
	}
	return resp.GetState() == providerv1.ServerState_SERVER_STATE_EXITED, nil
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
	out := allocator.Server{ExternalID: s.GetExternalId(), Region: s.GetRegion(), Message: s.GetMessage()}
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
