package allocator

import (
	"context"
	"errors"
	"strconv"
	"time"
)

// Provider is a configured hosting provider.
type Provider struct {
	// Info says what it is.
	Info ProviderInfo
	// Host reaches it.
	Host Host
}

// ProviderInfo is what a configured provider is.
type ProviderInfo struct {
	// Name is the name in this configuration.
	Name string
	// Kind is the kind, such as "process".
	Kind string
	// Regions are the regions that it serves, and Builds what it can run.
	Regions, Builds []string
	// Unanswered: it has not said yet what it is, or nothing that can be used. Then it has no Regions and Builds.
	Unanswered bool
	// PollInterval is how often it may be asked about a server.
	PollInterval time.Duration
	// Claims says that its servers are given a claim code in place of their tokens.
	Claims bool
	// Pool says that its servers are there already, and have credentials of their own: none are minted for them.
	Pool bool
	// MaxBootstrap is the largest bootstrap that it can carry, in bytes; 0: no limit known.
	MaxBootstrap int64
	// Timeout bounds a call to it; 0: DefaultTimeout.
	Timeout time.Duration
	// MaxServers is how many servers it may have for allocations at once; 0: no limit.
	MaxServers int
	// MaxCalls is how many allocations may turn to it at once; 0: DefaultMaxCalls. The rest waits in a lane of its own.
	MaxCalls int
}

const (
	// DefaultTimeout is how long a provider may take for an answer.
	DefaultTimeout = 30 * time.Second
	// DefaultMaxCalls is how many allocations may turn to one provider at once.
	DefaultMaxCalls = 128
)

// Now returns what the provider is now, as far as that changes, and what is wrong with it, for people; empty: nothing.
func (p Provider) Now() (info ProviderInfo, problem string) {
	if living, ok := p.Host.(interface {
		Current(info ProviderInfo) (ProviderInfo, string)
	}); ok {
		return living.Current(p.Info)
	}
	return p.Info, ""
}

// Host reaches a provider. Its errors are a *Failure; any other counts as ambiguous.
type Host interface {
	// Allocate asks for one server; asking again for the same attempt returns the same server.
	Allocate(ctx context.Context, o Order) (Server, error)
	// Get returns the server of an attempt.
	Get(ctx context.Context, attempt, externalID string) (Server, error)
	// Release gives the server of an attempt back and reports whether it is gone.
	Release(ctx context.Context, attempt, externalID string) (gone bool, err error)
}

// Order asks a provider for a server.
type Order struct {
	// Attempt names the server for ever.
	Attempt string
	// Namespace and InstanceID are the instance's.
	Namespace, InstanceID string
	// Build and Region are what to run and where.
	Build, Region string
	// Labels are the placement's.
	Labels map[string]string
	// Bootstrap is the document for the server: a secret.
	Bootstrap []byte
	// Traceparent is the trace that the call belongs to; may be empty.
	Traceparent string
}

// ServerState is what a provider says of a server.
type ServerState int

// The states of a server.
const (
	// ServerStarting: not up yet.
	ServerStarting ServerState = iota
	// ServerRunning: up.
	ServerRunning
	// ServerStopping: was asked to stop.
	ServerStopping
	// ServerExited: ended.
	ServerExited
)

// Server is a server at a provider.
type Server struct {
	// ExternalID is the provider's own id.
	ExternalID string
	// PoolServer is the server's id, if it is one of a pool; empty: the one that follows from the attempt.
	PoolServer string
	// State is what it does.
	State ServerState
	// Endpoints are its public addresses, once known.
	Endpoints []Endpoint
	// Region is where it runs.
	Region string
	// Message is for people.
	Message string
	// Failure is set of a server that has exited without having run, where the host says why: it has refused the server after all. Nil otherwise.
	Failure *Failure
}

// FailureKind is why a provider could not do what it was asked.
type FailureKind int

// The kinds of failure. With any but Ambiguous it is certain that nothing was started.
const (
	// Ambiguous: the call may or may not have had its effect.
	Ambiguous FailureKind = iota
	// NoCapacity: no room now.
	NoCapacity
	// Quota: people must act.
	Quota
	// RateLimited: too many calls.
	RateLimited
	// Unavailable: the host is away.
	Unavailable
	// Invalid: cannot work, now or later.
	Invalid
	// Unauthenticated: the host refuses our credentials.
	Unauthenticated
	// NotFound: no such server.
	NotFound
)

// String returns the kind's name in the provider contract.
func (k FailureKind) String() string {
	names := [...]string{"AMBIGUOUS", "NO_CAPACITY", "QUOTA", "RATE_LIMITED", "UNAVAILABLE", "INVALID", "UNAUTHENTICATED", "NOT_FOUND"}
	if k < 0 || int(k) >= len(names) {
		return "FAILURE_" + strconv.Itoa(int(k))
	}
	return names[k]
}

// Failure is an error of a provider.
type Failure struct {
	// Kind is what went wrong, for programs.
	Kind FailureKind
	// Message is for people.
	Message string
	// RetryAfter is when a repeat makes sense; 0: any time.
	RetryAfter time.Duration
}

// Error implements error.
func (f *Failure) Error() string { return f.Message }

// failureOf returns the failure that an error of a provider is.
func failureOf(err error) *Failure {
	var f *Failure
	switch {
	case errors.As(err, &f):
		return f
	case errors.Is(err, context.DeadlineExceeded):
		return &Failure{Kind: Ambiguous, Message: "no answer in time"}
	default:
		return &Failure{Kind: Ambiguous, Message: err.Error()}
	}
}
