// Package errs is the one vocabulary of errors. Domain and storage return *Error; the edges turn it into a gRPC status,
// an HTTP body or a link error (package rpc). It knows nothing of any transport.
package errs

import (
	"errors"
	"fmt"
	"time"
)

// Reason is a berth.type.v1.ErrorReason without its prefix. A reason has exactly one Kind.
type Reason string

// The reasons. What each means stands in proto/public/berth/type/v1/error.proto.
const (
	Internal            Reason = "INTERNAL"
	ValidationFailed    Reason = "VALIDATION_FAILED"
	Malformed           Reason = "MALFORMED"
	MethodUnknown       Reason = "METHOD_UNKNOWN"
	NotImplemented      Reason = "NOT_IMPLEMENTED"
	InstanceUnknown     Reason = "INSTANCE_UNKNOWN"
	PlayerUnknown       Reason = "PLAYER_UNKNOWN"
	AllocationUnknown   Reason = "ALLOCATION_UNKNOWN"
	BuildUnknown        Reason = "BUILD_UNKNOWN"
	CredentialsMissing  Reason = "CREDENTIALS_MISSING"
	CredentialsInvalid  Reason = "CREDENTIALS_INVALID"
	CredentialsExpired  Reason = "CREDENTIALS_EXPIRED"
	CredentialsSwapped  Reason = "CREDENTIALS_SWAPPED"
	CredentialsMismatch Reason = "CREDENTIALS_MISMATCHED"
	CredentialsInUse    Reason = "CREDENTIALS_IN_USE"
	RoleRequired        Reason = "ROLE_REQUIRED"
	NamespaceDenied     Reason = "NAMESPACE_DENIED"
	NotAssigned         Reason = "NOT_ASSIGNED"
	StateNotAllowed     Reason = "STATE_NOT_ALLOWED"
	Superseded          Reason = "SUPERSEDED"
	NotConnected        Reason = "NOT_CONNECTED"
	StaleLinkEpoch      Reason = "STALE_LINK_EPOCH"
	RequestIDReused     Reason = "REQUEST_ID_REUSED"
	PlayerExists        Reason = "PLAYER_EXISTS"
	Contended           Reason = "CONTENDED"
	MailboxFull         Reason = "MAILBOX_FULL"
	LimitExceeded       Reason = "LIMIT_EXCEEDED"
	StoreUnavailable    Reason = "STORE_UNAVAILABLE"
	ServiceUnavailable  Reason = "SERVICE_UNAVAILABLE"
	DeadlineExceeded    Reason = "DEADLINE_EXCEEDED"
	Cancelled           Reason = "CANCELLED"
	ProviderUnknown     Reason = "PROVIDER_UNKNOWN"
	PathUnknown         Reason = "PATH_UNKNOWN"
	StateRolledBack     Reason = "STATE_ROLLED_BACK"
	RevisionMismatch    Reason = "REVISION_MISMATCH"
	WatchTooSlow        Reason = "WATCH_TOO_SLOW"
	InstanceDeleted     Reason = "INSTANCE_DELETED"
	RequestTooOld       Reason = "REQUEST_TOO_OLD"
	GameServerUnknown   Reason = "GAME_SERVER_UNKNOWN"
	GameServerFull      Reason = "GAME_SERVER_FULL"
	CredentialsRevoked  Reason = "CREDENTIALS_REVOKED"
	RateLimited         Reason = "RATE_LIMITED"
	ClaimUsed           Reason = "CLAIM_USED"
	AllocationQueueFull Reason = "ALLOCATION_QUEUE_FULL"
	RegionUnknown       Reason = "REGION_UNKNOWN"
	PlacementImpossible Reason = "PLACEMENT_IMPOSSIBLE"
)

// Kind is the class of an error: the name of a gRPC status code.
type Kind int

// The kinds, with the numbers of the gRPC status codes of the same name.
const (
	KindCancelled          Kind = 1
	KindInvalidArgument    Kind = 3
	KindDeadlineExceeded   Kind = 4
	KindNotFound           Kind = 5
	KindAlreadyExists      Kind = 6
	KindPermissionDenied   Kind = 7
	KindResourceExhausted  Kind = 8
	KindFailedPrecondition Kind = 9
	KindAborted            Kind = 10
	KindUnimplemented      Kind = 12
	KindInternal           Kind = 13
	KindUnavailable        Kind = 14
	KindUnauthenticated    Kind = 16
)

// Kind returns the class of the reason; an unknown reason is internal.
func (r Reason) Kind() Kind {
	switch r {
	case ValidationFailed, Malformed, BuildUnknown, RegionUnknown:
		return KindInvalidArgument
	case MethodUnknown, NotImplemented:
		return KindUnimplemented
	case InstanceUnknown, PlayerUnknown, AllocationUnknown, ProviderUnknown, PathUnknown, InstanceDeleted, GameServerUnknown:
		return KindNotFound
	case CredentialsMissing, CredentialsInvalid, CredentialsExpired, CredentialsSwapped, CredentialsMismatch, CredentialsRevoked:
		return KindUnauthenticated
	case CredentialsInUse, RoleRequired, NamespaceDenied, NotAssigned, ClaimUsed:
		return KindPermissionDenied
	case StateNotAllowed, Superseded, NotConnected, StaleLinkEpoch, StateRolledBack, RequestTooOld, PlacementImpossible:
		return KindFailedPrecondition
	case RequestIDReused, PlayerExists:
		return KindAlreadyExists
	case Contended, RevisionMismatch:
		return KindAborted
	case MailboxFull, LimitExceeded, WatchTooSlow, GameServerFull, RateLimited, AllocationQueueFull:
		return KindResourceExhausted
	case StoreUnavailable, ServiceUnavailable:
		return KindUnavailable
	case DeadlineExceeded:
		return KindDeadlineExceeded
	case Cancelled:
		return KindCancelled
	default:
		return KindInternal
	}
}

// Error is an error that a caller may see.
type Error struct {
	// Reason is what went wrong, for programs.
	Reason Reason
	// Message says to people what to change; it names the field or state and holds no secret.
	Message string
	// RetryAfter is when a repeat makes sense; 0 where it makes none, or where any time will do.
	RetryAfter time.Duration
	// Cause is for logs only and never reaches a caller.
	Cause error
}

// New returns an error with a reason and a message for the caller.
func New(r Reason, format string, args ...any) *Error {
	return &Error{Reason: r, Message: fmt.Sprintf(format, args...)}
}

// Wrap returns an error with a reason and a message for the caller, and a cause for the logs.
func Wrap(cause error, r Reason, format string, args ...any) *Error {
	return &Error{Reason: r, Message: fmt.Sprintf(format, args...), Cause: cause}
}

// Retry returns the error with a time after which a repeat makes sense.
func (e *Error) Retry(after time.Duration) *Error {
	c := *e
	c.RetryAfter = after
	return &c
}

// Error implements error; it includes the cause and is for logs.
func (e *Error) Error() string {
	if e.Cause != nil {
		return fmt.Sprintf("%s: %s: %v", e.Reason, e.Message, e.Cause)
	}
	return fmt.Sprintf("%s: %s", e.Reason, e.Message)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

// ReasonOf returns the reason of err, Internal for an error of no known reason, and "" for nil.
func ReasonOf(err error) Reason {
	if err == nil {
		return ""
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Reason
	}
	return Internal
}

// Is reports whether err has the reason.
func Is(err error, r Reason) bool { return err != nil && ReasonOf(err) == r }
