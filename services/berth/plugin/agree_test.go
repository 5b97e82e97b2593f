package plugin_test

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/sdk/go/provider/chaos"
	"github.com/berth-dev/berth/sdk/go/provider/providertest"
	"github.com/berth-dev/berth/services/allocation/providers/remote"
)

// odd is a plugin that can say odd things of itself and of its servers.
type odd struct {
	*chaos.Provider
	describe atomic.Pointer[func(*providerv1.DescribeResponse)]
	server   atomic.Pointer[func(*providerv1.Server)]
}

func (o *odd) Describe(ctx context.Context, req *providerv1.DescribeRequest) (*providerv1.DescribeResponse, error) {
	d, err := o.Provider.Describe(ctx, req)
	if change := o.describe.Load(); err == nil && change != nil {
		(*change)(d)
	}
	return d, err
}

func (o *odd) Allocate(ctx context.Context, req *providerv1.AllocateRequest) (*providerv1.AllocateResponse, error) {
	resp, err := o.Provider.Allocate(ctx, req)
	if change := o.server.Load(); err == nil && change != nil {
		(*change)(resp.GetServer())
	}
	return resp, err
}

func (o *odd) Get(ctx context.Context, req *providerv1.GetRequest) (*providerv1.GetResponse, error) {
	resp, err := o.Provider.Get(ctx, req)
	if change := o.server.Load(); err == nil && change != nil {
		(*change)(resp.GetServer())
	}
	return resp, err
}

