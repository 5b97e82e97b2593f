package rest

import (
	"context"
	"log/slog"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/rpc"
)

// visible returns the status that a caller may see for an error of a forwarded call or of grpc-gateway itself. Services give every error a reason and
// have logged their defects; an answer that cannot be read or put into JSON is a defect that is found here.
func visible(ctx context.Context, log *slog.Logger, method string, err error) *status.Status {
	st := status.Convert(err)
	if st.Code() == codes.InvalidArgument && !typed(st) { // grpc-gateway's own
		return rpc.Status(errs.New(errs.Malformed, "%s", plainText(st.Message())))
	}
	public := rpc.FromStatus(st.Err())
	if errs.Is(public, errs.Internal) && !typed(st) {
		return rpc.Conceal(ctx, log, method, err)
	}
	return rpc.Status(public)
}

func typed(st *status.Status) bool {
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetDomain() == rpc.Domain {
			return true
		}
	}
	return false
}

// writeError answers with an error as a google.rpc.Status in JSON, the one form of errors over REST.
func writeError(w http.ResponseWriter, httpStatus int, st *status.Status) {
	noteRefusal(w, st)
	answer := st.Proto()
	answer.Message = strings.ToValidUTF8(answer.GetMessage(), "\uFFFD") // it may quote the request, and JSON cannot have anything else
	body, err := protojson.Marshal(answer)
	if err != nil {
		httpStatus, body = http.StatusInternalServerError, []byte(`{"code":13,"message":"internal error"}`)
	}
	h := w.Header()
	h.Del("Trailer")
	h.Del("Transfer-Encoding")
	h.Set("Content-Type", "application/json")
	for _, d := range st.Details() {
		if retry, ok := d.(*errdetails.RetryInfo); ok {
			h.Set("Retry-After", retryAfter(retry.GetRetryDelay().AsDuration()))
		}
	}
	if httpStatus == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", "Bearer")
	}
	w.WriteHeader(httpStatus)
	_, _ = w.Write(body) //nolint:gosec // JSON, and said to be; whoever does not read it has gone
}

// retryAfter is a time as the header of that name has it: whole seconds, of which none is too short.
func retryAfter(d time.Duration) string { return strconv.Itoa(max(1, int(math.Ceil(d.Seconds())))) }

// fail answers with an error that the gateway itself found.
func fail(w http.ResponseWriter, err error) {
	st := rpc.Status(err)
	writeError(w, runtime.HTTPStatusFromCode(st.Code()), st)
}

func onError(log *slog.Logger) runtime.ErrorHandlerFunc {
	return func(ctx context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, _ *http.Request, err error) {
		method, _ := runtime.RPCMethod(ctx)
		st := visible(ctx, log, method, err)
		writeError(w, runtime.HTTPStatusFromCode(st.Code()), st)
	}
}

func onRoutingError(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, httpStatus int) {
	switch httpStatus {
	case http.StatusMethodNotAllowed:
		wrongMethod(w, r)
	case http.StatusBadRequest:
		fail(w, errs.New(errs.Malformed, "the path is not well-formed"))
	default:
		unknownPath(w, r)
	}
}

func wrongMethod(w http.ResponseWriter, r *http.Request) {
	writeError(w, http.StatusMethodNotAllowed, rpc.Status(errs.New(errs.MethodUnknown, "%s is not allowed on this path", r.Method)))
}

func unknownPath(w http.ResponseWriter, r *http.Request) {
	fail(w, errs.New(errs.PathUnknown, "there is nothing at %s; /openapi.json on the API port lists the paths", r.URL.Path))
}

// onStreamError is for errors in the middle of a stream, which become its last line.
func onStreamError(log *slog.Logger, stopping context.Context) runtime.StreamErrorHandlerFunc {
	return func(ctx context.Context, err error) *status.Status {
		if stopping.Err() != nil && status.Code(err) == codes.Canceled {
			return rpc.Status(errs.New(errs.ServiceUnavailable, "this gateway is stopping; call again").Retry(100 * time.Millisecond))
		}
		method, _ := runtime.RPCMethod(ctx)
		return visible(ctx, log, method, err)
	}
}
