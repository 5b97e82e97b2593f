package hostapi_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/providers/internal/hostapi"
)

// call makes a call to an API that answers like that.
func call(t *testing.T, op *hostapi.Operation, answer http.HandlerFunc) error {
	t.Helper()
	srv := httptest.NewServer(answer)
	defer srv.Close()
	defer srv.CloseClientConnections()
	var out struct {
		ID string `json:"id"`
	}
	return client(t, hostapi.Config{Host: "Host", URL: srv.URL}).Do(t.Context(), hostapi.Call{Operation: op, Method: http.MethodPost, Path: "/servers", In: map[string]string{"a": "b"}, Out: &out})
}

func client(t *testing.T, cfg hostapi.Config) *hostapi.Client {
	t.Helper()
	c, err := hostapi.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func says(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// What is not certain is AMBIGUOUS where the call has an effect, and never where it has none.
func TestFailures(t *testing.T) {
	abort := func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	for name, c := range map[string]struct {
		answer      http.HandlerFunc
		write, read providerv1.FailureReason
		message     string
	}{
		"401":                   {says(401, `{"message": "bad key"}`), provider.Unauthenticated, provider.Unauthenticated, "Host refuses to start a server: bad key (HTTP 401)"},
		"402":                   {says(402, `{}`), provider.Quota, provider.Quota, "HTTP 402"},
		"403":                   {says(403, `{"error": "scope"}`), provider.Unauthenticated, provider.Unauthenticated, "scope"},
		"404":                   {says(404, `{"detail": "no app"}`), provider.NotFound, provider.NotFound, "no app"},
		"404 of another":        {says(404, `<html>no backend</html>`), provider.Unavailable, provider.Unavailable, "in place of JSON"},
		"empty 404":             {says(404, ``), provider.Unavailable, provider.Unavailable, "an empty answer"},
		"404 in text":           {says(404, `default backend - 404`), provider.Unavailable, provider.Unavailable, "default backend"},
		"404 without an object": {says(404, `null`), provider.Unavailable, provider.Unavailable, "null"},
		"410":                   {says(410, `{"detail": "gone"}`), provider.NotFound, provider.NotFound, "gone"},
		"410 of another":        {says(410, `<html>gone</html>`), provider.Unavailable, provider.Unavailable, "in place of JSON"},
		"408":                   {says(408, ``), provider.Ambiguous, provider.Unavailable, "an empty answer"},
		"422":                   {says(422, `wrong region`), provider.Invalid, provider.Invalid, "wrong region"},
		"401 of another":        {says(401, `<html>log in</html>`), provider.Ambiguous, provider.Unavailable, "in place of JSON"},
		"403 of a firewall":     {says(403, "\n\t<!doctype html><title>Request blocked</title>"), provider.Ambiguous, provider.Unavailable, "in place of JSON"},
		"400 of a proxy":        {says(400, `<html>bad request</html>`), provider.Ambiguous, provider.Unavailable, "in place of JSON"},
		"405 of a proxy":        {says(405, `<html>not allowed</html>`), provider.Ambiguous, provider.Unavailable, "in place of JSON"},
		"413 of a proxy":        {says(413, `<html>too large</html>`), provider.Ambiguous, provider.Unavailable, "in place of JSON"},
		"407 of a proxy":        {says(407, `<html>who are you</html>`), provider.Unauthenticated, provider.Unauthenticated, "HTTP 407"},
		"408 of a proxy":        {says(408, `<html>too slow</html>`), provider.Ambiguous, provider.Unavailable, "in place of JSON"},
		"429 of a proxy":        {says(429, `<html>too many</html>`), provider.RateLimited, provider.RateLimited, "in place of JSON"},
		"429":                   {says(429, `{}`), provider.RateLimited, provider.RateLimited, "HTTP 429"},
		"500":                   {says(500, `{"message": "oops"}`), provider.Ambiguous, provider.Unavailable, "oops"},
		"502":                   {says(502, `<html>bad gateway</html>`), provider.Ambiguous, provider.Unavailable, "in place of JSON"},
		"503":                   {says(503, `<html>away</html>`), provider.Unavailable, provider.Unavailable, "in place of JSON"},
		"a redirect":            {says(302, ``), provider.Ambiguous, provider.Unavailable, "HTTP 302"},
		"HTML":                  {says(200, `<html>login</html>`), provider.Ambiguous, provider.Unavailable, "its answer makes no sense: a page of"},
		"truncated":             {says(200, `{"id": "x`), provider.Ambiguous, provider.Unavailable, "makes no sense"},
		"empty":                 {says(200, ``), provider.Ambiguous, provider.Unavailable, "an empty answer"},
		"cut off":               {abort, provider.Ambiguous, provider.Unavailable, "EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			for op, want := range map[*hostapi.Operation]providerv1.FailureReason{hostapi.Write("start a server", 0): c.write, hostapi.Read("start a server", 0): c.read} {
				err := call(t, op, c.answer)
				if provider.ReasonOf(err) != want || !strings.Contains(err.Error(), c.message) {
					t.Errorf("write %v: %v, want %v with %q", op.Write, err, want, c.message)
				}
			}
		})
	}
}

