package agones_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/berth-dev/berth/sdk/go/provider/providertest"
	"github.com/berth-dev/berth/services/allocation/providers/agones"
	"github.com/berth-dev/berth/services/allocation/providers/internal/hostapi"
	"github.com/berth-dev/berth/services/allocation/providers/internal/kube"
	agoneshost "github.com/berth-dev/berth/test/hosts/agones"
	"github.com/berth-dev/berth/test/hosts/standin"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const token = "service-account-token"

// ways are all that there are of asking for a server: the API server, and the two sides of the allocator.
var ways = []string{"cluster", "grpc", "rest"}

func fleets() agoneshost.Config {
	return agoneshost.Config{Token: token, Page: 2, Fleets: []agoneshost.Fleet{
		{Namespace: "games", Name: "shooter", Ready: 3, Labels: map[string]string{"mode": "ranked"}}, {Namespace: "games", Name: "racer", Ready: 2}, {Namespace: "games-us", Name: "shooter", Ready: 2},
	}}
}

// certificate makes one that is its own authority.
func certificate(t testing.TB) (certPEM, keyPEM []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "berth"}, NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})
}

// start starts a stand-in, and returns a configuration for one of the ways. The API server and the allocator are two TLS servers before it; the allocator has
// both of its sides on one port.
func start(t testing.TB, world agoneshost.Config, way string) (*agoneshost.Agones, agones.Config) {
	t.Helper()
	host := agoneshost.New(world)
	api, service := httptest.NewTLSServer(host), httptest.NewUnstartedServer(host)
	service.EnableHTTP2 = true
	cert, key := certificate(t)
	clients := x509.NewCertPool()
	clients.AppendCertsFromPEM(cert)
	service.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients, MinVersion: tls.VersionTLS12}
	service.StartTLS()
	t.Cleanup(func() {
		for _, srv := range []*httptest.Server{api, service} {
			srv.CloseClientConnections()
			srv.Close()
		}
		host.Close()
	})
	ca := func(s *httptest.Server) string {
		return file(t, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
	}
	cfg := agones.Config{
		Config:  kube.Config{URL: api.URL, CAFile: ca(api), TokenFile: hostapi.SecretFile(file(t, []byte(token+"\n")))},
		Builds:  map[string]agones.Build{"shooter": {Fleet: "shooter"}, "ranked": {Fleet: "shooter", Labels: map[string]string{"mode": "ranked"}}, "racer": {Fleet: "racer"}},
		Regions: map[string]agones.Region{"eu": {Namespace: "games"}, "us": {Namespace: "games-us"}},
	}
	if way != "cluster" {
		cfg.Allocate = "allocator"
		cfg.Allocator = agones.Allocator{URL: service.URL, Protocol: way, CAFile: ca(service), CertFile: file(t, cert), KeyFile: file(t, key)}
	}
	return host, cfg
}

// clientTLS is how a caller that the allocator knows connects to it.
func clientTLS(t testing.TB, cfg agones.Config) *tls.Config {
	t.Helper()
	cert, err := tls.LoadX509KeyPair(cfg.Allocator.CertFile, cfg.Allocator.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(cfg.Allocator.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	return &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: roots, MinVersion: tls.VersionTLS12}
}

func file(t testing.TB, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func open(t testing.TB, cfg agones.Config) *agones.Provider {
	t.Helper()
	p, err := agones.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close(context.Background()) })
	p.Poll(200 * time.Millisecond) // or most of the time of the suite were waiting
	p.Settle(2 * time.Second)
	return p
}

// twice is the host without its count of servers where it gets requests twice: Agones cannot know that two are one. What List has of them then is checked all the
// same, and TestTheFirstOfTwoIsKept what becomes of the second.
type twice struct {
	*standin.Host
	doubles atomic.Bool
}

func (h *twice) Duplicate(ctx context.Context) error {
	h.doubles.Store(true)
	return h.Host.Duplicate(ctx)
}

func (h *twice) Started(ctx context.Context, server string) (int, error) {
	if h.doubles.Load() {
		return 0, providertest.ErrUnsupported
	}
	return h.Host.Started(ctx, server)
}

// Late begins the check after the one that has requests twice.
func (h *twice) Late(ctx context.Context, after time.Duration) error {
	h.doubles.Store(false)
	return h.Host.Late(ctx, after)
}

func (*twice) Quota(context.Context) error {
	return providertest.NotApplicable("an allocation takes a GameServer that is there: no quota is asked")
}

// Each way passes with the rights that the page's file grants, and with no others.
func TestConformance(t *testing.T) {
	for _, way := range ways {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			host, cfg := restricted(t, way, rights(t, way))
			providertest.Run(t, providertest.Config{Provider: open(t, cfg), Host: &twice{Host: host.Host}, Build: "shooter", Region: "eu"})
			if c := host.Count(); c.Running != 0 || c.Doubled != 1 {
				t.Errorf("at the end: %+v; want the one double of the check that makes it", c)
			}
		})
	}
}

func BenchmarkAllocate(b *testing.B) {
	for _, way := range ways {
		b.Run(way, func(b *testing.B) {
			host, cfg := start(b, fleets(), way)
			standin.Bench(b, open(b, cfg), host.Host, "shooter", "eu")
		})
	}
}
