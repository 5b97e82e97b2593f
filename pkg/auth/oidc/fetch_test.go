package oidc_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-dev/berth/pkg/auth/oidc"
	"github.com/berth-dev/berth/pkg/auth/oidc/oidctest"
	"github.com/berth-dev/berth/pkg/egress"
	"github.com/berth-dev/berth/pkg/errs"
)

// remote is an issuer without a network, so that time can be false.
type remote struct {
	mu      sync.Mutex
	keys    []byte
	away    bool
	hangs   bool
	fetches int
}

const remoteURL = "https://id.example.com"

// RoundTrip implements http.RoundTripper.
func (r *remote) RoundTrip(req *http.Request) (*http.Response, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	doc := fmt.Appendf(nil, `{"issuer":%q,"jwks_uri":"%s/keys"}`, remoteURL, remoteURL)
	if req.URL.Path == "/keys" {
		doc = r.keys
	} else {
		r.fetches++
	}
	if r.hangs {
		r.mu.Unlock()
		<-req.Context().Done()
		r.mu.Lock()
		return nil, req.Context().Err()
	}
	if r.away {
		return nil, errors.New("away")
	}
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(bytes.NewReader(doc)), Request: req}, nil
}

func (r *remote) set(change func(*remote)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(r)
}

func (r *remote) asked() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.fetches
}

// start runs an issuer in a bubble; what is done to it takes place once it has its keys, or cannot have them.
func (r *remote) start(t *testing.T) (*oidc.Issuer, func(oidctest.Key) errs.Reason) {
	t.Helper()
	i := run(t, oidc.Config{Issuer: remoteURL, Audience: oidctest.Audience}, &http.Client{Transport: r})
	synctest.Wait()
	return i, func(k oidctest.Key) errs.Reason {
		_, err := i.Verify(t.Context(), k.Sign(t, oidctest.Claims(remoteURL, nil), nil))
		return errs.ReasonOf(err)
	}
}

func TestANewKeyIsFetchedAndAWithdrawnOneForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, two := oidctest.NewKey(t, "1"), oidctest.NewKey(t, "2")
		r := &remote{keys: oidctest.KeySet(t, one)}
		_, verify := r.start(t)
		if got := verify(one); got != "" || r.asked() != 1 {
			t.Fatalf("%q after %d fetches", got, r.asked())
		}
		r.set(func(r *remote) { r.keys = oidctest.KeySet(t, one, two) })
		if got := verify(two); got != "" || r.asked() != 2 {
			t.Errorf("a new key: %q after %d fetches", got, r.asked())
		}
		r.set(func(r *remote) { r.keys = oidctest.KeySet(t, two) })
		if got := verify(one); got != "" {
			t.Errorf("a withdrawn key, at once: %q", got)
		}
		time.Sleep(11 * time.Minute)
		if got := verify(two); got != "" || r.asked() != 3 {
			t.Errorf("later: %q after %d fetches", got, r.asked())
		}
		if got := verify(one); got != errs.CredentialsInvalid {
			t.Errorf("a withdrawn key, later: %q", got)
		}
	})
}

// Whoever invents ids of keys must not make Berth flood the issuer, and must not keep a genuine new key out.
func TestInventedKeyIDsCauseFewFetches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		genuine := oidctest.NewKey(t, "genuine")
		r := &remote{keys: oidctest.KeySet(t, genuine)}
		_, verify := r.start(t)
		before := r.asked()
		invented := oidctest.NewKey(t, "invented")
		if got := verify(invented); got != errs.CredentialsInvalid {
			t.Errorf("the first: %q", got)
		}
		for n := range 200 {
			invented.ID = fmt.Sprint("invented ", n)
			if got := verify(invented); got != errs.ServiceUnavailable && got != errs.CredentialsInvalid {
				t.Fatalf("got %q", got)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if n := r.asked() - before; n < 3 || n > 5 {
			t.Errorf("%d fetches in 20 s", n)
		}
		rotated := oidctest.NewKey(t, "rotated")
		r.set(func(r *remote) { r.keys = oidctest.KeySet(t, genuine, rotated) })
		for n := 0; verify(rotated) != ""; n++ {
			if n > 10 {
				t.Fatal("a genuine new key is kept out")
			}
			_ = verify(invented)
			time.Sleep(time.Second)
		}
		if got := verify(genuine); got != "" {
			t.Errorf("the known key meanwhile: %q", got)
		}
	})
}

func TestManyCallersWaitForOneFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, two := oidctest.NewKey(t, "1"), oidctest.NewKey(t, "2")
		r := &remote{keys: oidctest.KeySet(t, one)}
		_, verify := r.start(t)
		r.set(func(r *remote) { r.keys = oidctest.KeySet(t, one, two) })
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				if got := verify(two); got != "" {
					t.Errorf("got %q", got)
				}
			})
		}
		wg.Wait()
		if r.asked() > 2 {
			t.Errorf("%d fetches", r.asked())
		}
	})
}

func TestAnIssuerThatIsAwayCostsNoKnownKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, two := oidctest.NewKey(t, "1"), oidctest.NewKey(t, "2")
		r := &remote{keys: oidctest.KeySet(t, one), away: true}
		_, verify := r.start(t)
		if got := verify(one); got != errs.ServiceUnavailable {
			t.Errorf("away from the start: %q", got)
		}
		r.set(func(r *remote) { r.away = false })
		time.Sleep(2 * time.Minute)
		if got := verify(one); got != "" {
			t.Errorf("there again: %q", got)
		}
		before := r.asked()
		r.set(func(r *remote) { r.away = true })
		time.Sleep(12 * time.Hour)
		if got := verify(one); got != "" {
			t.Errorf("away for half a day: %q", got)
		}
		if got := verify(two); got != errs.ServiceUnavailable {
			t.Errorf("a new key meanwhile: %q", got)
		}
		if n := r.asked() - before; n > 13*60 {
			t.Errorf("%d fetches in half a day: more than one a minute", n)
		}
		time.Sleep(13 * time.Hour)
		if got := verify(one); got != errs.ServiceUnavailable {
			t.Errorf("away for more than a day: %q", got)
		}
	})
}

func TestAnIssuerThatHangsHoldsCallersUpForSecondsOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, two := oidctest.NewKey(t, "1"), oidctest.NewKey(t, "2")
		r := &remote{keys: oidctest.KeySet(t, one)}
		i, verify := r.start(t)
		r.set(func(r *remote) { r.hangs = true })
		began := time.Now()
		if got := verify(two); got != errs.ServiceUnavailable {
			t.Errorf("got %q", got)
		}
		if waited := time.Since(began); waited > 3*time.Second { // of the bubble's clock
			t.Errorf("after %s", waited)
		}
		began = time.Now()
		if got := verify(one); got != "" || time.Since(began) != 0 {
			t.Errorf("a known key: %q, after %s", got, time.Since(began))
		}
		_, err := i.Verify(t.Context(), two.Sign(t, oidctest.Claims(remoteURL, nil), nil))
		var typed *errs.Error
		if !errors.As(err, &typed) || typed.RetryAfter == 0 {
			t.Errorf("says nothing about a repeat: %v", err)
		}
	})
}

