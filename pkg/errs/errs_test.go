package errs_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/berth-dev/berth/pkg/errs"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
)

// Every reason of the public enum has a kind, and only "internal" is internal: a reason that was added to the proto and forgotten here fails.
func TestEveryReasonOfTheContractHasAKind(t *testing.T) {
	for n, name := range typev1.ErrorReason_name {
		reason := errs.Reason(strings.TrimPrefix(name, "ERROR_REASON_"))
		if n == 0 || reason == errs.Internal {
			continue
		}
		if reason.Kind() == errs.KindInternal {
			t.Errorf("%s has no kind", reason)
		}
	}
}

func TestKindsAreNumberedAsGRPCCodes(t *testing.T) {
	for kind, code := range map[errs.Kind]codes.Code{
		errs.KindCancelled: codes.Canceled, errs.KindInvalidArgument: codes.InvalidArgument, errs.KindDeadlineExceeded: codes.DeadlineExceeded,
		errs.KindNotFound: codes.NotFound, errs.KindAlreadyExists: codes.AlreadyExists, errs.KindPermissionDenied: codes.PermissionDenied,
		errs.KindResourceExhausted: codes.ResourceExhausted, errs.KindFailedPrecondition: codes.FailedPrecondition, errs.KindAborted: codes.Aborted,
		errs.KindUnimplemented: codes.Unimplemented, errs.KindInternal: codes.Internal, errs.KindUnavailable: codes.Unavailable, errs.KindUnauthenticated: codes.Unauthenticated,
	} {
		if codes.Code(kind) != code {
			t.Errorf("kind %d is not %s", kind, code)
		}
	}
}

func TestReasonsAreFoundThroughWrapping(t *testing.T) {
	err := fmt.Errorf("outer: %w", errs.Wrap(errors.New("cause"), errs.PlayerUnknown, "player %q", "x"))
	if !errs.Is(err, errs.PlayerUnknown) || errs.Is(nil, errs.PlayerUnknown) || errs.ReasonOf(errors.New("x")) != errs.Internal {
		t.Errorf("reason of %v is %s", err, errs.ReasonOf(err))
	}
}
