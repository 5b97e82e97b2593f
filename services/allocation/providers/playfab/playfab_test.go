package playfab_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/sdk/go/provider/providertest"
	"github.com/berth-dev/berth/services/allocation/providers/playfab"
	playfabhost "github.com/berth-dev/berth/test/hosts/playfab"
	"github.com/berth-dev/berth/test/hosts/standin"
)

func open(t *testing.T, cfg playfab.Config) *playfab.Provider {
	t.Helper()
	p, err := playfab.New(cfg)
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

// answer is a body of the API.
type answer struct {
	status int
	header string
	body   string
}

func (a answer) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", a.header)
	w.WriteHeader(a.status)
	_, _ = io.WriteString(w, a.body)
}

func refusal(status int, name, message string) answer {
	body, _ := json.Marshal(map[string]any{"code": status, "status": "x", "error": name, "errorCode": 1, "errorMessage": message})
	return answer{status, "application/json", string(body)}
}

const html = `<!doctype html><html>hello</html>`

var missing = refusal(404, "MultiplayerServerNotFound", "No session")

func TestFailures(t *testing.T) {
	const session = `"SessionId": "02bdef0e-e01e-4b29-8efe-ff9f47a06d8c"`
	host, cfg, _ := start(t, nil)
	for name, c := range map[string]struct {
		answer
		want providerv1.FailureReason
		says string
	}{
		"full":              {refusal(429, "MultiplayerServerTooManyRequests", "None standing by"), provider.NoCapacity, "None standing by"},
		"quota":             {refusal(400, "MultiplayerServerTitleQuotaCoresExceeded", "No cores"), provider.Quota, "No cores"},
		"throttled":         {refusal(429, "APIClientRequestRateLimitExceeded", "Slow down"), provider.RateLimited, "Slow down"},
		"limited":           {refusal(400, "RequestMultiplayerServersThrottledFromRateLimiter", "Slow down"), provider.RateLimited, "Slow down"},
		"no build":          {missing, provider.Invalid, "MultiplayerServerNotFound"},
		"bad":               {refusal(400, "MultiplayerServerBadRequest", "Wrong region"), provider.Invalid, "Wrong region"},
		"a mistake":         {answer{400, "", `{"code": 400, "error": "InvalidParams", "errorDetails": {"BuildId": ["is required."]}}`}, provider.Invalid, "BuildId: is required."},
		"other details":     {answer{400, "", `{"code": 400, "error": "InvalidParams", "errorDetails": "what"}`}, provider.Invalid, "InvalidParams"},
		"a conflict":        {refusal(409, "MultiplayerServerConflict", "The session exists already"), provider.Ambiguous, "The session exists already"},
		"forbidden":         {refusal(403, "MultiplayerServerForbidden", "Not enabled"), provider.Unauthenticated, "Not enabled"},
		"unauthorized":      {refusal(401, "MultiplayerServerUnauthorized", "Who?"), provider.Unauthenticated, "Who?"},
		"not authorized":    {refusal(400, "NotAuthorized", "Not for this title"), provider.Unauthenticated, "Not for this title"},
		"away for all":      {refusal(400, "ServiceUnavailable", "Back soon"), provider.Unavailable, "Back soon"},
		"a firewall":        {answer{403, "text/html", html}, provider.Ambiguous, "a page of text/html"},
		"a proxy":           {answer{400, "text/html", html}, provider.Ambiguous, "a page of text/html"},
		"late":              {answer{504, "text/html", html}, provider.Ambiguous, "a page of text/html"},
		"away":              {refusal(503, "MultiplayerServerUnavailable", "Later"), provider.Unavailable, "Later"},
		"broken":            {refusal(500, "MultiplayerServerInternalServerError", "Oops"), provider.Ambiguous, "Oops"},
		"broken, says 400":  {refusal(400, "MultiplayerServerInternalServerError", "Oops"), provider.Ambiguous, "Oops"},
		"a gateway":         {answer{502, "text/html", html}, provider.Ambiguous, "a page of text/html"},
		"away, HTML":        {answer{503, "text/html", html}, provider.Unavailable, "a page of text/html"},
		"not the API":       {answer{404, "text/html", html}, provider.Unavailable, "is it the API's address"},
		"an unknown 404":    {refusal(404, "InvalidAPIEndpoint", "No such API"), provider.Unavailable, "No such API"},
		"HTML":              {answer{200, "text/html", html}, provider.Ambiguous, "makes no sense"},
		"truncated":         {answer{200, "", `{"code": 200, "data": {"SessionI`}, provider.Ambiguous, "makes no sense"},
		"an error inside":   {answer{200, "", `{"code": 429, "error": "MultiplayerServerTooManyRequests"}`}, provider.Ambiguous, `code 429, error "MultiplayerServerTooManyRequests"`},
		"an error and data": {answer{200, "", `{"code": 503, "error": "MultiplayerServerUnavailable", "data": {}}`}, provider.Ambiguous, "code 503"},
		"no data":           {answer{200, "", `{"code": 200, "status": "OK"}`}, provider.Ambiguous, "makes no sense"},
		"another session":   {answer{200, "", `{"code": 200, "data": {` + session + `, "State": "Active"}}`}, provider.Ambiguous, "makes no sense"},
		"an unknown state":  {answer{200, "", `{"code": 200, "data": {` + session + `, "State": "Dancing"}}`}, provider.Ambiguous, `state "Dancing"`},
		"repeats the order": {refusal(400, "MultiplayerServerBadRequest", string(order("shooter", "eu").GetBootstrap())), provider.Invalid, "MultiplayerServerBadRequest"},
	} {
		t.Run(name, func(t *testing.T) {
			p := open(t, cfg)                                                         // one that has not been told to wait
			if _, err := p.List(t.Context(), &providerv1.ListRequest{}); err != nil { // so that there is a token
				t.Fatal(err)
			}
			host.Answer(func(w http.ResponseWriter, r *http.Request) {
				switch {
				case strings.HasSuffix(r.URL.Path, "/GetEntityToken"):
					answer{200, "", `{"code": 200, "data": {"EntityToken": "t"}}`}.ServeHTTP(w, r)
				case strings.HasSuffix(r.URL.Path, "/GetMultiplayerServerDetails"):
					missing.ServeHTTP(w, r)
				default:
					c.ServeHTTP(w, r)
				}
			})
			defer func() { _ = host.Heal(t.Context()) }()
			_, err := p.Allocate(t.Context(), order("shooter", "eu"))
			if provider.ReasonOf(err) != c.want || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v: %v; want %v with %q", provider.ReasonOf(err), err, c.want, c.says)
			}
			if err != nil && (strings.Contains(err.Error(), "social.") || strings.Contains(err.Error(), secretKey)) {
				t.Errorf("the message has a secret: %v", err)
			}
		})
	}
}

