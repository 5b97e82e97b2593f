package playfab_test

import (
	"context"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider/providertest"
	"github.com/berth-dev/berth/services/allocation/providers/internal/hostapi"
	"github.com/berth-dev/berth/services/allocation/providers/playfab"
	playfabhost "github.com/berth-dev/berth/test/hosts/playfab"
	"github.com/berth-dev/berth/test/hosts/standin"
)

const (
	secretKey = "EXAMPLEKEY7TITLE9SECRET3OF5FIFTY8CHARACTERS2ALTOGETHER"
	shooter   = "21781fa8-096d-4d9c-b699-75433d579285"
	racer     = "4da1a0f6-7e36-430c-a264-723ff6a605de"
	racer2    = "4da1a0f6-7e36-430c-a264-723ff6a605df"
	racers    = "53781fa8-006d-4e9c-b733-57433d579285"
)

// calls counts those of the API by their paths.
type calls struct {
	mu sync.Mutex
	n  map[string]int
}

func (c *calls) count(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		c.n[filepath.Base(r.URL.Path)]++
		c.mu.Unlock()
		next.ServeHTTP(w, r)
	})
}

func (c *calls) of(operation string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n[operation]
}

// start starts a stand-in, and returns a configuration for it. change, if not nil, changes the stand-in's before.
func start(t testing.TB, change func(*playfabhost.Config)) (*standin.Host, playfab.Config, *calls) {
	t.Helper()
	conf := playfabhost.Config{
		SecretKey: secretKey,
		Builds:    map[string][]string{shooter: {"WestEurope", "EastUs"}, racer: {"WestEurope"}, racer2: {"EastUs"}},
		Aliases:   map[string][]string{racers: {racer, racer2}},
	}
	if change != nil {
		change(&conf)
	}
	host, counted := playfabhost.New(conf), &calls{n: make(map[string]int)}
	url := standin.Serve(t, counted.count(host), host)
	return host, playfab.Config{
		URL: url, SecretKeyFile: hostapi.SecretFile(standin.SecretFile(t, secretKey)),
		Builds:  map[string]playfab.Build{"shooter": {ID: shooter}, "racer": {Alias: racers}},
		Regions: map[string]string{"eu": "WestEurope", "us": "EastUs"},
	}, counted
}

// hasty is the provider, asked more often: the suite waits a poll interval for whatever the host takes its time for.
type hasty struct{ *playfab.Provider }

func (h hasty) Describe(ctx context.Context, req *providerv1.DescribeRequest) (*providerv1.DescribeResponse, error) {
	resp, err := h.Provider.Describe(ctx, req)
	if err == nil {
		resp.PollInterval = durationpb.New(20 * time.Millisecond)
	}
	return resp, err
}

func TestConformance(t *testing.T) {
	host, cfg, _ := start(t, nil)
	p, err := playfab.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	providertest.Run(t, providertest.Config{Provider: hasty{p}, Host: host})
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if c := host.Count(); c.Running != 0 || c.Doubled != 0 {
		t.Errorf("at the end: %+v", c)
	}
}

func BenchmarkAllocate(b *testing.B) {
	host, cfg, _ := start(b, func(c *playfabhost.Config) { c.Servers = 1 << 30 }) // a server that was given back is there for a while
	p, err := playfab.New(cfg)
	if err != nil {
		b.Fatal(err)
	}
	standin.Bench(b, p, host, "shooter", "eu")
}
