package kubernetes_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berth-dev/berth/sdk/go/provider"
	kubernetesapi "github.com/berth-dev/berth/test/hosts/kubernetes"
	"github.com/berth-dev/berth/test/hosts/standin"
)

// An answer that is lost on the way costs no server: the call looks by itself, with the same name.
func TestALostAnswerIsRepeated(t *testing.T) {
	for _, lost := range []string{"/pods", "/secrets"} {
		host := kubernetesapi.New(cluster())
		var loses atomic.Bool
		loses.Store(true)
		p := open(t, serve(t, host, losing(host, lost, &loses)))
		req := order("shooter", "eu")
		allocate(t, p, req)
		if s := settled(t, p, req); s.GetState() != running || host.Count().Started != 1 || loses.Load() {
			t.Errorf("%s: %v, %+v", lost, s, host.Count())
		}
	}
}

// What refuses the repeat of a call that got no answer says nothing of the call: what it made is found, or may be there, and is never deleted.
func TestARefusalAfterALostAnswer(t *testing.T) {
	world := cluster()
	world.Pods = map[string]int{"games": 1}
	host := kubernetesapi.New(world)
	var loses atomic.Bool
	loses.Store(true)
	p, req := open(t, serve(t, host, losing(host, "/pods", &loses))), order("shooter", "eu")
	allocate(t, p, req) // the quota is full with its own Pod
	if s := settled(t, p, req); s.GetState() != running || host.Count().Started != 1 || loses.Load() {
		t.Errorf("with a full quota: %v, %+v", s, host.Count())
	}

	throttled := status("TooManyRequests", "too many requests, please try again later", "")
	full := status("Forbidden", `pods "x" is forbidden: exceeded quota: games, requested: pods=1, used: pods=1, limited: pods=1`, "pods")
	for name, c := range map[string]struct {
		path, body string
		status     int
		kept       bool // the first call came through
	}{
		"throttled":                 {"/pods", throttled, 429, true},
		"a quota, and no Pod yet":   {"/pods", full, 403, false},
		"throttled, for the Secret": {"/secrets", throttled, 429, true},
	} {
		t.Run(name, func(t *testing.T) {
			host := kubernetesapi.New(cluster())
			var calls atomic.Int32
			p := open(t, serve(t, host, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method != http.MethodPost || !strings.HasSuffix(r.URL.Path, c.path) || r.URL.Query().Has("dryRun") {
					host.ServeHTTP(w, r)
					return
				}
				switch calls.Add(1) {
				case 1:
					if c.kept {
						host.ServeHTTP(httptest.NewRecorder(), r)
					}
					w.WriteHeader(http.StatusGatewayTimeout)
				case 2:
					w.Header().Set("Retry-After", "7")
					w.WriteHeader(c.status)
					_, _ = io.WriteString(w, c.body)
				default:
					host.ServeHTTP(w, r)
				}
			})))
			req := order("shooter", "eu")
			if _, err := p.Allocate(t.Context(), req); provider.ReasonOf(err) != provider.Ambiguous || c.status == 429 && provider.RetryAfterOf(err) < 6*time.Second || strings.Contains(wordsOf(err), "rpc error") {
				t.Errorf("%v, after %v", err, provider.RetryAfterOf(err))
			}
			s, err := get(p, req)
			switch {
			case c.path == "/secrets": // both are there
				if s = settled(t, p, req); s.GetState() != running || host.Count().Started != 1 {
					t.Errorf("got %v, %+v", s, host.Count())
				}
			case provider.ReasonOf(err) != provider.NotFound: // a Pod without a Secret is no server, and no Pod is none
				t.Errorf("got %v, %v", s, err)
			}
		})
	}
}

// losing has the host lose its next answer to a POST at a path, when it is told to.
func losing(host *standin.Host, path string, next *atomic.Bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, path) && next.CompareAndSwap(true, false) {
			_ = host.LoseReply(r.Context())
			defer func() { _ = host.Heal(context.WithoutCancel(r.Context())) }()
		}
		host.ServeHTTP(w, r)
	})
}
