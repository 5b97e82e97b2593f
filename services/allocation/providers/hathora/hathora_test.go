package hathora_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/sdk/go/provider/providertest"
	"github.com/berth-dev/berth/services/allocation/providers/hathora"
)

func open(t *testing.T, cfg hathora.Config) *hathora.Provider {
	t.Helper()
	p, err := hathora.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close(t.Context()) })
	return p
}

func order(build, region string) *providerv1.AllocateRequest {
	instance := uuid.NewString()
	return &providerv1.AllocateRequest{
		AttemptId: instance + "-1", Namespace: "default", InstanceId: instance, Build: build, Region: region, Deployment: "live",
		Bootstrap: providertest.Bootstrap(instance+"-1", instance),
	}
}

func TestFailures(t *testing.T) {
	host, cfg := start(t)
	for name, c := range map[string]struct {
		status int
		header string
		body   string
		want   providerv1.FailureReason
		says   string
	}{
		"no backend":    {404, "text/html", `<html>not found</html>`, provider.Unavailable, "a page of text/html"},
		"no such app":   {404, "", `{"message": "App not found"}`, provider.Invalid, "App not found"},
		"invalid":       {422, "", `{"message": "Validation Failed", "details": {"region": {}}}`, provider.Invalid, "Validation Failed"},
		"bad request":   {400, "", `{"message": "Bad room"}`, provider.Invalid, "Bad room"},
		"token":         {401, "", `{"message": "Invalid token"}`, provider.Unauthenticated, "Invalid token"},
		"forbidden":     {403, "", `{"message": "No access"}`, provider.Unauthenticated, "No access"},
		"bill":          {402, "", `{"message": "Plan limit"}`, provider.Quota, "Plan limit"},
		"throttled":     {429, "", `{"message": "Slow down"}`, provider.RateLimited, "Slow down"},
		"broken":        {500, "", `{"message": "Internal"}`, provider.Ambiguous, "Internal"},
		"gateway":       {502, "text/html", `<html>bad gateway</html>`, provider.Ambiguous, "a page of text/html"},
		"away":          {503, "text/html", `<html>away</html>`, provider.Unavailable, "a page of text/html"},
		"HTML":          {201, "text/html", `<html>hello</html>`, provider.Ambiguous, "makes no sense"},
		"truncated":     {201, "", `{"roomId": "x", "stat`, provider.Ambiguous, "makes no sense"},
		"error inside":  {201, "", `{"message": "could not schedule"}`, provider.Ambiguous, "makes no sense"},
		"another room":  {201, "", `{"roomId": "live-other", "status": "starting"}`, provider.Ambiguous, "makes no sense"},
		"another state": {201, "", `{"roomId": "live-other", "status": "dancing"}`, provider.Ambiguous, "makes no sense"},
	} {
		t.Run(name, func(t *testing.T) {
			host.Answer(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodGet { // whether the room is there
					w.WriteHeader(http.StatusNotFound)
					_, _ = io.WriteString(w, `{"message": "Room not found"}`)
					return
				}
				w.Header().Set("Content-Type", c.header)
				w.WriteHeader(c.status)
				_, _ = io.WriteString(w, c.body)
			})
			defer func() { _ = host.Heal(t.Context()) }()
			req := order("shooter", "eu")
			_, err := open(t, cfg).Allocate(t.Context(), req) // one that has not been told to wait
			if provider.ReasonOf(err) != c.want || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v; want %v with %q", err, c.want, c.says)
			}
			if err != nil && strings.Contains(err.Error(), "social.") {
				t.Errorf("the message has a token: %v", err)
			}
		})
	}
}

func TestRetryAfter(t *testing.T) {
	host, cfg := start(t)
	p := open(t, cfg)
	_ = host.Throttle(t.Context(), 12*time.Second)
	_, err := p.Allocate(t.Context(), order("shooter", "eu"))
	if after := provider.RetryAfterOf(err); provider.ReasonOf(err) != provider.RateLimited || after < 11*time.Second || after > 12*time.Second {
		t.Errorf("%v, after %v", err, after)
	}
}

func TestWhatIsNotConfigured(t *testing.T) {
	_, cfg := start(t)
	p := open(t, cfg)
	for says, req := range map[string]*providerv1.AllocateRequest{"there are racer, shooter": order("chess", "eu"), "there are eu, us": order("shooter", "moon")} {
		if _, err := p.Allocate(t.Context(), req); provider.ReasonOf(err) != provider.Invalid || !strings.Contains(err.Error(), says) {
			t.Errorf("got %v; want %q", err, says)
		}
	}
	cfg.Builds["wrong"] = hathora.Build{App: app, Deployment: "dep-none"}
	if _, err := open(t, cfg).Allocate(t.Context(), order("wrong", "eu")); provider.ReasonOf(err) != provider.Invalid || !strings.Contains(err.Error(), "Deployment not found") {
		t.Errorf("got %v", err)
	}
}

// Documents of up to what Describe says fit into a room's configuration.
func TestTheLongestBootstrap(t *testing.T) {
	_, cfg := start(t)
	p := open(t, cfg)
	d, err := p.Describe(t.Context(), &providerv1.DescribeRequest{ContractMin: provider.Contract, ContractMax: provider.Contract})
	if err != nil || d.GetMaxBootstrapBytes() < 3000 { // two tokens
		t.Fatalf("got %v, %v", d, err)
	}
	for more, want := range map[int]providerv1.FailureReason{0: 0, 1: provider.Invalid} {
		req := order("shooter", "eu")
		req.Bootstrap = []byte(strings.Repeat("x", int(d.GetMaxBootstrapBytes())+more))
		if _, err := p.Allocate(t.Context(), req); err != nil && provider.ReasonOf(err) != want || (err == nil) != (want == 0) {
			t.Errorf("%d more: %v", more, err)
		}
	}
}

