package kube

import (
	"errors"
	"net/http"
	"strings"

	grpcstatus "google.golang.org/grpc/status"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/providers/internal/hostapi"
)

// status is what an API server says of a call that failed.
type status struct {
	Kind    string `json:"kind"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
	Details struct {
		Kind string `json:"kind"` // of the object that it is about, in the plural
	} `json:"details"`
}

// Reasons of a status that say more than its code.
const (
	alreadyExists = "AlreadyExists"
	conflict      = "Conflict"
	notFound      = "NotFound"
)

// refusal is a failure with what callers do more about than its reason says.
type refusal struct {
	error
	about about
}

type about int

const (
	aboutName     about = iota + 1 // it is taken
	aboutObject                    // it is another one than was meant
	aboutResource                  // nobody there knows it
)

func (r refusal) Unwrap() error { return r.error }

// GRPCStatus returns the failure as it is.
func (r refusal) GRPCStatus() *grpcstatus.Status { return grpcstatus.Convert(r.error) }

func is(err error, what about) bool {
	var r refusal
	return errors.As(err, &r) && r.about == what
}

// Exists reports whether a call failed because there is an object of that name.
func Exists(err error) bool { return is(err, aboutName) }

// Replaced reports whether a call failed because the object of that name is not the one of the precondition.
func Replaced(err error) bool { return is(err, aboutObject) }

// Unserved reports whether a call failed because nobody there knows the resource: something on the way answered, or an API server without it.
func Unserved(err error) bool { return is(err, aboutResource) }

// explain says what a refusal means where its status alone does not.
func explain(r hostapi.Refusal) error {
	if r.Status == http.StatusServiceUnavailable && r.Operation.Write && handedOn(r.Words()) {
		return r.Failure(provider.Ambiguous, r.Words())
	}
	var s status
	if r.Decode(&s) != nil || s.Kind != "Status" {
		switch r.Status { // of something on the way, which knows nothing of objects
		case http.StatusNotFound:
			return refusal{r.Failure(provider.Unavailable, "no API server answered, or one without this resource; is url right, and is there a proxy? "+r.Words()), aboutResource}
		case http.StatusConflict:
			return r.Failure(provider.Unavailable, "no API server answered; is url right, and is there a proxy? "+r.Words())
		}
		return nil
	}
	switch r.Status {
	case http.StatusForbidden:
		return r.Failure(forbidden(s.Message), s.Message)
	case http.StatusNotFound:
		if s.Reason != notFound {
			return r.Failure(provider.Unavailable, s.Message)
		}
		if s.Details.Kind == "namespaces" { // what is to be made has no place
			return r.Failure(provider.Invalid, s.Message)
		}
	case http.StatusConflict:
		return conflicted(r, s)
	case http.StatusGone: // a page of a list that is too old
		return r.Failure(provider.Unavailable, s.Message)
	case http.StatusInternalServerError:
		switch {
		case strings.Contains(s.Message, "request is too large"):
			return r.Failure(provider.Invalid, s.Message)
		case strings.Contains(s.Message, "failed calling webhook"): // it is asked before anything is stored
			return r.Failure(provider.Unavailable, s.Message)
		}
	}
	return nil
}

// handedOn reports whether a 503 is about a call that an extension server may have carried out. An API server hands some calls on, and answers so whatever its own
// client says of one that got no answer, in plain text: only of a connection that was never made it is certain that nothing was done.
func handedOn(words string) bool {
	return strings.HasPrefix(words, "error trying to reach service: ") && !strings.Contains(words, "dial tcp")
}

// conflicted says what a 409 means.
func conflicted(r hostapi.Refusal, s status) error {
	err := r.Failure(provider.Unavailable, s.Message) // somebody else was faster, such as with a quota's count: nothing was done, and a repeat may be
	switch {
	case s.Reason == alreadyExists:
		return refusal{err, aboutName}
	case s.Reason == conflict && strings.Contains(strings.ToLower(s.Message), "precondition"):
		return refusal{err, aboutObject}
	}
	return err
}

// forbidden says what a 403 means: an API server answers so for a role that lacks something, for a quota, and for whatever an admission rule does not allow.
func forbidden(message string) providerv1.FailureReason {
	switch {
	case strings.Contains(message, "exceeded quota"):
		return provider.Quota
	case strings.Contains(message, "cannot ") && strings.Contains(message, "resource "): // User "…" cannot create resource "pods" …
		return provider.Unauthenticated
	case strings.Contains(message, "status unknown for quota"): // a new one, which its controller has not counted yet
		return provider.Unavailable
	default:
		return provider.Invalid
	}
}
