package kubernetes_test

import (
	"context"
	"io"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/sdk/go/provider/providertest"
	"github.com/berth-dev/berth/services/allocation/providers/kubernetes"
	"github.com/berth-dev/berth/test/hosts/kubetest"
	"github.com/berth-dev/berth/test/hosts/standin"
)

const (
	pods    = "/api/v1/namespaces/games/pods/"
	secrets = "/api/v1/namespaces/games/secrets/"
)

// realWorld is a real API server with a kubelet, and a provider with the rights of the page's file.
type realWorld struct {
	*kubetest.Cluster
	*standin.Host

	kubelet *kubetest.Kubelet
	proxy   http.Handler // to the API server
	cfg     kubernetes.Config
}

// startReal starts one. The way to the API server can be made to misbehave; the containers are only said to run.
func startReal(t *testing.T) realWorld {
	t.Helper()
	c := kubetest.Start(t)
	c.Namespaces("berth", "games", "games-us")
	c.Node("eu-1", map[string]string{"zone": "eu"}, map[string]string{"InternalIP": "10.0.0.1", "ExternalIP": "198.51.100.1"})
	c.Node("us-1", map[string]string{"zone": "us"}, map[string]string{"InternalIP": "10.0.1.1", "ExternalDNS": "us-1.example.com"})
	c.Node("full-1", map[string]string{"zone": "full"}, nil)
	c.Apply(page+"-rbac.yaml", "", "ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")
	c.Apply(page+"-rbac.yaml", "games-us", "Role", "RoleBinding")
	servers := standin.NewServers(nil)
	kubelet := kubetest.StartKubelet(t, c, kubetest.Config{
		Images: []string{"registry.example.com/shooter:1.4", "registry.example.com/metrics:1", "i"}, Full: []string{"full-1"},
		Run: func(one kubetest.Container) (kubetest.Running, error) {
			if one.Name != "server" {
				return kubetest.Said(func() {}), nil
			}
			return kubetest.Said(servers.Start([]byte(one.Env["BERTH_BOOTSTRAP"]), nil)), nil
		},
	})
	proxy := c.Proxy()
	host := standin.New(realDialect(), servers, proxy)
	return realWorld{Cluster: c, Host: host, kubelet: kubelet, proxy: proxy, cfg: serve(t, host, host)}
}

// Started implements providertest.Host, once the kubelet has seen what there is.
func (w realWorld) Started(ctx context.Context, attempt string) (int, error) {
	w.kubelet.Look(ctx)
	return w.Host.Started(ctx, attempt)
}

// Bootstrap implements providertest.Host in the same way.
func (w realWorld) Bootstrap(ctx context.Context, attempt string) ([]byte, error) {
	w.kubelet.Look(ctx)
	return w.Host.Bootstrap(ctx, attempt)
}

// What the stand-in is believed, a real API server has to say as well: with its own validation, its roles and its quota.
func TestARealAPIServer(t *testing.T) {
	w := startReal(t)
	t.Run("conformance", func(t *testing.T) {
		providertest.Run(t, providertest.Config{Provider: open(t, w.cfg), Host: w})
	})
	t.Run("secret", w.testSecret)
	t.Run("refusals", w.testRefusals)
	t.Run("quota of secrets", w.testSecretQuota)
	t.Run("rights", w.testRights)
	t.Run("nodes", w.testNodes)
	t.Run("stuck", w.testStuck)
	t.Run("replaced", w.testReplaced)
}

// meta is what the tests look at.
type meta struct {
	Metadata struct {
		Name, UID       string
		OwnerReferences []struct{ APIVersion, Kind, Name, UID string }
	}
}

// becomes waits until a server is in a state, and returns what is said of it.
func (w realWorld) becomes(t *testing.T, p *kubernetes.Provider, req *providerv1.AllocateRequest, want providerv1.ServerState) *providerv1.Server {
	t.Helper()
	for t.Context().Err() == nil {
		s, err := get(p, req)
		if err != nil {
			t.Fatal(err)
		}
		if s.GetState() == want {
			return s
		}
		w.kubelet.Look(t.Context())
	}
	return nil
}

// ends waits until a released server is gone.
func (w realWorld) ends(t *testing.T, p *kubernetes.Provider, req *providerv1.AllocateRequest) {
	t.Helper()
	for t.Context().Err() == nil {
		resp, err := p.Release(t.Context(), &providerv1.ReleaseRequest{AttemptId: req.GetAttemptId(), Deployment: deployment})
		if err != nil {
			t.Fatal(err)
		}
		if resp.GetState() == exited {
			return
		}
		w.kubelet.Look(t.Context())
	}
}