// An answer that does not count has to be one all the same: a page of something on the way is none.
func TestAnswersThatDoNotCount(t *testing.T) {
	for name, c := range map[string]struct {
		status       int
		body         string
		any, nothing bool // whether it is an answer of a host that says something, or nothing
	}{
		"nothing":    {200, "", true, true},
		"no content": {204, "", true, true},
		"an object":  {202, `{"message": "stopping"}`, true, false},
		"a page":     {200, "<html>login</html>", false, false},
		"half":       {200, `{"message": "st`, false, false},
		"a list":     {200, `[]`, false, false},
		"null":       {200, `null`, false, false},
	} {
		for empty, good := range map[bool]bool{false: c.any, true: c.nothing} {
			for op, want := range map[*hostapi.Operation]providerv1.FailureReason{hostapi.Write("stop", 0): provider.Ambiguous, hostapi.Read("look", 0): provider.Unavailable} {
				srv := httptest.NewServer(says(c.status, c.body))
				err := client(t, hostapi.Config{Host: "Host", URL: srv.URL}).Do(t.Context(), hostapi.Call{Operation: op, Method: http.MethodPost, Empty: empty})
				srv.Close()
				if good != (err == nil) || err != nil && provider.ReasonOf(err) != want {
					t.Errorf("%s, empty %v: %v", name, empty, err)
				}
			}
		}
	}
}

func TestWhatWasNotSentIsUnavailable(t *testing.T) {
	srv := httptest.NewServer(says(200, "{}"))
	srv.Close() // nobody listens there any more
	c := client(t, hostapi.Config{Host: "Host", URL: srv.URL})
	err := c.Do(t.Context(), hostapi.Call{Operation: hostapi.Write("start a server", 0), Method: http.MethodPost})
	if provider.ReasonOf(err) != provider.Unavailable || !strings.Contains(err.Error(), "cannot be reached") {
		t.Errorf("got %v", err)
	}
}

func TestACallThatIsCutOff(t *testing.T) {
	asked := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(asked)
		<-r.Context().Done()
	}))
	defer srv.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		<-asked
		cancel()
	}()
	err := client(t, hostapi.Config{Host: "Host", URL: srv.URL}).Do(ctx, hostapi.Call{Operation: hostapi.Write("start a server", 0), Method: http.MethodPost})
	if provider.ReasonOf(err) != provider.Ambiguous || !strings.Contains(err.Error(), "the call was cut off") {
		t.Errorf("got %v", err)
	}
}

// A host that wants to be left alone is, for calls of that kind.
func TestRetryAfterIsKept(t *testing.T) {
	var asked atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.Header().Set("Retry-After", "30")
		w.WriteHeader(429)
	}))
	defer srv.Close()
	c := client(t, hostapi.Config{Host: "Host", URL: srv.URL})
	starts, looks := hostapi.Write("start a server", 0), hostapi.Read("look", 0)
	for _, op := range []*hostapi.Operation{starts, starts, looks} {
		err := c.Do(t.Context(), hostapi.Call{Operation: op, Method: http.MethodPost})
		if after := provider.RetryAfterOf(err); provider.ReasonOf(err) != provider.RateLimited || after < 29*time.Second || after > 30*time.Second {
			t.Errorf("%s: %v, after %v", op.Name, err, after)
		}
	}
	if n := asked.Load(); n != 2 {
		t.Errorf("the host was asked %d times; want one for each kind of call", n)
	}
}

