package remote_test

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/berth-dev/berth/pkg/tlsx"
	"github.com/berth-dev/berth/pkg/tlsx/tlsxtest"
	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/providers/remote"
)

// foreign is a plugin that does without our SDK, and says what it wants.
type foreign struct {
	providerv1.UnimplementedProviderServiceServer
	describe func(*providerv1.DescribeRequest) (*providerv1.DescribeResponse, error)
	server   *providerv1.Server
	listed   *providerv1.ListResponse
	release  providerv1.ServerState
	err      error
	calls    atomic.Int32
}

func (f *foreign) Describe(_ context.Context, req *providerv1.DescribeRequest) (*providerv1.DescribeResponse, error) {
	if f.describe != nil {
		return f.describe(req)
	}
	return &providerv1.DescribeResponse{Kind: "foreign", Builds: []string{"duel"}}, nil
}

func (f *foreign) Allocate(context.Context, *providerv1.AllocateRequest) (*providerv1.AllocateResponse, error) {
	f.calls.Add(1)
	return &providerv1.AllocateResponse{Server: f.server}, f.err
}

func (f *foreign) Get(context.Context, *providerv1.GetRequest) (*providerv1.GetResponse, error) {
	f.calls.Add(1)
	return &providerv1.GetResponse{Server: f.server}, f.err
}

func (f *foreign) List(context.Context, *providerv1.ListRequest) (*providerv1.ListResponse, error) {
	return f.listed, f.err
}

func (f *foreign) Release(context.Context, *providerv1.ReleaseRequest) (*providerv1.ReleaseResponse, error) {
	return &providerv1.ReleaseResponse{State: f.release}, f.err
}

// serve serves s on a unix socket, with what others register, and returns its address.
func serve(t *testing.T, s providerv1.ProviderServiceServer, register ...func(*grpc.Server)) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "p.sock")
	serveAt(t, path, s, register...)
	return "unix://" + path
}

// serveAt serves s on a unix socket until the returned function is called.
func serveAt(t *testing.T, path string, s providerv1.ProviderServiceServer, register ...func(*grpc.Server)) (stop func()) {
	t.Helper()
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer()
	providerv1.RegisterProviderServiceServer(srv, s)
	for _, r := range register {
		r(srv)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(ln) }()
	stop = func() { srv.Stop(); <-done }
	t.Cleanup(stop)
	return stop
}

func TestAPluginThatMustNotBeCalledIsRefused(t *testing.T) {
	describes := func(d *providerv1.DescribeResponse) func(*providerv1.DescribeRequest) (*providerv1.DescribeResponse, error) {
		return func(*providerv1.DescribeRequest) (*providerv1.DescribeResponse, error) { return d, nil }
	}
	long := strings.Repeat("x", 200)
	for says, describe := range map[string]func(*providerv1.DescribeRequest) (*providerv1.DescribeResponse, error){
		"it speaks version 2 of berth.provider.v1.ProviderService, and this allocation service version 1": describes(&providerv1.DescribeResponse{Kind: "k", Contract: 2}),
		"it refuses version 1 of berth.provider.v1.ProviderService: it speaks version 2": func(r *providerv1.DescribeRequest) (*providerv1.DescribeResponse, error) {
			return nil, provider.Failure(provider.Invalid, "it speaks version 2 and was asked for %d to %d", r.GetContractMin(), r.GetContractMax())
		},
		"a kind of 0 bytes":    describes(new(providerv1.DescribeResponse)),
		"the builds a name":    describes(&providerv1.DescribeResponse{Kind: "k", Builds: []string{long}}),
		"the regions a name":   describes(&providerv1.DescribeResponse{Kind: "k", Regions: []string{""}}),
		"1001 builds":          describes(&providerv1.DescribeResponse{Kind: "k", Builds: make([]string, 1001)}),
		"max_bootstrap_bytes":  describes(&providerv1.DescribeResponse{Kind: "k", MaxBootstrapBytes: -1}),
		"poll_interval of -1s": describes(&providerv1.DescribeResponse{Kind: "k", PollInterval: durationpb.New(-time.Second)}),
	} {
		f := &foreign{describe: describe}
		p := open(t, remote.Config{Address: serve(t, f)})
		if d, problem := p.Status(); d != nil || !strings.Contains(problem, says) {
			t.Errorf("%s: %v, %q", says, d, problem)
		}
		_, err := p.Allocate(t.Context(), &providerv1.AllocateRequest{AttemptId: "a"})
		expect(t, says, err, provider.Unavailable, "mine", says)
		if f.calls.Load() != 0 {
			t.Errorf("%s: it was called", says)
		}
	}
}

