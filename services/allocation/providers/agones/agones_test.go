package agones_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/sdk/go/provider/providertest"
	"github.com/berth-dev/berth/services/allocation/providers/agones"
)

const deployment = "live"

func order() *providerv1.AllocateRequest {
	instance := uuid.NewString()
	return &providerv1.AllocateRequest{
		AttemptId: instance + "-1", Namespace: "default", InstanceId: instance, Build: "shooter", Region: "eu", Deployment: deployment,
		Bootstrap: providertest.Bootstrap(instance+"-1", instance),
	}
}

func allocate(t *testing.T, p *agones.Provider, req *providerv1.AllocateRequest) *providerv1.Server {
	t.Helper()
	resp, err := p.Allocate(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetServer()
}

func get(p *agones.Provider, req *providerv1.AllocateRequest, external string) (*providerv1.Server, error) {
	resp, err := p.Get(context.Background(), &providerv1.GetRequest{AttemptId: req.GetAttemptId(), Deployment: deployment, ExternalId: external})
	return resp.GetServer(), err
}

// Two processes ask for one attempt: both end up with the server that was allocated first.
func TestTheFirstOfTwoIsKept(t *testing.T) {
	for _, way := range ways {
		host, cfg := start(t, fleets(), way)
		req := order()
		first, second := allocate(t, open(t, cfg), req), allocate(t, open(t, cfg), req)
		if first.GetExternalId() != second.GetExternalId() || first.GetExternalId() == "" {
			t.Errorf("%s: %v and %v", way, first, second)
		}
		if left := host.Names(req.GetAttemptId()); len(left) != 1 || "games/"+left[0] != first.GetExternalId() {
			t.Errorf("%s: left are %v", way, left)
		}
	}
}

func TestEndpoints(t *testing.T) {
	_, cfg := start(t, fleets(), "cluster")
	s := allocate(t, open(t, cfg), order())
	e := s.GetEndpoints()
	if len(e) != 2 || e[0].GetHost() != "198.51.100.7" || e[0].GetProtocol() != typev1.Protocol_PROTOCOL_UDP || e[1].GetName() != "query" || e[1].GetProtocol() != typev1.Protocol_PROTOCOL_TCP {
		t.Errorf("got %v", s)
	}
}

func TestStates(t *testing.T) {
	for state, want := range map[string]struct {
		state   providerv1.ServerState
		deleted bool // by Release
	}{
		"Allocated": {providerv1.ServerState_SERVER_STATE_RUNNING, true},
		"Scheduled": {providerv1.ServerState_SERVER_STATE_STARTING, true},
		"Ready":     {providerv1.ServerState_SERVER_STATE_EXITED, false},
		"Reserved":  {providerv1.ServerState_SERVER_STATE_EXITED, false},
		"Unhealthy": {providerv1.ServerState_SERVER_STATE_EXITED, true},
		"Error":     {providerv1.ServerState_SERVER_STATE_EXITED, true},
		"Shutdown":  {providerv1.ServerState_SERVER_STATE_STOPPING, true},
	} {
		host, cfg := start(t, fleets(), "cluster")
		p, req := open(t, cfg), order()
		external := allocate(t, p, req).GetExternalId()
		host.Set(req.GetAttemptId(), state)
		for _, id := range []string{external, ""} {
			if s, err := get(p, req, id); err != nil || s.GetState() != want.state {
				t.Errorf("%s: %v, %v", state, s, err)
			}
		}
		if _, err := p.Release(t.Context(), &providerv1.ReleaseRequest{AttemptId: req.GetAttemptId(), Deployment: deployment}); err != nil {
			t.Error(err)
		}
		if left := host.Names(req.GetAttemptId()); len(left) == 0 != want.deleted {
			t.Errorf("%s: after its release there is %v", state, left)
		}
	}
}

// The allocator ends the handshake of a caller that it does not know.
func TestAWrongCertificate(t *testing.T) {
	for _, way := range []string{"grpc", "rest"} {
		_, cfg := start(t, fleets(), way)
		cert, key := certificate(t)
		cfg.Allocator.CertFile, cfg.Allocator.KeyFile = file(t, cert), file(t, key)
		_, err := open(t, cfg).Allocate(t.Context(), order())
		if provider.ReasonOf(err) != provider.Unauthenticated || !strings.Contains(err.Error(), "agones.allocator.cert_file") {
			t.Errorf("%s: %v", way, err)
		}
	}
}

// The allocator takes a call, breaks off, and knows other authorities by the time that it is asked whether it refuses us: it may have allocated. Of the next call it is
// certain that it has not.
func TestACertificateThatIsRefusedSince(t *testing.T) {
	host, cfg := start(t, fleets(), "rest")
	p, req := open(t, cfg), order()
	allocate(t, p, order())
	refusing := httptest.NewUnstartedServer(http.NotFoundHandler())
	refusing.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12}
	refusing.StartTLS()
	t.Cleanup(refusing.Close)
	p.MoveAllocator(refusing.URL) // what asks whether it refuses us; the calls go where they went
	if err := host.LoseReply(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		req  *providerv1.AllocateRequest
		want providerv1.FailureReason
	}{{req, provider.Ambiguous}, {order(), provider.Unauthenticated}} {
		if _, err := p.Allocate(t.Context(), c.req); provider.ReasonOf(err) != c.want || !strings.Contains(err.Error(), "agones.allocator.cert_file") {
			t.Errorf("got %v; want %v", err, c.want)
		}
	}
}

