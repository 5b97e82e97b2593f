package gameserver

import (
	"errors"
	"fmt"
	"time"

	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	"google.golang.org/grpc/codes"
)

// ErrClosed is the error of calls that are made, or still unanswered, when the link is over: a Server's for its instance, a Host's for
// all of them. If the link did not end as it should, the error says why, too: an *Error, a *CloseError or an *OrphanedError.
var ErrClosed = errors.New("gameserver: the link is closed")

// ErrNoInstance is the error of Connect with the bootstrap document of a registered server, which names no instance.
var ErrNoInstance = errors.New("the bootstrap document names no instance: it is for a registered server, which uses Open and then Accept or Create")

// Error says that Berth refused a call, or the link itself.
type Error struct {
	// Code is the class of the error.
	Code codes.Code
	// Reason is the error for programs: a berth.type.v1.ErrorReason without its prefix, such as "STATE_NOT_ALLOWED".
	Reason string
	// Message is the error for people: what to change.
	Message string
	// RetryAfter is when a repeat makes sense, as far as Berth knows.
	RetryAfter time.Duration
}

// Error implements error.
func (e *Error) Error() string { return fmt.Sprintf("%s: %s", e.Reason, e.Message) }

// Reasons on which something else than giving up is done.
const (
	reasonStaleLinkEpoch = "STALE_LINK_EPOCH"
	reasonNotConnected   = "NOT_CONNECTED"
	reasonLimitExceeded  = "LIMIT_EXCEEDED"
	reasonMismatch       = "REVISION_MISMATCH"
	reasonSuperseded     = "SUPERSEDED"
	reasonNotAssigned    = "NOT_ASSIGNED"
	reasonRolledBack     = "STATE_ROLLED_BACK"
	reasonTooOld         = "REQUEST_TOO_OLD"
	reasonExpired        = "CREDENTIALS_EXPIRED"
	reasonRevoked        = "CREDENTIALS_REVOKED"
	reasonRateLimited    = "RATE_LIMITED"
	reasonInvalid        = "VALIDATION_FAILED"
	reasonUnknown        = "INSTANCE_UNKNOWN"
)

// errorDomain is the domain of Berth's reasons where there could be others.
const errorDomain = "berth.dev"

// temporary reports whether the same request may succeed later. Repeating it under its number is always safe.
func (e *Error) temporary() bool {
	switch e.Code {
	case codes.Unavailable, codes.Aborted, codes.DeadlineExceeded:
		return e.Reason != reasonMismatch // it is ABORTED for those who can decide again; the request itself would only fail again
	default:
		return e.staleLink() || e.expired() || e.rateLimited()
	}
}

// unknown reports whether Berth does not know the instance.
func (e *Error) unknown() bool { return e.Reason == reasonUnknown }

// expired reports whether the tokens have to be refreshed first.
func (e *Error) expired() bool { return e.Reason == reasonExpired }

// rateLimited reports whether too much came at once, so that nothing was done.
func (e *Error) rateLimited() bool { return e.Reason == reasonRateLimited }

// mishap reports whether something went wrong at Berth that says nothing about the request.
func (e *Error) mishap() bool {
	return e.Code == codes.Internal || e.Code == codes.Unknown || e.Code == codes.ResourceExhausted
}

// staleLink reports whether Berth knows the instance by another link, or none, so that a new connection is due.
func (e *Error) staleLink() bool {
	return e.Reason == reasonStaleLinkEpoch || e.Reason == reasonNotConnected || e.rolledBack()
}

// rolledBack reports whether the store has lost writes of which this server knows.
func (e *Error) rolledBack() bool { return e.Reason == reasonRolledBack }

func errorOf(e *linkv1.Error) *Error {
	return &Error{
		Code:       codes.Code(e.GetCode()), //nolint:gosec // an unknown number stays an unknown number
		Reason:     e.GetReason(),
		Message:    e.GetMessage(),
		RetryAfter: e.GetRetryAfter().AsDuration(),
	}
}