// A plugin that is replaced by one of another version is not called as the old one was; the next release may fit again.
func TestAPluginIsReplacedByOneOfAnotherVersion(t *testing.T) {
	path := filepath.Join(t.TempDir(), "p.sock")
	stop := serveAt(t, path, new(foreign))
	p := open(t, remote.Config{Address: "unix://" + path})
	builds(t, p, "duel")
	stop()
	other := &foreign{describe: func(*providerv1.DescribeRequest) (*providerv1.DescribeResponse, error) {
		return &providerv1.DescribeResponse{Kind: "foreign", Builds: []string{"duel"}, Contract: 2}, nil
	}}
	stop = serveAt(t, path, other)
	status(t, p, func(d *providerv1.DescribeResponse, problem string) bool {
		return d == nil && strings.Contains(problem, "version 2")
	})
	expect(t, "replaced", get(t.Context(), p, "a"), provider.Unavailable, "version 2")
	if other.calls.Load() != 0 {
		t.Error("it was called")
	}
	stop()
	serveAt(t, path, new(foreign))
	builds(t, p, "duel")
}

func TestAnswersWithoutSenseAreAmbiguous(t *testing.T) {
	f := new(foreign)
	p := open(t, remote.Config{Address: serve(t, f)})
	long := strings.Repeat("x", 600)
	for says, s := range map[string]*providerv1.Server{
		"it has no server":            nil,
		`attempt_id is "b"`:           {AttemptId: "b", State: running},
		"state is 0":                  {AttemptId: "a"},
		"state is 77":                 {AttemptId: "a", State: 77},
		"external_id has 600":         {AttemptId: "a", State: running, ExternalId: long},
		"server_id has 600":           {AttemptId: "a", State: running, ServerId: long},
		"region has 600":              {AttemptId: "a", State: running, Region: long},
		`endpoint "game"`:             {AttemptId: "a", State: running, Endpoints: []*typev1.Endpoint{{Name: "game", Host: "h", Port: 70000}}},
		`two endpoints are named "g"`: {AttemptId: "a", State: running, Endpoints: []*typev1.Endpoint{{Name: "g", Host: "h", Port: 1}, {Name: "g", Host: "h", Port: 2}}},
		"there are 65 endpoints":      {AttemptId: "a", State: running, Endpoints: make([]*typev1.Endpoint, 65)},
	} {
		f.server = s
		expect(t, says, get(t.Context(), p, "a"), provider.Ambiguous, "mine", "Get", says)
		_, err := p.Allocate(t.Context(), &providerv1.AllocateRequest{AttemptId: "a"})
		expect(t, says, err, provider.Ambiguous, "mine", "Allocate", says)
		if s != nil && s.GetAttemptId() == "a" {
			f.listed = &providerv1.ListResponse{Servers: []*providerv1.Server{{AttemptId: "b", State: running}, s}}
			passedOver(t, p, 1, "entry 1 of a page", says)
		}
	}
	f.listed = &providerv1.ListResponse{Servers: []*providerv1.Server{{AttemptId: "not ours", State: running}, {AttemptId: "b", State: running}}}
	if why := passedOver(t, p, 0, "mark"); strings.Contains(why, "not ours") {
		t.Errorf("it repeats what nobody knows: %s", why)
	}
	f.listed = &providerv1.ListResponse{NextPageToken: strings.Repeat("x", 5000)}
	_, err := p.List(t.Context(), new(providerv1.ListRequest))
	expect(t, "a long token", err, provider.Ambiguous, "next_page_token")
	f.release = running
	_, err = p.Release(t.Context(), &providerv1.ReleaseRequest{AttemptId: "a"})
	expect(t, "released and running", err, provider.Ambiguous, "neither STOPPING nor EXITED")
	f.server = &providerv1.Server{AttemptId: "a", State: running, Message: strings.Repeat("x", 5<<20)}
	expect(t, "too large", get(t.Context(), p, "a"), provider.Ambiguous, "mine")
	f.server = &providerv1.Server{AttemptId: "a", State: running, Message: strings.Repeat("ä", 2000)}
	resp, err := p.Get(t.Context(), &providerv1.GetRequest{AttemptId: "a"})
	if err != nil || len(resp.GetServer().GetMessage()) > 1100 {
		t.Errorf("a long message: %d bytes, %v", len(resp.GetServer().GetMessage()), err)
	}
}

// passedOver lists servers: one of them is replaced by an entry that says why, and the others are there.
func passedOver(t *testing.T, p *remote.Provider, which int, says ...string) (why string) {
	t.Helper()
	page, err := p.List(t.Context(), new(providerv1.ListRequest))
	if err != nil || len(page.GetServers()) != 2 {
		t.Fatalf("%v: %v, %v", says, page, err)
	}
	for n, s := range page.GetServers() {
		if (s.GetState() == running) == (n == which) {
			t.Errorf("%v: entry %d is %v", says, n, s)
		}
	}
	why = page.GetServers()[which].GetMessage()
	for _, word := range says {
		if !strings.Contains(why, word) {
			t.Errorf("%q does not say %q", why, word)
		}
	}
	return why
}

