package kubernetes

import (
	"context"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/berth-dev/berth/pkg/redisx/redistest"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	"github.com/berth-dev/berth/test/hosts/kubetest"
	"github.com/berth-dev/berth/test/stack"
)

// image is what the Pods' containers have; their command is the example's game server.
const image = "registry.example.com/example:1"

// world is a Berth with a cluster.
type world struct {
	*kubetest.Cluster
	*stack.Stack

	way       *way
	kubelet   *kubetest.Kubelet
	processes *kubetest.Processes
	api       instancev1.GameInstanceServiceClient
}

// start starts the cluster with what docs/providers/kubernetes-rbac.yaml has, then Berth, whose provider is the service account of that file.
func start(t *testing.T) *world {
	t.Helper()
	w := &world{Cluster: kubetest.Start(t)}
	w.Namespaces("berth", "games")
	w.Node("eu-1", map[string]string{"zone": "eu"}, map[string]string{"InternalIP": "127.0.0.1", "ExternalIP": "127.0.0.1"})
	w.Apply(filepath.Join("..", "..", "docs", "providers", "kubernetes-rbac.yaml"), "", "ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")
	w.processes = kubetest.NewProcesses(t)
	w.kubelet = kubetest.StartKubelet(t, w.Cluster, kubetest.Config{Images: []string{image}, Run: w.processes.Start})
	w.Stack = stack.Start(t, stack.Config{Binaries: binaries, Redis: redistest.Server(t), File: w.providers(t)})
	conn, err := grpc.NewClient(w.API, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithUnaryInterceptor(withKey))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	w.api = instancev1.NewGameInstanceServiceClient(conn)
	return w
}

func withKey(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	return invoke(metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+stack.APIKey), method, req, reply, conn, opts...)
}

// providers is allocation's configuration. A game server listens at the address of its Pod, as in a container.
func (w *world) providers(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	token, ca := filepath.Join(dir, "token"), filepath.Join(dir, "ca.crt")
	srv := w.serve(t)
	for path, content := range map[string][]byte{token: []byte(kubetest.Token), ca: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cluster := fmt.Sprintf("      url: %s\n      ca_file: %s\n      token_file: %s\n", srv.URL, ca, token)
	game := filepath.Join(binaries, "gameserver")
	return fmt.Sprintf(`providers:
  - name: cluster
    kind: kubernetes
    kubernetes:
%s      builds:
%s%s      regions:
        eu: {namespace: games, address: PodIP}
  - name: full
    kind: kubernetes
    kubernetes:
%s      pending_timeout: 1s
      builds:
%s      regions:
        eu: {namespace: games, address: PodIP, node_selector: {zone: moon}}
  - {name: local, kind: process, process: {state_dir: %q, builds: {elsewhere: {command: %q, args: ["--rounds", "2"], endpoints: [{name: game, protocol: tcp}]}}}}
placement:
  rules:
    - name: the cluster before this machine
      candidates:
        - {provider: cluster, rank: 1, weight: 100}
        - {provider: full, rank: 1, weight: 100}
        - {provider: local, rank: 2, weight: 100}
`, cluster, build("example", game, `"--rounds", "2"`), build("hold", game, `"--hold"`), cluster, build("elsewhere", game, `"--rounds", "2"`), dir, game)
}

// build is a build of a provider.
func build(name, command, args string) string {
	return fmt.Sprintf(`        %s:
          pod_spec:
            terminationGracePeriodSeconds: 10
            containers:
              - name: server
                image: %s
                command: [%q]
                args: ["--listen", "$(POD_IP):7777", %s]
                env: [{name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}]
                ports: [{name: game, containerPort: 7777, protocol: TCP}]
`, name, image, command, args)
}

// way is the way to the API server, on which something can happen once.
type way struct {
	proxy http.Handler
	// made, if there is one, is called when the API server has made a Pod; its answer is lost then.
	made atomic.Pointer[func()]
}

// serve serves the way.
func (w *world) serve(t *testing.T) *httptest.Server {
	t.Helper()
	w.way = &way{proxy: w.Proxy()}
	srv := httptest.NewTLSServer(w.way)
	t.Cleanup(func() { srv.CloseClientConnections(); srv.Close() })
	return srv
}

// ServeHTTP implements http.Handler.
func (w *way) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost || !strings.HasSuffix(r.URL.Path, "/pods") {
		w.proxy.ServeHTTP(rw, r)
		return
	}
	made := w.made.Swap(nil)
	if made == nil {
		w.proxy.ServeHTTP(rw, r)
		return
	}
	w.proxy.ServeHTTP(httptest.NewRecorder(), r)
	(*made)()
	panic(http.ErrAbortHandler) // ends the connection
}

// create makes an instance.
func (w *world) create(t *testing.T, build string) string {
	t.Helper()
	resp, err := w.api.CreateGameInstance(t.Context(), &instancev1.CreateGameInstanceRequest{
		Namespace: "default", Placement: &instancev1.Placement{Build: build}, Players: []*instancev1.Player{{Id: "ann"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetInstance().GetId()
}

// becomes waits until an instance is in a state.
func (w *world) becomes(t *testing.T, id string, want instancev1.GameInstance_State) (found *instancev1.GameInstance) {
	t.Helper()
	stack.Eventually(t, "the instance becomes "+want.String(), func() error {
		resp, err := w.api.GetGameInstance(t.Context(), &instancev1.GetGameInstanceRequest{Namespace: "default", InstanceId: id})
		if err != nil {
			return err
		}
		if found = resp.GetInstance(); found.GetState() != want {
			return fmt.Errorf("it is %s (%s): %s", found.GetState(), found.GetReason(), found.GetMessage())
		}
		return nil
	})
	return found
}

// object is what counts of a Pod or a Secret.
type object struct {
	Metadata struct {
		Name, Namespace, UID string
		OwnerReferences      []struct{ Kind, Name, UID string }
	}
}

// find returns all Pods or Secrets of Berth.
func (w *world) find(t *testing.T, kind string) []object {
	t.Helper()
	var found struct{ Items []object }
	w.Do(http.MethodGet, "/api/v1/"+kind+"?labelSelector=app.kubernetes.io/managed-by=berth", nil, &found)
	return found.Items
}

// empty waits until nothing is left of any server.
func (w *world) empty(t *testing.T) {
	t.Helper()
	stack.Eventually(t, "nothing is left in the cluster", func() error {
		pods, secrets, processes := w.find(t, "pods"), w.find(t, "secrets"), w.processes.Count()
		if len(pods)+len(secrets)+processes > 0 {
			return fmt.Errorf("%d Pods, %d Secrets, %d processes", len(pods), len(secrets), processes)
		}
		return nil
	})
}