// What was cut off may be served after a repeat has looked for it: two servers for one attempt.
func TestACallThatWasCutOffIsWaitedFor(t *testing.T) {
	for _, way := range ways {
		host, cfg := start(t, fleets(), way)
		p, req := open(t, cfg), order()
		p.Settle(time.Hour)
		if err := host.Hang(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		_, err := p.Allocate(ctx, req)
		cancel()
		if provider.ReasonOf(err) != provider.Ambiguous {
			t.Fatalf("%s: cut off, it fails with %v", way, err)
		}
		_ = host.Heal(t.Context())
		if _, err := p.Allocate(t.Context(), req); provider.ReasonOf(err) != provider.Ambiguous || !strings.Contains(err.Error(), "may yet be served") || host.Count().Started != 0 {
			t.Errorf("%s: the repeat: %v, %+v", way, err, host.Count())
		}
		if other := allocate(t, p, order()); other.GetExternalId() == "" {
			t.Errorf("%s: another attempt: %v", way, other)
		}
	}
}

// At high rates Agones says that no GameServer is Ready though there are some.
func TestNoneReadyIsAskedAgain(t *testing.T) {
	for refusals, want := range map[int]providerv1.FailureReason{2: 0, 3: provider.NoCapacity} {
		host, cfg := start(t, fleets(), "cluster")
		left := refusals
		host.Answer(func(w http.ResponseWriter, _ *http.Request) {
			if left--; left == 0 {
				_ = host.Heal(context.Background())
			}
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusCreated)
			_, _ = io.WriteString(w, `{"status":{"state":"UnAllocated"}}`)
		})
		_, err := open(t, cfg).Allocate(t.Context(), order())
		if err != nil && provider.ReasonOf(err) != want || err == nil && want != 0 {
			t.Errorf("refused %d times: %v", refusals, err)
		}
	}
}

// A fleet or a namespace that is not there is in Agones' words one without room, so the message names them.
func TestNoSuchFleet(t *testing.T) {
	for _, way := range ways {
		_, cfg := start(t, fleets(), way)
		cfg.Builds["shooter"] = agones.Build{Fleet: "shootre", Labels: map[string]string{"mode": "ranked"}}
		_, err := open(t, cfg).Allocate(t.Context(), order())
		if provider.ReasonOf(err) != provider.NoCapacity || !strings.Contains(err.Error(), "namespace games, labels agones.dev/fleet=shootre,mode=ranked: are there such?") {
			t.Errorf("%s: %v", way, err)
		}
	}
}