// So is one that is away and says for how long, and one that says nothing, for a little while. Other refusals are no reason to wait.
func TestWhenAHostIsLeftAlone(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		after  string
		rests  bool
	}{
		"too many calls":           {429, "", true},
		"too many calls, for 30 s": {429, "30", true},
		"away for 30 s":            {503, "30", true},
		"away":                     {503, "", false},
		"wrong, with a time":       {400, "30", false},
	} {
		var asked atomic.Int32
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			asked.Add(1)
			w.Header().Set("Retry-After", c.after)
			w.WriteHeader(c.status)
		}))
		api, op := client(t, hostapi.Config{Host: "Host", URL: srv.URL}), hostapi.Write("start a server", 0)
		_ = api.Do(t.Context(), hostapi.Call{Operation: op, Method: http.MethodPost})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		err := op.Wait(ctx)
		if rests := provider.ReasonOf(err) == provider.RateLimited; rests != c.rests || asked.Load() != 1 {
			t.Errorf("%s: %v, after %d calls", name, err, asked.Load())
		}
		srv.Close()
	}
}

func TestRetryAfter(t *testing.T) {
	inAMinute, anHourAgo := time.Now().Add(time.Minute).UTC().Format(http.TimeFormat), time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat)
	for said, want := range map[string]time.Duration{
		"": 0, "soon": 0, "0": 0, "-5": 0, "NaN": 0, "1.5": 1500 * time.Millisecond, "90": 90 * time.Second, "7200": time.Hour, "1e10": time.Hour, "1e999": time.Hour, "Inf": time.Hour,
		inAMinute: time.Minute, anHourAgo: 0, "Fri, 31 Dec 2999 23:59:59 GMT": time.Hour,
	} {
		got := hostapi.Refusal{Header: http.Header{"Retry-After": {said}}}.RetryAfter()
		if said == inAMinute && got > 0 && got < want { // time has passed, and a date has no fractions of a second
			continue
		}
		if got != want {
			t.Errorf("%q: %v, want %v", said, got, want)
		}
	}
}

// More calls than the host allows in the time that there is are refused here, without a call.
func TestCallsAreLimited(t *testing.T) {
	var asked atomic.Int32
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer srv.Close()
	c, op := client(t, hostapi.Config{Host: "Host", URL: srv.URL}), hostapi.Write("start a server", 0.001)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := c.Do(ctx, hostapi.Call{Operation: op, Method: http.MethodPost}); err != nil {
		t.Fatal(err)
	}
	err := c.Do(ctx, hostapi.Call{Operation: op, Method: http.MethodPost})
	if provider.ReasonOf(err) != provider.RateLimited || provider.RetryAfterOf(err) < 10*time.Minute || asked.Load() != 1 {
		t.Errorf("got %v, after %v; the host was asked %d times", err, provider.RetryAfterOf(err), asked.Load())
	}
}

// Credentials that the host refuses are fetched anew, once.
func TestRenew(t *testing.T) {
	renewed := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if body, _ := io.ReadAll(r.Body); string(body) != `"x"` {
			t.Errorf("the host got %q", body)
		}
		if r.Header.Get("Authorization") != "new" {
			w.WriteHeader(401)
		}
	}))
	defer srv.Close()
	key := "old"
	c := client(t, hostapi.Config{
		Host: "Host", URL: srv.URL, Renew: func(refused *http.Request) {
			if got := refused.Header.Get("Authorization"); got != "old" {
				t.Errorf("refused was %q", got)
			}
			key, renewed = "new", renewed+1
		},
		Authorize: func(_ context.Context, r *http.Request) error { r.Header.Set("Authorization", key); return nil },
	})
	op := hostapi.Write("start a server", 0)
	if err := c.Do(t.Context(), hostapi.Call{Operation: op, Method: http.MethodPost, In: "x"}); err != nil || renewed != 1 {
		t.Errorf("%v after %d renewals", err, renewed)
	}
	c = client(t, hostapi.Config{Host: "Host", URL: srv.URL, Renew: func(*http.Request) { renewed++ }})
	if err := c.Do(t.Context(), hostapi.Call{Operation: op, Method: http.MethodPost, In: "x"}); provider.ReasonOf(err) != provider.Unauthenticated || renewed != 2 {
		t.Errorf("%v after %d renewals", err, renewed)
	}
}

