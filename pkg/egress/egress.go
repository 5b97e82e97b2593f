// Package egress is how Berth connects to addresses that somebody has supplied, such as those of an identity provider: https only, to hosts of the
// internet only, without redirects, and with bounds on time and size. Otherwise whoever supplies an address could have Berth read what only it can reach.
package egress

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"
)

// Config says what is connected to beyond the internet.
type Config struct {
	// Allow are the exceptions: prefixes (10.20.0.0/16) of private and other special addresses that Berth may connect to, such as those of an identity
	// provider in the same cluster.
	Allow []string `yaml:"allow" env:"ALLOW" envSeparator:","`
	// CAFile has certificates (PEM) of authorities that are believed beside those of the system. It is read at the start.
	CAFile string `yaml:"ca_file" env:"CA_FILE"`
}

// Validate returns an error that names each setting that cannot be used.
func (c Config) Validate() error {
	_, err := parseAllow(c.Allow)
	return err
}

// Options bound the use of a client.
type Options struct {
	// Timeout bounds a request from its beginning to the end of its answer's body.
	Timeout time.Duration
	// MaxBody is how many bytes the body of an answer may have.
	MaxBody int64
	// Resolver resolves names; nil: the system's.
	Resolver *net.Resolver
}

const (
	dialTimeout      = 5 * time.Second
	handshakeTimeout = 5 * time.Second
	headerTimeout    = 10 * time.Second
	maxHeader        = 64 << 10
)

var (
	// ErrRedirect means that the other side wanted to send the request elsewhere.
	ErrRedirect = errors.New("the answer is a redirect, which is not followed: name the address that it leads to")
	// ErrNotHTTPS means that an address does not begin with https://.
	ErrNotHTTPS = errors.New("must begin with https://")
	// ErrUserinfo means that an address has a user or a password in it.
	ErrUserinfo = errors.New("must not have a user or a password in it")
)

// TooLargeError says that an answer is larger than it may be.
type TooLargeError struct {
	// Limit is how many bytes it may have.
	Limit int64
}

// Error implements error.
func (e *TooLargeError) Error() string {
	return fmt.Sprintf("the answer has more than %d bytes", e.Limit)
}

// Client returns a client that is safe for concurrent use and keeps no connection after its answer: calls are rare, and each connection is checked anew.
func (c Config) Client(o Options) (*http.Client, error) {
	allow, err := parseAllow(c.Allow)
	if err != nil {
		return nil, err
	}
	roots, err := c.roots()
	if err != nil {
		return nil, err
	}
	dialer := &net.Dialer{Timeout: dialTimeout, Resolver: o.Resolver, ControlContext: guard{allow}.control}
	return &http.Client{
		Timeout:       o.Timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return ErrRedirect },
		Transport: &bounded{limit: o.MaxBody, next: &http.Transport{
			// No proxy, also not from the environment: it would resolve the name, and the address that is checked would be its own.
			Proxy:           nil,
			DialContext:     dialer.DialContext,
			TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},

			TLSHandshakeTimeout: handshakeTimeout, ResponseHeaderTimeout: headerTimeout, MaxResponseHeaderBytes: maxHeader,
			DisableKeepAlives: true, DisableCompression: true,
		}},
	}, nil
}

// roots returns the system's authorities and those of the file; nil, which means the system's, if there is none.
func (c Config) roots() (*x509.CertPool, error) {
	if c.CAFile == "" {
		return nil, nil
	}
	raw, err := os.ReadFile(c.CAFile)
	if err != nil {
		return nil, fmt.Errorf("egress.ca_file (BERTH_EGRESS_CA_FILE): %w", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("the system's certificate authorities: %w", err)
	}
	if !pool.AppendCertsFromPEM(raw) {
		return nil, fmt.Errorf("egress.ca_file (BERTH_EGRESS_CA_FILE): %s has no certificate in PEM", c.CAFile)
	}
	return pool, nil
}

// CheckURL returns an error unless an address is one that a client would look at: https, with a host, without a user. Where it leads is checked when it
// is connected to.
func CheckURL(u *url.URL) error {
	switch {
	case u.Scheme != "https":
		return ErrNotHTTPS
	case u.User != nil:
		return ErrUserinfo
	case u.Hostname() == "":
		return errors.New("must name a host")
	}
	return nil
}

// bounded refuses requests that are not https, and answers that are too large.
type bounded struct {
	limit int64
	next  http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (b *bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := CheckURL(r.URL); err != nil {
		if r.Body != nil {
			_ = r.Body.Close() // as the interface wants it; there is nobody to tell
		}
		return nil, err
	}
	resp, err := b.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	resp.Body = &body{ReadCloser: resp.Body, limit: b.limit, left: b.limit}
	return resp, nil
}

// body fails with a *TooLargeError where it would go over its limit.
type body struct {
	io.ReadCloser
	limit, left int64
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, &TooLargeError{b.limit}
	}
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1] // one more tells whether there is more
	}
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return n - 1, &TooLargeError{b.limit}
	}
	return n, err
}

// Get returns the body of the document at an address.
func Get(ctx context.Context, client *http.Client, address string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("GET %s: %s", address, resp.Status)
	}
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("GET %s: %w", address, err)
	}
	return raw, nil
}
