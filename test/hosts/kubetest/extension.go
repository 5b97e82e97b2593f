package kubetest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// frontProxy is the name in the certificate with which the API server calls extensions.
const frontProxy = "front-proxy-client"

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return authority{cert: cert, key: key}
}

func (a authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

func (a authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// issue makes a certificate for a name, for both ends of a connection.
func (a authority) issue(t testing.TB, name string) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &private.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})
}

// Extend serves a version of a group of the API by an extension server: the API server authenticates and authorizes callers, and hands their calls to the handler,
// who the caller is being in X-Remote-User. The handler answers discovery (GET /apis/GROUP/VERSION), too. Extend returns when the API server has found it.
func (c *Cluster) Extend(namespace, service, group, version string, handler http.Handler) {
	c.t.Helper()
	own := newAuthority(c.t)
	cert, key := own.issue(c.t, service+"."+namespace+".svc")
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		c.t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(handler)
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: c.front.pool(), MinVersion: tls.VersionTLS12}
	srv.StartTLS()
	c.t.Cleanup(func() { srv.CloseClientConnections(); srv.Close() })
	port := srv.Listener.Addr().(*net.TCPAddr).Port
	c.Do(http.MethodPost, "/api/v1/namespaces/"+namespace+"/services", Object{
		"metadata": Object{"name": service}, "spec": Object{"type": "ExternalName", "externalName": "localhost", "ports": []Object{{"port": port}}},
	}, nil)
	name := version + "." + group
	c.Do(http.MethodPost, "/apis/apiregistration.k8s.io/v1/apiservices", Object{
		"metadata": Object{"name": name}, "spec": Object{
			"group": group, "version": version, "groupPriorityMinimum": 1000, "versionPriority": 15, "caBundle": own.pem(),
			"service": Object{"namespace": namespace, "name": service, "port": port},
		},
	}, nil)
	c.Wait("APIService "+name, "/apis/apiregistration.k8s.io/v1/apiservices/"+name, "Available")
}

// Wait waits until an object has a condition.
func (c *Cluster) Wait(what, path, condition string) {
	c.t.Helper()
	var found struct {
		Status struct {
			Conditions []struct{ Type, Status, Message string }
		}
	}
	deadline := time.Now().Add(readyIn)
	for {
		c.Do(http.MethodGet, path, nil, &found)
		for _, one := range found.Status.Conditions {
			if one.Type == condition && one.Status == "True" {
				return
			}
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("%s does not become %s: %+v", what, condition, found.Status.Conditions)
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-c.t.Context().Done():
			return
		}
	}
}
