// Package tracing sends spans to an OpenTelemetry collector, where one is configured, and carries the trace of a request over ways that are no call:
// a record, a document, a frame.
package tracing

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/stats"
)

// Config says where spans go.
type Config struct {
	// Endpoint is an OTLP collector's gRPC address, host:port; empty, the default: there is no tracing.
	Endpoint string `yaml:"endpoint" env:"ENDPOINT"`
	// Insecure sends spans without TLS. They have ids and names of calls, and no data.
	Insecure bool `yaml:"insecure" env:"INSECURE"`
	// SampleRatio is which part of the traces is sent, 0 to 1. It follows from a trace's id, so that all services send the same ones, and what callers ask for
	// in their traceparent can only make it less: anybody can write one.
	SampleRatio float64 `yaml:"sample_ratio" env:"SAMPLE_RATIO"`
}

// DefaultConfig returns the defaults.
func DefaultConfig() Config { return Config{SampleRatio: 0.01} }

// Validate returns an error that names the setting that cannot be used.
func (c Config) Validate() error {
	if !(c.SampleRatio >= 0 && c.SampleRatio <= 1) { // NaN is neither
		return fmt.Errorf("tracing.sample_ratio (BERTH_TRACING_SAMPLE_RATIO): must be 0 to 1, not %v", c.SampleRatio)
	}
	return nil
}

// exportTimeout bounds one try to send spans. While the collector is away they are dropped; nobody waits for it.
const exportTimeout = 5 * time.Second

// Tracer makes spans. A nil one makes none. It is safe for concurrent use.
type Tracer struct {
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer
	abort    func(context.Context) error // ends the exporter, whatever it is doing; nil if it cannot be busy
}

// Open returns the tracer of a program, whose spans carry its name; nil if there is to be no tracing. It does not wait for the collector.
func Open(ctx context.Context, cfg Config, program string) (*Tracer, error) {
	if cfg.Endpoint == "" {
		return nil, nil //nolint:nilnil // no tracing is a nil tracer
	}
	opts := []otlptracegrpc.Option{otlptracegrpc.WithEndpoint(cfg.Endpoint), otlptracegrpc.WithTimeout(exportTimeout)}
	if cfg.Insecure {
		opts = append(opts, otlptracegrpc.WithInsecure())
	}
	exporter, err := otlptracegrpc.New(ctx, opts...)
	if err != nil {
		return nil, fmt.Errorf("tracing.endpoint (BERTH_TRACING_ENDPOINT): %w", err)
	}
	t := newTracer(sdktrace.NewBatchSpanProcessor(exporter), cfg.SampleRatio, program)
	t.abort = exporter.Shutdown
	return t, nil
}

func newTracer(spans sdktrace.SpanProcessor, ratio float64, program string) *Tracer {
	part := sdktrace.TraceIDRatioBased(ratio)
	p := sdktrace.NewTracerProvider(
		sdktrace.WithSpanProcessor(spans),
		sdktrace.WithSampler(sdktrace.ParentBased(part, sdktrace.WithRemoteParentSampled(part))),
		sdktrace.WithResource(resource.NewSchemaless(attribute.String("service.name", program))),
	)
	return &Tracer{provider: p, tracer: p.Tracer("github.com/berth-dev/berth")}
}

// Close sends what waits until ctx ends, drops the rest, and ends. A collector that is away or hangs does not spoil it: that is no error.
func (t *Tracer) Close(ctx context.Context) error {
	if t == nil {
		return nil
	}
	err := t.provider.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) && t.abort != nil { // it would go on trying behind our back, batch after batch, and hold its connection
		_ = t.abort(ctx) // it may be ending already; either way it is over
		return nil
	}
	if err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("tracing: %w", err)
	}
	return nil
}

// Start begins a span of somebody's call, as the child of the trace in ctx. The caller ends it with End.
func (t *Tracer) Start(ctx context.Context, name string) (context.Context, Span) {
	if t == nil {
		return ctx, Span{}
	}
	ctx, s := t.tracer.Start(ctx, name, trace.WithSpanKind(trace.SpanKindServer))
	return ctx, Span{s}
}

// Span is one step of a trace. The zero one is none.
type Span struct{ span trace.Span }

// End ends it. A step that failed says with which reason.
func (s Span) End(reason string) {
	if s.span == nil {
		return
	}
	if reason != "" {
		s.span.SetAttributes(attribute.String("berth.reason", reason))
	}
	s.span.End()
}

// ServerHandler and ClientHandler make spans of gRPC calls; nil where there is no tracing. Streams that live as long as their services are no calls.
func (t *Tracer) ServerHandler() stats.Handler {
	if t == nil {
		return nil
	}
	return otelgrpc.NewServerHandler(t.options()...)
}

// ClientHandler is ServerHandler for the calling side.
func (t *Tracer) ClientHandler() stats.Handler {
	if t == nil {
		return nil
	}
	return otelgrpc.NewClientHandler(t.options()...)
}

// endless are the methods of streams that are no calls, and of what services do by the clock.
var endless = map[string]bool{ //nolint:gochecknoglobals // a constant, if there were such maps
	"/berth.session.v1.SessionService/Relay":        true,
	"/berth.session.v1.SessionService/RenewGateway": true,
}

func (t *Tracer) options() []otelgrpc.Option {
	return []otelgrpc.Option{
		otelgrpc.WithTracerProvider(t.provider),
		otelgrpc.WithMeterProvider(noop.NewMeterProvider()), // metrics are Prometheus'
		otelgrpc.WithPropagators(propagation.TraceContext{}),
		otelgrpc.WithFilter(func(info *stats.RPCTagInfo) bool { return !endless[info.FullMethodName] }),
	}
}

// header is where W3C Trace Context puts a trace.
const header = "traceparent"

// Traceparent returns the trace of a context in the form of W3C Trace Context; "" if it has none.
func Traceparent(ctx context.Context) string {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return ""
	}
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	return carrier[header]
}

// WithParent returns a context whose trace is that of a traceparent. One that cannot be read, or an empty one, changes nothing.
func WithParent(ctx context.Context, traceparent string) context.Context {
	if traceparent == "" {
		return ctx
	}
	return propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{header: traceparent})
}