// What an issuer publishes is not believed unless all of it is right, and what was right before stays in force.
func TestAnIssuerThatLiesIsNotBelieved(t *testing.T) {
	k, mallory := oidctest.NewKey(t, "k"), oidctest.NewKey(t, "new")
	elsewhere := oidctest.New(t, mallory)
	say := func(s string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, s) }
	}
	redirect := func(to string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, to, http.StatusFound) }
	}
	discovery := func(p *oidctest.Issuer, issuer, keys string) http.HandlerFunc {
		return say(string(p.Discovery(issuer, keys)))
	}
	for name, c := range map[string]struct {
		path   string
		answer func(p *oidctest.Issuer) http.HandlerFunc
		cause  string
	}{
		"another issuer": {oidctest.DiscoveryPath, func(p *oidctest.Issuer) http.HandlerFunc {
			return discovery(p, elsewhere.URL, elsewhere.Server.URL+oidctest.KeysPath)
		}, "issuer is"},
		"the issuer with a slash": {oidctest.DiscoveryPath, func(p *oidctest.Issuer) http.HandlerFunc {
			return discovery(p, p.URL+"/", p.Server.URL+oidctest.KeysPath)
		}, "issuer is"},
		"the issuer twice": {oidctest.DiscoveryPath, func(p *oidctest.Issuer) http.HandlerFunc {
			return say(`{"issuer":"x",` + string(p.Discovery(p.URL, p.Server.URL+oidctest.KeysPath))[1:])
		}, "duplicate"},
		"keys over http":        {oidctest.DiscoveryPath, func(p *oidctest.Issuer) http.HandlerFunc { return discovery(p, p.URL, "http://127.0.0.1/keys") }, "https"},
		"keys with a user":      {oidctest.DiscoveryPath, func(p *oidctest.Issuer) http.HandlerFunc { return discovery(p, p.URL, "https://u:p@127.0.0.1/keys") }, "user"},
		"keys in a file":        {oidctest.DiscoveryPath, func(p *oidctest.Issuer) http.HandlerFunc { return discovery(p, p.URL, "file:///etc/passwd") }, "https"},
		"keys at no address":    {oidctest.DiscoveryPath, func(p *oidctest.Issuer) http.HandlerFunc { return discovery(p, p.URL, "") }, "https"},
		"keys at a private one": {oidctest.DiscoveryPath, func(p *oidctest.Issuer) http.HandlerFunc { return discovery(p, p.URL, "https://10.0.0.1/keys") }, "egress.allow"},
		"keys at the cloud's":   {oidctest.DiscoveryPath, func(p *oidctest.Issuer) http.HandlerFunc { return discovery(p, p.URL, "https://169.254.169.254/keys") }, "egress.allow"},
		"no discovery":          {oidctest.DiscoveryPath, func(*oidctest.Issuer) http.HandlerFunc { return http.NotFound }, "404"},
		"discovery is a page":   {oidctest.DiscoveryPath, func(*oidctest.Issuer) http.HandlerFunc { return say("<html>") }, "discovery"},
		"discovery is null":     {oidctest.DiscoveryPath, func(*oidctest.Issuer) http.HandlerFunc { return say("null") }, "issuer is"},
		"discovery redirects": {oidctest.DiscoveryPath, func(*oidctest.Issuer) http.HandlerFunc {
			return redirect(elsewhere.Server.URL + oidctest.DiscoveryPath)
		}, "redirect"},
		"keys redirect":     {oidctest.KeysPath, func(*oidctest.Issuer) http.HandlerFunc { return redirect(elsewhere.Server.URL + oidctest.KeysPath) }, "redirect"},
		"keys are a page":   {oidctest.KeysPath, func(*oidctest.Issuer) http.HandlerFunc { return say("<html>") }, "key set"},
		"keys are missing":  {oidctest.KeysPath, func(*oidctest.Issuer) http.HandlerFunc { return say(`{"Keys":[]}`) }, "key set"},
		"keys are too many": {oidctest.KeysPath, func(*oidctest.Issuer) http.HandlerFunc { return say(`{"keys":[` + strings.Repeat("{},", 100) + `{}]}`) }, "101 keys"},
		"keys are endless":  {oidctest.KeysPath, func(*oidctest.Issuer) http.HandlerFunc { return say(`{"keys":[` + strings.Repeat(" ", 1<<20)) }, "more than 262144 bytes"},
		"keys are not to be had": {oidctest.KeysPath, func(*oidctest.Issuer) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }
		}, "503"},
		"keys with an endless nest": {oidctest.KeysPath, func(*oidctest.Issuer) http.HandlerFunc { return say(`{"keys":` + strings.Repeat("[", 200_000)) }, "key set"},
	} {
		t.Run(name, func(t *testing.T) {
			provider := oidctest.New(t, k)
			i := connect(t, provider, provider.Config())
			good := k.Sign(t, oidctest.Claims(provider.URL, nil), nil)
			if _, err := verify(t, i, good); err != nil {
				t.Fatal(err)
			}
			provider.Handle(c.path, c.answer(provider))
			before := elsewhere.Asked(oidctest.KeysPath) + elsewhere.Asked(oidctest.DiscoveryPath)
			_, err := i.Verify(t.Context(), mallory.Sign(t, oidctest.Claims(provider.URL, nil), nil))
			if !errs.Is(err, errs.ServiceUnavailable) || !strings.Contains(err.Error(), c.cause) {
				t.Errorf("got %v, want a cause with %q", err, c.cause)
			}
			if _, err := i.Verify(t.Context(), good); err != nil {
				t.Errorf("what was known before: %v", err)
			}
			if elsewhere.Asked(oidctest.KeysPath)+elsewhere.Asked(oidctest.DiscoveryPath) != before {
				t.Error("another server was asked")
			}
		})
	}
}

func TestAnIssuerAtAPrivateAddressIsRefused(t *testing.T) {
	k := oidctest.NewKey(t, "k")
	provider := oidctest.New(t, k)
	out := provider.Egress()
	out.Allow = nil
	i := run(t, provider.Config(), client(t, out))
	var err error
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); <-time.After(10 * time.Millisecond) {
		_, err = i.Verify(t.Context(), k.Sign(t, oidctest.Claims(provider.URL, nil), nil))
		if strings.Contains(fmt.Sprint(err), "127.0.0.1") {
			break
		}
	}
	var refused *egress.RefusedError
	if !errs.Is(err, errs.ServiceUnavailable) || !errors.As(err, &refused) || provider.Asked(oidctest.DiscoveryPath) != 0 {
		t.Errorf("got %v, and it was asked %d times", err, provider.Asked(oidctest.DiscoveryPath))
	}
}
