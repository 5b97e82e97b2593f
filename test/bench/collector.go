package main

import (
	"context"
	"fmt"
	"net"
	"sync"

	collectorv1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
)

// everything is what tracing.sample_ratio is to send all traces.
const everything = "1"

// collector is the stand-in for an OpenTelemetry collector: it speaks OTLP over gRPC and counts. Its own cost counts nowhere.
type collector struct {
	collectorv1.UnimplementedTraceServiceServer
	mu    sync.Mutex
	spans map[string]int // by service.name
}

func (c *collector) Export(_ context.Context, req *collectorv1.ExportTraceServiceRequest) (*collectorv1.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, of := range req.GetResourceSpans() {
		program := ""
		for _, a := range of.GetResource().GetAttributes() {
			if a.GetKey() == "service.name" {
				program = a.GetValue().GetStringValue()
			}
		}
		for _, scope := range of.GetScopeSpans() {
			c.spans[program] += len(scope.GetSpans())
		}
	}
	return &collectorv1.ExportTraceServiceResponse{}, nil
}

// collect is the collector's process. Whatever it is ordered, it says how many spans it has of the program that the order names.
func collect() error {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	c, server, failed := &collector{spans: make(map[string]int)}, grpc.NewServer(), make(chan error, 2)
	collectorv1.RegisterTraceServiceServer(server, c)
	go func() { failed <- server.Serve(ln) }()
	go func() {
		failed <- obey(ln.Addr().String(), func(o order) report {
			c.mu.Lock()
			defer c.mu.Unlock()
			return report{Done: c.spans[o.Set]}
		})
	}()
	return <-failed
}

// traced is a stack whose spans go to a collector of its own; without one there is no tracing.
type traced struct {
	*stack
	collector *child
}

// startTraced starts one. ratio is tracing.sample_ratio; "" leaves the default.
func startTraced(o options, appendonly, ratio string) (*traced, error) {
	c, err := part(nil, "collector")
	if err != nil {
		return nil, err
	}
	env := []string{
		"BERTH_TRACING_ENDPOINT=" + c.addr, "BERTH_TRACING_INSECURE=true",
		"OTEL_BSP_SCHEDULE_DELAY=500", // ms, so that spans are sent in the turn that made them, and count there
	}
	if ratio != "" {
		env = append(env, "BERTH_TRACING_SAMPLE_RATIO="+ratio)
	}
	s, err := startStack(o, appendonly, env...)
	if err != nil {
		c.stop()
		return nil, err
	}
	return &traced{stack: s, collector: c}, nil
}

func (t *traced) stop() {
	t.stack.stop()
	if t.collector != nil {
		t.collector.stop()
	}
}

// got waits until the collector has at least so many spans of a program, and returns how many it has. Without them the stack was not traced, and its figures would lie.
func (t *traced) got(program string, least int) (spans int, err error) {
	err = until(func() error {
		r, err := ordered(t.collector, order{Do: "count", Set: program})
		if spans = r.Done; err == nil && spans < least {
			err = fmt.Errorf("the collector has %d spans of %s, and should have %d", spans, program, least)
		}
		return err
	})
	return spans, err
}
