package multiplay_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/sdk/go/provider/providertest"
	"github.com/berth-dev/berth/services/allocation/providers/multiplay"
	"github.com/berth-dev/berth/test/hosts/standin"
)

func order() *providerv1.AllocateRequest {
	instance := uuid.NewString()
	attempt := instance + "-1"
	return &providerv1.AllocateRequest{
		AttemptId: attempt, Namespace: "default", InstanceId: instance, Build: "shooter", Region: "eu", Deployment: "berth", Bootstrap: providertest.Bootstrap(attempt, instance),
	}
}

func says(status int, kind, body string, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", kind)
		if len(header) == 2 {
			w.Header().Set(header[0], header[1])
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// problem is an answer as ListAllocations400Response is.
func problem(status int, detail string, header ...string) http.HandlerFunc {
	return says(status, "application/problem+json", `{"detail":"`+detail+`","details":[],"requestId":"f1","title":"`+http.StatusText(status)+`"}`, header...)
}

const page = "<html><body>502 Bad Gateway</body></html>"

type answered struct {
	name   string
	answer http.HandlerFunc
	reason providerv1.FailureReason
	words  string
	after  time.Duration
}

// check has the host answer, and checks what a call makes of it.
func (c answered) check(t *testing.T, call func(context.Context, *multiplay.Provider) error) {
	t.Helper()
	host, cfg := start(t, multiplay.RocketScience)
	p := open(t, cfg)
	host.Answer(c.answer)
	err := call(t.Context(), p)
	if provider.ReasonOf(err) != c.reason || provider.RetryAfterOf(err) != c.after {
		t.Errorf("%s: %v after %v (%v), want %v after %v", c.name, provider.ReasonOf(err), provider.RetryAfterOf(err), err, c.reason, c.after)
	}
	if err != nil && (!strings.Contains(err.Error(), c.words) || strings.Contains(err.Error(), key)) {
		t.Errorf("%s: %q does not have %q, or has the key", c.name, err, c.words)
	}
}

func TestFailuresOfAllocate(t *testing.T) {
	for _, c := range []answered{
		{"invalid", problem(400, "regionId: the fleet is not in this region"), provider.Invalid, "regionId: the fleet is not in this region", 0},
		{"credentials", problem(401, "token "+key+" is unknown"), provider.Unauthenticated, "multiplay.api_key_file", 0},
		{"permission", problem(403, "access denied"), provider.Unauthenticated, "multiplay.project", 0},
		{"no fleet", problem(404, "fleet not found"), provider.Invalid, "fleet right? fleet not found", 0},
		{"throttled", problem(429, "Rate limit exceeded", "Retry-After", "3"), provider.RateLimited, "Rate limit exceeded", 3 * time.Second},
		{"throttled, nobody knows for how long", problem(429, "Rate limit exceeded"), provider.RateLimited, "Rate limit exceeded", 0},
		{"broke", problem(500, "internal"), provider.Ambiguous, "internal", 0},
		{"away", says(503, "text/html", page), provider.Unavailable, "text/html", 0},
		{"proxy", says(502, "text/html", page), provider.Ambiguous, "a page of text/html", 0},
		{"late", says(504, "text/html", page), provider.Ambiguous, "a page of text/html", 0},
		{"moved", says(302, "text/html", "", "Location", "https://example.com/"), provider.Ambiguous, "HTTP 302", 0},
		{"HTML", says(200, "text/html", page), provider.Ambiguous, "a page of text/html", 0},
		{"truncated", says(200, "application/json", `{"allocationId": "019c`), provider.Ambiguous, "makes no sense", 0},
		{"an error inside", says(200, "application/json", `{"status": 500, "detail": "oops"}`), provider.Ambiguous, "makes no sense", 0},
		{"another one", says(200, "application/json", `{"allocationId": "`+fleet+`", "href": "/"}`), provider.Ambiguous, "makes no sense", 0},
		{"wrong shape", says(200, "application/json", `{"allocationId": 5}`), provider.Ambiguous, "makes no sense", 0},
	} {
		c.check(t, func(ctx context.Context, p *multiplay.Provider) error {
			_, err := p.Allocate(ctx, order())
			return err
		})
	}
}

func TestFailuresOfGet(t *testing.T) {
	for _, c := range []answered{
		{"gone", problem(404, "allocation not found"), provider.NotFound, "Multiplay has no allocation", 0},
		{"credentials", problem(401, "expired"), provider.Unauthenticated, "multiplay.api_key_file", 0},
		{"throttled", problem(429, "slow down", "Retry-After", "2"), provider.RateLimited, "slow down", 2 * time.Second},
		{"broke", problem(500, "internal"), provider.Unavailable, "internal", 0},
		{"nothing", says(200, "application/json", `{}`), provider.Unavailable, "makes no sense", 0},
		{"wrong shape", says(200, "application/json", `{"allocationId": "x", "gamePort": "9000"}`), provider.Unavailable, "makes no sense", 0},
		{"truncated", says(200, "application/json", `{"allocationId": "019c`), provider.Unavailable, "makes no sense", 0},
		{"an error inside", says(200, "application/json", `{"status": 404, "detail": "allocation not found"}`), provider.Unavailable, "makes no sense", 0},
		{"HTML", says(200, "text/html", page), provider.Unavailable, "a page of text/html", 0},
	} {
		c.check(t, func(ctx context.Context, p *multiplay.Provider) error {
			_, err := p.Get(ctx, &providerv1.GetRequest{AttemptId: order().GetAttemptId(), Deployment: "berth"})
			return err
		})
	}
}

func TestFailuresOfRelease(t *testing.T) {
	for _, c := range []answered{
		{"gone", problem(404, "allocation not found"), 0, "", 0},
		{"permission", problem(403, "access denied"), provider.Unauthenticated, "multiplay.project", 0},
		{"broke", problem(500, "internal"), provider.Ambiguous, "internal", 0},
		{"away", says(503, "text/html", page), provider.Unavailable, "text/html", 0},
		{"HTML", says(200, "text/html", page), provider.Ambiguous, "a page of text/html", 0},
		{"truncated", says(200, "application/json", `{"allocationId": "019c`), provider.Ambiguous, "makes no sense", 0},
		{"an error inside", says(200, "application/json", `{"status": 500, "detail": "oops"}`), provider.Ambiguous, "makes no sense", 0},
	} {
		c.check(t, func(ctx context.Context, p *multiplay.Provider) error {
			_, err := p.Release(ctx, &providerv1.ReleaseRequest{AttemptId: order().GetAttemptId(), Deployment: "berth"})
			return err
		})
	}
}

// A host that hangs has the order, and says nothing of a server.
func TestAHostThatHangs(t *testing.T) {
	host, cfg := start(t, multiplay.RocketScience)
	p, there := open(t, cfg), order()
	allocate(t, p, there)
	calls := standin.Calls(p, order(), there)
	for name, call := range map[string]struct {
		method string
		want   providerv1.FailureReason
	}{
		"Allocate": {http.MethodPost, provider.Ambiguous}, "Get": {http.MethodGet, provider.Unavailable}, "List": {http.MethodGet, provider.Unavailable},
		"Release": {http.MethodDelete, provider.Ambiguous},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		over := make(chan struct{})
		host.Answer(func(_ http.ResponseWriter, r *http.Request) {
			if r.Method == call.method { // and no lookup that is sent once more
				cancel() // the caller has no more time
			}
			select {
			case <-r.Context().Done():
			case <-over: // a lookup is for all who ask, and goes on
			}
			panic(http.ErrAbortHandler)
		})
		if err := calls[name](ctx); provider.ReasonOf(err) != call.want {
			t.Errorf("%s: %v: %v", name, provider.ReasonOf(err), err)
		}
		close(over)
		cancel()
	}
}

// What is no answer of Multiplay's does not say that a server has ended: it is still listed, and given back by a repeat.
func TestAReleaseThatIsOnlySaidToBeDone(t *testing.T) {
	var garbled atomic.Bool
	host, cfg := startBehind(t, multiplay.RocketScience, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodDelete && garbled.Load() {
				says(200, "text/html", page)(w, r)
				return
			}
			next.ServeHTTP(w, r)
		})
	})
	p, req := open(t, cfg), order()
	allocate(t, p, req)
	becomes(t, p, req, running)
	garbled.Store(true)
	resp, err := p.Release(t.Context(), &providerv1.ReleaseRequest{AttemptId: req.GetAttemptId(), Deployment: "berth"})
	if provider.ReasonOf(err) != provider.Ambiguous || err == nil {
		t.Errorf("Release: %v, %v", resp, err)
	}
	if got := list(t, p); len(got) != 1 {
		t.Errorf("List: %q", got)
	}
	garbled.Store(false)
	release(t, p, req)
	if got, n := list(t, p), host.Allocated(); len(got) != 0 || n != 0 {
		t.Errorf("after its release: %q, %d allocations with servers", got, n)
	}
}

