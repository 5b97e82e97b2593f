package playfab

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/providers/internal/hostapi"
)

const (
	// early is how long before its end a token is replaced, at most: a tenth of its life is enough.
	early = 5 * time.Minute
	// fresh is how new a token is that is not replaced because it was refused: another one would be, too, and each is a call.
	fresh = time.Second

	tokenHeader = "X-EntityToken" // as PlayFab spells it
)

// tokens has the title's entity token. It is safe for concurrent use.
type tokens struct {
	api   *hostapi.Client
	fetch *hostapi.Operation
	now   func() time.Time
	// turn has one place, for whoever fetches a token. Full: the others wait, until their contexts end.
	turn chan struct{}

	mu      sync.Mutex
	token   string
	fetched time.Time
	until   time.Time // zero: it does not end by itself
}

func newTokens(cfg Config) (*tokens, error) {
	t := &tokens{fetch: hostapi.Read("fetch an entity token", 0), now: time.Now, turn: make(chan struct{}, 1)}
	var err error
	t.api, err = hostapi.New(hostapi.Config{Host: host, URL: cfg.base(), Explain: explainToken, Authorize: func(_ context.Context, r *http.Request) error {
		key, err := cfg.SecretKeyFile.Use("playfab.secret_key_file")
		r.Header.Set("X-SecretKey", key) //nolint:canonicalheader // as PlayFab spells it
		return err
	}})
	return t, err
}

// authorize puts the token on a request. One that is not good for a while any more is replaced before.
func (t *tokens) authorize(ctx context.Context, r *http.Request) error {
	token := t.current()
	if token == "" {
		var err error
		if token, err = t.renew(ctx); err != nil {
			return err
		}
	}
	r.Header.Set(tokenHeader, token)
	return nil
}

// current is the token; "" if one has to be fetched.
func (t *tokens) current() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.until.IsZero() && !t.now().Before(t.until) {
		return ""
	}
	return t.token
}

// renew fetches a token, unless another call just did.
func (t *tokens) renew(ctx context.Context) (string, error) {
	select {
	case t.turn <- struct{}{}:
		defer func() { <-t.turn }()
	case <-ctx.Done():
		return "", provider.Failure(provider.Unavailable, "%s: %s: the call was cut off before it was sent", host, t.fetch.Name)
	}
	if token := t.current(); token != "" {
		return token, nil
	}
	type entityToken struct {
		EntityToken     string
		TokenExpiration *time.Time // "if it is an expiring token"
	}
	got, err := post[entityToken](ctx, t.api, t.fetch, "/Authentication/GetEntityToken", struct{}{})
	if err != nil {
		return "", err
	}
	if got.EntityToken == "" {
		return "", hostapi.Senseless(host, t.fetch, "there is no token")
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.token, t.fetched, t.until = got.EntityToken, t.now(), time.Time{}
	if got.TokenExpiration != nil {
		t.until = got.TokenExpiration.Add(-min(early, got.TokenExpiration.Sub(t.fetched)/10))
	}
	return t.token, nil
}

// forget has the next call fetch a token, since the host refused the one on a request; not if it was replaced since.
func (t *tokens) forget(refused *http.Request) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.token == refused.Header.Get(tokenHeader) && t.now().Sub(t.fetched) >= fresh {
		t.token = ""
	}
}