// A token that is replaced is used at once; one that is gone is said to be.
func TestTheTokenIsReadForEachCall(t *testing.T) {
	_, cfg := start(t)
	p := open(t, cfg)
	if err := os.WriteFile(string(cfg.TokenFile), []byte("expired"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Allocate(t.Context(), order("shooter", "eu")); provider.ReasonOf(err) != provider.Unauthenticated {
		t.Errorf("with an expired token: %v", err)
	}
	if err := os.Remove(string(cfg.TokenFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Allocate(t.Context(), order("shooter", "eu")); provider.ReasonOf(err) != provider.Unauthenticated || !strings.Contains(err.Error(), "hathora.token_file") {
		t.Errorf("without a token: %v", err)
	}
	if err := os.WriteFile(string(cfg.TokenFile), []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Allocate(t.Context(), order("shooter", "eu")); err != nil {
		t.Error(err)
	}
}

// A room is found by the attempt's id alone, at whichever application, and has all its ports once it runs.
func TestGetWithoutTheExternalID(t *testing.T) {
	_, cfg := start(t)
	p := open(t, cfg)
	req := order("racer", "us")
	if _, err := p.Allocate(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	var s *providerv1.Server
	for range 5 {
		resp, err := open(t, cfg).Get(t.Context(), &providerv1.GetRequest{AttemptId: req.GetAttemptId(), Deployment: "live"})
		if err != nil {
			t.Fatal(err)
		}
		s = resp.GetServer()
	}
	if s.GetState() != providerv1.ServerState_SERVER_STATE_RUNNING || len(s.GetEndpoints()) != 2 {
		t.Fatalf("got %v", s)
	}
	if game, voice := s.GetEndpoints()[0], s.GetEndpoints()[1]; game.GetName() != "game" || game.GetHost() != "1.proxy.hathora.dev" || game.GetProtocol() != typev1.Protocol_PROTOCOL_UDP ||
		voice.GetName() != "voice-chat" || voice.GetProtocol() != typev1.Protocol_PROTOCOL_TCP {
		t.Errorf("got %v", s.GetEndpoints())
	}
	if _, err := p.Get(t.Context(), &providerv1.GetRequest{AttemptId: req.GetAttemptId(), Deployment: "other"}); provider.ReasonOf(err) != provider.NotFound {
		t.Errorf("another deployment's: %v", err)
	}
}

// The stand-in refuses what Hathora refuses.
func TestTheStandInRefusesAWrongShape(t *testing.T) {
	_, cfg := start(t)
	long := strings.Repeat("é", 10_001)
	for name, c := range map[string]struct{ id, body string }{
		"an unknown member": {"a", `{"region": "Frankfurt", "room_config": "{}"}`}, "no region": {"a", `{"roomConfig": "{}"}`},
		"a configuration that is no string": {"a", `{"region": "Frankfurt", "roomConfig": {}}`}, "a configuration that is too long": {"a", `{"region": "Frankfurt", "roomConfig": "` + long + `"}`},
		"a name that is too long": {strings.Repeat("a", 101), `{"region": "Frankfurt"}`}, "a name with a slash": {"a%2Fb", `{"region": "Frankfurt"}`},
	} {
		req, _ := http.NewRequest(http.MethodPost, cfg.URL+"/rooms/v2/"+app+"/create?roomId="+c.id, strings.NewReader(c.body))
		req.Header.Set("Authorization", "Bearer "+token)
		req.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusUnprocessableEntity {
			t.Errorf("%s: %s", name, resp.Status)
		}
	}
}

func TestConfig(t *testing.T) {
	srv := httptest.NewServer(http.NotFoundHandler())
	defer srv.Close()
	for want, change := range map[string]func(*hathora.Config){
		"hathora.url":                   func(c *hathora.Config) { c.URL = "http://api.hathora.dev" },
		"hathora.token_file":            func(c *hathora.Config) { c.TokenFile += ".not" },
		"hathora.builds: at least":      func(c *hathora.Config) { c.Builds = nil },
		"hathora.regions: at least":     func(c *hathora.Config) { c.Regions = nil },
		"hathora.builds.shooter.app":    func(c *hathora.Config) { c.Builds = map[string]hathora.Build{"shooter": {}} },
		"hathora.regions.eu: is needed": func(c *hathora.Config) { c.Regions = map[string]string{"eu": ""} },
		`hathora.regions.eu: "Frankfurtt" is none of Chicago, Dallas, Dubai, Frankfurt, Johannesburg, London, Los_Angeles, Mumbai, Sao_Paulo, Seattle, Singapore, Sydney, Tokyo, Washington_DC`: func(c *hathora.Config) {
			c.Regions = map[string]string{"eu": "Frankfurtt"}
		},
		`hathora.builds: "" is no name`: func(c *hathora.Config) { c.Builds = map[string]hathora.Build{"": {App: app}} },
	} {
		_, cfg := start(t)
		change(&cfg)
		if _, err := hathora.New(cfg); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got %v; want %q", err, want)
		}
	}
}
