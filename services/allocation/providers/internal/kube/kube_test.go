package kube_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/providers/internal/hostapi"
	"github.com/berth-dev/berth/services/allocation/providers/internal/kube"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// files has files for a configuration.
type files struct {
	dir string
	t   *testing.T
}

func (f files) path(name string) string { return filepath.Join(f.dir, name) }

func (f files) write(name, kind string, der []byte) {
	f.t.Helper()
	if err := os.WriteFile(f.path(name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

// certificate makes a client certificate with that name, in cert and key.
func (f files) certificate(name string) {
	f.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		f.t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		f.t.Fatal(err)
	}
	f.write("cert", "CERTIFICATE", cert)
	f.write("key", "PRIVATE KEY", raw)
}

// server answers with who called.
func server(t *testing.T) (*httptest.Server, files) {
	t.Helper()
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who := r.Header.Get("Authorization")
		if len(r.TLS.PeerCertificates) > 0 {
			who += r.TLS.PeerCertificates[0].Subject.CommonName
		}
		_, _ = io.WriteString(w, `{"metadata": {"name": "`+who+`"}}`)
	}))
	srv.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	f := files{dir: t.TempDir(), t: t}
	f.write("ca", "CERTIFICATE", srv.Certificate().Raw)
	return srv, f
}

func who(t *testing.T, c *kube.Client) (string, error) {
	t.Helper()
	var out struct {
		Meta kube.Meta `json:"metadata"`
	}
	err := c.Do(t.Context(), hostapi.Call{Operation: hostapi.Read("look", 0), Method: http.MethodGet, Path: "/api/v1/namespaces/default", Out: &out})
	return out.Meta.Name, err
}

// A client certificate that is replaced is used by the next connection.
func TestClientCertificate(t *testing.T) {
	srv, f := server(t)
	f.certificate("berth")
	c, err := kube.New("kubernetes", kube.Config{URL: srv.URL, CAFile: f.path("ca"), CertFile: f.path("cert"), KeyFile: f.path("key")})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if name, err := who(t, c); name != "berth" || err != nil {
		t.Errorf("got %q, %v", name, err)
	}
	f.certificate("berth-2")
	c.Close()
	if name, err := who(t, c); name != "berth-2" || err != nil {
		t.Errorf("got %q, %v", name, err)
	}
	_ = os.Remove(f.path("key"))
	c.Close()
	if _, err := who(t, c); provider.ReasonOf(err) != provider.Unavailable || !strings.Contains(err.Error(), "cert_file, key_file") {
		t.Errorf("without its key: %v", err)
	}
}

// An API server that the authorities do not know gets no token.
func TestAnUnknownAuthority(t *testing.T) {
	srv, f := server(t)
	if err := os.WriteFile(f.path("token"), []byte("t"), 0o600); err != nil {
		t.Fatal(err)
	}
	f.certificate("somebody else")
	for _, ca := range []string{"", f.path("cert")} { // the system's, another one's
		c, err := kube.New("kubernetes", kube.Config{URL: srv.URL, CAFile: ca, TokenFile: hostapi.SecretFile(f.path("token"))})
		if err != nil {
			t.Fatal(err)
		}
		if name, err := who(t, c); provider.ReasonOf(err) != provider.Unavailable || name != "" || !strings.Contains(err.Error(), "certificate") {
			t.Errorf("got %q, %v", name, err)
		}
		c.Close()
	}
}

// A Pod calls its own cluster, with a token where there is one.
func TestInACluster(t *testing.T) {
	srv, f := server(t)
	if err := os.WriteFile(f.path("token"), []byte("t"), 0o600); err != nil {
		t.Fatal(err)
	}
	u, _ := url.Parse(srv.URL)
	t.Setenv("KUBERNETES_SERVICE_HOST", u.Hostname())
	t.Setenv("KUBERNETES_SERVICE_PORT", u.Port())
	c, err := kube.New("kubernetes", kube.Config{CAFile: f.path("ca"), TokenFile: hostapi.SecretFile(f.path("token"))})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if name, err := who(t, c); name != "Bearer t" || err != nil {
		t.Errorf("got %q, %v", name, err)
	}
	if _, err := os.Stat("/var/run/secrets/kubernetes.io"); err == nil {
		t.Skip("this is a Pod, and has its own files")
	}
	if _, err := kube.New("kubernetes", kube.Config{CAFile: f.path("ca")}); err == nil || !strings.HasPrefix(err.Error(), "kubernetes.token_file: open /var/run/secrets/kubernetes.io/serviceaccount/token") {
		t.Errorf("without a token: %v", err)
	}
	if _, err := kube.New("kubernetes", kube.Config{TokenFile: hostapi.SecretFile(f.path("token"))}); err == nil || !strings.HasPrefix(err.Error(), "kubernetes.ca_file: open /var/run/secrets/kubernetes.io/serviceaccount/ca.crt") {
		t.Errorf("without an authority: %v", err)
	}
}

func TestConfig(t *testing.T) {
	f := files{dir: t.TempDir(), t: t}
	f.certificate("berth")
	f.write("ca", "PRIVATE KEY", []byte("x"))
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	const api = "https://203.0.113.7:6443"
	for want, cfg := range map[string]kube.Config{
		"agones.url: is needed":                                {},
		"agones.url: has a user, a query":                      {URL: api + "?x=1", CertFile: f.path("cert"), KeyFile: f.path("key")},
		"agones.token_file: is needed":                         {URL: api},
		"agones.cert_file, key_file: one needs":                {URL: api, CertFile: f.path("cert")},
		"agones.cert_file, key_file: one needs ":               {URL: api, KeyFile: f.path("key")},
		"agones.cert_file, key_file: tls: ":                    {URL: api, CertFile: f.path("key"), KeyFile: f.path("key")},
		"agones.token_file, cert_file: there is one caller":    {URL: api, CertFile: f.path("cert"), KeyFile: f.path("key"), TokenFile: "token"},
		"agones.ca_file: " + f.path("ca") + " has no certific": {URL: api, CertFile: f.path("cert"), KeyFile: f.path("key"), CAFile: f.path("ca")},
	} {
		if _, err := kube.New("agones", cfg); err == nil || !strings.HasPrefix(err.Error(), strings.TrimSpace(want)) {
			t.Errorf("got %v; want %q", err, want)
		}
	}
}

func TestNamespaces(t *testing.T) {
	for name, ok := range map[string]bool{
		"games": true, "a": true, "7": true, "games-2": true, strings.Repeat("g", 63): true,
		"": false, "Games": false, "games.eu": false, "-games": false, "games-": false, "games/x": false, strings.Repeat("g", 64): false, "games\n": false,
	} {
		if err := kube.CheckNamespace(name); (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
	}
}
