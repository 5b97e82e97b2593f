// Package kubetest runs a real API server of Kubernetes with its etcd for tests, and plays what else a cluster has, as far as game servers need it: a scheduler,
// a kubelet that starts the containers of Pods as processes of this machine, and the garbage collector of Secrets.
package kubetest

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/berth-dev/berth/pkg/freeport"
	"github.com/berth-dev/berth/test/hosts/kubernetes"
)

// Assets is the variable that names the folder with the binaries of an API server and etcd; `make test-kubernetes` builds them.
const Assets = "KUBEBUILDER_ASSETS"

// Token is the bearer token of the service account berth-allocation, which has no rights but those that a test applies.
const Token = "service-account-token"

// admin is the token of the cluster's administrator.
const admin = "admin-token"

// readyIn is how long an API server may take to be ready; three to six seconds are usual.
const readyIn = 2 * time.Minute

// Object is an object of the API.
type Object = map[string]any

// Cluster is an API server with its etcd. Nothing else of a cluster runs: no controllers, no scheduler, no kubelet; see StartKubelet. It is safe for concurrent
// use, but for Do and Apply, which are the test's.
type Cluster struct {
	// URL is the base URL of the API server, and CAFile has the authority that signs its certificate.
	URL, CAFile string

	t      testing.TB
	client *http.Client
	front  authority // of the client certificate with which the API server calls extensions
}

// Start starts both, and stops them with the test, the API server first. The test is skipped where there are no binaries.
func Start(t testing.TB) *Cluster {
	t.Helper()
	dir := os.Getenv(Assets)
	if dir == "" {
		t.Skip(Assets + " is not set: left out; make test-kubernetes has a real API server")
	}
	work := t.TempDir()
	etcd, peer, api := "http://"+freeport.Addr(t), "http://"+freeport.Addr(t), freeport.Addr(t)
	_, port, _ := net.SplitHostPort(api)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, content []byte) string {
		path := filepath.Join(work, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	accounts := write("sa.key", pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}))
	tokens := write("tokens.csv", fmt.Appendf(nil, "%s,admin,1,system:masters\n%s,%s,2\n", admin, Token, kubernetes.User))
	run(t, filepath.Join(dir, "etcd"), "--data-dir="+filepath.Join(work, "etcd"), "--listen-client-urls="+etcd, "--advertise-client-urls="+etcd,
		"--listen-peer-urls="+peer, "--unsafe-no-fsync", "--log-level=error")
	c := &Cluster{URL: "https://" + api, CAFile: filepath.Join(work, "apiserver.crt"), t: t, front: newAuthority(t)}
	frontCert, frontKey := c.front.issue(t, frontProxy)
	run(t, filepath.Join(dir, "kube-apiserver"), "--etcd-servers="+etcd, "--secure-port="+port, "--bind-address=127.0.0.1", "--cert-dir="+work,
		"--authorization-mode=RBAC", "--token-auth-file="+tokens, "--service-account-issuer=https://kubernetes.default.svc", "--service-account-signing-key-file="+accounts,
		"--service-account-key-file="+accounts, "--service-cluster-ip-range=10.96.0.0/16", "--disable-admission-plugins=ServiceAccount", "--endpoint-reconciler-type=none",
		"--advertise-address=127.0.0.1", "--requestheader-client-ca-file="+write("front-ca.crt", c.front.pem()), "--requestheader-allowed-names="+frontProxy,
		"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group", "--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file="+write("front.crt", frontCert), "--proxy-client-key-file="+write("front.key", frontKey))
	c.connect()
	return c
}

// connect waits until the API server is ready. It writes its certificate when it starts.
func (c *Cluster) connect() {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), readyIn)
	defer cancel()
	for {
		if c.client == nil {
			if pem, err := os.ReadFile(c.CAFile); err == nil {
				roots := x509.NewCertPool()
				roots.AppendCertsFromPEM(pem)
				c.client = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
				c.t.Cleanup(c.client.CloseIdleConnections)
			}
		} else if code, err := c.Call(ctx, http.MethodGet, "/readyz", nil, nil); err == nil && code == http.StatusOK {
			return
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			c.t.Fatal("the API server does not become ready")
		}
	}
}

// run runs a program until the end, and shows what it said if the test failed.
func run(t testing.TB, program string, args ...string) {
	t.Helper()
	var said bytes.Buffer
	ctx, stop := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		stop()
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

// Proxy hands calls to the API server.
func (c *Cluster) Proxy() http.Handler {
	return &httputil.ReverseProxy{
		Transport: c.client.Transport, ErrorLog: log.New(io.Discard, "", 0), // callers that go away are part of the tests
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = "https", strings.TrimPrefix(c.URL, "https://")
		},
	}
}

// Call calls the API server as its administrator, and returns the status. in is sent as JSON, by PATCH as a merge patch; out, where it is not nil, gets the answer of
// a call that succeeds.
func (c *Cluster) Call(ctx context.Context, method, path string, in, out any) (int, error) {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return 0, err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, c.URL+path, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Authorization", "Bearer "+admin)
	req.Header.Set("Content-Type", "application/json")
	if method == http.MethodPatch {
		req.Header.Set("Content-Type", "application/merge-patch+json")
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return 0, err
	case resp.StatusCode > 299:
		return resp.StatusCode, fmt.Errorf("%s %s: %d %s", method, path, resp.StatusCode, answer)
	case out != nil:
		return resp.StatusCode, json.Unmarshal(answer, out)
	}
	return resp.StatusCode, nil
}

// Do makes a call that has to succeed.
func (c *Cluster) Do(method, path string, in, out any) {
	c.t.Helper()
	if _, err := c.Call(c.t.Context(), method, path, in, out); err != nil {
		c.t.Fatal(err)
	}
}

// Namespaces makes namespaces.
func (c *Cluster) Namespaces(names ...string) {
	c.t.Helper()
	for _, name := range names {
		c.Do(http.MethodPost, "/api/v1/namespaces", Object{"metadata": Object{"name": name}}, nil)
	}
}

// Node makes a node, with addresses by their type. Its InternalIP is what its Pods have as hostIP.
func (c *Cluster) Node(name string, labels, addresses map[string]string) {
	c.t.Helper()
	var all []Object
	for kind, address := range addresses {
		all = append(all, Object{"type": kind, "address": address})
	}
	c.Do(http.MethodPost, "/api/v1/nodes", Object{"metadata": Object{"name": name, "labels": labels}, "status": Object{"addresses": all}}, nil)
}

// Apply makes the objects of a file that are of some kinds, in another namespace than the file's "games", if there is one.
func (c *Cluster) Apply(file, namespace string, kinds ...string) {
	c.t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		c.t.Fatal(err)
	}
	if namespace != "" {
		text = []byte(strings.ReplaceAll(string(text), "namespace: games", "namespace: "+namespace))
	}
	for d := yaml.NewDecoder(bytes.NewReader(text)); ; {
		var o Object
		if err := d.Decode(&o); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			c.t.Fatal(err)
		}
		kind := fmt.Sprint(o["kind"])
		if !slices.Contains(kinds, kind) {
			continue
		}
		meta, _ := o["metadata"].(Object)
		path := "/apis/" + fmt.Sprint(o["apiVersion"])
		if o["apiVersion"] == "v1" {
			path = "/api/v1"
		}
		if meta["namespace"] != nil {
			path += "/namespaces/" + fmt.Sprint(meta["namespace"])
		}
		c.Do(http.MethodPost, path+"/"+strings.ToLower(kind)+"s", o, nil)
	}
}
