package multiplay_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/providers/multiplay"
)

// together makes allocations at the same time.
func together(t *testing.T, p *multiplay.Provider) {
	t.Helper()
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			if _, err := p.Allocate(t.Context(), order()); err != nil {
				t.Errorf("Allocate: %v", err)
			}
		})
	}
	all.Wait()
}

// However many calls need a token, one fetches it; also when the host has made worthless the one that there was.
func TestTokenIsFetchedOnce(t *testing.T) {
	host, cfg := start(t, multiplay.Unity)
	p := open(t, cfg)
	together(t, p)
	if n := host.Calls().Exchange; n != 1 {
		t.Errorf("%d tokens were fetched, want 1", n)
	}
	host.Revoke()
	together(t, p)
	if n := host.Calls().Exchange; n != 2 {
		t.Errorf("%d tokens were fetched after the first was refused, want 2", n)
	}
}

// A minute before its end a token is replaced. If that fails it is used until its end, and no longer.
func TestTokenIsReplacedEarly(t *testing.T) {
	host, cfg := start(t, multiplay.Unity)
	front := http.Handler(host)
	auth := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { front.ServeHTTP(w, r) }))
	defer auth.Close()
	cfg.AuthURL = auth.URL
	p := open(t, cfg)
	allocate(t, p, order())
	p.AgeToken(58 * time.Minute)
	allocate(t, p, order())
	if n := host.Calls().Exchange; n != 1 {
		t.Errorf("%d tokens were fetched two minutes before the end of the first", n)
	}
	p.AgeToken(90 * time.Second)
	allocate(t, p, order())
	p.Renewed()
	if n := host.Calls().Exchange; n != 2 {
		t.Errorf("%d tokens were fetched half a minute before the end of the first", n)
	}
	front = problem(500, "internal")
	p.AgeToken(59*time.Minute + 30*time.Second)
	allocate(t, p, order())
	p.Renewed()
	p.AgeToken(time.Minute)
	if _, err := p.Allocate(t.Context(), order()); provider.ReasonOf(err) != provider.Unavailable {
		t.Errorf("Allocate without a token: %v", err)
	}
}

func TestFailuresOfTheExchange(t *testing.T) {
	for _, c := range []answered{
		{"key", problem(401, "unknown key with the secret "+secret), provider.Unauthenticated, "multiplay.key_id", 0},
		{"permission", problem(403, "no access"), provider.Unauthenticated, "multiplay.key_secret_file", 0},
		{"project", problem(404, "no such project"), provider.Invalid, "multiplay.project", 0},
		{"throttled", problem(429, "Rate limit exceeded", "Retry-After", "4"), provider.RateLimited, "Rate limit exceeded", 4 * time.Second},
		{"broke", problem(500, "internal"), provider.Unavailable, "internal", 0},
		{"truncated", says(201, "application/json", `{"accessToken": "e30.ey`), provider.Unavailable, "makes no sense", 0},
		{"an error inside", says(200, "application/json", `{"status": 401, "detail": "unknown key"}`), provider.Unavailable, "accessToken is no JWT", 0},
		{"HTML", says(200, "text/html", page), provider.Unavailable, "a page of text/html", 0},
		{"no token", says(201, "application/json", `{"access_token": "a.b.c"}`), provider.Unavailable, "accessToken is no JWT", 0},
		{"no JWT", says(201, "application/json", `{"accessToken": "a.b.c"}`), provider.Unavailable, "accessToken is no JWT", 0},
		{"over", says(201, "application/json", `{"accessToken": "e30.eyJpYXQiOjIsImV4cCI6MX0.c"}`), provider.Unavailable, "accessToken is no JWT", 0},
	} {
		host, cfg := start(t, multiplay.Unity)
		auth := httptest.NewServer(c.answer)
		cfg.AuthURL = auth.URL
		_, err := open(t, cfg).Allocate(t.Context(), order())
		auth.Close()
		if provider.ReasonOf(err) != c.reason || provider.RetryAfterOf(err) != c.after || !strings.Contains(err.Error(), c.words) || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: %v after %v (%v), want %v after %v with %q", c.name, provider.ReasonOf(err), provider.RetryAfterOf(err), err, c.reason, c.after, c.words)
		}
		if calls := host.Calls(); calls.Allocate != 0 {
			t.Errorf("%s: the host was asked all the same", c.name)
		}
	}
}

