package tracing

import (
	"context"
	"math"
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	sampled   = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	unsampled = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
)

func tracer(t *testing.T, ratio float64) (*Tracer, *tracetest.InMemoryExporter) {
	t.Helper()
	spans := tracetest.NewInMemoryExporter()
	tr := newTracer(sdktrace.NewSimpleSpanProcessor(spans), ratio, "test")
	t.Cleanup(func() {
		if err := tr.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return tr, spans
}

func TestATraceGoesOnWhereItIsHandedOver(t *testing.T) {
	tr, spans := tracer(t, 1)
	ctx, first := tr.Start(WithParent(t.Context(), sampled), "first")
	_, second := tr.Start(WithParent(t.Context(), Traceparent(ctx)), "second") // as over a record or a frame
	second.End("STATE_NOT_ALLOWED")
	first.End("")
	got := spans.GetSpans()
	if len(got) != 2 || got[0].Name != "second" || got[0].Parent.SpanID() != got[1].SpanContext.SpanID() {
		t.Fatalf("got %+v", got)
	}
	for _, s := range got {
		if id := s.SpanContext.TraceID().String(); id != sampled[3:35] {
			t.Errorf("%s is of trace %s", s.Name, id)
		}
	}
	if a := got[0].Attributes; len(a) != 1 || a[0].Value.AsString() != "STATE_NOT_ALLOWED" || len(got[1].Attributes) != 0 {
		t.Errorf("reasons: %v, %v", a, got[1].Attributes)
	}
}

func TestWhatIsSent(t *testing.T) {
	for name, c := range map[string]struct {
		parent string
		ratio  float64
		want   int
	}{
		"sampled elsewhere":     {sampled, 1, 1},
		"and not here":          {sampled, 0, 0}, // anybody can write a traceparent
		"not sampled elsewhere": {unsampled, 1, 0},
		"begins here, all":      {"", 1, 1},
		"begins here, none":     {"", 0, 0},
		"nonsense":              {"00-zz", 1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			tr, spans := tracer(t, c.ratio)
			ctx, s := tr.Start(WithParent(t.Context(), c.parent), "s")
			s.End("")
			if got := len(spans.GetSpans()); got != c.want {
				t.Errorf("%d spans", got)
			}
			if Traceparent(ctx) == "" {
				t.Error("what follows would decide anew")
			}
		})
	}
}

func TestNoTracing(t *testing.T) {
	tr, err := Open(t.Context(), DefaultConfig(), "test")
	if tr != nil || err != nil {
		t.Fatal(tr, err)
	}
	ctx, s := tr.Start(t.Context(), "s")
	s.End("X")
	if ctx != t.Context() || Traceparent(ctx) != "" || tr.ServerHandler() != nil || tr.ClientHandler() != nil || tr.Close(ctx) != nil {
		t.Error("there is something")
	}
}

func TestRatios(t *testing.T) {
	for _, bad := range []float64{-0.1, 1.1, math.NaN()} {
		if (Config{SampleRatio: bad}).Validate() == nil {
			t.Errorf("%v is accepted", bad)
		}
	}
	if err := DefaultConfig().Validate(); err != nil {
		t.Error(err)
	}
}
