package kubernetes_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/sdk/go/provider/providertest"
	"github.com/berth-dev/berth/services/allocation/providers/kubernetes"
	"github.com/berth-dev/berth/test/hosts/standin"
)

// assets is the variable that names the folder with the binaries of an API server and etcd; `make test-kubernetes` builds them.
const assets = "KUBEBUILDER_ASSETS"

// realHost is a real API server that can be made to misbehave on the way to it.
type realHost struct {
	*standin.Host
	nodes *kubelet
}

// Started implements providertest.Host, once the kubelet has seen what there is.
func (h realHost) Started(ctx context.Context, attempt string) (int, error) {
	h.nodes.pass(ctx)
	return h.Host.Started(ctx, attempt)
}

// Bootstrap implements providertest.Host in the same way.
func (h realHost) Bootstrap(ctx context.Context, attempt string) ([]byte, error) {
	h.nodes.pass(ctx)
	return h.Host.Bootstrap(ctx, attempt)
}

// What the stand-in is believed, a real API server has to say as well: with its own validation, its roles and its quota.
func TestARealAPIServer(t *testing.T) {
	dir := os.Getenv(assets)
	if dir == "" {
		t.Skip(assets + " is not set: left out; make test-kubernetes has a real API server")
	}
	c := startCluster(t, dir)
	c.prepare()
	servers := standin.NewServers(nil)
	k := startKubelet(t, c, servers)
	to, err := url.Parse(c.url)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(to)
	proxy.Transport = c.transport
	host := standin.New(realDialect(), servers, proxy)
	cfg := serve(t, host, host)
	p := open(t, cfg)
	t.Run("conformance", func(t *testing.T) {
		providertest.Run(t, providertest.Config{Provider: p, Host: realHost{Host: host, nodes: k}})
	})
	t.Run("refusals", func(t *testing.T) { realRefusals(t, c, cfg) })
}

// realRefusals are the words of the real API server.
func realRefusals(t *testing.T, c *realCluster, cfg kubernetes.Config) {
	const quota = "/api/v1/namespaces/games-us/resourcequotas"
	c.do(http.MethodPost, quota, `{"apiVersion":"v1","kind":"ResourceQuota","metadata":{"name":"pods"},"spec":{"hard":{"pods":"0"}}}`)
	c.do(http.MethodPatch, quota+"/pods/status", `{"status":{"hard":{"pods":"0"},"used":{"pods":"0"}}}`) // as its controller does
	typo := cfg.Builds["racer"]
	typo.PodSpec = map[string]any{"containers": []any{map[string]any{"name": "server", "image": "i", "imagePullPolizy": "Always"}}}
	wrong := cfg.Builds["racer"]
	wrong.PodSpec = map[string]any{"containers": []any{map[string]any{"name": "Server", "image": "i"}}}
	cfg.Builds["typo"], cfg.Builds["wrong"] = typo, wrong
	cfg.Regions["kube"] = kubernetes.Region{Namespace: "kube-system"}
	p := open(t, cfg)
	for name, one := range map[string]struct {
		build, region string
		want          providerv1.FailureReason
		says          string
	}{
		"quota":        {"racer", "us", provider.Quota, "exceeded quota: pods, requested: pods=1, used: pods=0, limited: pods=0"},
		"unknown word": {"typo", "eu", provider.Invalid, `unknown field "spec.containers[0].imagePullPolizy"`},
		"invalid":      {"wrong", "eu", provider.Invalid, "spec.containers[0].name"},
		"no right":     {"racer", "kube", provider.Unauthenticated, `cannot create resource "pods" in API group "" in the namespace "kube-system"`},
	} {
		if _, err := p.Allocate(t.Context(), order(one.build, one.region)); provider.ReasonOf(err) != one.want || !strings.Contains(err.Error(), one.says) {
			t.Errorf("%s: %v; want %v with %q", name, err, one.want, one.says)
		}
	}
	req := order("racer", "eu")
	stranger := fmt.Sprintf(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":%q},"spec":{"containers":[{"name":"c","image":"i"}]}}`, podName(req))
	c.do(http.MethodPost, "/api/v1/namespaces/games/pods", stranger)
	if _, err := p.Allocate(t.Context(), req); provider.ReasonOf(err) != provider.Invalid || !strings.Contains(err.Error(), "is not Berth's") {
		t.Errorf("a stranger's Pod: %v", err)
	}
}

// realDialect is how the way to the API server misbehaves, in its own words.
func realDialect() standin.Dialect {
	refuse := func(w http.ResponseWriter, code int, reason, message string) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_, _ = io.WriteString(w, status(reason, message, "pods"))
	}
	return standin.Dialect{
		Creates: func(r *http.Request) bool {
			return r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/pods")
		},
		Throttled: func(w http.ResponseWriter, _ *http.Request, after time.Duration) {
			w.Header().Set("Retry-After", strconv.Itoa(int(after.Seconds())))
			refuse(w, http.StatusTooManyRequests, "TooManyRequests", "too many requests, please try again later")
		},
		Refused: func(w http.ResponseWriter, _ *http.Request) {
			refuse(w, http.StatusUnauthorized, "Unauthorized", "Unauthorized")
		},
	}
}
