package gateway_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/berth-dev/berth/pkg/audit"
	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/rpc"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"

	"github.com/berth-dev/berth/services/gateway"
	"github.com/berth-dev/berth/services/gateway/internal/door"
	"github.com/berth-dev/berth/services/gateway/internal/limit"
)

// stopwatch is a time that stands unless the test moves it.
type stopwatch struct {
	began  time.Time
	passed atomic.Int64
}

func newStopwatch() *stopwatch            { return &stopwatch{began: time.Now()} }
func (c *stopwatch) now() time.Time       { return c.began.Add(time.Duration(c.passed.Load())) }
func (c *stopwatch) pass(d time.Duration) { c.passed.Add(int64(d)) }

func rate(perSecond, burst int) limit.Rate { return limit.Rate{PerSecond: perSecond, Burst: burst} }

// startLimited starts a gateway with limits, by a clock that stands.
func startLimited(tb testing.TB, r door.Rates) (*world, *stopwatch) {
	c := newStopwatch()
	return start(tb, func(cfg *gateway.Config) { cfg.Limits.Rates, cfg.Now = r, c.now }), c
}

// limited is what a REST answer must be that came too fast.
func limited(tb testing.TB, resp *http.Response, raw []byte) {
	tb.Helper()
	e := decodeError(tb, raw)
	if resp.StatusCode != http.StatusTooManyRequests || len(e.Details) != 2 || e.Details[0].Reason != string(errs.RateLimited) || resp.Header.Get("Retry-After") == "" {
		tb.Errorf("%d %v: %s", resp.StatusCode, resp.Header, raw)
	}
}

func TestTooManyRequestsOfAnAddressAreRefused(t *testing.T) {
	w, c := startLimited(t, door.Rates{Address: rate(1, 3)})
	for range 3 {
		if resp, raw := w.ask("GET", "http://"+w.api+instancePath, "", nil); resp.StatusCode != 200 {
			t.Fatalf("%d %s", resp.StatusCode, raw)
		}
	}
	for _, url := range []string{w.api + instancePath, w.api + "/openapi.json", w.edge + "/.well-known/jwks.json", w.edge + "/nonsense"} {
		resp, raw := w.ask("GET", "http://"+url, "", nil)
		limited(t, resp, raw)
	}
	_, err := gameserverv1.NewGameServerServiceClient(dialGRPC(t, w.edge)).UpdateGameData(t.Context(), gameData())
	if !errs.Is(rpc.FromStatus(err), errs.RateLimited) {
		t.Errorf("over gRPC: %v", err)
	}
	if got := w.count("berth_gateway_rate_limited_total", "address"); got != 5 {
		t.Errorf("counted %v", got)
	}
	c.pass(time.Second)
	if resp, raw := w.ask("GET", "http://"+w.api+instancePath, "", nil); resp.StatusCode != 200 {
		t.Errorf("a second later: %d %s", resp.StatusCode, raw)
	}
}

func TestTooManyRequestsWithACredentialAreRefused(t *testing.T) {
	w, _ := startLimited(t, door.Rates{Credential: rate(1, 2)})
	a, b := w.backend.issuer.pair(t), w.backend.issuer.pair(t)
	servers := gameserverv1.NewGameServerServiceClient(dialGRPC(t, w.edge))
	overREST := func(c credentials) (*http.Response, []byte) {
		return w.ask("POST", "http://"+w.edge+"/v1/game-server/instances/"+knownInstance+":updateGameData", `{"gameData":{"json":{}}}`, func(h http.Header) {
			h.Set("Authorization", "Bearer "+c.game)
			h.Set("Berth-Social-Token", c.social)
		})
	}
	overGRPC := func(c credentials) error {
		md := metadata.Pairs("authorization", "Bearer "+c.game, "berth-social-token", c.social)
		_, err := servers.UpdateGameData(metadata.NewOutgoingContext(t.Context(), md), gameData())
		return rpc.FromStatus(err)
	}
	if resp, raw := overREST(a); resp.StatusCode != 200 {
		t.Fatalf("%d %s", resp.StatusCode, raw)
	}
	if err := overGRPC(a); err != nil {
		t.Fatal(err)
	}
	resp, raw := overREST(a)
	limited(t, resp, raw)
	if err := overGRPC(a); !errs.Is(err, errs.RateLimited) {
		t.Errorf("over gRPC: %v", err)
	}
	if err := overGRPC(b); err != nil {
		t.Errorf("of another pair: %v", err)
	}
	if strings.Contains(string(raw), a.game[:20]) {
		t.Errorf("the answer has the token: %s", raw)
	}
}