func TestNobodyListens(t *testing.T) {
	srv := httptest.NewServer(http.NotFoundHandler())
	srv.Close()
	_, cfg := start(t, multiplay.RocketScience)
	cfg.URL = srv.URL
	if _, err := open(t, cfg).Allocate(t.Context(), order()); provider.ReasonOf(err) != provider.Unavailable {
		t.Errorf("Allocate: %v", err)
	}
}

// What the host refuses, it refuses here: the provider's mistakes would show.
func TestStandInRefusesWrongShapes(t *testing.T) {
	host, cfg := start(t, multiplay.RocketScience)
	right := `{"allocationId":"` + keyID + `","buildConfigurationId":2000012,"regionId":"` + europe + `","payload":"{}"}`
	for name, c := range map[string]struct {
		body string
		want int
	}{
		"right":       {right, 200},
		"no id":       {strings.Replace(right, "allocationId", "uuid", 1), 400},
		"a string":    {strings.Replace(right, "2000012", `"2000012"`, 1), 400},
		"a name":      {strings.Replace(right, europe, "Europe", 1), 400},
		"an object":   {strings.Replace(right, `"{}"`, `{}`, 1), 400},
		"too large":   {strings.Replace(right, `"{}"`, `"`+strings.Repeat("x", 10<<10)+`"`, 1), 400},
		"other fleet": {strings.Replace(right, "2000012", "1275036", 1), 400},
	} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, cfg.URL+"/v4/projects/"+project+"/environments/"+environment+"/fleets/"+fleet+"/allocations", strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+key)
		r.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != c.want {
			t.Errorf("%s: %d, want %d", name, resp.StatusCode, c.want)
		}
	}
	http.DefaultClient.CloseIdleConnections()
	if c := host.Count(); c.Started != 1 {
		t.Errorf("%d servers were started", c.Started)
	}
}

