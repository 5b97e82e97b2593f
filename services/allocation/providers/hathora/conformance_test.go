package hathora_test

import (
	"testing"

	"github.com/berth-dev/berth/sdk/go/provider/providertest"
	"github.com/berth-dev/berth/services/allocation/providers/hathora"
	"github.com/berth-dev/berth/services/allocation/providers/internal/hostapi"
	hathorahost "github.com/berth-dev/berth/test/hosts/hathora"
	"github.com/berth-dev/berth/test/hosts/standin"
)

const (
	token = "org-token"
	app   = "app-af469a92-5b45-4565-b3c4-b79878de67d2"
	other = "app-0d2b4a92-5b45-4565-b3c4-b79878de67d2"
)

// start starts a stand-in, and returns a configuration for it.
func start(t testing.TB) (*standin.Host, hathora.Config) {
	t.Helper()
	host := hathorahost.New(hathorahost.Config{Token: token, Deployments: map[string][]string{app: {"dep-1"}, other: nil}})
	url := standin.Serve(t, host, host)
	return host, hathora.Config{
		URL: url, TokenFile: hostapi.SecretFile(standin.SecretFile(t, token)),
		Builds:  map[string]hathora.Build{"shooter": {App: app, Deployment: "dep-1"}, "racer": {App: other}},
		Regions: map[string]string{"eu": "Frankfurt", "us": "Chicago"},
	}
}

func TestConformance(t *testing.T) {
	host, cfg := start(t)
	p, err := hathora.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	providertest.Run(t, providertest.Config{Provider: p, Host: host})
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if c := host.Count(); c.Running != 0 || c.Doubled != 0 {
		t.Errorf("at the end: %+v", c)
	}
}

func BenchmarkAllocate(b *testing.B) {
	host, cfg := start(b)
	p, err := hathora.New(cfg)
	if err != nil {
		b.Fatal(err)
	}
	standin.Bench(b, p, host, "shooter", "eu")
}
