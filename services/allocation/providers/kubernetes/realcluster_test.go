package kubernetes_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/berth-dev/berth/pkg/freeport"
	kubernetesapi "github.com/berth-dev/berth/test/hosts/kubernetes"
	"github.com/berth-dev/berth/test/hosts/standin"
)

// admin is the token of the cluster's administrator.
const admin = "admin-token"

// realCluster is an API server with its etcd. Nothing else of a cluster runs: no controllers, no scheduler, no kubelet.
type realCluster struct {
	t         *testing.T
	url       string
	transport *http.Transport
}

// startCluster starts both, and stops them at the end: the API server first.
func startCluster(t *testing.T, dir string) *realCluster {
	t.Helper()
	work := t.TempDir()
	etcd, peer, api := "http://"+freeport.Addr(t), "http://"+freeport.Addr(t), freeport.Addr(t)
	_, port, _ := net.SplitHostPort(api)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	accounts := file(t, "sa.key", string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})))
	tokens := file(t, "tokens.csv", fmt.Sprintf("%s,admin,1,system:masters\n%s,%s,2\n", admin, token, kubernetesapi.User))
	run(t, filepath.Join(dir, "etcd"), "--data-dir="+filepath.Join(work, "etcd"), "--listen-client-urls="+etcd, "--advertise-client-urls="+etcd,
		"--listen-peer-urls="+peer, "--unsafe-no-fsync", "--log-level=error")
	c := &realCluster{t: t, url: "https://" + api, transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	run(t, filepath.Join(dir, "kube-apiserver"), "--etcd-servers="+etcd, "--secure-port="+port, "--bind-address=127.0.0.1", "--cert-dir="+work,
		"--authorization-mode=RBAC", "--token-auth-file="+tokens, "--service-account-issuer=https://kubernetes.default.svc", "--service-account-signing-key-file="+accounts,
		"--service-account-key-file="+accounts, "--service-cluster-ip-range=10.96.0.0/16", "--disable-admission-plugins=ServiceAccount", "--endpoint-reconciler-type=none",
		"--advertise-address=127.0.0.1")
	t.Cleanup(c.transport.CloseIdleConnections)
	for {
		if code, _, err := c.call(t.Context(), http.MethodGet, "/readyz", ""); err == nil && code == http.StatusOK {
			return c
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-t.Context().Done():
			t.Fatal("the API server does not become ready")
		}
	}
}

// run runs a program until the end, and shows what it said if the test failed.
func run(t *testing.T, program string, args ...string) {
	t.Helper()
	var said bytes.Buffer
	ctx, stop := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatalf("%s: %v; make test-kubernetes builds it", program, err)
	}
	t.Cleanup(func() {
		stop()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s: %s", filepath.Base(program), said.Bytes()[max(0, said.Len()-4000):])
		}
	})
}

// call calls the API server as its administrator.
func (c *realCluster) call(ctx context.Context, method, path, body string) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.url+path, strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Authorization", "Bearer "+admin)
	req.Header.Set("Content-Type", "application/json")
	if method == http.MethodPatch {
		req.Header.Set("Content-Type", "application/merge-patch+json")
	}
	resp, err := (&http.Client{Transport: c.transport}).Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	return resp.StatusCode, answer, err
}

// do makes a call that has to succeed.
func (c *realCluster) do(method, path, body string) {
	c.t.Helper()
	if code, answer, err := c.call(c.t.Context(), method, path, body); err != nil || code > 299 {
		c.t.Fatalf("%s %s: %d %s %v", method, path, code, answer, err)
	}
}

// prepare makes the namespaces, a node, and what the page's file has, with a second namespace.
func (c *realCluster) prepare() {
	for _, namespace := range []string{"berth", "games", "games-us"} {
		c.do(http.MethodPost, "/api/v1/namespaces", fmt.Sprintf(`{"apiVersion":"v1","kind":"Namespace","metadata":{"name":%q}}`, namespace))
	}
	c.do(http.MethodPost, "/api/v1/nodes", `{"apiVersion":"v1","kind":"Node","metadata":{"name":"eu-1"},"status":{"addresses":[{"type":"InternalIP","address":"10.0.0.1"},{"type":"ExternalIP","address":"198.51.100.1"}]}}`)
	text, err := os.ReadFile(page + "-rbac.yaml")
	if err != nil {
		c.t.Fatal(err)
	}
	c.apply(string(text), "ServiceAccount Role RoleBinding ClusterRole ClusterRoleBinding")
	c.apply(strings.ReplaceAll(string(text), "namespace: games", "namespace: games-us"), "Role RoleBinding")
}

