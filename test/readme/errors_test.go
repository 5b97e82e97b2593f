package readme_test

import (
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc/codes"

	"github.com/berth-dev/berth/pkg/errs"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
)

// The enum, its comments, pkg/errs and docs/errors.md say the same of every reason.
func TestErrorReasons(t *testing.T) {
	const prefix = "ERROR_REASON_"
	listed := make(map[string][]string)
	for _, row := range rows(page(t, "docs/errors.md")) {
		if len(row) == 5 {
			listed[row[0]] = row
		}
	}
	comments := make(map[string]string) // by reason: the code that its comment begins with
	for _, m := range regexp.MustCompile(`(?m)^  // ([A-Z_]+): .*\n  `+prefix+`([A-Z_]+) =`).FindAllStringSubmatch(page(t, "proto/public/berth/type/v1/error.proto"), -1) {
		comments[m[2]] = m[1]
	}
	for n, name := range typev1.ErrorReason_name {
		reason := strings.TrimPrefix(name, prefix)
		if n == 0 {
			continue // never sent
		}
		code := codes.Code(errs.Reason(reason).Kind())
		if code == codes.Internal && reason != "INTERNAL" {
			t.Errorf("pkg/errs does not know the reason %s", reason)
		}
		if got := comments[reason]; got != constant(code) {
			t.Errorf("error.proto: the comment of %s says %q and pkg/errs %s", name, got, constant(code))
		}
		row, ok := listed[reason]
		delete(listed, reason)
		if !ok {
			t.Errorf("docs/errors.md: %s is missing", reason)
			continue
		}
		if row[1] != code.String() {
			t.Errorf("docs/errors.md: %s has code %s and not %s", reason, row[1], code)
		}
		if status := strconv.Itoa(runtime.HTTPStatusFromCode(code)); !strings.HasPrefix(row[2], status) {
			t.Errorf("docs/errors.md: %s has HTTP status %s and not %s (%s)", reason, row[2], status, http.StatusText(runtime.HTTPStatusFromCode(code)))
		}
	}
	for reason := range listed {
		t.Errorf("docs/errors.md: there is no reason %s", reason)
	}
}

// constant returns a code's name in gRPC's own list: INVALID_ARGUMENT for InvalidArgument.
func constant(c codes.Code) string {
	if c == codes.Canceled {
		return "CANCELLED"
	}
	return strings.ToUpper(regexp.MustCompile(`([a-z])([A-Z])`).ReplaceAllString(c.String(), "${1}_$2"))
}