// Each GameServer has its document, and one answer all of a page.
func TestListOfLargeGameServers(t *testing.T) {
	world := fleets()
	world.Page = 0
	for i := range world.Fleets {
		world.Fleets[i].Ready = 130
	}
	_, cfg := start(t, world, "cluster")
	p, document := open(t, cfg), []byte("{"+strings.Repeat(" ", 90_000)+"}")
	const many = 120
	for range many {
		req := order()
		req.Bootstrap = document
		allocate(t, p, req)
	}
	found, token := 0, ""
	for {
		resp, err := p.List(t.Context(), &providerv1.ListRequest{Deployment: deployment, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		found += len(resp.GetServers())
		if token = resp.GetNextPageToken(); token == "" {
			break
		}
	}
	if found != many {
		t.Errorf("%d of %d", found, many)
	}
}

func TestFailures(t *testing.T) {
	for name, c := range map[string]struct {
		way    string
		status int
		body   string
		want   providerv1.FailureReason
		says   string
	}{
		"none ready":         {"cluster", 201, `{"status":{"state":"UnAllocated"}}`, provider.NoCapacity, "no GameServer is Ready"},
		"contention":         {"cluster", 201, `{"status":{"state":"Contention"}}`, provider.RateLimited, "Contention"},
		"another state":      {"cluster", 201, `{"status":{"state":"Dancing","gameServerName":"x"}}`, provider.Ambiguous, "makes no sense"},
		"no status":          {"cluster", 201, `{}`, provider.Ambiguous, "without a status"},
		"role":               {"cluster", 403, `{"kind":"Status","reason":"Forbidden","message":"User \"x\" cannot create resource \"gameserverallocations\""}`, provider.Unauthenticated, "cannot create resource"},
		"labels":             {"cluster", 422, `{"kind":"Status","reason":"Invalid","message":"spec.metadata.labels: Invalid value"}`, provider.Invalid, "spec.metadata.labels"},
		"no such object":     {"cluster", 404, `{"kind":"Status","reason":"NotFound","message":"not found"}`, provider.Unavailable, "is Agones installed"},
		"a proxy's conflict": {"cluster", 409, "conflict", provider.Unavailable, "is there a proxy"},
		"no Agones":          {"cluster", 404, "404 page not found", provider.Unavailable, "is Agones installed"},
		"broken":             {"cluster", 500, `{"kind":"Status","reason":"InternalError","message":"etcd ` + secret + `"}`, provider.Ambiguous, "etcd …"},
		"HTML":               {"cluster", 200, "<html>", provider.Ambiguous, "makes no sense"},
		"service none ready": {"rest", 429, `{"code":8,"message":"there is no available GameServer to allocate"}`, provider.NoCapacity, "no available GameServer"},
		"service contention": {"rest", 409, `{"code":10,"message":"too many concurrent requests"}`, provider.RateLimited, "Contention"},
		"service labels":     {"rest", 500, `{"code":422,"message":"spec.metadata.labels: Invalid value ` + secret + `"}`, provider.Invalid, "spec.metadata.labels"},
		"service broken":     {"rest", 500, `{"code":13,"message":"internal"}`, provider.Ambiguous, "internal"},
		"service time-out":   {"rest", 504, `{"code":4,"message":"deadline"}`, provider.Ambiguous, "deadline"},
		"service away":       {"rest", 503, `{"code":14,"message":"no healthy upstream"}`, provider.Unavailable, "no healthy upstream"},
		"service, or not":    {"rest", 503, `{"code":14,"message":"away"}`, provider.Ambiguous, "away"},
		"no service":         {"rest", 404, "404 page not found", provider.Unavailable, "agones.allocator.url"},
		"service no name":    {"rest", 200, `{"address":"198.51.100.7"}`, provider.Ambiguous, "no name of a GameServer"},
	} {
		t.Run(name, func(t *testing.T) {
			host, cfg := start(t, fleets(), c.way)
			host.Answer(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(c.status)
				_, _ = io.WriteString(w, c.body)
			})
			_, err := open(t, cfg).Allocate(t.Context(), order())
			if provider.ReasonOf(err) != c.want || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), secret) {
				t.Errorf("got %v; want %v with %q", err, c.want, c.says)
			}
			if c.want == provider.RateLimited && provider.RetryAfterOf(err) == 0 {
				t.Errorf("no time until a repeat: %v", err)
			}
		})
	}
}

