package gamelift

import (
	"errors"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/gamelift/types"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	"google.golang.org/grpc/status"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/providers/internal/hostapi"
)

// Codes of errors that are looked at more closely.
const (
	codeConflict        = "ConflictException"
	codeInvalidRequest  = "InvalidRequestException"
	codeOtherParameters = "IdempotentParameterMismatchException"
	codeFleetStatus     = "InvalidFleetStatusException"
	codeSessionStatus   = "InvalidGameSessionStatusException"
	codeTerminalAlias   = "TerminalRoutingStrategyException"
)

// reasons are what codes mean; of others the status of HTTP says it.
var reasons = map[string]providerv1.FailureReason{
	"FleetCapacityExceededException": provider.NoCapacity,
	"OutOfCapacityException":         provider.NoCapacity,

	"LimitExceededException": provider.Quota, // a quota of the account: the SDK takes it for a throttle

	"Throttling": provider.RateLimited, "ThrottlingException": provider.RateLimited, "ThrottledException": provider.RateLimited,
	"RequestThrottled": provider.RateLimited, "RequestThrottledException": provider.RateLimited, "RequestLimitExceeded": provider.RateLimited,
	"TooManyRequestsException": provider.RateLimited, "SlowDown": provider.RateLimited,

	"UnauthorizedException": provider.Unauthenticated, "AccessDenied": provider.Unauthenticated, "AccessDeniedException": provider.Unauthenticated,
	"UnrecognizedClientException": provider.Unauthenticated, "InvalidClientTokenId": provider.Unauthenticated,
	"InvalidSignatureException": provider.Unauthenticated, "SignatureDoesNotMatch": provider.Unauthenticated,
	"IncompleteSignature": provider.Unauthenticated, "IncompleteSignatureException": provider.Unauthenticated,
	"MissingAuthenticationToken": provider.Unauthenticated, "MissingAuthenticationTokenException": provider.Unauthenticated,
	"ExpiredToken": provider.Unauthenticated, "ExpiredTokenException": provider.Unauthenticated, "RequestExpired": provider.Unauthenticated,
	"NotAuthorized": provider.Unauthenticated, "OptInRequired": provider.Unauthenticated,

	"ServiceUnavailable": provider.Unavailable, "ServiceUnavailableException": provider.Unavailable,
	"NotReadyException": provider.Unavailable, // a compute is being checked
	codeFleetStatus:     provider.Unavailable, // the fleet is not ACTIVE, and may become so

	"NotFoundException": provider.NotFound,
	codeConflict:        provider.Ambiguous, // another call is at it
}

// refusal is a failure with GameLift's own code for it.
type refusal struct {
	error
	code string
}

// Unwrap returns the failure.
func (r refusal) Unwrap() error { return r.error }

// GRPCStatus returns the failure as it is.
func (r refusal) GRPCStatus() *status.Status { return status.Convert(r.error) }

// codeOf is GameLift's code of a failure; "" if it has none.
func codeOf(err error) string {
	var r refusal
	if errors.As(err, &r) {
		return r.code
	}
	return ""
}

// explain makes a failure of what the SDK returned. sent says that GameLift may have got the call.
func explain(op *hostapi.Operation, err error, sent bool) error {
	said := hostapi.Refusal{Host: host, Operation: op, Header: make(http.Header)}
	var resp *smithyhttp.ResponseError
	if errors.As(err, &resp) && resp.Response != nil && resp.Response.Response != nil {
		said.Status, said.Header = resp.HTTPStatusCode(), resp.Response.Header.Clone()
	}
	if ms, bad := strconv.ParseFloat(said.Header.Get("X-Amz-Retry-After"), 64); bad == nil {
		said.Header.Set("Retry-After", strconv.FormatFloat(ms/1000, 'f', 3, 64))
	}
	var apiErr smithy.APIError
	switch {
	case said.Status == 0, errors.As(err, new(brokenAnswer)):
		return hostapi.Unanswered(host, op, err, sent)
	case said.Status >= 200 && said.Status <= 299:
		return hostapi.Senseless(host, op, "no answer of the API to that call; is gamelift.url right, and is there a proxy? "+hostapi.Clean(err.Error()))
	case !errors.As(err, &apiErr):
		return refused(op, said, "", foreign(said), "no error of the API; is gamelift.url right, and is there a proxy?")
	}
	code := apiErr.ErrorCode()[strings.LastIndex(apiErr.ErrorCode(), "#")+1:] // one that the model does not have for this call comes with its namespace
	return refused(op, said, code, reasonOf(said, code), code+": "+apiErr.ErrorMessage())
}

// foreign is what a refusal is that has no error of the API. It is of something on the way, which knows nothing of what GameLift did; of itself it may say that it
// wants credentials or fewer calls.
func foreign(said hostapi.Refusal) providerv1.FailureReason {
	switch said.Status {
	case http.StatusProxyAuthRequired, http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return said.Reason()
	}
	if said.Operation.Write {
		return provider.Ambiguous
	}
	return provider.Unavailable
}

func reasonOf(said hostapi.Refusal, code string) providerv1.FailureReason {
	reason, ok := reasons[code]
	if !ok {
		return said.Reason()
	}
	return reason
}

// noCredentials is the failure of a call for which there are no credentials: those that could not be fetched just now may come yet.
func noCredentials(op *hostapi.Operation, err error) error {
	reason, words := provider.Unauthenticated, err.Error()
	var answered interface{ HTTPStatusCode() int }
	var said smithy.APIError
	var unsent *smithyhttp.RequestSendError
	var network net.Error
	switch {
	case errors.As(err, &answered):
		status := answered.HTTPStatusCode()
		words += " (HTTP " + strconv.Itoa(status) + ")"
		if status >= 500 || status == http.StatusTooManyRequests || errors.As(err, &said) && reasons[said.ErrorCode()] == provider.RateLimited {
			reason = provider.Unavailable
		}
	case errors.As(err, &unsent), errors.As(err, &network):
		reason = provider.Unavailable
	}
	return provider.Failure(reason, "GameLift: %s: there are no credentials (gamelift.credentials_file, or as the AWS SDKs find them): %s", op.Name, hostapi.Clean(words))
}