// A Secret is its Pod's, by the UID that the API server gave that, and goes with it.
func (w realWorld) testSecret(t *testing.T) {
	p, req := open(t, w.cfg), order("racer", "eu")
	allocate(t, p, req)
	var pod, secret meta
	var all map[string]any
	w.Do(http.MethodGet, pods+podName(req), nil, &pod)
	w.Do(http.MethodGet, pods+podName(req), nil, &all)
	path := secretPath(t, all)
	w.Do(http.MethodGet, path, nil, &secret)
	owners := secret.Metadata.OwnerReferences
	if len(owners) != 1 || owners[0].Kind != "Pod" || owners[0].APIVersion != "v1" || owners[0].Name != podName(req) || owners[0].UID != pod.Metadata.UID {
		t.Errorf("the Secret's owners are %+v; want Pod %s", owners, pod.Metadata.UID)
	}
	if s := w.becomes(t, p, req, running); len(s.GetEndpoints()) != 0 { // racer has no host ports
		t.Errorf("got %v", s)
	}
	w.ends(t, p, req)
	for code := 0; code != http.StatusNotFound && t.Context().Err() == nil; { // its collector comes by
		w.kubelet.Look(t.Context())
		code, _ = w.Call(t.Context(), http.MethodGet, path, nil, nil)
	}
}

// limit sets a quota of a namespace and says what is used of it, as its controller does.
func (w realWorld) limit(namespace, resource string) (lift func()) {
	path := "/api/v1/namespaces/" + namespace + "/resourcequotas"
	hard := kubetest.Object{resource: "0"}
	w.Do(http.MethodPost, path, kubetest.Object{"metadata": kubetest.Object{"name": resource}, "spec": kubetest.Object{"hard": hard}}, nil)
	w.Do(http.MethodPatch, path+"/"+resource+"/status", kubetest.Object{"status": kubetest.Object{"hard": hard, "used": hard}}, nil)
	return func() { w.Do(http.MethodDelete, path+"/"+resource, nil, nil) }
}

// The words of the real API server for what it does not take. Nothing is left of any.
func (w realWorld) testRefusals(t *testing.T) {
	defer w.limit("games-us", "pods")()
	cfg := w.cfg
	cfg.Builds, cfg.Regions = maps.Clone(cfg.Builds), maps.Clone(cfg.Regions)
	for name, container := range map[string]map[string]any{"typo": {"name": "server", "image": "i", "imagePullPolizy": "Always"}, "wrong": {"name": "Server", "image": "i"}} {
		cfg.Builds[name] = kubernetes.Build{PodSpec: map[string]any{"containers": []any{container}}}
	}
	cfg.Regions["kube"], cfg.Regions["moon"] = kubernetes.Region{Namespace: "kube-system"}, kubernetes.Region{Namespace: "moon"}
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
	w.nothingIsLeft(t)
	req := order("racer", "eu")
	stranger := kubetest.Object{"metadata": kubetest.Object{"name": podName(req)}, "spec": kubetest.Object{"containers": []any{kubetest.Object{"name": "c", "image": "i"}}}}
	w.Do(http.MethodPost, strings.TrimSuffix(pods, "/"), stranger, nil)
	if _, err := p.Allocate(t.Context(), req); provider.ReasonOf(err) != provider.Invalid || !strings.Contains(err.Error(), "is not Berth's") {
		t.Errorf("a stranger's Pod: %v", err)
	}
	w.Do(http.MethodDelete, pods+podName(req), nil, nil)
}

// nothingIsLeft fails where there are Pods or Secrets of Berth: the collector may be about to take Secrets whose Pod is gone, so those are none that count.
func (w realWorld) nothingIsLeft(t *testing.T) {
	t.Helper()
	for _, kind := range []string{"pods", "secrets"} {
		var found struct{ Items []meta }
		w.Do(http.MethodGet, "/api/v1/"+kind+"?labelSelector=app.kubernetes.io/managed-by=berth", nil, &found)
		if len(found.Items) > 0 {
			t.Errorf("%s are left: %+v", kind, found.Items)
		}
	}
}

// A Secret that is refused takes its Pod with it.
func (w realWorld) testSecretQuota(t *testing.T) {
	defer w.limit("games", "secrets")()
	if _, err := open(t, w.cfg).Allocate(t.Context(), order("racer", "eu")); provider.ReasonOf(err) != provider.Quota || !strings.Contains(err.Error(), "exceeded quota: secrets") {
		t.Errorf("got %v", err)
	}
	w.gone(t, "pods")
}

// gone waits until there is no object of a kind that is Berth's: a Pod that got a node meanwhile has its kubelet end it.
func (w realWorld) gone(t *testing.T, kind string) {
	t.Helper()
	for t.Context().Err() == nil {
		var found struct{ Items []meta }
		w.Do(http.MethodGet, "/api/v1/"+kind+"?labelSelector=app.kubernetes.io/managed-by=berth", nil, &found)
		if len(found.Items) == 0 {
			return
		}
		w.kubelet.Look(t.Context())
	}
}

