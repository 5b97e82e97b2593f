package playfab_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/providers/playfab"
	playfabhost "github.com/berth-dev/berth/test/hosts/playfab"
	"github.com/berth-dev/berth/test/hosts/standin"
)

// runUntil is a server that ends with the channel.
func runUntil(ended <-chan struct{}) standin.Run {
	return func(ctx context.Context, _ []byte) {
		select {
		case <-ended:
		case <-ctx.Done():
		}
	}
}

// entityToken fetches a token of the stand-in.
func entityToken(t *testing.T, url string) string {
	t.Helper()
	req, _ := http.NewRequest(http.MethodPost, url+"/Authentication/GetEntityToken", strings.NewReader("{}"))
	req.Header.Set("X-Secretkey", secretKey)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var said struct{ Data struct{ EntityToken string } }
	if err := json.NewDecoder(resp.Body).Decode(&said); err != nil || said.Data.EntityToken == "" {
		t.Fatalf("%v, %v", said, err)
	}
	return said.Data.EntityToken
}

// get asks for a server that there is not: the least that needs a token.
func get(t *testing.T, p *playfab.Provider) error {
	t.Helper()
	_, err := p.Get(t.Context(), &providerv1.GetRequest{AttemptId: order("shooter", "eu").GetAttemptId(), Deployment: "live"})
	if provider.ReasonOf(err) == provider.NotFound {
		return nil
	}
	return err
}

// A token is fetched once, however many want one, and used until shortly before its end.
func TestATokenIsFetchedOnce(t *testing.T) {
	_, cfg, counted := start(t, nil)
	p := open(t, cfg)
	clock := playfab.SetClock(p, time.Now())
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			if err := get(t, p); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	fetched := func(want int) {
		t.Helper()
		if err := get(t, p); err != nil {
			t.Error(err)
		}
		if n := counted.of("GetEntityToken"); n != want {
			t.Errorf("%d tokens were fetched, want %d", n, want)
		}
	}
	fetched(1)
	clock.Add(24*time.Hour - 6*time.Minute)
	fetched(1)
	clock.Add(2 * time.Minute)
	fetched(2)
}

// A token that is short-lived is used for most of its life too.
func TestAShortLivedToken(t *testing.T) {
	_, cfg, counted := start(t, func(c *playfabhost.Config) { c.TokenLife = time.Minute })
	p := open(t, cfg)
	clock := playfab.SetClock(p, time.Now())
	for _, c := range []struct {
		later time.Duration
		want  int
	}{{0, 1}, {50 * time.Second, 1}, {6 * time.Second, 2}} {
		clock.Add(c.later)
		if err := get(t, p); err != nil {
			t.Error(err)
		}
		if n := counted.of("GetEntityToken"); n != c.want {
			t.Errorf("%d tokens were fetched, want %d", n, c.want)
		}
	}
}

// A token that the host refuses is replaced once for all calls that were under way with it, and none of them fails: also not one that hears of it late.
func TestARevokedTokenIsReplacedOnce(t *testing.T) {
	const callers = 4
	host, cfg, counted := start(t, nil)
	p := open(t, cfg)
	clock := playfab.SetClock(p, time.Now())
	var arrived sync.WaitGroup
	arrived.Add(callers)
	var late atomic.Bool
	replaced := make(chan struct{})
	replace := sync.OnceFunc(func() { close(replaced) })
	host.Answer(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/GetEntityToken"):
			answer{200, "", fmt.Sprintf(`{"code": 200, "data": {"EntityToken": "token %d"}}`, counted.of("GetEntityToken"))}.ServeHTTP(w, r)
		case r.Header.Get("X-Entitytoken") == "token 1" && counted.of("GetMultiplayerServerDetails") > 1:
			arrived.Done()
			arrived.Wait() // for the others that have it
			if late.CompareAndSwap(false, true) {
				<-replaced
				clock.Add(time.Hour) // the new one is not new any more
			}
			refusal(401, "EntityTokenRevoked", "Revoked").ServeHTTP(w, r)
		case r.Header.Get("X-Entitytoken") == "token 2":
			replace()
			missing.ServeHTTP(w, r)
		default:
			missing.ServeHTTP(w, r)
		}
	})
	if err := get(t, p); err != nil {
		t.Fatal(err)
	}
	clock.Add(time.Hour)
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			if err := get(t, p); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := counted.of("GetEntityToken"); n != 2 {
		t.Errorf("%d tokens were fetched, want one and another", n)
	}
}

// A token that was revoked does not keep a server from being started.
func TestAServerIsStartedWithANewToken(t *testing.T) {
	var revoked sync.Map
	host, cfg, _ := start(t, func(c *playfabhost.Config) {
		c.Revoked = func(token string) bool { _, is := revoked.LoadOrStore(token, true); return is }
	})
	p := open(t, cfg)
	clock := playfab.SetClock(p, time.Now())
	for n := range 3 { // each token is good for one call
		clock.Add(time.Hour)
		if _, err := p.Allocate(t.Context(), order("shooter", "eu")); err != nil {
			t.Error(err)
		}
		if c := host.Count(); c.Started != n+1 {
			t.Errorf("%+v after %d", c, n+1)
		}
	}
}