// apply makes the objects of some kinds.
func (c *realCluster) apply(text, kinds string) {
	c.t.Helper()
	const rbac = "/apis/rbac.authorization.k8s.io/v1"
	for d := yaml.NewDecoder(strings.NewReader(text)); ; {
		var o map[string]any
		if err := d.Decode(&o); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			c.t.Fatal(err)
		}
		kind := fmt.Sprint(o["kind"])
		namespace := fmt.Sprint(o["metadata"].(map[string]any)["namespace"])
		path := map[string]string{
			"ServiceAccount": "/api/v1/namespaces/" + namespace + "/serviceaccounts", "Role": rbac + "/namespaces/" + namespace + "/roles",
			"RoleBinding": rbac + "/namespaces/" + namespace + "/rolebindings", "ClusterRole": rbac + "/clusterroles", "ClusterRoleBinding": rbac + "/clusterrolebindings",
		}[kind]
		if strings.Contains(" "+kinds+" ", " "+kind+" ") {
			c.do(http.MethodPost, path, show(o))
		}
	}
}

// kubelet is a scheduler and a kubelet, just enough for game servers: it binds Pods, "starts" those whose Secret is there, and ends those that are deleted.
type kubelet struct {
	c       *realCluster
	servers *standin.Servers
	mu      sync.Mutex
	stops   map[string]func() // by UID
}

func startKubelet(t *testing.T, c *realCluster, servers *standin.Servers) *kubelet {
	t.Helper()
	k := &kubelet{c: c, servers: servers, stops: make(map[string]func())}
	ctx, stop := context.WithCancel(context.Background())
	var loop sync.WaitGroup
	loop.Go(func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				k.pass(ctx)
			}
		}
	})
	t.Cleanup(func() { stop(); loop.Wait() })
	return k
}

// realPod is what the kubelet looks at.
type realPod struct {
	Metadata struct {
		Name, Namespace, UID string
		DeletionTimestamp    *time.Time
	}
	Spec struct {
		NodeName   string
		Containers []struct{ Name string }
	}
	Status struct{ Phase string }
}

// pass looks at all Pods once.
func (k *kubelet) pass(ctx context.Context) {
	k.mu.Lock()
	defer k.mu.Unlock()
	there := make(map[string]bool)
	for _, namespace := range []string{"games", "games-us"} {
		var list struct{ Items []realPod }
		code, raw, err := k.c.call(ctx, http.MethodGet, "/api/v1/namespaces/"+namespace+"/pods", "")
		if err != nil || code != http.StatusOK || json.Unmarshal(raw, &list) != nil {
			return
		}
		for _, p := range list.Items {
			there[p.Metadata.UID] = true
			k.look(ctx, p)
		}
	}
	for uid, stop := range k.stops {
		if !there[uid] {
			stop()
			delete(k.stops, uid)
		}
	}
}

func (k *kubelet) look(ctx context.Context, p realPod) {
	path := "/api/v1/namespaces/" + p.Metadata.Namespace + "/pods/" + p.Metadata.Name
	switch {
	case p.Metadata.DeletionTimestamp != nil:
		if stop := k.stops[p.Metadata.UID]; stop != nil {
			stop()
			delete(k.stops, p.Metadata.UID)
		}
		_, _, _ = k.c.call(ctx, http.MethodDelete, path, `{"apiVersion":"v1","kind":"DeleteOptions","gracePeriodSeconds":0}`)
		return
	case k.stops[p.Metadata.UID] != nil:
		return
	case p.Spec.NodeName == "":
		_, _, _ = k.c.call(ctx, http.MethodPost, path+"/binding",
			fmt.Sprintf(`{"apiVersion":"v1","kind":"Binding","metadata":{"name":%q},"target":{"apiVersion":"v1","kind":"Node","name":"eu-1"}}`, p.Metadata.Name))
	}
	var secret struct{ Data map[string]string }
	code, raw, err := k.c.call(ctx, http.MethodGet, "/api/v1/namespaces/"+p.Metadata.Namespace+"/secrets/"+p.Metadata.Name, "")
	if err != nil || code != http.StatusOK || json.Unmarshal(raw, &secret) != nil {
		return
	}
	document, _ := base64.StdEncoding.DecodeString(secret.Data["bootstrap"])
	k.stops[p.Metadata.UID] = k.servers.Start(document, nil)
	var containers []string
	for _, c := range p.Spec.Containers {
		containers = append(containers, fmt.Sprintf(`{"name":%q,"image":"i","imageID":"i","ready":true,"restartCount":0,"state":{"running":{"startedAt":"2026-11-28T12:00:00Z"}}}`, c.Name))
	}
	code, raw, err = k.c.call(ctx, http.MethodPatch, path+"/status",
		`{"status":{"phase":"Running","hostIP":"10.0.0.1","podIP":"10.244.1.7","containerStatuses":[`+strings.Join(containers, ",")+`]}}`)
	if err == nil && code != http.StatusOK && code != http.StatusNotFound { // deleted meanwhile
		k.c.t.Errorf("the status of %s: %d %s", path, code, raw)
	}
}
