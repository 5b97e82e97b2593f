package provider_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
)

// Every reason of the contract has its documented code and survives the wire.
func TestFailureCarriesItsReason(t *testing.T) {
	want := map[providerv1.FailureReason]codes.Code{
		provider.NoCapacity:      codes.ResourceExhausted,
		provider.Quota:           codes.ResourceExhausted,
		provider.RateLimited:     codes.ResourceExhausted,
		provider.Unavailable:     codes.Unavailable,
		provider.Invalid:         codes.InvalidArgument,
		provider.Unauthenticated: codes.Unauthenticated,
		provider.Ambiguous:       codes.Unknown,
		provider.NotFound:        codes.NotFound,
	}
	for n := range providerv1.FailureReason_name {
		reason := providerv1.FailureReason(n)
		if n == 0 {
			continue
		}
		wire := status.FromProto(status.Convert(provider.Failure(reason, "build %q", "x")).Proto()).Err()
		if got := provider.ReasonOf(wire); got != reason {
			t.Errorf("%v: reason after the wire is %v", reason, got)
		}
		if got := status.Code(wire); got != want[reason] {
			t.Errorf("%v: code is %v, want %v", reason, got, want[reason])
		}
		if got := status.Convert(wire).Message(); got != `build "x"` {
			t.Errorf("%v: message is %q", reason, got)
		}
	}
}

func TestReasonOfAnErrorWithoutReasonIsAmbiguous(t *testing.T) {
	foreign, _ := status.New(codes.ResourceExhausted, "x").WithDetails(&errdetails.ErrorInfo{Domain: "example.com", Reason: "NO_CAPACITY"})
	unknown, _ := status.New(codes.ResourceExhausted, "x").WithDetails(&errdetails.ErrorInfo{Domain: provider.Domain, Reason: "UNHEARD_OF"})
	for _, err := range []error{
		errors.New("boom"), context.DeadlineExceeded, status.Error(codes.Unavailable, "connection reset"), foreign.Err(), unknown.Err(),
	} {
		if got := provider.ReasonOf(err); got != provider.Ambiguous {
			t.Errorf("%v: reason is %v", err, got)
		}
	}
	if got := provider.ReasonOf(nil); got != providerv1.FailureReason_FAILURE_REASON_UNSPECIFIED {
		t.Errorf("nil: reason is %v", got)
	}
	if got := provider.ReasonOf(fmt.Errorf("while asking: %w", provider.Failure(provider.Quota, "x"))); got != provider.Quota {
		t.Errorf("wrapped: reason is %v", got)
	}
}

func TestRetryAfter(t *testing.T) {
	err := provider.RetryAfter(provider.Failure(provider.RateLimited, "slow down"), 3*time.Second)
	if provider.ReasonOf(err) != provider.RateLimited || provider.RetryAfterOf(err) != 3*time.Second || status.Convert(err).Message() != "slow down" {
		t.Errorf("got %v, %v, %v", provider.ReasonOf(err), provider.RetryAfterOf(err), err)
	}
	if got := provider.RetryAfterOf(provider.Failure(provider.NoCapacity, "full")); got != 0 {
		t.Errorf("a failure that says nothing about a repeat says %v", got)
	}
	if provider.RetryAfter(nil, time.Second) != nil {
		t.Error("no failure became one")
	}
}