// One that is refused as well is not replaced again and again.
func TestARefusedTokenIsNotReplacedForEver(t *testing.T) {
	host, cfg, counted := start(t, func(c *playfabhost.Config) { c.Revoked = func(string) bool { return true } })
	p := open(t, cfg)
	clock := playfab.SetClock(p, time.Now())
	for range 2 {
		clock.Add(time.Hour)
		_, err := p.Allocate(t.Context(), order("shooter", "eu"))
		if provider.ReasonOf(err) != provider.Unauthenticated || !strings.Contains(err.Error(), "EntityTokenRevoked") {
			t.Errorf("got %v", err)
		}
	}
	if n := counted.of("GetEntityToken"); n > 3 {
		t.Errorf("%d tokens were fetched", n)
	}
	if c := host.Count(); c.Started != 0 {
		t.Errorf("%+v", c)
	}
}

// A key that is replaced is used for the next token; one that is gone or wrong is said to be.
func TestTheKeyIsReadForEachToken(t *testing.T) {
	_, cfg, _ := start(t, nil)
	p := open(t, cfg)
	write := func(key string) {
		if err := os.WriteFile(string(cfg.SecretKeyFile), []byte(key), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("WRONG")
	if err := get(t, p); provider.ReasonOf(err) != provider.Unauthenticated || !strings.Contains(err.Error(), "fetch an entity token") || !strings.Contains(err.Error(), "secret key") {
		t.Errorf("with a wrong key: %v", err)
	}
	write("")
	if err := get(t, p); provider.ReasonOf(err) != provider.Unauthenticated || !strings.Contains(err.Error(), "playfab.secret_key_file") {
		t.Errorf("without a key: %v", err)
	}
	write(secretKey)
	if err := get(t, p); err != nil {
		t.Error(err)
	}
}

// What goes wrong with a token says nothing of a session, and for certain that none was started.
func TestFailuresOfTokens(t *testing.T) {
	for name, c := range map[string]struct {
		answer
		want providerv1.FailureReason
		says string
	}{
		"another API":    {answer{404, "text/html", html}, provider.Unavailable, "is it the API's address"},
		"no such title":  {refusal(400, "InvalidTitleId", "No title"), provider.Invalid, "No title"},
		"no such path":   {refusal(404, "InvalidAPIEndpoint", "No such API"), provider.Invalid, "No such API"},
		"a refused key":  {refusal(401, "NotAuthenticated", "Who?"), provider.Unauthenticated, "Who?"},
		"throttled":      {refusal(429, "APIClientRequestRateLimitExceeded", "Slow down"), provider.RateLimited, "Slow down"},
		"broken":         {refusal(500, "InternalServerError", "Oops"), provider.Unavailable, "Oops"},
		"HTML":           {answer{200, "text/html", html}, provider.Unavailable, "makes no sense"},
		"no token":       {answer{200, "", `{"code": 200, "data": {}}`}, provider.Unavailable, "there is no token"},
		"an error":       {answer{200, "", `{"code": 401, "error": "NotAuthenticated"}`}, provider.Unavailable, "NotAuthenticated"},
		"a wrong moment": {answer{200, "", `{"code": 200, "data": {"EntityToken": "t", "TokenExpiration": "tomorrow"}}`}, provider.Unavailable, "makes no sense"},
	} {
		t.Run(name, func(t *testing.T) {
			host, cfg, _ := start(t, nil)
			p := open(t, cfg)
			host.Answer(c.ServeHTTP)
			_, err := p.Allocate(t.Context(), order("shooter", "eu"))
			if provider.ReasonOf(err) != c.want || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), secretKey) {
				t.Errorf("got %v: %v; want %v with %q", provider.ReasonOf(err), err, c.want, c.says)
			}
			if err := get(t, p); provider.ReasonOf(err) == provider.NotFound || err == nil {
				t.Errorf("Get: %v", err)
			}
		})
	}
}

// Whoever waits for a token that another call fetches returns when its own time is over.
func TestWaitingForAToken(t *testing.T) {
	host, cfg, _ := start(t, nil)
	p := open(t, cfg)
	asked := make(chan struct{})
	host.Answer(func(_ http.ResponseWriter, r *http.Request) {
		close(asked)
		<-r.Context().Done()
	})
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() {
		_, err := p.Get(ctx, &providerv1.GetRequest{AttemptId: "a", Deployment: "live"})
		first <- err
	}()
	<-asked
	over, end := context.WithTimeout(t.Context(), time.Millisecond)
	defer end()
	if _, err := p.Allocate(over, order("shooter", "eu")); provider.ReasonOf(err) != provider.Unavailable || !strings.Contains(err.Error(), "before it was sent") {
		t.Errorf("got %v", err)
	}
	cancel()
	if err := <-first; provider.ReasonOf(err) != provider.Unavailable {
		t.Errorf("got %v", err)
	}
}
