package tracing

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	collectorv1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
)

// many is far more spans than may wait, and mayWait what may: the queue, and the batch that is being sent.
const (
	many    = 20_000
	mayWait = 2048 + 512
)

// hanging is a collector that takes spans and does not answer until it is released.
type hanging struct {
	collectorv1.UnimplementedTraceServiceServer
	release chan struct{}
	called  chan struct{}
	first   sync.Once
	mu      sync.Mutex
	spans   int
}

func (h *hanging) Export(_ context.Context, req *collectorv1.ExportTraceServiceRequest) (*collectorv1.ExportTraceServiceResponse, error) {
	h.first.Do(func() { close(h.called) })
	<-h.release
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, of := range req.GetResourceSpans() {
		for _, scope := range of.GetScopeSpans() {
			h.spans += len(scope.GetSpans())
		}
	}
	return &collectorv1.ExportTraceServiceResponse{}, nil
}

func startHanging(t *testing.T) (*hanging, string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h, s := &hanging{release: make(chan struct{}), called: make(chan struct{})}, grpc.NewServer()
	collectorv1.RegisterTraceServiceServer(s, h)
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	t.Cleanup(func() {
		select {
		case <-h.release:
		default:
			close(h.release)
		}
		s.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return h, ln.Addr().String()
}

func open(t *testing.T, addr string) *Tracer {
	t.Helper()
	tr, err := Open(t.Context(), Config{Endpoint: addr, Insecure: true, SampleRatio: 1}, "test")
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

func spans(tr *Tracer, n int) {
	for range n {
		_, s := tr.Start(context.Background(), "s")
		s.End("")
	}
}

// closeSoon closes with next to no time left, as a program does that has to end. That it returns, with goleak behind it, is what is tested.
func closeSoon(t *testing.T, tr *Tracer) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := tr.Close(ctx); err != nil {
		t.Errorf("a stop is spoilt: %v", err)
	}
}

func TestACollectorThatHangsHoldsNobodyUpAndFillsNoMemory(t *testing.T) {
	h, addr := startHanging(t)
	tr := open(t, addr)
	spans(tr, many) // returns: nobody waits for the collector
	<-h.called
	close(h.release)
	if err := tr.Close(context.Background()); err != nil {
		t.Error(err)
	}
	if h.spans == 0 || h.spans > mayWait {
		t.Errorf("%d spans waited, which may be %d", h.spans, mayWait)
	}
}

func TestACollectorThatHangsDoesNotHoldUpAStop(t *testing.T) {
	h, addr := startHanging(t)
	tr := open(t, addr)
	spans(tr, many)
	<-h.called
	closeSoon(t, tr)
}

func TestACollectorThatIsAwayHoldsNobodyUp(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := ln.Close(); err != nil { // nobody is there now
		t.Fatal(err)
	}
	tr := open(t, ln.Addr().String())
	spans(tr, many)
	closeSoon(t, tr)
}
