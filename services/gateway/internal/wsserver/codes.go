package wsserver

import (
	"strings"

	"github.com/berth-dev/berth/pkg/errs"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"

	"github.com/berth-dev/berth/services/gateway/internal/session"
)

// reconnect reports whether a server that is sent away with the code should connect again.
func reconnect(code linkv1.CloseCode) bool {
	switch code {
	case linkv1.CloseCode_CLOSE_CODE_GOING_AWAY,
		linkv1.CloseCode_CLOSE_CODE_SLOW_CONSUMER,
		linkv1.CloseCode_CLOSE_CODE_UNAVAILABLE,
		linkv1.CloseCode_CLOSE_CODE_HELLO_TIMEOUT:
		return true
	default:
		return false
	}
}

// refusal is the close code for a session that could not be opened.
func refusal(err error) linkv1.CloseCode {
	switch errs.ReasonOf(err) {
	case errs.CredentialsInUse:
		return linkv1.CloseCode_CLOSE_CODE_CREDENTIALS_IN_USE
	case errs.Superseded, errs.NotAssigned:
		return linkv1.CloseCode_CLOSE_CODE_SUPERSEDED
	case errs.CredentialsMissing, errs.CredentialsInvalid, errs.CredentialsExpired, errs.CredentialsSwapped, errs.CredentialsMismatch:
		return linkv1.CloseCode_CLOSE_CODE_UNAUTHENTICATED
	case errs.ValidationFailed, errs.Malformed:
		return linkv1.CloseCode_CLOSE_CODE_PROTOCOL_VIOLATION
	default:
		return linkv1.CloseCode_CLOSE_CODE_UNAVAILABLE
	}
}

// breachCode is the close code for a breach of the protocol.
func breachCode(b *session.Breach) linkv1.CloseCode {
	if b.Rule == session.InFlight {
		return linkv1.CloseCode_CLOSE_CODE_TOO_MANY_REQUESTS
	}
	return linkv1.CloseCode_CLOSE_CODE_PROTOCOL_VIOLATION
}

// codeName is the code's name in metrics, logs and as the reason of the WebSocket close frame.
func codeName(code linkv1.CloseCode) string {
	if code == linkv1.CloseCode_CLOSE_CODE_UNSPECIFIED {
		return "LOST"
	}
	return strings.TrimPrefix(code.String(), "CLOSE_CODE_")
}