// serve serves the plugin, and returns its address.
func serve(t *testing.T) (o *odd, address string) {
	t.Helper()
	p, err := chaos.New(chaos.Config{Script: chaos.Script{PollInterval: 10 * time.Millisecond}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	dir, err := os.MkdirTemp("", "odd") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	o, address = &odd{Provider: p}, "unix://"+filepath.Join(dir, "s")
	ctx, cancel := context.WithCancel(t.Context())
	ready, served := make(chan struct{}), make(chan error, 1) // it ends once
	go func() {
		served <- provider.Serve(ctx, provider.ServeConfig{Address: address, Ready: func(net.Addr) { close(ready) }}, o)
	}()
	t.Cleanup(func() { cancel(); <-served })
	<-ready
	return o, address
}

// service is the plugin as the allocation service has it.
func service(t *testing.T, address string) *remote.Provider {
	t.Helper()
	p, err := remote.New(t.Context(), remote.Config{Name: "odd", Address: address, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// passes reports whether the suite is content.
func passes(t *testing.T, o *odd, check string) bool {
	t.Helper()
	report, err := providertest.Verify(t.Context(), providertest.Config{Provider: o, Build: "chaos", Region: "local", Checks: []string{check}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return report[0].Status == providertest.Passed
}

// What the suite passes, the service takes, and the other way round, up to the last byte.
func TestTheSuiteAndTheServiceTakeTheSameServers(t *testing.T) {
	o, address := serve(t)
	p := service(t, address)
	t.Cleanup(func() { _ = p.Close(context.WithoutCancel(t.Context())) })
	endpoints := func(all ...*typev1.Endpoint) func(*providerv1.Server) {
		return func(s *providerv1.Server) { s.Endpoints = all }
	}
	game := func(change func(*typev1.Endpoint)) func(*providerv1.Server) {
		e := &typev1.Endpoint{Name: "game", Host: "10.0.0.5", Port: 7777, Protocol: typev1.Protocol_PROTOCOL_UDP}
		change(e)
		return endpoints(e)
	}
	many := func(n int) (all []*typev1.Endpoint) {
		for i := range n {
			all = append(all, &typev1.Endpoint{Name: "e" + strings.Repeat("x", i/26) + string(rune('a'+i%26)), Host: "h", Port: 1})
		}
		return all
	}
	for _, test := range []struct {
		name   string
		change func(*providerv1.Server)
		good   bool
	}{
		{"as it should be", game(func(*typev1.Endpoint) {}), true},
		{"external_id of 512", func(s *providerv1.Server) { s.ExternalId = strings.Repeat("x", 512) }, true},
		{"external_id of 513", func(s *providerv1.Server) { s.ExternalId = strings.Repeat("x", 513) }, false},
		{"server_id of 512", func(s *providerv1.Server) { s.ServerId = strings.Repeat("x", 512) }, true},
		{"server_id of 513", func(s *providerv1.Server) { s.ServerId = strings.Repeat("x", 513) }, false},
		{"region of 129", func(s *providerv1.Server) { s.Region = strings.Repeat("x", 129) }, false},
		{"64 endpoints", endpoints(many(64)...), true},
		{"65 endpoints", endpoints(many(65)...), false},
		{"two endpoints of one name", endpoints(many(1)[0], many(1)[0]), false},
		{"name of 63", game(func(e *typev1.Endpoint) { e.Name = strings.Repeat("x", 63) }), true},
		{"name of 64", game(func(e *typev1.Endpoint) { e.Name = strings.Repeat("x", 64) }), false},
		{"name of one", game(func(e *typev1.Endpoint) { e.Name = "0" }), true},
		{"no name", game(func(e *typev1.Endpoint) { e.Name = "" }), false},
		{"name with capitals", game(func(e *typev1.Endpoint) { e.Name = "Game" }), false},
		{"name that ends in -", game(func(e *typev1.Endpoint) { e.Name = "game-" }), false},
		{"name and a new line", game(func(e *typev1.Endpoint) { e.Name = "game\n" }), false},
		{"host of 253", game(func(e *typev1.Endpoint) { e.Host = strings.Repeat("h", 253) }), true},
		{"host of 253 in another script", game(func(e *typev1.Endpoint) { e.Host = strings.Repeat("é", 253) }), true},
		{"host of 254", game(func(e *typev1.Endpoint) { e.Host = strings.Repeat("h", 254) }), false},
		{"no host", game(func(e *typev1.Endpoint) { e.Host = "" }), false},
		{"port 65535", game(func(e *typev1.Endpoint) { e.Port = 65535 }), true},
		{"port 65536", game(func(e *typev1.Endpoint) { e.Port = 65536 }), false},
		{"no port", game(func(e *typev1.Endpoint) { e.Port = 0 }), false},
		{"no protocol", game(func(e *typev1.Endpoint) { e.Protocol = 0 }), true},
		{"a protocol to come", game(func(e *typev1.Endpoint) { e.Protocol = 3 }), false},
		{"no state", func(s *providerv1.Server) { s.State = 0 }, false},
		{"a state to come", func(s *providerv1.Server) { s.State = 5 }, false},
		{"another attempt", func(s *providerv1.Server) { s.AttemptId = "a-2" }, false},
	} {
		o.server.Store(&test.change)
		_, err := p.Allocate(t.Context(), &providerv1.AllocateRequest{AttemptId: "a-1", Build: "chaos", Region: "local", Deployment: "d", Bootstrap: []byte("{}")})
		if suite := passes(t, o, "allocate"); suite != test.good || (err == nil) != test.good {
			t.Errorf("%s: good %v, the suite passes it: %v, the service says %v", test.name, test.good, suite, err)
		}
	}
}

func TestTheSuiteAndTheServiceTakeTheSameDescriptions(t *testing.T) {
	o, address := serve(t)
	for _, test := range []struct {
		name   string
		change func(*providerv1.DescribeResponse)
		good   bool
	}{
		{"as it should be", func(*providerv1.DescribeResponse) {}, true},
		{"kind of 128", func(d *providerv1.DescribeResponse) { d.Kind = strings.Repeat("x", 128) }, true},
		{"kind of 129", func(d *providerv1.DescribeResponse) { d.Kind = strings.Repeat("x", 129) }, false},
		{"no kind", func(d *providerv1.DescribeResponse) { d.Kind = "" }, false},
		{"version of 128", func(d *providerv1.DescribeResponse) { d.Version = strings.Repeat("x", 128) }, true},
		{"version of 129", func(d *providerv1.DescribeResponse) { d.Version = strings.Repeat("x", 129) }, false},
		{"build of 128", func(d *providerv1.DescribeResponse) { d.Builds = []string{"chaos", strings.Repeat("x", 128)} }, true},
		{"build of 129", func(d *providerv1.DescribeResponse) { d.Builds = []string{"chaos", strings.Repeat("x", 129)} }, false},
		{"build without a name", func(d *providerv1.DescribeResponse) { d.Builds = []string{"chaos", ""} }, false},
		{"region of 129", func(d *providerv1.DescribeResponse) { d.Regions = []string{"local", strings.Repeat("x", 129)} }, false},
		{"region without a name", func(d *providerv1.DescribeResponse) { d.Regions = []string{"local", ""} }, false},
		{"1000 builds", func(d *providerv1.DescribeResponse) { d.Builds = slices.Repeat([]string{"chaos"}, 1000) }, true},
		{"1001 builds", func(d *providerv1.DescribeResponse) { d.Builds = slices.Repeat([]string{"chaos"}, 1001) }, false},
		{"1001 regions", func(d *providerv1.DescribeResponse) { d.Regions = slices.Repeat([]string{"local"}, 1001) }, false},
		{"negative max_bootstrap_bytes", func(d *providerv1.DescribeResponse) { d.MaxBootstrapBytes = -1 }, false},
		{"poll_interval of 2 h", func(d *providerv1.DescribeResponse) { d.PollInterval = durationpb.New(2 * time.Hour) }, false},
		{"another version of the contract", func(d *providerv1.DescribeResponse) { d.Contract = 2 }, false},
	} {
		o.describe.Store(&test.change)
		p := service(t, address)
		described, problem := p.Status()
		if err := p.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if suite := passes(t, o, "describe"); suite != test.good || (described != nil) != test.good {
			t.Errorf("%s: good %v, the suite passes it: %v, the service says %q", test.name, test.good, suite, problem)
		}
	}
}
