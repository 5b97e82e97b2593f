package kubernetes_test

import (
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/berth-dev/berth/sdk/go/provider/providertest"
	"github.com/berth-dev/berth/services/allocation/providers/internal/hostapi"
	"github.com/berth-dev/berth/services/allocation/providers/internal/kube"
	"github.com/berth-dev/berth/services/allocation/providers/kubernetes"
	kubernetesapi "github.com/berth-dev/berth/test/hosts/kubernetes"
	"github.com/berth-dev/berth/test/hosts/standin"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const token = "service-account-token"

// cluster is a stand-in with two namespaces and three nodes.
func cluster() kubernetesapi.Config {
	return kubernetesapi.Config{
		Token: token, Namespaces: []string{"games", "games-us"}, Page: 2, NoImages: []string{"registry.example.com/shooters/none:1"},
		Nodes: []kubernetesapi.Node{
			{Name: "eu-1", Labels: map[string]string{"zone": "eu"}, Addresses: map[string]string{"InternalIP": "10.0.0.1", "ExternalIP": "198.51.100.1"}},
			{Name: "eu-2", Labels: map[string]string{"zone": "eu"}, Addresses: map[string]string{"InternalIP": "10.0.0.2", "ExternalIP": "198.51.100.2"}},
			{Name: "us-1", Labels: map[string]string{"zone": "us"}, Addresses: map[string]string{"InternalIP": "10.0.1.1", "ExternalDNS": "us-1.example.com"}},
		},
	}
}

// start starts a stand-in, and returns a configuration for it.
func start(t testing.TB, cfg kubernetesapi.Config) (*standin.Host, kubernetes.Config) {
	t.Helper()
	host := kubernetesapi.New(cfg)
	return host, serve(t, host, host)
}

// serve serves a stand-in, or what is before it, and returns a configuration for it.
func serve(t testing.TB, host *standin.Host, front http.Handler) kubernetes.Config {
	t.Helper()
	srv := httptest.NewTLSServer(front)
	t.Cleanup(func() {
		srv.CloseClientConnections()
		srv.Close()
		host.Close()
	})
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	return kubernetes.Config{
		Config: kube.Config{URL: srv.URL, CAFile: file(t, "ca.crt", string(ca)), TokenFile: hostapi.SecretFile(file(t, "token", token+"\n"))},
		Builds: map[string]kubernetes.Build{
			"shooter": {PodSpec: spec(), HostPorts: "7000-7999", Labels: map[string]string{"app": "shooter"}, Annotations: map[string]string{"team": "a"}},
			"racer":   {PodSpec: container(nil)}, // reached through a relay: it has no ports
		},
		Regions: map[string]kubernetes.Region{
			"eu": {Namespace: "games", NodeSelector: map[string]string{"zone": "eu"}},
			"us": {Namespace: "games-us", NodeSelector: map[string]string{"zone": "us"}, Address: "ExternalDNS"},
		},
	}
}

// spec is what a studio writes.
func spec() map[string]any {
	return map[string]any{
		"containers": []any{
			map[string]any{
				"name": "server", "image": "registry.example.com/shooter:1.4", "env": []any{map[string]any{"name": "MODE", "value": "ranked"}},
				"ports": []any{
					map[string]any{"name": "game", "containerPort": 7777, "protocol": "UDP"},
					map[string]any{"name": "query", "containerPort": 27015},
				},
			},
			map[string]any{"name": "metrics", "image": "registry.example.com/metrics:1"},
		},
		"terminationGracePeriodSeconds": 5,
	}
}

func file(t testing.TB, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// open returns a provider that is closed at the end.
func open(t testing.TB, cfg kubernetes.Config) *kubernetes.Provider {
	t.Helper()
	p, err := kubernetes.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close(t.Context()) })
	p.Poll(200 * time.Millisecond) // or most of the time of the suite were waiting
	return p
}

func TestConformance(t *testing.T) {
	host, cfg := start(t, cluster())
	providertest.Run(t, providertest.Config{Provider: open(t, cfg), Host: host})
	if c := host.Count(); c.Running != 0 || c.Doubled != 0 {
		t.Errorf("at the end: %+v", c)
	}
}

func BenchmarkAllocate(b *testing.B) {
	host, cfg := start(b, cluster())
	standin.Bench(b, open(b, cfg), host, "shooter", "eu")
}
