package kubernetes_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/sdk/go/provider/providertest"
	kubernetesapi "github.com/berth-dev/berth/test/hosts/kubernetes"
)

// A repeat whose Secret is refused leaves the server of the first call alone: it is refused before its name is looked at.
func TestARepeatWhoseSecretIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		body   string
		after  time.Duration
	}{
		"quota":     {403, status("Forbidden", `secrets "x" is forbidden: exceeded quota: games, requested: secrets=1, used: secrets=1, limited: secrets=1`, "secrets"), 0},
		"throttled": {429, status("TooManyRequests", "too many requests, please try again later", ""), 7 * time.Second},
		"away":      {503, status("ServiceUnavailable", "apiserver not ready", ""), 0},
		"the role":  {403, status("Forbidden", `secrets is forbidden: User "u" cannot create resource "secrets" in API group ""`, "secrets"), 0},
	} {
		t.Run(name, func(t *testing.T) {
			host := kubernetesapi.New(cluster())
			var refuses atomic.Bool
			p := open(t, serve(t, host, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if !refuses.Load() || r.Method != http.MethodPost || !strings.HasSuffix(r.URL.Path, "/secrets") {
					host.ServeHTTP(w, r)
					return
				}
				if c.after > 0 {
					w.Header().Set("Retry-After", fmt.Sprint(c.after.Seconds()))
				}
				w.WriteHeader(c.status)
				_, _ = io.WriteString(w, c.body)
			})))
			req := order("shooter", "eu")
			allocate(t, p, req)
			refuses.Store(true)
			_, err := p.Allocate(t.Context(), req)
			if provider.ReasonOf(err) != provider.Ambiguous || !strings.Contains(err.Error(), "is there, and may have no Secret") || provider.RetryAfterOf(err) != c.after {
				t.Errorf("got %v, after %v", err, provider.RetryAfterOf(err))
			}
			if s := settled(t, p, req); s.GetState() != running || host.Count().Started != 1 || host.Count().Running != 1 {
				t.Errorf("got %v, %+v", s, host.Count())
			}
		})
	}
}

// A server has the document of its own attempt, and never that of a Secret that somebody else made under the name of its Pod, or that an earlier Pod of that name
// had, which is there for a while yet: not even if nobody knows who made the Pod, as its answer was lost.
func TestAnothersSecret(t *testing.T) {
	for _, lost := range []bool{false, true} {
		host := kubernetesapi.New(cluster())
		var loses atomic.Bool
		cfg := serve(t, host, losing(host, "/pods", &loses))
		p, req := open(t, cfg), order("shooter", "eu")
		stranger := fmt.Sprintf(`{"apiVersion":"v1","kind":"Secret","metadata":{"name":%q},"data":{"bootstrap":"e30="}}`, podName(req))
		if status, answer := ask(t, cfg, "POST", "/api/v1/namespaces/games/secrets", stranger); status != http.StatusCreated {
			t.Fatal(answer)
		}
		for n := range 3 {
			loses.Store(lost)
			req.Bootstrap = providertest.Bootstrap(req.GetAttemptId(), fmt.Sprintf("document-%d", n))
			allocate(t, p, req)
			if s := settled(t, p, req); s.GetState() != running {
				t.Errorf("lost %v, %d: %v", lost, n, s)
			}
			if document, err := host.Bootstrap(t.Context(), req.GetAttemptId()); err != nil || string(document) != string(req.GetBootstrap()) {
				t.Errorf("lost %v, %d: the server has %q, %v", lost, n, document, err)
			}
			if status, answer := ask(t, cfg, "DELETE", "/api/v1/namespaces/games/pods/"+podName(req), `{"apiVersion":"v1","kind":"DeleteOptions","gracePeriodSeconds":0}`); status != http.StatusOK {
				t.Fatal(answer)
			}
		}
		if status, _ := ask(t, cfg, "GET", "/api/v1/namespaces/games/secrets/"+podName(req), ""); status != http.StatusOK {
			t.Errorf("the stranger's Secret is gone: %d", status)
		}
	}
}
