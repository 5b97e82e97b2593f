// Package hostapi calls the REST APIs of hosts. It knows what providers need to know of each call that failed: whether the host may have done what it was
// asked. What a host's own refusals mean, its provider says.
package hostapi

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/berth-dev/berth/sdk/go/provider"
)

const (
	// maxBody is how much of an answer is read; a larger one is none.
	maxBody = 8 << 20
	// maxConns is how many connections there are to a host at once. More calls wait for one.
	maxConns = 64

	dialTimeout      = 5 * time.Second
	handshakeTimeout = 5 * time.Second
	idleTimeout      = 90 * time.Second
)

// Pings is when a connection of HTTP/2 that is silent is asked for a sign of life, and how long it has for one. All calls share one: without that, each would
// wait in vain until the kernel gives it up.
func Pings() http.HTTP2Config {
	return http.HTTP2Config{SendPingTimeout: 10 * time.Second, PingTimeout: 5 * time.Second}
}

// Config configures a Client.
type Config struct {
	// Host is the host's name in messages. Needed.
	Host string
	// URL is where its API is. It has to be https, but on this machine. Needed.
	URL string
	// TLS is used in place of the system's authorities, if set.
	TLS *tls.Config
	// Authorize puts credentials on a request; nil: there are none. What it fails with is what the call fails with.
	Authorize func(context.Context, *http.Request) error
	// Renew forgets the credentials that Authorize put on a request, which the host refused (401), unless there are others by now. The call is made once more
	// then; nil: it is not.
	Renew func(refused *http.Request)
	// Explain says what a refusal means; nil from it, or without it: what its status says.
	Explain func(Refusal) error
}

// Client calls one host. It is safe for concurrent use.
type Client struct {
	cfg  Config
	base string
	http *http.Client
}

// New returns a Client. Nothing is sent before the first call.
func New(cfg Config) (*Client, error) {
	return newClient(cfg, Pings())
}

func newClient(cfg Config, http2 http.HTTP2Config) (*Client, error) {
	if err := CheckURL(cfg.URL); err != nil {
		return nil, err
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if cfg.TLS != nil {
		conf = cfg.TLS
	}
	return &Client{cfg: cfg, base: strings.TrimSuffix(cfg.URL, "/"), http: &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // credentials go nowhere else
		Transport: &http.Transport{
			Proxy:               http.ProxyFromEnvironment,
			DialContext:         (&net.Dialer{Timeout: dialTimeout}).DialContext,
			TLSClientConfig:     conf,
			TLSHandshakeTimeout: handshakeTimeout, IdleConnTimeout: idleTimeout,
			MaxConnsPerHost: maxConns, MaxIdleConnsPerHost: maxConns, ForceAttemptHTTP2: true, HTTP2: &http2,
		},
	}}, nil
}

// CheckURL returns an error unless an API may be called there: credentials and tokens go to it. What is no such URL is not in the error: it may have a password.
func CheckURL(raw string) error {
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		return errors.New("is no base URL such as https://api.example.com")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return errors.New("has a user, a query or a fragment: take it out")
	case u.Scheme == "http" && !thisMachine(u.Hostname()):
		return fmt.Errorf("%s is another machine, and credentials would go there in the clear: use https", u.Host)
	}
	return nil
}

func thisMachine(name string) bool {
	ip, err := netip.ParseAddr(name)
	return name == "localhost" || err == nil && ip.IsLoopback()
}

// Close ends idle connections. Call it when nothing calls the Client any more.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Call is one request.
type Call struct {
	// Operation that it belongs to. Needed.
	Operation *Operation
	// Method and Path, with its query.
	Method, Path string
	// In is what is sent, as JSON; nil: nothing.
	In any
	// Out gets the answer, from JSON; nil: what it says does not count. It is nothing then, or an object of JSON: a page says nothing of what was asked.
	Out any
	// Empty says that the host answers with nothing; anything else makes no sense.
	Empty bool
}

// understand reads an answer that says that the call succeeded, and reports whether it can be one.
func (c Call) understand(status int, body []byte) bool {
	switch {
	case c.Out != nil:
		return json.Unmarshal(body, c.Out) == nil
	case status == http.StatusNoContent || len(bytes.TrimSpace(body)) == 0:
		return true
	default:
		return !c.Empty && isObject(body)
	}
}

// Do makes a call. What it fails with is a failure of the provider contract: for one that has an effect, AMBIGUOUS unless it is certain that it had none.
func (c *Client) Do(ctx context.Context, call Call) error {
	err := c.once(ctx, call)
	var refused *refusedError
	if errors.As(err, &refused) && refused.Status == http.StatusUnauthorized && c.cfg.Renew != nil {
		c.cfg.Renew(refused.request)
		err = c.once(ctx, call)
	}
	if errors.As(err, &refused) {
		return c.explain(call.Operation, refused.Refusal)
	}
	return err
}

// refusedError is an answer that is no success.
type refusedError struct {
	Refusal
	request *http.Request
}

func (*refusedError) Error() string { return "refused" }

func (c *Client) once(ctx context.Context, call Call) error {
	if err := call.Operation.wait(ctx); err != nil {
		return err
	}
	req, err := c.request(ctx, call)
	if err != nil {
		return err
	}
	var sent atomic.Bool // on a connection: from then on the host may have it
	req = req.WithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { sent.Store(true) }}))
	resp, err := c.http.Do(req)
	if err != nil {
		return c.unanswered(call.Operation, err, sent.Load())
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	switch {
	case err != nil:
		return c.unanswered(call.Operation, fmt.Errorf("its answer broke off: %w", err), true)
	case len(body) > maxBody:
		return c.senseless(call.Operation, fmt.Sprintf("more than %d bytes", maxBody))
	case resp.StatusCode < 200 || resp.StatusCode > 299:
		r := Refusal{Host: c.cfg.Host, Operation: call.Operation, Status: resp.StatusCode, Header: resp.Header, secrets: credentials(req)}
		r.Body = []byte(without(string(body), r.secrets))
		return &refusedError{r, req}
	case !call.understand(resp.StatusCode, body):
		return c.senseless(call.Operation, describe(resp.Header, []byte(without(string(body), credentials(req)))))
	}
	return nil
}

func (c *Client) request(ctx context.Context, call Call) (*http.Request, error) {
	var body io.Reader
	if call.In != nil {
		raw, err := json.Marshal(call.In)
		if err != nil {
			return nil, provider.Failure(provider.Invalid, "%s: what is to be sent has no JSON form", call.Operation.Name)
		}
		body = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, call.Method, c.base+call.Path, body)
	if err != nil {
		return nil, provider.Failure(provider.Invalid, "%s: the request cannot be: %v", call.Operation.Name, err)
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "berth")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.cfg.Authorize != nil {
		if err := c.cfg.Authorize(ctx, req); err != nil {
			return nil, err
		}
	}
	return req, nil
}
