package e2e

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	collectorv1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"

	"github.com/berth-dev/berth/pkg/redisx/redistest"
)

// collector is an OTLP collector that keeps what it gets.
type collector struct {
	collectorv1.UnimplementedTraceServiceServer
	addr string

	mu    sync.Mutex
	spans map[string][]string // "program: span" by trace id
}

func newCollector(t *testing.T) *collector {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &collector{addr: ln.Addr().String(), spans: make(map[string][]string)}
	srv := grpc.NewServer()
	collectorv1.RegisterTraceServiceServer(srv, c)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	t.Cleanup(func() {
		srv.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return c
}

// Export implements the collector's rpc.
func (c *collector) Export(_ context.Context, req *collectorv1.ExportTraceServiceRequest) (*collectorv1.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range req.GetResourceSpans() {
		program := ""
		for _, a := range r.GetResource().GetAttributes() {
			if a.GetKey() == "service.name" {
				program = a.GetValue().GetStringValue()
			}
		}
		for _, scope := range r.GetScopeSpans() {
			for _, s := range scope.GetSpans() {
				id := fmt.Sprintf("%x", s.GetTraceId())
				c.spans[id] = append(c.spans[id], program+": "+s.GetName())
			}
		}
	}
	return new(collectorv1.ExportTraceServiceResponse), nil
}

// missing returns which spans a trace does not have.
func (c *collector) missing(trace string, want ...string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	got := c.spans[trace]
	for _, w := range want {
		if !slices.Contains(got, w) {
			return fmt.Errorf("there is no %q among %s", w, strings.Join(got, "; "))
		}
	}
	return nil
}

// One trace begins with a backend's call over REST and ends with the link of the game server that it caused, through four services and a process; and a
// collector that goes away holds nobody up.
func TestOneTraceFromCreateToLink(t *testing.T) {
	c := newCollector(t)
	s := processesWith(t, redistest.Server(t), nil, func(string) []string {
		return []string{"BERTH_TRACING_ENDPOINT=" + c.addr, "BERTH_TRACING_INSECURE=true", "BERTH_TRACING_SAMPLE_RATIO=1"}
	})
	const trace = "0af7651916cd43dd8448eb211c80319c"
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.urls[0]+"/v1/namespaces/default/instances", strings.NewReader(`{"placement":{"build":"example"}}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+s.key)
	req.Header.Set("Traceparent", "00-"+trace+"-b7ad6b7169203331-01")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatal(resp.Status)
	}
	eventually(t, "the whole trace", func() error {
		return c.missing(trace,
			"berth-gateway: berth.instance.v1.GameInstanceService/CreateGameInstance",
			"berth-game-instance: berth.instance.v1.GameInstanceService/CreateGameInstance",
			"berth-game-instance: berth.allocation.v1.AllocationService/CreateAllocation",
			"berth-allocation: berth.allocation.v1.AllocationService/CreateAllocation",
			"berth-allocation: provider allocate",
			"berth-token-issuer: berth.token.v1.TokenService/IssueTokenPair",
			"berth-gateway: link request",
			"berth-game-instance: berth.gameserver.v1.GameServerService/Link",
		)
	})
}
