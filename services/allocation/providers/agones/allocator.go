package agones

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/providers/internal/hostapi"
)

// serviceHost is what the allocator is called in messages.
const serviceHost = "agones-allocator"

// askTimeout bounds the question whether the allocator refuses our certificate. One that does not says nothing.
const askTimeout = 500 * time.Millisecond

// allocator calls agones-allocator, over one of its two sides. It is safe for concurrent use.
type allocator struct {
	side side
	op   *hostapi.Operation
	url  *url.URL
	tls  *tls.Config
}

// side is a way to speak to agones-allocator.
type side interface {
	// Allocate asks for a GameServer. What it fails with is a failure of the provider contract; NOT_FOUND says that something else answered. in says that the
	// allocator has certainly let us in, whatever came of it then.
	Allocate(ctx context.Context, o order) (made allocationStatus, in bool, err error)
	// MayBeRead reports, when the allocator has refused our certificate, whether it may have let us in when it got the call all the same; of the next call it is certain.
	MayBeRead() bool
	// Close ends the connections.
	Close()
}

func newAllocator(cfg Allocator) (*allocator, error) {
	if err := hostapi.CheckURL(cfg.URL); err != nil {
		return nil, fmt.Errorf("url: %w", err)
	}
	at, err := url.Parse(cfg.URL)
	if err != nil {
		return nil, fmt.Errorf("url: %w", err)
	}
	conf, err := cfg.tls()
	if err != nil {
		return nil, err
	}
	a := &allocator{op: hostapi.Write("allocate a GameServer", 0), url: at, tls: conf}
	switch cfg.Protocol {
	case "", overGRPC:
		a.side, err = newGRPCSide(a.op, at, conf)
	case overREST:
		a.side, err = newRESTSide(a.op, cfg.URL, conf)
	default:
		err = fmt.Errorf("protocol: %q is none of %s, %s", cfg.Protocol, overGRPC, overREST)
	}
	return a, err
}

// Close ends its connections. Call it when nothing calls the allocator any more.
func (a *allocator) Close() { a.side.Close() }

// Allocate asks the allocator.
func (a *allocator) Allocate(ctx context.Context, o order) (allocationStatus, error) {
	made, in, err := a.side.Allocate(ctx, o)
	switch reason := provider.ReasonOf(err); {
	case (reason == provider.Ambiguous || reason == provider.Unavailable) && !in && a.refusesUs(ctx):
		certain := provider.Unauthenticated // and has read no request
		if a.side.MayBeRead() {
			certain = provider.Ambiguous
		}
		return made, provider.Failure(certain, "agones.allocator.cert_file: is its issuer in the Secret allocator-client-ca? %s", hostapi.Clean(status.Convert(err).Message()))
	case reason == provider.NotFound:
		return made, provider.Failure(provider.Unavailable, "no allocator answered; are agones.allocator.url and its protocol right? %s", hostapi.Clean(status.Convert(err).Message()))
	case err == nil && made.GameServerName == "":
		err = hostapi.Senseless(serviceHost, a.op, "no name of a GameServer")
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
	conn, err := (&tls.Dialer{Config: a.tls}).DialContext(ctx, "tcp", addressOf(a.url))
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

// addressOf is the host and the port of a URL.
func addressOf(u *url.URL) string {
	port := u.Port()
	switch {
	case port != "":
	case u.Scheme == "https":
		port = "443"
	default:
		port = "80"
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// refusal is a status of gRPC with which the allocator refuses. Both sides have it.
type refusal struct {
	code  codes.Code
	words string
	after time.Duration // until a repeat; 0: it does not say
}

// noneThere is what the allocator says where no GameServer is Ready: by default with RESOURCE_EXHAUSTED, but the code is a setting of it.
const noneThere = "no available GameServer"

// behind begins what Envoy says of a call that broke behind it. It is in most of what passes gRPC on, and has one code for all that goes wrong there.
const behind = "upstream connect error or disconnect/reset before headers"

// unsent are its words for a call that it cannot have passed on: it had nobody to pass it to, or no connection. After tries of its own it tells the fate of the last
// one only, and in other words.
var unsent = regexp.MustCompile(`^(no healthy upstream$|` + behind + `\. reset reason: ((local |remote )?connection failure|connection timeout|overflow)\b)`)

// brokeBehind reports whether the words are Envoy's for a call that it may have passed on.
func brokeBehind(words string) bool {
	return strings.HasPrefix(words, behind) && !unsent.MatchString(words)
}

// failure is what a refusal means. The allocator itself is never UNAVAILABLE but where it is told to say so of a fleet without a Ready GameServer: what says so is on
// the way to it, and may have passed the call on. With a time to wait it is one that takes no more calls.
func (r refusal) failure(op *hostapi.Operation) error {
	switch {
	case strings.Contains(r.words, noneThere), r.code == codes.ResourceExhausted && r.after == 0:
		return noneReady(serviceHost + ": " + hostapi.Clean(r.words))
	case r.code == codes.Aborted:
		return contention()
	}
	reason := reasonOf(r.code)
	if reason == provider.Unavailable && r.after == 0 && !unsent.MatchString(r.words) {
		reason = provider.Ambiguous
	}
	err := provider.Failure(reason, "%s refuses to %s: %s (%s)", serviceHost, op.Name, hostapi.Clean(r.words), r.code)
	if r.after > 0 {
		err = provider.RetryAfter(err, r.after)
	}
	return err
}

// reasonOf is what a code alone says of an allocation that was sent. The allocator puts statuses of HTTP where gRPC has no codes any more.
func reasonOf(code codes.Code) providerv1.FailureReason {
	switch code {
	case codes.InvalidArgument, codes.AlreadyExists, codes.FailedPrecondition, codes.OutOfRange:
		return provider.Invalid
	case codes.Unauthenticated, codes.PermissionDenied:
		return provider.Unauthenticated
	case codes.ResourceExhausted:
		return provider.RateLimited
	case codes.Unavailable:
		return provider.Unavailable
	case codes.NotFound, codes.Unimplemented: // of something that is no allocator
		return provider.NotFound
	}
	if code >= 400 && code < 500 {
		return provider.Invalid
	}
	return provider.Ambiguous // it broke while at it, or gave up waiting
}