// Only PlayFab's own word for it says that a session is not there.
func TestWhatIsNoAnswerOfPlayFabSaysNothingOfAServer(t *testing.T) {
	host, cfg, _ := start(t, nil)
	p := open(t, cfg)
	req := order("shooter", "eu")
	if _, err := p.Allocate(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]answer{
		"HTML": {404, "text/html", html}, "another API": refusal(404, "InvalidAPIEndpoint", "No such API"), "broken": refusal(500, "MultiplayerServerInternalServerError", "Oops"),
		"throttled": refusal(429, "MultiplayerServerTooManyRequests", "Slow down"), "an error inside": {200, "", missing.body}, "truncated": {200, "", `{"code": 200, "data": {"SessionI`},
	} {
		p := open(t, cfg)                                                         // one that has not been told to wait
		if _, err := p.List(t.Context(), &providerv1.ListRequest{}); err != nil { // so that there is a token
			t.Fatal(err)
		}
		host.Answer(c.ServeHTTP)
		want := provider.Unavailable
		if name == "throttled" {
			want = provider.RateLimited
		}
		if _, err := p.Get(t.Context(), &providerv1.GetRequest{AttemptId: req.GetAttemptId(), Deployment: "live"}); provider.ReasonOf(err) != want {
			t.Errorf("%s: Get: %v", name, err)
		}
		if _, err := p.Release(t.Context(), &providerv1.ReleaseRequest{AttemptId: req.GetAttemptId(), Deployment: "live"}); provider.ReasonOf(err) != want {
			t.Errorf("%s: Release: %v", name, err)
		}
		_ = host.Heal(t.Context())
	}
	host.Answer(missing.ServeHTTP)
	if _, err := p.Get(t.Context(), &providerv1.GetRequest{AttemptId: req.GetAttemptId(), Deployment: "live"}); provider.ReasonOf(err) != provider.NotFound {
		t.Errorf("Get of none: %v", err)
	}
}