// Whoever guesses is stopped before anybody looks at what they show, at every door, and others are not.
func TestAFloodOfWrongCredentialsIsStoppedBeforeTheyAreLookedAt(t *testing.T) {
	guesses := map[string]func(w *world){
		"over REST": func(w *world) {
			w.ask("GET", "http://"+w.api+instancePath, "", func(h http.Header) { h.Set("Authorization", "Bearer berth_other") })
		},
		"over gRPC": func(w *world) {
			md := metadata.Pairs("authorization", "Bearer x.y.z", "berth-social-token", "x.y.z")
			_, _ = gameserverv1.NewGameServerServiceClient(dialGRPC(w.tb.(*testing.T), w.edge)).UpdateGameData(metadata.NewOutgoingContext(w.tb.Context(), md), gameData())
		},
		"over the link": func(w *world) { _, _, _ = w.dial(credentials{game: "x", social: "y"}, nil) },
	}
	for name, guess := range guesses {
		t.Run(name, func(t *testing.T) {
			w, c := startLimited(t, door.Rates{Refused: rate(1, 3)})
			good := w.backend.issuer.pair(t)
			for range 3 {
				guess(w)
			}
			resp, raw := w.ask("GET", "http://"+w.api+instancePath, "", nil) // the right key
			limited(t, resp, raw)
			if n := len(w.backend.instances.metadata); n != 0 {
				t.Error("the right key was looked at")
			}
			_, err := gameserverv1.NewGameServerServiceClient(dialGRPC(t, w.edge)).UpdateGameData(t.Context(), gameData())
			if !errs.Is(rpc.FromStatus(err), errs.RateLimited) {
				t.Errorf("over gRPC: %v", err)
			}
			_, resp, err = w.dial(good, nil)
			if err == nil || refusal(t, resp).Reason != string(errs.RateLimited) || resp.StatusCode != 429 || resp.Header.Get("Retry-After") == "" {
				t.Errorf("over the link: %v, %v", err, resp)
			}
			c.pass(time.Second)
			if resp, raw := w.ask("GET", "http://"+w.api+instancePath, "", nil); resp.StatusCode != 200 {
				t.Errorf("a second later: %d %s", resp.StatusCode, raw)
			}
		})
	}
}

// After an outage a whole fleet may come with pairs that have expired, from one address.
func TestExpiredPairsDoNotShutTheDoor(t *testing.T) {
	w, _ := startLimited(t, door.Rates{Refused: rate(1, 1)})
	expired := w.backend.issuer.pairUntil(t, time.Now().Add(-time.Hour))
	for range 3 {
		if _, resp, err := w.dial(expired, nil); err == nil || resp.StatusCode != 401 {
			t.Fatalf("%v, %v", resp, err)
		}
	}
	w.open(w.backend.issuer.pair(t), &linkv1.Hello{})
}

