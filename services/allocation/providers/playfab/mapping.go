package playfab

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/providers/internal/hostapi"
)

// maxRetryAfter is the longest time that the host is left alone because it said so.
const maxRetryAfter = time.Hour

// refusal is the body of an answer that is no success.
type refusal struct {
	Error             string          `json:"error"`
	ErrorMessage      string          `json:"errorMessage"`
	ErrorDetails      json.RawMessage `json:"errorDetails"` // "object": mistakes by member, mostly
	RetryAfterSeconds float64         `json:"retryAfterSeconds"`
}

// reasons are those of errors, by their names, that the status does not say alone.
var reasons = map[string]providerv1.FailureReason{
	"MultiplayerServerTitleQuotaCoresExceeded":          provider.Quota,
	"APIClientRequestRateLimitExceeded":                 provider.RateLimited,
	"APIConcurrentRequestLimitExceeded":                 provider.RateLimited,
	"RequestMultiplayerServersThrottledFromRateLimiter": provider.RateLimited,
	"MultiplayerServerTooManyRequests":                  provider.RateLimited,
	"MultiplayerServerNotFound":                         provider.NotFound,
	"MultiplayerServerUnauthorized":                     provider.Unauthenticated,
	"MultiplayerServerForbidden":                        provider.Unauthenticated,
	"NotAuthenticated":                                  provider.Unauthenticated,
	"NotAuthorized":                                     provider.Unauthenticated,
	"EntityTokenMissing":                                provider.Unauthenticated,
	"EntityTokenInvalid":                                provider.Unauthenticated,
	"EntityTokenExpired":                                provider.Unauthenticated,
	"EntityTokenRevoked":                                provider.Unauthenticated,
	"MultiplayerServerUnavailable":                      provider.Unavailable,
	"ServiceUnavailable":                                provider.Unavailable,
}

// sessionThere is the error of a request for a session that there is.
const sessionThere = "MultiplayerServerConflict"

// broken are the errors after which nobody knows what the host did.
var broken = []string{"MultiplayerServerInternalServerError", "MultiplayerServerError", "InternalServerError", "UnkownError", "DownstreamServiceUnavailable"}

// doubtful is the refusal of a request whose session may be there all the same: PlayFab does not document what it answers to a second request for one.
type doubtful struct{ error }

func (d *doubtful) Unwrap() error { return d.error }

// explain says what a refusal means.
func (c *client) explain(r hostapi.Refusal) error {
	var said refusal
	err := r.Decode(&said)
	if err != nil || said.Error == "" { // something on the way, or another API: it knows of no session
		err = elsewhere(r)
	} else {
		err = said.failure(r, c.reason(r, said.Error))
	}
	if r.Operation == c.request && (provider.ReasonOf(err) == provider.Invalid || said.Error == sessionThere) {
		return &doubtful{err}
	}
	return err
}

// reason is that of an error of PlayFab.
func (c *client) reason(r hostapi.Refusal, name string) providerv1.FailureReason {
	reason, ok := reasons[name]
	switch {
	case slices.Contains(broken, name) && r.Operation.Write:
		return provider.Ambiguous
	case slices.Contains(broken, name):
		return provider.Unavailable
	case name == sessionThere && r.Operation == c.request: // of an earlier call, perhaps
		return provider.Ambiguous
	case name == "MultiplayerServerTooManyRequests" && r.Operation == c.request: // no server stands by
		return provider.NoCapacity
	case name == "MultiplayerServerNotFound" && r.Operation == c.request: // the build or the alias
		return provider.Invalid
	case ok:
		return reason
	case r.Status == http.StatusNotFound:
		return provider.Unavailable
	default:
		return r.Reason()
	}
}

// explainToken says what a refusal of an entity token means: of a session it says nothing.
func explainToken(r hostapi.Refusal) error {
	var said refusal
	if r.Decode(&said) != nil || said.Error == "" {
		return elsewhere(r)
	}
	if reason, ok := reasons[said.Error]; ok {
		return said.failure(r, reason)
	}
	if r.Status == http.StatusNotFound {
		return said.failure(r, provider.Invalid)
	}
	return said.failure(r, r.Reason())
}

// elsewhere is the failure of an answer that is not PlayFab's: it says nothing of a session.
func elsewhere(r hostapi.Refusal) error {
	reason := r.Reason()
	if reason == provider.NotFound {
		reason = provider.Unavailable
	}
	return r.Failure(reason, r.Words())
}

func (said refusal) failure(r hostapi.Refusal, reason providerv1.FailureReason) error {
	err := r.Failure(reason, said.words())
	seconds := min(said.RetryAfterSeconds, maxRetryAfter.Seconds()) // before it is a duration, which has no room for every number
	if after := time.Duration(seconds * float64(time.Second)); after > 0 && r.RetryAfter() == 0 {
		err = provider.RetryAfter(err, after)
	}
	return err
}

// words are the error's name, and what the host says of it and of each member.
func (said refusal) words() string {
	words := said.Error
	if said.ErrorMessage != "" {
		words += ": " + said.ErrorMessage
	}
	var details map[string][]string
	if json.Unmarshal(said.ErrorDetails, &details) == nil {
		for _, member := range slices.Sorted(maps.Keys(details)) {
			words += fmt.Sprintf("; %s: %s", member, strings.Join(details[member], " "))
		}
	}
	return words
}

// stateOf is the state of a session's server; false: it is none that PlayFab has.
func stateOf(state string) (providerv1.ServerState, bool) {
	switch state {
	case "Initializing", "StandingBy":
		return providerv1.ServerState_SERVER_STATE_STARTING, true
	case "Active":
		return providerv1.ServerState_SERVER_STATE_RUNNING, true
	case "Terminating":
		return providerv1.ServerState_SERVER_STATE_STOPPING, true
	case "Terminated":
		return providerv1.ServerState_SERVER_STATE_EXITED, true
	default:
		return 0, false
	}
}

// over reports whether a server in that state was told to end, or has.
func over(state providerv1.ServerState) bool {
	return state == providerv1.ServerState_SERVER_STATE_STOPPING || state == providerv1.ServerState_SERVER_STATE_EXITED
}

// is returns an error unless it is the session of that id, which was asked for.
func (s session) is(op *hostapi.Operation, id string) error {
	if !strings.EqualFold(s.SessionID, id) {
		return s.senseless(op)
	}
	return nil
}

func (s session) senseless(op *hostapi.Operation) error {
	return hostapi.Senseless(host, op, fmt.Sprintf("session %q in state %q", hostapi.Clean(s.SessionID), hostapi.Clean(s.State)))
}

// endpointsOf has the machine's name for ports of TCP, since TLS needs one, and its address for those of UDP.
func endpointsOf(s session) []*typev1.Endpoint {
	ports := make([]hostapi.Port, 0, len(s.Ports))
	for _, p := range s.Ports {
		at := s.IPV4Address
		if strings.EqualFold(p.Protocol, "TCP") && s.FQDN != "" || at == "" {
			at = s.FQDN
		}
		ports = append(ports, hostapi.Port{Name: p.Name, Host: at, Port: p.Num, Protocol: p.Protocol})
	}
	return hostapi.Endpoints(ports...)
}
