package edgegap_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/berth-dev/berth/sdk/go/provider/providertest"
	"github.com/berth-dev/berth/services/allocation/providers/edgegap"
	"github.com/berth-dev/berth/services/allocation/providers/internal/hostapi"
	edgegaphost "github.com/berth-dev/berth/test/hosts/edgegap"
	"github.com/berth-dev/berth/test/hosts/standin"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const token = "cafe0123-e458-4592-b607-c2c28afd8b62"

func place(latitude, longitude float64) edgegap.Region {
	return edgegap.Region{Latitude: &latitude, Longitude: &longitude}
}

// start starts a stand-in, and returns a configuration for it.
func start(t testing.TB) (*standin.Host, edgegap.Config) {
	t.Helper()
	host := edgegaphost.New(edgegaphost.Config{
		Token: token, Versions: map[string][]string{"shooter-server": {"2026.11.28-1"}, "racer": {"v1"}},
		Ports: map[string]edgegaphost.Port{"gameport": {Internal: 7777, Protocol: "UDP"}, "Voice": {Internal: 7778, Protocol: "WS", TLS: true}},
	})
	url := standin.Serve(t, host, host)
	return host, edgegap.Config{
		URL: url, TokenFile: hostapi.SecretFile(standin.SecretFile(t, token)), Ports: map[string]string{"gameport": "game"},
		Builds:  map[string]edgegap.Build{"shooter": {App: "shooter-server", Version: "2026.11.28-1"}, "racer": {App: "racer", Version: "v1"}},
		Regions: map[string]edgegap.Region{"eu": place(50.11, 8.68), "us": place(39.04, -77.49)},
	}
}

func open(t testing.TB, cfg edgegap.Config) *edgegap.Provider {
	t.Helper()
	p, err := edgegap.NewQuick(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close(context.Background()) })
	return p
}

// twice is the host without its count of servers where it gets requests twice: it cannot know that two are one, so that it starts two servers. What List has of
// them then is checked all the same, and TestTwoDeployments what becomes of the second.
type twice struct {
	*standin.Host
	doubles atomic.Bool
}

func (h *twice) Duplicate(ctx context.Context) error {
	h.doubles.Store(true)
	return h.Host.Duplicate(ctx)
}

func (h *twice) Started(ctx context.Context, server string) (int, error) {
	if h.doubles.Load() {
		return 0, providertest.ErrUnsupported
	}
	return h.Host.Started(ctx, server)
}

func (*twice) Quota(context.Context) error {
	return providertest.NotApplicable("Edgegap documents no answer that is about a quota or a bill")
}

// Late begins the check after the one that has requests twice.
func (h *twice) Late(ctx context.Context, after time.Duration) error {
	h.doubles.Store(false)
	return h.Host.Late(ctx, after)
}

func TestConformance(t *testing.T) {
	host, cfg := start(t)
	p := open(t, cfg)
	providertest.Run(t, providertest.Config{Provider: p, Host: &twice{Host: host}})
	if c := host.Count(); c.Doubled != 1 {
		t.Errorf("at the end: %+v; want the one double of the check that makes it", c)
	}
	if left := active(t, cfg, ""); len(left) != 0 {
		t.Errorf("at the end there are %v", left)
	}
}

func BenchmarkAllocate(b *testing.B) {
	host, cfg := start(b)
	standin.Bench(b, open(b, cfg), host, "shooter", "eu")
}