func TestFailuresOfAPluginKeepTheirReason(t *testing.T) {
	f := new(foreign)
	p := open(t, remote.Config{Address: serve(t, f)})
	for n := range providerv1.FailureReason_name {
		if reason := providerv1.FailureReason(n); n != 0 {
			f.err = provider.Failure(reason, "so it is")
			expect(t, reason.String(), get(t.Context(), p, "a"), reason, "so it is")
		}
	}
	f.err = provider.RetryAfter(provider.Failure(provider.RateLimited, "%s", strings.Repeat("x", 3000)), 1000*time.Hour)
	err := get(t.Context(), p, "a")
	if provider.RetryAfterOf(err) != time.Hour || len(err.Error()) > 1200 {
		t.Errorf("neither words nor patience are bounded: %v, %d", provider.RetryAfterOf(err), len(err.Error()))
	}
	f.err = grpcstatus.Error(codes.Unavailable, "says a library") // not the plugin's word that nothing was started
	expect(t, "no reason", get(t.Context(), p, "a"), provider.Ambiguous, "mine", "says a library")
}

func TestAPluginThatIsNotWellSaysSo(t *testing.T) {
	alive := health.NewServer()
	alive.SetServingStatus("", healthv1.HealthCheckResponse_NOT_SERVING)
	p := open(t, remote.Config{Address: serve(t, new(foreign), func(s *grpc.Server) { healthv1.RegisterHealthServer(s, alive) })})
	if d, problem := p.Status(); d != nil || !strings.Contains(problem, "not well: NOT_SERVING") {
		t.Errorf("%v, %q", d, problem)
	}
	alive.SetServingStatus("", healthv1.HealthCheckResponse_SERVING)
	builds(t, p, "duel")
}

func TestAPluginIsCalledOverMTLS(t *testing.T) {
	ours, others := tlsxtest.NewAuthority(t), tlsxtest.NewAuthority(t)
	theirs := tlsxtest.NewFiles(t, ours, "plugin.example")
	address := make(chan net.Addr, 1)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- provider.Serve(ctx, provider.ServeConfig{
			Address: "127.0.0.1:0", Ready: func(a net.Addr) { address <- a },
			TLS: provider.TLS{CertFile: theirs.CertFile, KeyFile: theirs.KeyFile, CAFile: theirs.CAFile, Caller: tlsx.Name("allocation")},
		}, plugin{build: "duel"})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	at := (<-address).String()
	with := func(f tlsxtest.Files, name string) remote.Config {
		return remote.Config{Address: at, TLS: tlsx.ClientConfig{Enabled: true, CAFile: theirs.CAFile, KeyPair: f.KeyPair, ServerName: name}}
	}
	good := tlsxtest.NewFiles(t, ours, tlsx.Name("allocation"))
	p := open(t, with(good, "plugin.example"))
	builds(t, p, "duel")
	if err := get(t.Context(), p, "a"); err != nil {
		t.Error(err)
	}
	for name, cfg := range map[string]remote.Config{
		"another authority's certificate": with(tlsxtest.NewFiles(t, others, tlsx.Name("allocation")), ""),
		"another service's certificate":   with(tlsxtest.NewFiles(t, ours, tlsx.Name("gateway")), ""),
		"another plugin":                  with(good, "other.example"),
		"no TLS":                          {Address: at},
	} {
		p := open(t, cfg)
		if d, problem := p.Status(); d != nil || problem == "" {
			t.Errorf("%s: %v, %q", name, d, problem)
		}
		expect(t, name, get(t.Context(), p, "a"), provider.Unavailable)
	}
}

func TestSettingsThatCannotBe(t *testing.T) {
	pair := tlsx.KeyPair{CertFile: "/no/such.crt", KeyFile: "/no/such.key"}
	for says, cfg := range map[string]remote.Config{
		"remote.address":                             {},
		"no absolute path":                           {Address: "unix://p.sock"},
		"neither unix:///path":                       {Address: "xds:///somewhere:1"},
		"in the clear":                               {Address: "10.1.2.3:7000"},
		"a plugin on the network":                    {Address: "unix:///p.sock", TLS: tlsx.ClientConfig{Enabled: true}},
		"by them the plugin":                         {Address: "10.1.2.3:7000", TLS: tlsx.ClientConfig{Enabled: true}},
		"providers[].remote.tls.enabled: is not set": {Address: "127.0.0.1:1", TLS: tlsx.ClientConfig{CAFile: "x"}},
		"providers[].remote.tls.cert_file: open":     {Address: "10.1.2.3:7000", TLS: tlsx.ClientConfig{Enabled: true, KeyPair: pair}},
	} {
		cfg.Log = slog.New(slog.DiscardHandler)
		if _, err := remote.New(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "BERTH_") {
			t.Errorf("%s: %v", says, err)
		}
	}
}