// CloseError says that the gateway closed the link.
type CloseError struct {
	// Code is the close code.
	Code linkv1.CloseCode
	// Message is why, for people.
	Message string

	reconnect bool
}

// Error implements error.
func (e *CloseError) Error() string {
	if e.Message == "" {
		return fmt.Sprintf("the gateway closed the link with %s", e.Code)
	}
	return fmt.Sprintf("the gateway closed the link with %s: %s", e.Code, e.Message)
}

// newCloseError decides whether to connect again. What the gateway says of it counts for codes that this version does not
// know.
func newCloseError(code linkv1.CloseCode, message string, reconnect bool) *CloseError {
	switch code {
	case linkv1.CloseCode_CLOSE_CODE_GOING_AWAY, linkv1.CloseCode_CLOSE_CODE_SLOW_CONSUMER,
		linkv1.CloseCode_CLOSE_CODE_UNAVAILABLE, linkv1.CloseCode_CLOSE_CODE_HELLO_TIMEOUT:
		reconnect = true
	case linkv1.CloseCode_CLOSE_CODE_MALFORMED_FRAME, linkv1.CloseCode_CLOSE_CODE_FRAME_TOO_LARGE,
		linkv1.CloseCode_CLOSE_CODE_PROTOCOL_VIOLATION, linkv1.CloseCode_CLOSE_CODE_UNAUTHENTICATED,
		linkv1.CloseCode_CLOSE_CODE_CREDENTIALS_IN_USE, linkv1.CloseCode_CLOSE_CODE_REPLACED,
		linkv1.CloseCode_CLOSE_CODE_SUPERSEDED, linkv1.CloseCode_CLOSE_CODE_TOO_MANY_REQUESTS,
		linkv1.CloseCode_CLOSE_CODE_REVOKED:
		reconnect = false
	}
	return &CloseError{Code: code, Message: message, reconnect: reconnect}
}

// errUnlinked ends the link because the server gave its instance up.
var errUnlinked = errors.New("the instance was given up")

func supersededError(message string) *Error {
	return &Error{Code: codes.FailedPrecondition, Reason: reasonSuperseded, Message: message}
}

// superseded reports whether Berth has taken the instance from this server.
func superseded(err error) bool {
	var closed *CloseError
	if errors.As(err, &closed) {
		return closed.Code == linkv1.CloseCode_CLOSE_CODE_SUPERSEDED
	}
	return refusedFor(err, reasonSuperseded)
}

// replaced reports whether the session has a newer connection.
func replaced(err error) bool {
	var closed *CloseError
	return errors.As(err, &closed) && closed.Code == linkv1.CloseCode_CLOSE_CODE_REPLACED
}

// refusedFor reports whether Berth refused for this reason.
func refusedFor(err error, reason string) bool {
	var refused *Error
	return errors.As(err, &refused) && refused.Reason == reason
}

// final reports whether, after this failure, there is no point in connecting again.
func final(err error) bool {
	var closed *CloseError
	if errors.As(err, &closed) {
		return !closed.reconnect
	}
	if errors.As(err, new(unjoined)) {
		return false
	}
	var orphaned *OrphanedError
	var refused *Error
	return errors.Is(err, errUnlinked) || errors.As(err, &orphaned) || errors.As(err, &refused) && (!refused.temporary() || refused.expired())
}

// retryAfter returns what the failure says of when to try again.
func retryAfter(err error) time.Duration {
	var refused *Error
	if errors.As(err, &refused) {
		return min(max(refused.RetryAfter, 0), maxRetryAfter)
	}
	return 0
}

// ending is the end of a Host or a Server, which comes once.
type ending struct {
	done chan struct{} // closed when it has come
	err  error         // why; written before done is closed
}

// cause returns why it has come; nil before.
func (e *ending) cause() error {
	select {
	case <-e.done:
		return e.err
	default:
		return nil
	}
}

// closed returns the error of what cannot be done any more because it has come.
func (e *ending) closed() error {
	if e.err != nil {
		return fmt.Errorf("%w: %w", ErrClosed, e.err)
	}
	return ErrClosed
}
