package allocation_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/berth-dev/berth/pkg/app"
	"github.com/berth-dev/berth/pkg/auth"
	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/pkg/redisx/redistest"
	"github.com/berth-dev/berth/pkg/rpc"
	allocationv1 "github.com/berth-dev/berth/sdk/go/gen/berth/allocation/v1"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation"
	"github.com/berth-dev/berth/services/allocation/internal/allocator"
	"github.com/berth-dev/berth/services/allocation/internal/redisstore"
	"github.com/berth-dev/berth/services/allocation/providers"
	"github.com/berth-dev/berth/services/allocation/providers/remote"
)

// plugin serves a farm as a plugin, and returns its configuration.
func plugin(t *testing.T, name string, f *farm) providers.Config {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	address, ready, done := "unix://"+filepath.Join(t.TempDir(), "p.sock"), make(chan struct{}), make(chan error, 1)
	go func() {
		done <- provider.Serve(ctx, provider.ServeConfig{Address: address, Log: slog.New(slog.DiscardHandler), Ready: func(net.Addr) { close(ready) }}, f)
	}()
	<-ready
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return providers.Config{Name: name, Kind: "remote", MaxCalls: 2, Remote: remote.Config{Address: address}}
}

// scraped is what a service shows of itself.
type scraped string

// scrape asks the service's own endpoint.
func scrape(t *testing.T, addr net.Addr) scraped {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr.String()+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatal(resp.Status, err)
	}
	return scraped(body)
}

// value is that of one time series, such as `name{label="value"}`; -1: there is none.
func (s scraped) value(t *testing.T, series string) float64 {
	t.Helper()
	m := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(series) + ` (.+)$`).FindStringSubmatch(string(s))
	if m == nil {
		return -1
	}
	v, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// What the lanes, breakers and lines do can be watched from outside; what nobody has configured makes no time series.
func TestMetrics(t *testing.T) {
	redis := redistest.Server(t)
	full, slow := newFarm(), newFarm()
	slow.region = "us"
	full.set(func(context.Context, string, string) error { return provider.Failure(provider.NoCapacity, "full") })
	fail := make(chan struct{})
	slow.set(func(ctx context.Context, _, _ string) error {
		select {
		case <-fail:
		case <-ctx.Done():
		}
		return provider.Failure(provider.Unavailable, "away")
	})
	ln, admin := listener(t), listener(t)
	cfg := allocation.Default()
	cfg.GRPCListener, cfg.Redis, cfg.Auth = ln, redisx.Config{Addrs: []string{redis}}, auth.Config{InternalKey: internalKey}
	p := newPeer(t)
	cfg.GameInstance, cfg.TokenIssuer = p.conn.Target(), p.conn.Target()
	cfg.Providers = []providers.Config{plugin(t, "full", full), plugin(t, "slow", slow)}
	t.Cleanup(runWith(t, app.Config{Log: slog.New(slog.DiscardHandler), AdminListener: admin}, allocation.Module(cfg)))
	shows := func(want map[string]float64) {
		t.Helper()
		for series, v := range want {
			eventually(t, func() (bool, any) { got := scrape(t, admin.Addr()).value(t, series); return got == v, got })
		}
	}
	shows(map[string]float64{
		`berth_allocation_calls_in_flight{provider="slow"}`: 0, `berth_allocation_calls_parked{provider="slow"}`: 0,
		`berth_allocation_waiting{build="demo"}`: 0, `berth_allocation_waiting_longest_seconds{build="demo"}`: 0,
		`berth_allocation_breaker_state{provider="slow",region="us",state="closed"}`: -1, // it was never asked
	})

	s := openRedis(t, redis)
	if ok, err := redisstore.New(s).Enter(t.Context(), allocator.Waiter{ID: wish(99).ID, Line: allocator.Line{Build: "unknown", Where: "here"}}, time.Now(), 10); !ok || err != nil {
		t.Fatal(ok, err)
	}
	(&rig{t: t, redis: s}).spoil(wish(unreadable).ID)
	if ok, err := redisstore.New(s).Enter(t.Context(), allocator.Waiter{ID: wish(unreadable).ID, Line: allocator.Line{Build: "demo", Where: "here"}}, time.Now(), 10); !ok || err != nil {
		t.Fatal(ok, err)
	}
	shows(map[string]float64{`berth_allocation_records_passed_over_total`: 1, `berth_allocation_waiting{build="demo"}`: 0})
	conn, err := rpc.Dial(ln.Addr().String(), internalKey)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	client := allocationv1.NewAllocationServiceClient(conn)
	begin := time.Now()
	for n := range 8 {
		region := []string{"us", "eu"}[n/5] // five at the slow one, three at the full one
		if _, err := client.CreateAllocation(t.Context(), &allocationv1.CreateAllocationRequest{
			AllocationId: wish(n).ID, Namespace: "default", InstanceId: instance, Deadline: timestamppb.New(time.Now().Add(time.Hour)),
			Placement: &instancev1.Placement{Build: "demo", Regions: []string{region}},
		}); err != nil {
			t.Fatal(err)
		}
	}
	shows(map[string]float64{
		`berth_allocation_calls_in_flight{provider="slow"}`: 2, `berth_allocation_calls_parked{provider="slow"}`: 3, `berth_allocation_calls_parked{provider="full"}`: 0,
		`berth_allocation_waiting{build="demo"}`:                                     3,
		`berth_allocation_breaker_state{provider="full",region="eu",state="closed"}`: 1, `berth_allocation_breaker_state{provider="full",region="eu",state="open"}`: 0,
	})
	eventually(t, func() (bool, any) {
		v := scrape(t, admin.Addr()).value(t, `berth_allocation_waiting_longest_seconds{build="demo"}`)
		return v > 0 && v < time.Since(begin).Seconds(), v
	})
	close(fail)
	shows(map[string]float64{
		`berth_allocation_breaker_state{provider="slow",region="us",state="open"}`: 1, `berth_allocation_breaker_state{provider="slow",region="us",state="closed"}`: 0,
		`berth_allocation_calls_in_flight{provider="slow"}`: 0, `berth_allocation_calls_parked{provider="slow"}`: 0,
	})
	documented, err := os.ReadFile("../../docs/allocation.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (berth_(?:allocation|provider|reaper)_\S+)`).FindAllStringSubmatch(string(scrape(t, admin.Addr())), -1) {
		if !strings.Contains(string(documented), "| `"+m[1]+"` |") {
			t.Errorf("docs/allocation.md has no %s", m[1])
		}
	}
	if all := string(scrape(t, admin.Addr())); strings.Contains(all, `build="unknown"`) || strings.Contains(all, instance) {
		t.Error("a build that nobody has configured, or an instance, makes a time series")
	}
}

func listener(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

func openRedis(t *testing.T, addr string) *redisx.Store {
	t.Helper()
	s, err := redisx.Open(t.Context(), redisx.Config{Addrs: []string{addr}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}