// What does not fit an API's shape is refused by the stand-in, and INVALID.
func TestABadLabel(t *testing.T) {
	for _, way := range ways {
		_, cfg := start(t, fleets(), way)
		req := order()
		req.InstanceId = "no label!"
		if _, err := open(t, cfg).Allocate(t.Context(), req); provider.ReasonOf(err) != provider.Invalid {
			t.Errorf("%s: %v", way, err)
		}
	}
}

// A list that no Agones answers does not end a server.
func TestGetKnowsWhoAnswers(t *testing.T) {
	host, cfg := start(t, fleets(), "cluster")
	p, req := open(t, cfg), order()
	external := allocate(t, p, req).GetExternalId()
	host.Answer(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, `{"kind":"Status","reason":"NotFound","message":"the server could not find the requested resource"}`)
	})
	if _, err := get(p, req, external); provider.ReasonOf(err) != provider.Unavailable {
		t.Errorf("got %v", err)
	}
}

func TestConfig(t *testing.T) {
	for want, change := range map[string]func(*agones.Config){
		"agones.allocate: \"both\"":             func(c *agones.Config) { c.Allocate = "both" },
		"agones.allocator: is for":              func(c *agones.Config) { c.Allocate = "" },
		"agones.allocator.url":                  func(c *agones.Config) { c.Allocator.URL = "http://203.0.113.7" },
		"agones.allocator.protocol: \"soap\"":   func(c *agones.Config) { c.Allocator.Protocol = "soap" },
		"agones.allocator.url: \"https://":      func(c *agones.Config) { c.Allocator.URL += "/agones" },
		"agones.allocator.cert_file":            func(c *agones.Config) { c.Allocator.CertFile = "" },
		"agones.allocator.cert_file, key_file:": func(c *agones.Config) { c.Allocator.KeyFile += ".not" },
		"agones.allocator.ca_file":              func(c *agones.Config) { c.Allocator.CAFile += ".not" },
		"agones.token_file":                     func(c *agones.Config) { c.TokenFile += ".not" },
		"agones.builds: at least":               func(c *agones.Config) { c.Builds = nil },
		"agones.regions: at least":              func(c *agones.Config) { c.Regions = nil },
		"agones.builds.x.fleet":                 func(c *agones.Config) { c.Builds = map[string]agones.Build{"x": {}} },
		"agones.builds.x.labels: agones.dev/fl": func(c *agones.Config) {
			c.Builds = map[string]agones.Build{"x": {Fleet: "f", Labels: map[string]string{"agones.dev/fleet": "g"}}}
		},
		"agones.regions.eu.namespace": func(c *agones.Config) { c.Regions = map[string]agones.Region{"eu": {}} },
		"agones.regions.eu.namespace: \"games.eu\" is none; it is needed, such as games: a DNS label, of at most 63": func(c *agones.Config) {
			c.Regions["eu"] = agones.Region{Namespace: "games.eu"}
		},
		"agones.regions.eu.namespace: \"" + strings.Repeat("g", 64): func(c *agones.Config) {
			c.Regions["eu"] = agones.Region{Namespace: strings.Repeat("g", 64)}
		},
	} {
		_, cfg := start(t, fleets(), "grpc")
		change(&cfg)
		if _, err := agones.New(cfg); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got %v; want %q", err, want)
		}
	}
}
