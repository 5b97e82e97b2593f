package agones

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"google.golang.org/grpc/status"

	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/providers/internal/hostapi"
)

// serviceHost is what the allocator is called in messages.
const serviceHost = "agones-allocator"

// Codes of gRPC in the allocator's refusals. Above the last one of gRPC it passes on statuses of HTTP.
const (
	codeInvalid   = 3
	codeExhausted = 8
	codeAborted   = 10
	codeLast      = 16
)

// askTimeout bounds the question whether the allocator refuses our certificate. One that does not says nothing.
const askTimeout = 500 * time.Millisecond

// allocator calls the REST side of agones-allocator.
type allocator struct {
	api      *hostapi.Client
	allocate *hostapi.Operation
	url      *url.URL
	tls      *tls.Config
}

func newAllocator(cfg Allocator) (*allocator, error) {
	if err := hostapi.CheckURL(cfg.URL); err != nil {
		return nil, fmt.Errorf("url: %w", err)
	}
	conf, err := cfg.tls()
	if err != nil {
		return nil, err
	}
	at, err := url.Parse(cfg.URL)
	if err != nil {
		return nil, fmt.Errorf("url: %w", err)
	}
	api, err := hostapi.New(hostapi.Config{Host: serviceHost, URL: cfg.URL, TLS: conf, Explain: explain})
	return &allocator{api: api, allocate: hostapi.Write("allocate a GameServer", 0), url: at, tls: conf}, err
}

// request is an AllocationRequest in JSON.
type request struct {
	Namespace string     `json:"namespace"`
	Selectors []selector `json:"gameServerSelectors"`
	Metadata  patch      `json:"metadata"`
}

// Allocate asks the allocator.
func (a *allocator) Allocate(ctx context.Context, o order) (allocationStatus, error) {
	var made allocationStatus
	err := a.api.Do(ctx, hostapi.Call{
		Operation: a.allocate, Method: http.MethodPost, Path: "/gameserverallocation", Out: &made,
		In: request{Namespace: o.namespace, Selectors: []selector{o.selector}, Metadata: o.patch},
	})
	switch reason := provider.ReasonOf(err); {
	case (reason == provider.Ambiguous || reason == provider.Unavailable) && a.refusesUs(ctx): // and has read no request
		return made, provider.Failure(provider.Unauthenticated, "agones.allocator.cert_file: is its issuer in the Secret allocator-client-ca? %s", hostapi.Clean(status.Convert(err).Message()))
	case reason == provider.NotFound:
		return made, provider.Failure(provider.Unavailable, "no allocator answered; is agones.allocator.url right? %s", hostapi.Clean(status.Convert(err).Message()))
	case err == nil && made.GameServerName == "":
		err = hostapi.Senseless(serviceHost, a.allocate, "no gameServerName")
	}
	return made, err
}

// refusesUs reports whether the allocator refuses our certificate. It says so after its side of the handshake, and who is sending a request by then may see
// a broken connection only; so a connection of its own sends nothing, and listens.
func (a *allocator) refusesUs(ctx context.Context) bool {
	if a.url.Scheme != "https" {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	port := a.url.Port()
	if port == "" {
		port = "443"
	}
	conn, err := (&tls.Dialer{Config: a.tls}).DialContext(ctx, "tcp", net.JoinHostPort(a.url.Hostname(), port))
	if err == nil {
		defer conn.Close()
		at, _ := ctx.Deadline()
		if err = conn.SetReadDeadline(at); err == nil {
			_, err = conn.Read(make([]byte, 1))
		}
	}
	var said *net.OpError
	return errors.As(err, &said) && said.Op == "remote error" // a TLS alert
}

// explain says what a refusal means where its status alone does not.
func explain(r hostapi.Refusal) error {
	var said struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	}
	_ = r.Decode(&said) // what is no JSON has no code
	switch {
	case said.Code == codeExhausted:
		return noneReady(serviceHost + ": " + hostapi.Clean(said.Message))
	case said.Code == codeAborted:
		return contention()
	case r.Status == http.StatusInternalServerError && (said.Code == codeInvalid || said.Code > codeLast):
		return r.Failure(provider.Invalid, said.Message)
	}
	return nil
}