func TestExplainAndAuthorizeDecide(t *testing.T) {
	srv := httptest.NewServer(says(400, `{"code": 17}`))
	defer srv.Close()
	c := client(t, hostapi.Config{Host: "Host", URL: srv.URL, Explain: func(r hostapi.Refusal) error {
		var said struct{ Code int }
		if r.Decode(&said) == nil && said.Code == 17 {
			return r.Failure(provider.NoCapacity, "no room")
		}
		return nil
	}})
	if err := c.Do(t.Context(), hostapi.Call{Operation: hostapi.Write("start a server", 0), Method: http.MethodPost}); provider.ReasonOf(err) != provider.NoCapacity {
		t.Errorf("got %v", err)
	}
	broken := errors.New("no key")
	c = client(t, hostapi.Config{Host: "Host", URL: srv.URL, Authorize: func(context.Context, *http.Request) error { return broken }})
	if err := c.Do(t.Context(), hostapi.Call{Operation: hostapi.Write("start a server", 0), Method: http.MethodPost}); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}

// What a provider makes of a status does not hold for a page, which is nobody's word; but what it knows of something on the way does.
func TestExplainOfAPage(t *testing.T) {
	for name, c := range map[string]struct {
		status    int
		body      string
		explained providerv1.FailureReason
		want      providerv1.FailureReason
	}{
		"of the host":                 {403, `{"message": "no"}`, provider.Unauthenticated, provider.Unauthenticated},
		"of a firewall":               {403, `<html>no</html>`, provider.Unauthenticated, provider.Ambiguous},
		"of a firewall, full":         {422, `<html>no</html>`, provider.NoCapacity, provider.Ambiguous},
		"of a proxy, known to be one": {409, `<html>no</html>`, provider.Unavailable, provider.Unavailable},
		"of an ingress":               {404, `<html>no</html>`, provider.NotFound, provider.NotFound},
	} {
		srv := httptest.NewServer(says(c.status, c.body))
		api := client(t, hostapi.Config{Host: "Host", URL: srv.URL, Explain: func(r hostapi.Refusal) error { return r.Failure(c.explained, r.Words()) }})
		if err := api.Do(t.Context(), hostapi.Call{Operation: hostapi.Write("start a server", 0), Method: http.MethodPost}); provider.ReasonOf(err) != c.want {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		srv.Close()
	}
}

func TestCheckURL(t *testing.T) {
	for _, good := range []string{"https://api.example.com", "https://api.example.com/v1", "http://127.0.0.1:9000", "http://localhost", "http://[::1]:80"} {
		if err := hostapi.CheckURL(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for bad, want := range map[string]string{
		"": "no base URL", "api.example.com": "no base URL", "ftp://x": "no base URL", "http://api.example.com": "use https", "http://10.0.0.1": "use https",
		"https://u:hunter2@x": "take it out", "https://x/?q": "take it out", "https://x/?key=hunter2": "take it out", "https://x/#hunter2": "take it out",
		"ftp://u:hunter2@x": "no base URL", "https://u:hunter2@x:port": "no base URL", "u:hunter2@x": "no base URL", "https://u:hunter2%zz@x": "no base URL",
	} {
		if err := hostapi.CheckURL(bad); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v, want %q", bad, err, want)
		}
	}
}

func TestSecretFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	for content, want := range map[string]string{" hunter2\n": "", "": "is empty", "a\nb": "one line"} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := hostapi.SecretFile(file).Use("host.key_file")
		if want == "" && (err != nil || got != "hunter2") {
			t.Errorf("%q: %q, %v", content, got, err)
		}
		if want != "" && (provider.ReasonOf(err) != provider.Unauthenticated || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "host.key_file")) {
			t.Errorf("%q: %v, want %q", content, err, want)
		}
	}
	if _, err := hostapi.SecretFile("").Read(); err == nil {
		t.Error("no path is a secret")
	}
}

func TestEndpoints(t *testing.T) {
	got := hostapi.Endpoints(
		hostapi.Port{Name: "Game Port", Host: "h", Port: 7777, Protocol: "UDP"}, hostapi.Port{Name: "game-port", Host: "h", Port: 7778, Protocol: "tls"},
		hostapi.Port{Host: "h", Port: 1}, hostapi.Port{Name: "none", Host: "h"}, hostapi.Port{Name: "nowhere", Port: 5}, hostapi.Port{Name: strings.Repeat("x", 100), Host: "h", Port: 2},
	)
	var names []string
	for _, e := range got {
		names = append(names, e.GetName())
	}
	if strings.Join(names, " ") != "game-port game-port-2 game "+strings.Repeat("x", 60) {
		t.Errorf("got %q", names)
	}
}
