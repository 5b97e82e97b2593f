package provider

import (
	"fmt"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
)

// Domain is the domain of the ErrorInfo in every failure.
const Domain = "berth.dev"

const reasonPrefix = "FAILURE_REASON_"

// The reasons, by their short names. The proto comments of providerv1.FailureReason say what each promises: whoever sends one other
// than Ambiguous says for certain whether something was started.
const (
	NoCapacity      = providerv1.FailureReason_FAILURE_REASON_NO_CAPACITY
	Quota           = providerv1.FailureReason_FAILURE_REASON_QUOTA
	RateLimited     = providerv1.FailureReason_FAILURE_REASON_RATE_LIMITED
	Unavailable     = providerv1.FailureReason_FAILURE_REASON_UNAVAILABLE
	Invalid         = providerv1.FailureReason_FAILURE_REASON_INVALID
	Unauthenticated = providerv1.FailureReason_FAILURE_REASON_UNAUTHENTICATED
	Ambiguous       = providerv1.FailureReason_FAILURE_REASON_AMBIGUOUS
	NotFound        = providerv1.FailureReason_FAILURE_REASON_NOT_FOUND
)

// Failure returns a typed failure: a gRPC status whose ErrorInfo names the reason. The message is for people who run games: it says
// what to change and holds no secret.
func Failure(reason providerv1.FailureReason, format string, args ...any) error {
	return failure(reason, 0, fmt.Sprintf(format, args...))
}

// RetryAfter returns err, a [Failure], with the time after which a repeat makes sense.
func RetryAfter(err error, after time.Duration) error {
	if err == nil {
		return nil
	}
	return failure(ReasonOf(err), after, status.Convert(err).Message())
}

func failure(reason providerv1.FailureReason, retryAfter time.Duration, message string) error {
	st := status.New(code(reason), message)
	details := []protoadapt.MessageV1{&errdetails.ErrorInfo{Domain: Domain, Reason: strings.TrimPrefix(reason.String(), reasonPrefix)}}
	if retryAfter > 0 {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(retryAfter)})
	}
	if detailed, err := st.WithDetails(details...); err == nil {
		st = detailed
	}
	return st.Err()
}

func code(reason providerv1.FailureReason) codes.Code {
	switch reason {
	case NoCapacity, Quota, RateLimited:
		return codes.ResourceExhausted
	case Unavailable:
		return codes.Unavailable
	case Invalid:
		return codes.InvalidArgument
	case Unauthenticated:
		return codes.Unauthenticated
	case NotFound:
		return codes.NotFound
	default:
		return codes.Unknown
	}
}

// ReasonOf returns the reason of a failure, and FAILURE_REASON_UNSPECIFIED for nil. An error that names no reason is ambiguous: a
// deadline that passed or a connection that broke says nothing about what the host did.
func ReasonOf(err error) providerv1.FailureReason {
	if err == nil {
		return providerv1.FailureReason_FAILURE_REASON_UNSPECIFIED
	}
	st, ok := status.FromError(err)
	if !ok {
		return Ambiguous
	}
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetDomain() == Domain {
			if n := providerv1.FailureReason_value[reasonPrefix+info.GetReason()]; n != 0 {
				return providerv1.FailureReason(n)
			}
		}
	}
	return Ambiguous
}

// RetryAfterOf returns the time after which a failure says that a repeat makes sense; 0 if it says nothing.
func RetryAfterOf(err error) time.Duration {
	st, ok := status.FromError(err)
	if !ok {
		return 0
	}
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.RetryInfo); ok {
			return max(0, info.GetRetryDelay().AsDuration())
		}
	}
	return 0
}
