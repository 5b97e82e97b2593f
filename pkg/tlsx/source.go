package tlsx

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// lookEvery is how often the files are looked at, at most; only handshakes do it.
const lookEvery = time.Second

// Source has the newest good certificate, key and authorities of some files. It is safe for concurrent use.
type Source struct {
	block string
	pair  KeyPair
	ca    string
	log   *slog.Logger
	now   func() time.Time

	mu      sync.Mutex
	looked  time.Time
	read    contents // of what is in use
	use     material
	problem string // what was logged last about files that cannot be used; empty once they can
}

// contents are those of the three files.
type contents [3][]byte

func (c contents) equal(d contents) bool {
	return bytes.Equal(c[0], d[0]) && bytes.Equal(c[1], d[1]) && bytes.Equal(c[2], d[2])
}

// material is what handshakes need.
type material struct {
	cert  tls.Certificate
	roots *x509.CertPool
}

func open(block string, pair KeyPair, ca string, log *slog.Logger) (*Source, error) {
	s := &Source{block: block, pair: pair, ca: ca, log: log, now: time.Now}
	s.looked = s.now()
	var err error
	if s.read, s.use, err = s.load(); err != nil {
		return nil, err
	}
	return s, nil
}

// current returns what is in force, after a look at the files if the last one is a while ago. Files that cannot be used change nothing; that is logged
// once. They are compared by what is in them: an orchestrator replaces them in ways that times of change do not show.
func (s *Source) current() material {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := s.now(); now.Sub(s.looked) >= lookEvery {
		s.looked = now
		s.look()
	}
	return s.use
}

func (s *Source) look() {
	read, use, err := s.load()
	if err != nil {
		if s.problem != err.Error() {
			s.problem = err.Error()
			s.log.Error("the TLS files cannot be used; what they held before stays in force", "error", err)
		}
		return
	}
	s.problem = ""
	if read.equal(s.read) {
		return
	}
	s.read, s.use = read, use
	attrs := []any{"block", s.block}
	if use.cert.Leaf != nil {
		attrs = append(attrs, "not_after", use.cert.Leaf.NotAfter)
	}
	s.log.Info("the TLS files have changed and are in force", attrs...)
}

// load reads the files.
func (s *Source) load() (read contents, use material, err error) {
	for n, file := range []struct{ key, path string }{{"cert_file", s.pair.CertFile}, {"key_file", s.pair.KeyFile}, {"ca_file", s.ca}} {
		if file.path == "" {
			continue
		}
		if read[n], err = os.ReadFile(file.path); err != nil {
			return read, use, fmt.Errorf("%s: %w", setting(s.block, file.key), err)
		}
	}
	if s.pair.Enabled() {
		if use.cert, err = tls.X509KeyPair(read[0], read[1]); err != nil { // its errors have nothing of the key
			return read, use, fmt.Errorf("%s and %s: %w", setting(s.block, "cert_file"), setting(s.block, "key_file"), err)
		}
	}
	if s.ca != "" {
		if use.roots, err = parseAuthorities(read[2]); err != nil {
			return read, use, fmt.Errorf("%s: %w", setting(s.block, "ca_file"), err)
		}
	}
	return read, use, nil
}

// parseAuthorities reads all certificates of a file. Unlike the pool's own reader it leaves out none that it cannot read.
func parseAuthorities(raw []byte) (*x509.CertPool, error) {
	pool, found := x509.NewCertPool(), false
	for {
		var b *pem.Block
		if b, raw = pem.Decode(raw); b == nil {
			break
		}
		if b.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("has a %s; only certificates belong into it", b.Type)
		}
		cert, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			return nil, err
		}
		pool.AddCert(cert)
		found = true
	}
	if !found {
		return nil, errors.New("has no certificate in PEM")
	}
	return pool, nil
}

// ServerConfig returns the configuration of a service's server: TLS 1.3, HTTP/2. A caller may show a certificate; one that the authorities have not
// signed, or that is not valid now, is refused.
func (s *Source) ServerConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			m := s.current()
			return &tls.Config{
				MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{m.cert}, NextProtos: []string{"h2"},
				ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: m.roots,
				// A resumed connection would go by the certificate and the authorities of the first one. Connections are few and long.
				SessionTicketsDisabled: true,
			}, nil
		},
	}
}

// ClientConfig returns the configuration of one connection to another service: TLS 1.3, verified against the authorities. With show, the service's own
// certificate is shown, whatever authorities the other side names: a refusal says more than silence.
func (s *Source) ClientConfig(show bool) *tls.Config {
	m := s.current()
	cfg := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: m.roots}
	if show {
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &m.cert, nil }
	}
	return cfg
}

// OutsideConfig returns the configuration of one connection to a server that is not one of Berth's services: TLS 1.2 and later, verified against the
// authorities, or the system's where none are named. The certificate is shown if there is one and the server asks.
func (s *Source) OutsideConfig(serverName string) *tls.Config {
	m := s.current()
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: m.roots, ServerName: serverName}
	if s.pair.Enabled() {
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &m.cert, nil }
	}
	return cfg
}

// PublicConfig returns the configuration of a server for callers that have no certificate, such as game servers: TLS 1.2 and later, because engines
// bring libraries of their own.
func (s *Source) PublicConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			m := s.current()
			return &m.cert, nil
		},
	}
}