// Each right of the page's file is needed, and without it the API server says which one it is.
func (w realWorld) testRights(t *testing.T) {
	const role = "/apis/rbac.authorization.k8s.io/v1/namespaces/games/roles/berth-game-servers"
	type rule = kubetest.Object
	all := []rule{{"apiGroups": []string{""}, "resources": []string{"pods"}, "verbs": []string{"create", "get", "list", "delete"}}, {"apiGroups": []string{""}, "resources": []string{"secrets"}, "verbs": []string{"create"}}}
	defer w.Do(http.MethodPatch, role, kubetest.Object{"rules": all}, nil)
	w.Do(http.MethodPatch, role, kubetest.Object{"rules": all[:1]}, nil)
	p, req := open(t, w.cfg), order("racer", "eu")
	for says := ""; !strings.Contains(says, `cannot create resource "secrets"`); { // the API server's authorizer learns of a role after a moment
		_, err := p.Allocate(t.Context(), req)
		if err == nil {
			w.ends(t, p, req)
			req = order("racer", "eu")
			continue
		}
		if says = err.Error(); provider.ReasonOf(err) != provider.Unauthenticated {
			t.Fatalf("without the right to make Secrets: %v", err)
		}
	}
	w.gone(t, "pods")
}

// Without the right to look nodes up a server runs, and says what is missing.
func (w realWorld) testNodes(t *testing.T) {
	const role = "/apis/rbac.authorization.k8s.io/v1/clusterroles/berth-node-addresses"
	defer w.Do(http.MethodPatch, role, kubetest.Object{"rules": []kubetest.Object{{"apiGroups": []string{""}, "resources": []string{"nodes"}, "verbs": []string{"get"}}}}, nil)
	w.Do(http.MethodPatch, role, kubetest.Object{"rules": []kubetest.Object{}}, nil)
	req := order("shooter", "eu")
	allocate(t, open(t, w.cfg), req)
	for said := ""; !strings.Contains(said, `cannot get resource "nodes"`); { // the API server's authorizer learns of a role after a moment
		s := w.becomes(t, open(t, w.cfg), req, running) // one that remembers no node
		if said = s.GetMessage(); said != "" && len(s.GetEndpoints()) > 0 || t.Context().Err() != nil {
			t.Fatalf("got %v", s)
		}
	}
	w.ends(t, open(t, w.cfg), req)
}

// What is known only after the API server has taken a Pod.
func (w realWorld) testStuck(t *testing.T) {
	cfg := w.cfg
	cfg.PendingTimeout = time.Second
	cfg.Builds, cfg.Regions = maps.Clone(cfg.Builds), maps.Clone(cfg.Regions)
	cfg.Builds["none"] = kubernetes.Build{PodSpec: map[string]any{"containers": []any{map[string]any{"name": "server", "image": "registry.example.com/none:1"}}}}
	for _, zone := range []string{"moon", "full"} {
		cfg.Regions[zone] = kubernetes.Region{Namespace: "games", NodeSelector: map[string]string{"zone": zone}}
	}
	p := open(t, cfg)
	for _, one := range []struct {
		build, region string
		want          providerv1.FailureReason
		says          string
	}{
		{"racer", "moon", provider.NoCapacity, "no node has room for it since 1s: 0/3 nodes are available"},
		{"racer", "full", provider.NoCapacity, "OutOfpods: Pod was rejected: Node didn't have enough resource"},
		{"none", "eu", provider.Invalid, "image registry.example.com/none:1: ImagePullBackOff"},
	} {
		req := order(one.build, one.region)
		allocate(t, p, req)
		if s := w.becomes(t, p, req, exited); s.GetFailure() != one.want || !strings.Contains(s.GetMessage(), one.says) {
			t.Errorf("got %v; want %v with %q", s, one.want, one.says)
		}
		w.ends(t, p, req)
	}
}

// A Pod that takes the place of the one that was to be deleted is left alone: the deletion names the one that it means, and the API server keeps to it.
func (w realWorld) testReplaced(t *testing.T) {
	p, req := open(t, w.cfg), order("racer", "eu")
	allocate(t, p, req)
	w.becomes(t, p, req, running)
	var old, other meta
	w.Do(http.MethodGet, pods+podName(req), nil, &old)
	var once sync.Once
	w.Answer(func(rw http.ResponseWriter, r *http.Request) { // between the look and the deletion
		if r.Method == http.MethodDelete {
			once.Do(func() {
				w.Do(http.MethodDelete, pods+podName(req), kubetest.Object{"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0}, nil)
				w.Do(http.MethodPost, strings.TrimSuffix(pods, "/"), kubetest.Object{
					"metadata": kubetest.Object{"name": podName(req)}, "spec": kubetest.Object{"containers": []any{kubetest.Object{"name": "c", "image": "i"}}},
				}, nil)
			})
		}
		w.proxy.ServeHTTP(rw, r)
	})
	resp, err := p.Release(t.Context(), &providerv1.ReleaseRequest{AttemptId: req.GetAttemptId(), Deployment: deployment})
	_ = w.Heal(t.Context())
	if err != nil || resp.GetState() != stopping {
		t.Errorf("got %v, %v", resp, err)
	}
	w.Do(http.MethodGet, pods+podName(req), nil, &other)
	if other.Metadata.UID == old.Metadata.UID {
		t.Error("the Pod was not replaced: the test shows nothing")
	}
	w.ends(t, p, req) // the other one is not Berth's
	w.Do(http.MethodDelete, pods+podName(req), kubetest.Object{"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0}, nil)
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
