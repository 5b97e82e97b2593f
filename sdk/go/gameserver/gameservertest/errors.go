package gameservertest

import (
	"fmt"
	"net/http"

	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	"google.golang.org/grpc/codes"
)

// The reasons that the fake answers with, beside those that a test chooses.
const (
	reasonMalformed        = "MALFORMED"
	reasonValidation       = "VALIDATION_FAILED"
	reasonStateNotAllowed  = "STATE_NOT_ALLOWED"
	reasonPlayerUnknown    = "PLAYER_UNKNOWN"
	reasonPlayerExists     = "PLAYER_EXISTS"
	reasonLimitExceeded    = "LIMIT_EXCEEDED"
	reasonMailboxFull      = "MAILBOX_FULL"
	reasonRevisionMismatch = "REVISION_MISMATCH"
	reasonStaleLinkEpoch   = "STALE_LINK_EPOCH"
	reasonSuperseded       = "SUPERSEDED"
	reasonInstanceUnknown  = "INSTANCE_UNKNOWN"
	reasonNotAssigned      = "NOT_ASSIGNED"
	reasonMethodUnknown    = "METHOD_UNKNOWN"
	reasonNotImplemented   = "NOT_IMPLEMENTED"
	reasonRequestIDReused  = "REQUEST_ID_REUSED"
	reasonGameServer       = "GAME_SERVER_UNKNOWN"
	reasonFull             = "GAME_SERVER_FULL"
	reasonRolledBack       = "STATE_ROLLED_BACK"
	reasonUnavailable      = "SERVICE_UNAVAILABLE"

	reasonMissing    = "CREDENTIALS_MISSING"
	reasonInvalid    = "CREDENTIALS_INVALID"
	reasonExpired    = "CREDENTIALS_EXPIRED"
	reasonSwapped    = "CREDENTIALS_SWAPPED"
	reasonMismatched = "CREDENTIALS_MISMATCHED"
	reasonRevoked    = "CREDENTIALS_REVOKED"
)

// codeOf returns the code that Berth gives with a reason.
func codeOf(reason string) codes.Code {
	switch reason {
	case reasonValidation, reasonMalformed:
		return codes.InvalidArgument
	case reasonMethodUnknown, reasonNotImplemented:
		return codes.Unimplemented
	case reasonInstanceUnknown, reasonPlayerUnknown, reasonGameServer, "INSTANCE_DELETED":
		return codes.NotFound
	case reasonMissing, reasonInvalid, reasonExpired, reasonSwapped, reasonMismatched, reasonRevoked:
		return codes.Unauthenticated
	case reasonNotAssigned, "CREDENTIALS_IN_USE", "ROLE_REQUIRED":
		return codes.PermissionDenied
	case reasonStateNotAllowed, reasonSuperseded, reasonStaleLinkEpoch, "NOT_CONNECTED", reasonRolledBack, "REQUEST_TOO_OLD":
		return codes.FailedPrecondition
	case reasonRequestIDReused, reasonPlayerExists:
		return codes.AlreadyExists
	case reasonRevisionMismatch, "CONTENDED":
		return codes.Aborted
	case reasonMailboxFull, reasonLimitExceeded, "RATE_LIMITED", reasonFull:
		return codes.ResourceExhausted
	case reasonUnavailable, "STORE_UNAVAILABLE":
		return codes.Unavailable
	case "DEADLINE_EXCEEDED":
		return codes.DeadlineExceeded
	default:
		return codes.Internal
	}
}

func refusal(reason, format string, args ...any) *linkv1.Error {
	return &linkv1.Error{Code: int32(codeOf(reason)), Reason: reason, Message: sprintf(format, args...)} //nolint:gosec // a code is small
}

// statusOf returns the HTTP status that an upgrade is refused with.
func statusOf(reason string) int {
	switch codeOf(reason) {
	case codes.Unauthenticated:
		return http.StatusUnauthorized
	case codes.PermissionDenied:
		return http.StatusForbidden
	case codes.ResourceExhausted:
		return http.StatusTooManyRequests
	case codes.InvalidArgument:
		return http.StatusBadRequest
	default:
		return http.StatusServiceUnavailable
	}
}

// reconnects reports whether a server that is sent away with a code connects again, as docs/link-protocol.md says.
func reconnects(code linkv1.CloseCode) bool {
	switch code {
	case linkv1.CloseCode_CLOSE_CODE_GOING_AWAY, linkv1.CloseCode_CLOSE_CODE_SLOW_CONSUMER, linkv1.CloseCode_CLOSE_CODE_UNAVAILABLE, linkv1.CloseCode_CLOSE_CODE_HELLO_TIMEOUT:
		return true
	default:
		return false
	}
}

func sprintf(format string, args ...any) string { return fmt.Sprintf(format, args...) }