func TestTooManyUpgradesOfAnAddressAreRefused(t *testing.T) {
	w, c := startLimited(t, door.Rates{Upgrades: rate(1, 2)})
	for range 2 {
		w.open(w.backend.issuer.pair(t), &linkv1.Hello{})
	}
	_, resp, err := w.dial(w.backend.issuer.pair(t), nil)
	if err == nil {
		t.Fatal("the third is taken")
	}
	if body := refusal(t, resp); resp.StatusCode != 429 || body.Reason != string(errs.RateLimited) || body.Code != 8 || resp.Header.Get("Retry-After") != "1" {
		t.Errorf("%d %+v %v", resp.StatusCode, body, resp.Header)
	}
	c.pass(time.Second)
	w.open(w.backend.issuer.pair(t), &linkv1.Hello{})
}

func TestARequestTooFastIsAnsweredAndTheSocketStays(t *testing.T) {
	w, c := startLimited(t, door.Rates{Frames: rate(10, 3)})
	creds := w.backend.issuer.pair(t)
	s := w.open(creds, &linkv1.Hello{})
	for range 3 {
		if r := s.call("Echo", "", []byte("x")); string(r.GetResult()) != "x" {
			t.Fatalf("%v", r)
		}
	}
	r := s.call("Echo", "", []byte("x"))
	if e := r.GetError(); e.GetReason() != string(errs.RateLimited) || e.GetCode() != 8 || e.GetRetryAfter().AsDuration() != 100*time.Millisecond {
		t.Fatalf("%v", r)
	}
	// Another socket of the pair is no way around it, and another pair is not hurt.
	again := w.open(creds, &linkv1.Hello{ResumeKey: s.welcome.GetResumeKey()})
	if r := again.call("Echo", "", nil); r.GetError().GetReason() != string(errs.RateLimited) {
		t.Errorf("over another socket: %v", r)
	}
	if r := w.open(w.backend.issuer.pair(t), &linkv1.Hello{}).call("Echo", "", nil); r.GetError() != nil {
		t.Errorf("of another pair: %v", r)
	}
	c.pass(100 * time.Millisecond) // as long as was said
	again.lastID = r.GetId() - 1
	if r := again.call("Echo", "", []byte("same number")); string(r.GetResult()) != "same number" {
		t.Errorf("repeated: %v", r)
	}
}

// The limits of the default are in force for loopback as well.
func TestLoopbackIsLimitedUnlessItIsExempt(t *testing.T) {
	for name, c := range map[string]struct {
		exempt []string
		want   int
	}{"by default": {nil, 429}, "exempt": {[]string{"127.0.0.0/8"}, 200}} {
		t.Run(name, func(t *testing.T) {
			r := gateway.Default().Limits.Rates
			r.Credential, r.Exempt = limit.Rate{}, c.exempt
			w, _ := startLimited(t, r)
			var last *http.Response
			for range r.Address.Burst + 1 {
				last, _ = w.ask("GET", "http://"+w.api+"/openapi.json", "", nil)
			}
			if last.StatusCode != c.want {
				t.Errorf("%d", last.StatusCode)
			}
		})
	}
}

// A flood must not become one of the audit.
func TestAFloodIsAHandfulOfEntriesInTheAudit(t *testing.T) {
	w, _ := startLimited(t, door.Rates{Address: rate(1, 1), Upgrades: rate(1, 1)})
	for range 200 {
		w.ask("GET", "http://"+w.api+instancePath, "", nil)
		_, _, _ = w.dial(credentials{game: "x", social: "y"}, nil)
	}
	w.stop() // with everything written
	page, _, err := audit.NewStream(w.store).Page(context.Background(), "", 1000, func(e audit.Entry) bool { return e.Service == "gateway" })
	if err != nil {
		t.Fatal(err)
	}
	var count int64
	for _, e := range page {
		if e.Outcome == string(errs.RateLimited) {
			count += e.Count
			if e.Action != "rate_limit" || !strings.HasPrefix(e.Address, "127.0.0.1:") {
				t.Errorf("%+v", e)
			}
		}
	}
	if len(page) > 6 || count != 2*199 {
		t.Errorf("%d entries, which count %d: %s", len(page), count, fmt.Sprint(page))
	}
}
