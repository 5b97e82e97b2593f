package multiplay

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/providers/internal/hostapi"
)

const (
	// early is how long before its end a token is replaced; of one that lasts for less than twice that, after half of it.
	early = time.Minute
	// exchangesPerSecond is what 18,000 in half an hour come to.
	exchangesPerSecond = 10
	// exchangeTimeout is how long Unity may take for a token: others wait for the one who asks.
	exchangeTimeout = 5 * time.Second

	bearer = "Bearer "
)

// tokens fetches Unity's tokens, one at a time. It is safe for concurrent use. Close it when nobody needs any more.
type tokens struct {
	api      *hostapi.Client
	exchange *hostapi.Operation
	path     string
	timeout  time.Duration
	turn     chan struct{} // one place, for whoever fetches one; those without a token wait

	ctx      context.Context // of renewals
	end      context.CancelFunc
	renewals sync.WaitGroup

	mu          sync.Mutex
	token       string
	old, expiry time.Time // when it is to be replaced, and when it is over
}

func newTokens(cfg Config) (*tokens, error) {
	query := url.Values{"projectId": {cfg.Project}, "environmentId": {cfg.Environment}}
	ctx, end := context.WithCancel(context.Background())
	t := &tokens{
		ctx: ctx, end: end, timeout: exchangeTimeout,
		// To fetch a token changes nothing: a call that could not get one was not made.
		exchange: hostapi.Read("exchange the key for a token", exchangesPerSecond), path: "/auth/v1/token-exchange?" + query.Encode(), turn: make(chan struct{}, 1),
	}
	var err error
	t.api, err = hostapi.New(hostapi.Config{Host: "Unity", URL: cfg.AuthURL, Explain: explainExchange, Authorize: func(_ context.Context, r *http.Request) error {
		secret, err := cfg.KeySecretFile.Use("multiplay.key_secret_file")
		r.SetBasicAuth(cfg.KeyID, secret)
		return err
	}})
	return t, err
}

func (t *tokens) close() {
	t.end()
	t.renewals.Wait()
	t.api.Close()
}

// authorize puts a token on a request.
func (t *tokens) authorize(ctx context.Context, r *http.Request) error {
	token, err := t.get(ctx)
	r.Header.Set("Authorization", bearer+token)
	return err
}

// forget has the next call fetch a token, since the host refused the one on a request; not if it was replaced since.
func (t *tokens) forget(refused *http.Request) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if refused.Header.Get("Authorization") == bearer+t.token {
		t.token = ""
	}
}

// current returns the token that is good, if there is one, and whether it will be for a while.
func (t *tokens) current() (token string, fresh bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	if t.token == "" || !now.Before(t.expiry) {
		return "", false
	}
	return t.token, now.Before(t.old)
}

// get returns a token. Who finds one that is still good does not wait for the next one.
func (t *tokens) get(ctx context.Context) (string, error) {
	token, fresh := t.current()
	if token != "" {
		if !fresh {
			t.renew() //nolint:contextcheck // a renewal is for all calls
		}
		return token, nil
	}
	select {
	case t.turn <- struct{}{}:
	case <-ctx.Done():
		return "", provider.Failure(provider.Unavailable, "Unity: %s: another call does so; this one was cut off before it was sent", t.exchange.Name)
	}
	defer func() { <-t.turn }()
	if token, _ = t.current(); token != "" {
		return token, nil
	}
	return t.fetch(ctx)
}

// renew fetches the next token, unless somebody does so already. If that fails the next call tries again.
func (t *tokens) renew() {
	select {
	case t.turn <- struct{}{}:
	default:
		return
	}
	t.renewals.Go(func() {
		defer func() { <-t.turn }()
		if _, fresh := t.current(); !fresh {
			_, _ = t.fetch(t.ctx)
		}
	})
}

// fetch fetches the next token. Whoever calls it has the turn.
func (t *tokens) fetch(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, t.timeout)
	defer cancel()
	token, life, err := t.ask(ctx)
	if err != nil {
		return "", err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	t.token, t.old, t.expiry = token, now.Add(max(life-early, life/2)), now.Add(life)
	return token, nil
}

// ask asks for a token, and returns it and how long it lasts.
func (t *tokens) ask(ctx context.Context) (string, time.Duration, error) {
	var out struct {
		AccessToken string `json:"accessToken"`
	}
	in := struct {
		Scopes []string `json:"scopes"`
	}{[]string{}} // all that the account may do
	if err := t.api.Do(ctx, hostapi.Call{Operation: t.exchange, Method: http.MethodPost, Path: t.path, In: in, Out: &out}); err != nil {
		return "", 0, err
	}
	life, ok := lifeOf(out.AccessToken)
	if !ok {
		return "", 0, hostapi.Senseless("Unity", t.exchange, "accessToken is no JWT that lasts")
	}
	return out.AccessToken, life, nil
}

// lifeOf reads how long a JWT lasts, counted from its own beginning where it names that: clocks need not agree.
func lifeOf(token string) (time.Duration, bool) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return 0, false
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return 0, false
	}
	var claims struct {
		IssuedAt *float64 `json:"iat"`
		Expires  float64  `json:"exp"`
	}
	if json.Unmarshal(raw, &claims) != nil {
		return 0, false
	}
	from := float64(time.Now().Unix())
	if claims.IssuedAt != nil {
		from = *claims.IssuedAt
	}
	const most = 24 * 60 * 60 // more is nothing to rely on
	seconds := min(claims.Expires-from, most)
	return time.Duration(seconds * float64(time.Second)), seconds > 0
}