func TestDocumentIsTooLarge(t *testing.T) {
	host, cfg := start(t, multiplay.RocketScience)
	p := open(t, cfg)
	d, err := p.Describe(t.Context(), &providerv1.DescribeRequest{})
	if err != nil {
		t.Fatal(err)
	}
	req := order()
	req.Bootstrap = []byte(`{"v":"` + strings.Repeat("x", int(d.GetMaxBootstrapBytes())-8) + `"}`)
	if _, err := p.Allocate(t.Context(), req); err != nil {
		t.Errorf("a document of %d bytes: %v", len(req.GetBootstrap()), err)
	}
	req = order()
	req.Bootstrap = []byte(`{"v":"` + strings.Repeat("x", int(d.GetMaxBootstrapBytes())) + `"}`)
	if _, err := p.Allocate(t.Context(), req); provider.ReasonOf(err) != provider.Invalid || !strings.Contains(err.Error(), "8192") {
		t.Errorf("a document of %d bytes: %v", len(req.GetBootstrap()), err)
	}
	if c := host.Count(); c.Started != 1 {
		t.Errorf("%d servers were started", c.Started)
	}
}

// A key that is replaced is used at once; one that is gone is said to be.
func TestKeyIsReadForEachCall(t *testing.T) {
	_, cfg := start(t, multiplay.RocketScience)
	p := open(t, cfg)
	for _, c := range []struct {
		write string
		want  providerv1.FailureReason
	}{{"expired", provider.Unauthenticated}, {"", provider.Unauthenticated}, {key, 0}} {
		if err := os.WriteFile(string(cfg.APIKeyFile), []byte(c.write), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := p.Allocate(t.Context(), order())
		if provider.ReasonOf(err) != c.want || err != nil && !strings.Contains(err.Error(), "multiplay.api_key_file") {
			t.Errorf("with the key %q: %v, want %v", c.write, err, c.want)
		}
	}
}

// What is configured and not there is refused by the host, and nothing comes of it.
func TestWhatIsNotThere(t *testing.T) {
	const nowhere = "00000000-0000-4000-8000-000000000000"
	for _, c := range []struct {
		dialect string
		words   string
		want    providerv1.FailureReason
		spoil   func(*multiplay.Config)
	}{
		{multiplay.RocketScience, "regionId", provider.Invalid, func(c *multiplay.Config) { c.Regions["eu"] = nowhere }},
		{multiplay.RocketScience, "buildConfigurationId", provider.Invalid, func(c *multiplay.Config) { c.Builds["shooter"] = multiplay.Build{Fleet: fleet, BuildConfiguration: 7} }},
		{multiplay.RocketScience, "fleet right?", provider.Invalid, func(c *multiplay.Config) {
			c.Builds["shooter"] = multiplay.Build{Fleet: nowhere, BuildConfiguration: 7}
		}},
		{multiplay.RocketScience, "multiplay.project", provider.Unauthenticated, func(c *multiplay.Config) { c.Project = nowhere }},
		{multiplay.RocketScience, "is not configured", provider.Invalid, func(c *multiplay.Config) { delete(c.Builds, "shooter") }},
		{multiplay.RocketScience, "there are us", provider.Invalid, func(c *multiplay.Config) { delete(c.Regions, "eu") }},
		{multiplay.Unity, "multiplay.key_id", provider.Unauthenticated, func(c *multiplay.Config) { c.KeyID = nowhere }},
		{multiplay.Unity, "multiplay.environment", provider.Unauthenticated, func(c *multiplay.Config) { c.Environment = nowhere }},
	} {
		host, cfg := start(t, c.dialect)
		c.spoil(&cfg)
		_, err := open(t, cfg).Allocate(t.Context(), order())
		if provider.ReasonOf(err) != c.want || !strings.Contains(err.Error(), c.words) {
			t.Errorf("%s: %v, want %v", c.words, err, c.want)
		}
		if n := host.Count().Started; n != 0 {
			t.Errorf("%s: %d servers were started", c.words, n)
		}
	}
}

// A release that is done is one, whatever is said of it: the allocation is gone.
func TestAReleaseThatIsAnsweredOddly(t *testing.T) {
	for _, answer := range []http.HandlerFunc{says(200, "application/json", `{"status": "deallocated"}`), problem(400, "already deallocated")} {
		host, cfg := startBehind(t, multiplay.RocketScience, func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodDelete {
					next.ServeHTTP(httptest.NewRecorder(), r)
					answer(w, r)
					return
				}
				next.ServeHTTP(w, r)
			})
		})
		p, req := open(t, cfg), order()
		allocate(t, p, req)
		becomes(t, p, req, running)
		until(t, func() bool {
			resp, err := p.Release(t.Context(), &providerv1.ReleaseRequest{AttemptId: req.GetAttemptId(), Deployment: "berth"})
			if reason := provider.ReasonOf(err); err != nil && reason != provider.Ambiguous && reason != provider.Invalid {
				t.Fatalf("Release: %v", err)
			}
			return resp.GetState() == exited
		})
		if got, n := list(t, p), host.Allocated(); len(got) != 0 || n != 0 {
			t.Errorf("List: %q, %d allocations with servers", got, n)
		}
	}
}