// A host that hangs has the order, and says nothing of a server.
func TestAHostThatHangs(t *testing.T) {
	host, cfg, _ := start(t, nil)
	p, there := open(t, cfg), order("shooter", "eu")
	if _, err := p.Allocate(t.Context(), there); err != nil {
		t.Fatal(err)
	}
	calls := standin.Calls(p, order("shooter", "eu"), there)
	for name, want := range map[string]providerv1.FailureReason{"Allocate": provider.Ambiguous, "Get": provider.Unavailable, "List": provider.Unavailable, "Release": provider.Unavailable} {
		if err := host.CutOff(t.Context(), calls[name]); provider.ReasonOf(err) != want {
			t.Errorf("%s: %v: %v", name, provider.ReasonOf(err), err)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	for name, c := range map[string]struct {
		header, body string
		want         time.Duration
	}{
		"in the header": {"12", "12", 12 * time.Second}, "in the body": {"", "12", 12 * time.Second}, "a part of a second": {"", "1.5", 1500 * time.Millisecond},
		"days": {"", "1e6", time.Hour}, "more than a duration has": {"", "1e10", time.Hour}, "before now": {"", "-1e10", time.Second}, // none at first, and then what is left of the usual rest
	} {
		host, cfg, _ := start(t, nil)
		p := open(t, cfg)
		host.Answer(func(w http.ResponseWriter, r *http.Request) {
			if c.header != "" {
				w.Header().Set("Retry-After", c.header)
			}
			answer{429, "", `{"code": 429, "error": "APIClientRequestRateLimitExceeded", "errorCode": 1199, "retryAfterSeconds": ` + c.body + `}`}.ServeHTTP(w, r)
		})
		for range 2 { // the second one is not sent
			_, err := p.Allocate(t.Context(), order("shooter", "eu"))
			if after := provider.RetryAfterOf(err); provider.ReasonOf(err) != provider.RateLimited || after > c.want || after < c.want-time.Second {
				t.Errorf("%s: %v, after %v", name, err, after)
			}
		}
	}
}

func TestWhatIsNotConfigured(t *testing.T) {
	_, cfg, _ := start(t, nil)
	cfg.Builds["gone"], cfg.Builds["no-alias"] = playfab.Build{ID: uuid.NewString()}, playfab.Build{Alias: uuid.NewString()}
	cfg.Regions["wrong"], cfg.Regions["elsewhere"] = "AtlantisWest", "JapanEast"
	p := open(t, cfg)
	for says, req := range map[string]*providerv1.AllocateRequest{
		"there are gone, no-alias, racer, shooter": order("chess", "eu"), "there are elsewhere, eu, us, wrong": order("shooter", "moon"),
		"The build or alias does not exist": order("gone", "eu"), "or alias does not exist": order("no-alias", "eu"), "is no region": order("shooter", "wrong"),
		"not deployed in any of the preferred regions": order("shooter", "elsewhere"),
	} {
		if _, err := p.Allocate(t.Context(), req); provider.ReasonOf(err) != provider.Invalid || !strings.Contains(err.Error(), says) {
			t.Errorf("got %v; want %q", err, says)
		}
	}
}

func TestNoServerStandsBy(t *testing.T) {
	host, cfg, _ := start(t, func(c *playfabhost.Config) { c.Servers = 1 })
	p := open(t, cfg)
	first, second := order("shooter", "eu"), order("shooter", "eu")
	if _, err := p.Allocate(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Allocate(t.Context(), second); provider.ReasonOf(err) != provider.NoCapacity || !strings.Contains(err.Error(), "standing by") {
		t.Errorf("got %v", err)
	}
	for state := providerv1.ServerState_SERVER_STATE_STOPPING; state != providerv1.ServerState_SERVER_STATE_EXITED; {
		resp, err := p.Release(t.Context(), &providerv1.ReleaseRequest{AttemptId: first.GetAttemptId(), Deployment: "live"})
		if err != nil {
			t.Fatal(err)
		}
		state = resp.GetState()
	}
	if _, err := p.Allocate(t.Context(), second); err != nil {
		t.Error(err)
	}
	if c := host.Count(); c.Started != 2 {
		t.Errorf("%+v", c)
	}
}

// A session is found by the attempt's id alone, by a process that never heard of it, with all its ports.
func TestGetOfAnotherProcess(t *testing.T) {
	_, cfg, _ := start(t, nil)
	req := order("racer", "us")
	if _, err := open(t, cfg).Allocate(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	p := open(t, cfg)
	resp, err := p.Get(t.Context(), &providerv1.GetRequest{AttemptId: req.GetAttemptId(), Deployment: "live"})
	if err != nil {
		t.Fatal(err)
	}
	s := resp.GetServer()
	if s.GetState() != providerv1.ServerState_SERVER_STATE_RUNNING || s.GetRegion() != "us" || len(s.GetEndpoints()) != 2 {
		t.Fatalf("got %v", s)
	}
	if game, web := s.GetEndpoints()[0], s.GetEndpoints()[1]; game.GetName() != "game-port" || game.GetHost() != "20.0.0.1" || game.GetProtocol() != typev1.Protocol_PROTOCOL_UDP ||
		web.GetName() != "web" || web.GetHost() != "dns0.westeurope.cloudapp.azure.com" || web.GetProtocol() != typev1.Protocol_PROTOCOL_TCP {
		t.Errorf("got %v", s.GetEndpoints())
	}
	if _, err := p.Get(t.Context(), &providerv1.GetRequest{AttemptId: req.GetAttemptId(), Deployment: "other"}); provider.ReasonOf(err) != provider.NotFound {
		t.Errorf("another deployment's: %v", err)
	}
}

// An attempt has one server, once: a process that starts anew does not start another one when the first has ended.
func TestAnAttemptWhoseServerEnded(t *testing.T) {
	ended := make(chan struct{})
	host, cfg, _ := start(t, func(c *playfabhost.Config) {
		c.Run = runUntil(ended)
	})
	req := order("shooter", "eu")
	p := open(t, cfg)
	if _, err := p.Allocate(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	close(ended)
	exited := func() bool {
		resp, err := p.Get(t.Context(), &providerv1.GetRequest{AttemptId: req.GetAttemptId(), Deployment: "live"})
		return err == nil && resp.GetServer().GetState() == providerv1.ServerState_SERVER_STATE_EXITED
	}
	for !exited() && t.Context().Err() == nil {
		continue
	}
	if _, err := p.Allocate(t.Context(), req); provider.ReasonOf(err) != provider.Invalid {
		t.Errorf("got %v", err)
	}
	if _, err := open(t, cfg).Allocate(t.Context(), req); provider.ReasonOf(err) != provider.Ambiguous { // PlayFab shows it no more, and says that it is there
		t.Errorf("in another process: %v", err)
	}
	if c := host.Count(); c.Started != 1 {
		t.Errorf("%+v", c)
	}
}

// The largest document fits, and arrives as it is.
func TestTheLargestBootstrap(t *testing.T) {
	host, cfg, _ := start(t, nil)
	p, req := open(t, cfg), order("shooter", "eu")
	d, err := p.Describe(t.Context(), &providerv1.DescribeRequest{})
	if err != nil {
		t.Fatal(err)
	}
	req.Bootstrap = []byte(`{"server": "` + req.GetAttemptId() + `", "x": "<&>`)
	req.Bootstrap = append(req.Bootstrap, strings.Repeat("y", int(d.GetMaxBootstrapBytes())-len(req.Bootstrap)-2)+`"}`...)
	if _, err := p.Allocate(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	if got, err := host.Bootstrap(t.Context(), req.GetAttemptId()); err != nil || !bytes.Equal(got, req.GetBootstrap()) {
		t.Errorf("%d bytes arrived of %d: %v", len(got), len(req.GetBootstrap()), err)
	}
}

// The stand-in refuses what PlayFab refuses.
func TestTheStandInRefusesAWrongShape(t *testing.T) {
	_, cfg, _ := start(t, nil)
	token := entityToken(t, cfg.URL)
	const whole = `"SessionId": "02bdef0e-e01e-4b29-8efe-ff9f47a06d8c", "PreferredRegions": ["WestEurope"]`
	for name, c := range map[string]struct {
		token, body string
		want        int
	}{
		"as it should be":            {token, `{"BuildId": "` + shooter + `", ` + whole + `}`, 200},
		"no token":                   {"", `{"BuildId": "` + shooter + `", ` + whole + `}`, 401},
		"another token":              {secretKey, `{"BuildId": "` + shooter + `", ` + whole + `}`, 401},
		"a session that is no GUID":  {token, `{"BuildId": "` + shooter + `", "SessionId": "live-1", "PreferredRegions": ["WestEurope"]}`, 400},
		"no region":                  {token, `{"BuildId": "` + shooter + `", "SessionId": "02bdef0e-e01e-4b29-8efe-ff9f47a06d8d"}`, 400},
		"no build":                   {token, `{` + whole + `}`, 400},
		"a build and an alias":       {token, `{"BuildId": "` + shooter + `", "BuildAliasParams": {"AliasId": "` + racers + `"}, ` + whole + `}`, 400},
		"an unknown member":          {token, `{"BuildId": "` + shooter + `", "Cookie": "{}", ` + whole + `}`, 400},
		"a cookie that is no string": {token, `{"BuildId": "` + shooter + `", "SessionCookie": {}, ` + whole + `}`, 400},
		"a cookie of more than 8 KB": {token, `{"BuildId": "` + shooter + `", "SessionCookie": "` + strings.Repeat("x", 8193) + `", ` + whole + `}`, 400},
	} {
		req, _ := http.NewRequest(http.MethodPost, cfg.URL+"/MultiplayerServer/RequestMultiplayerServer", strings.NewReader(c.body))
		req.Header.Set("X-Entitytoken", c.token)
		req.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != c.want {
			t.Errorf("%s: %s", name, resp.Status)
		}
	}
}

// A server that ends has time for it, and is not told again.
func TestReleaseWaitsForTheEnd(t *testing.T) {
	_, cfg, counted := start(t, nil)
	p, req := open(t, cfg), order("shooter", "eu")
	if _, err := p.Allocate(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	for _, want := range []providerv1.ServerState{
		providerv1.ServerState_SERVER_STATE_STOPPING, providerv1.ServerState_SERVER_STATE_STOPPING, providerv1.ServerState_SERVER_STATE_EXITED,
		providerv1.ServerState_SERVER_STATE_EXITED, providerv1.ServerState_SERVER_STATE_EXITED,
	} {
		resp, err := p.Release(t.Context(), &providerv1.ReleaseRequest{AttemptId: req.GetAttemptId(), Deployment: "live"})
		if err != nil || resp.GetState() != want {
			t.Errorf("got %v, %v; want %v", resp.GetState(), err, want)
		}
	}
	if n := counted.of("ShutdownMultiplayerServer"); n != 2 { // the other one when PlayFab knew it no more
		t.Errorf("PlayFab was told %d times", n)
	}
}