// named takes what is not found for what the configuration names: the queue, the fleet or the alias.
func named(err error) error {
	if provider.ReasonOf(err) != provider.NotFound {
		return err
	}
	return refusal{provider.Failure(provider.Invalid, "%s", words(err)), codeOf(err)}
}

func refused(op *hostapi.Operation, said hostapi.Refusal, code string, reason providerv1.FailureReason, words string) error {
	err := said.Failure(reason, words)
	op.Heed(err)
	return refusal{err, code}
}

// checkedPlacement makes sure that an answer is about the placement that was asked for.
func checkedPlacement(op *hostapi.Operation, p *types.GameSessionPlacement, id string) (*types.GameSessionPlacement, error) {
	switch {
	case p == nil:
		return nil, hostapi.Senseless(host, op, "no placement in it")
	case aws.ToString(p.PlacementId) != id || !slices.Contains(p.Status.Values(), p.Status):
		return nil, hostapi.Senseless(host, op, "placement "+strconv.Quote(hostapi.Clean(aws.ToString(p.PlacementId)))+" with status "+strconv.Quote(hostapi.Clean(string(p.Status))))
	case p.Status == types.GameSessionPlacementStateFulfilled && aws.ToString(p.GameSessionArn) == "":
		return nil, hostapi.Senseless(host, op, "a placement that is fulfilled, without its game session")
	}
	return p, nil
}

// checkedSession makes sure that an answer is about the session with that ARN, or with none about any.
func checkedSession(op *hostapi.Operation, s *types.GameSession, arn string) (*types.GameSession, error) {
	switch {
	case s == nil:
		return nil, hostapi.Senseless(host, op, "no game session in it")
	case aws.ToString(s.GameSessionId) == "" || arn != "" && *s.GameSessionId != arn || !slices.Contains(s.Status.Values(), s.Status):
		return nil, hostapi.Senseless(host, op, "game session "+strconv.Quote(hostapi.Clean(aws.ToString(s.GameSessionId)))+" with status "+strconv.Quote(hostapi.Clean(string(s.Status))))
	}
	return s, nil
}

// States of the contract, by shorter names.
const (
	stateStarting = providerv1.ServerState_SERVER_STATE_STARTING
	stateRunning  = providerv1.ServerState_SERVER_STATE_RUNNING
	stateStopping = providerv1.ServerState_SERVER_STATE_STOPPING
	stateExited   = providerv1.ServerState_SERVER_STATE_EXITED
)

// placementState is the state of a placement's server, and why it never ran.
func placementState(s types.GameSessionPlacementState) (state providerv1.ServerState, failure providerv1.FailureReason, message string) {
	switch s {
	case types.GameSessionPlacementStateFulfilled:
		return stateRunning, 0, ""
	case types.GameSessionPlacementStateTimedOut:
		return stateExited, provider.NoCapacity, "GameLift found no room within the queue's time-out (placement TIMED_OUT)"
	case types.GameSessionPlacementStateCancelled:
		return stateExited, provider.Unavailable, "the placement was cancelled"
	case types.GameSessionPlacementStateFailed:
		return stateExited, provider.Unavailable, "GameLift could not complete the placement (FAILED): the server may have ended too early"
	default:
		return stateStarting, 0, ""
	}
}

// sessionState is the state of a session's server, and why it never ran.
func sessionState(s *types.GameSession) (state providerv1.ServerState, failure providerv1.FailureReason, message string) {
	switch s.Status {
	case types.GameSessionStatusActive:
		return stateRunning, 0, ""
	case types.GameSessionStatusTerminating:
		return stateStopping, 0, ""
	case types.GameSessionStatusTerminated:
		return stateExited, 0, strings.TrimSpace("the game session ended " + string(s.StatusReason))
	case types.GameSessionStatusError:
		return stateExited, provider.Unavailable, "the game session has failed (ERROR): the server did not activate it"
	default:
		return stateStarting, 0, ""
	}
}

// endpointsOf is where players go. The certificate of a fleet with TLS is for its DNS name, so that comes before the address there.
func endpointsOf(dns, ip *string, port *int32) []*typev1.Endpoint {
	at := aws.ToString(ip)
	if name := aws.ToString(dns); at == "" || strings.Contains(name, tlsDomain) {
		at = name
	}
	return hostapi.Endpoints(hostapi.Port{Host: at, Port: int(aws.ToInt32(port))})
}

// tlsDomain is in the DNS names of fleets with TLS, and only in those.
const tlsDomain = ".amazongamelift."

// Game properties by which a server is found again.
const (
	keyDeployment = "berth-deployment"
	keyAttempt    = "berth-attempt"
)

func mark(deployment, attempt string) []types.GameProperty {
	return []types.GameProperty{{Key: aws.String(keyDeployment), Value: &deployment}, {Key: aws.String(keyAttempt), Value: &attempt}}
}

// marked returns the attempt of a session that carries the deployment's mark; "" if it has not.
func marked(deployment string, s types.GameSession) (attempt string) {
	ours := false
	for _, p := range s.GameProperties {
		switch aws.ToString(p.Key) {
		case keyDeployment:
			ours = aws.ToString(p.Value) == deployment
		case keyAttempt:
			attempt = aws.ToString(p.Value)
		}
	}
	if !ours {
		return ""
	}
	return attempt
}
