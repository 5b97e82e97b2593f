package playfab_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
)

// unseen are answers after which nobody knows whether there is a session.
func unseen() map[string]answer {
	return map[string]answer{
		"away":            refusal(503, "MultiplayerServerUnavailable", "Later"),
		"throttled":       {429, "", `{"code": 429, "error": "APIClientRequestRateLimitExceeded", "errorMessage": "Slow down", "retryAfterSeconds": 12}`},
		"not the API":     {404, "text/html", html},
		"an unknown 404":  refusal(404, "InvalidAPIEndpoint", "No such API"),
		"HTML":            {200, "text/html", html},
		"an error inside": {200, "", missing.body},
	}
}

// A refusal says that nothing was started only if the session is seen not to be there: an earlier call may have started it, and so may one of another process.
func TestARefusalWhoseSessionCannotBeLookedUp(t *testing.T) {
	for name, look := range unseen() {
		for _, refused := range []answer{refusal(409, "MultiplayerServerConflict", "The session exists already"), refusal(400, "MultiplayerServerBadRequest", "What")} {
			t.Run(name, func(t *testing.T) {
				host, cfg, _ := start(t, nil)
				p := open(t, cfg)
				if err := get(t, p); err != nil { // so that there is a token
					t.Fatal(err)
				}
				host.Answer(func(w http.ResponseWriter, r *http.Request) {
					if strings.HasSuffix(r.URL.Path, "/RequestMultiplayerServer") {
						refused.ServeHTTP(w, r)
						return
					}
					look.ServeHTTP(w, r)
				})
				_, err := p.Allocate(t.Context(), order("shooter", "eu"))
				if provider.ReasonOf(err) != provider.Ambiguous || strings.Contains(err.Error(), secretKey) {
					t.Errorf("after %s: %v: %v", refused.body, provider.ReasonOf(err), err)
				}
				if after := provider.RetryAfterOf(err); name == "throttled" && (after < 11*time.Second || after > 12*time.Second) {
					t.Errorf("it is to be repeated after %v", after)
				}
			})
		}
	}
}

// While a server runs whose request got no answer, a repeat that cannot look does not say that there is none.
func TestARepeatThatCannotLook(t *testing.T) {
	for name, look := range unseen() {
		t.Run(name, func(t *testing.T) {
			host, cfg, counted := start(t, nil)
			p, req := open(t, cfg), order("shooter", "eu")
			if err := get(t, p); err != nil { // so that there is a token
				t.Fatal(err)
			}
			_ = host.LoseReply(t.Context())
			if _, err := p.Allocate(t.Context(), req); provider.ReasonOf(err) != provider.Ambiguous {
				t.Fatalf("got %v", err)
			}
			host.Answer(look.ServeHTTP)
			if _, err := p.Allocate(t.Context(), req); provider.ReasonOf(err) != provider.Ambiguous || !strings.Contains(err.Error(), "an earlier call") {
				t.Errorf("got %v: %v", provider.ReasonOf(err), err)
			}
			if n := counted.of("RequestMultiplayerServer"); n != 1 {
				t.Errorf("PlayFab was asked for %d sessions", n)
			}
		})
	}
}

// An attempt that was heard of is looked for before another session is asked for, whatever PlayFab makes of that.
func TestARepeatLooksFirst(t *testing.T) {
	host, cfg, counted := start(t, nil)
	p, req := open(t, cfg), order("shooter", "eu")
	if err := get(t, p); err != nil { // so that there is a token
		t.Fatal(err)
	}
	_ = host.LoseReply(t.Context())
	if _, err := p.Allocate(t.Context(), req); provider.ReasonOf(err) != provider.Ambiguous {
		t.Fatalf("got %v", err)
	}
	_ = host.Heal(t.Context())
	for range 2 {
		if _, err := p.Allocate(t.Context(), req); err != nil {
			t.Error(err)
		}
	}
	if n := counted.of("RequestMultiplayerServer"); n != 1 {
		t.Errorf("PlayFab was asked for %d sessions", n)
	}
}

// An attempt that was given back before its session was asked for gets none.
func TestAReleaseBeforeTheAllocate(t *testing.T) {
	host, cfg, _ := start(t, nil)
	p, req := open(t, cfg), order("shooter", "eu")
	if resp, err := p.Release(t.Context(), &providerv1.ReleaseRequest{AttemptId: req.GetAttemptId(), Deployment: "live"}); err != nil || resp.GetState() != providerv1.ServerState_SERVER_STATE_EXITED {
		t.Errorf("%v, %v", resp, err)
	}
	if _, err := p.Allocate(t.Context(), req); provider.ReasonOf(err) != provider.Invalid {
		t.Errorf("got %v", err)
	}
	if c := host.Count(); c.Started != 0 {
		t.Errorf("%+v", c)
	}
}