// Exchanges are no more than Unity allows: a call that has no turn in its time is not made.
func TestExchangesAreLimited(t *testing.T) {
	const perSecond, most = 10, 1000
	_, cfg := start(t, multiplay.Unity)
	var asked atomic.Int64
	auth := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		problem(500, "internal")(w, r) // so that the next call asks again
	}))
	defer auth.Close()
	cfg.AuthURL = auth.URL
	p, begin := open(t, cfg), time.Now()
	for range most {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond) // less than a turn takes
		_, err := p.Allocate(ctx, order())
		cancel()
		if provider.ReasonOf(err) != provider.RateLimited {
			continue
		}
		n, took := asked.Load(), time.Since(begin)
		if after := provider.RetryAfterOf(err); n > perSecond+1+int64(perSecond*took.Seconds()) || after <= 0 || after > time.Second/perSecond {
			t.Errorf("%d calls in %v, the next one after %v", n, took, after)
		}
		return
	}
	t.Errorf("%d calls were made, and none had to wait", asked.Load())
}

// hanging is an exchange that takes requests and says nothing while it hangs.
func hanging(t *testing.T, next http.Handler) (url string, hang func()) {
	t.Helper()
	var hangs atomic.Bool
	auth := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !hangs.Load() {
			next.ServeHTTP(w, r)
			return
		}
		_, _ = io.Copy(io.Discard, r.Body) // or the end of the connection is not noticed
		<-r.Context().Done()
	}))
	t.Cleanup(auth.Close)
	return auth.URL, func() { hangs.Store(true) }
}

// An exchange that hangs keeps nobody waiting while there is a token that is good.
func TestAnExchangeThatHangsWhileTheTokenIsGood(t *testing.T) {
	host, cfg := start(t, multiplay.Unity)
	url, hang := hanging(t, host)
	cfg.AuthURL = url
	p := open(t, cfg)
	allocate(t, p, order())
	hang()
	p.AgeToken(59*time.Minute + 30*time.Second)
	together(t, p)
	allocate(t, p, order())
}

// Without a token it keeps nobody waiting for long, whatever time the caller has.
func TestAnExchangeThatHangs(t *testing.T) {
	host, cfg := start(t, multiplay.Unity)
	url, hang := hanging(t, host)
	cfg.AuthURL = url
	p := open(t, cfg)
	p.ExchangeWithin(10 * time.Millisecond)
	hang()
	for range 2 {
		if _, err := p.Allocate(t.Context(), order()); provider.ReasonOf(err) != provider.Unavailable {
			t.Errorf("Allocate: %v", err)
		}
	}
}

// A call whose caller goes away does not take with it those that wait for the token that it fetches.
func TestTokenOfACallThatIsCutOff(t *testing.T) {
	host, cfg := start(t, multiplay.Unity)
	asked := make(chan struct{})
	var once sync.Once
	auth := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		first := false
		once.Do(func() { first = true })
		if first {
			_, _ = io.Copy(io.Discard, r.Body) // or the end of the connection is not noticed
			close(asked)
			<-r.Context().Done()
			return
		}
		host.ServeHTTP(w, r)
	}))
	defer auth.Close()
	cfg.AuthURL = auth.URL
	p := open(t, cfg)
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() {
		_, err := p.Allocate(ctx, order())
		failed <- err
	}()
	<-asked
	second := make(chan error, 1)
	go func() {
		_, err := p.Allocate(t.Context(), order())
		second <- err
	}()
	cancel()
	if err := <-failed; provider.ReasonOf(err) != provider.Unavailable {
		t.Errorf("the call that was cut off: %v", err)
	}
	if err := <-second; err != nil {
		t.Errorf("the one that waited: %v", err)
	}
}
