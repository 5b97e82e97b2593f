package rpc

import (
	"context"
	"errors"
	"io"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/berth-dev/berth/pkg/errs"
)

// Domain is the domain of every google.rpc.ErrorInfo that Berth sends.
const Domain = "berth.dev"

// Public returns what a caller may see of an error: an *errs.Error as it is, a fixed text for every other one.
func Public(err error) *errs.Error {
	var e *errs.Error
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(err, context.DeadlineExceeded):
		return errs.New(errs.DeadlineExceeded, "the deadline passed; repeating with the same request id is safe")
	case errors.Is(err, context.Canceled):
		return errs.New(errs.Cancelled, "the caller went away")
	default:
		return errs.New(errs.Internal, "internal error")
	}
}

// Status turns an error into the status that a caller may see, without its cause.
func Status(err error) *status.Status {
	if err == nil {
		return nil
	}
	e := Public(err)
	st := status.New(codes.Code(e.Reason.Kind()), e.Message)
	details := []protoadaptMessage{&errdetails.ErrorInfo{Domain: Domain, Reason: string(e.Reason)}}
	if e.RetryAfter > 0 {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(e.RetryAfter)})
	}
	if withDetails, err := st.WithDetails(details...); err == nil {
		return withDetails
	}
	return st
}

// FromStatus turns the error of a call to another service into an *errs.Error, with the reason that the other service gave.
func FromStatus(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	st, ok := status.FromError(err)
	if !ok {
		if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
			return err
		}
		return errs.Wrap(err, errs.Internal, "internal error")
	}
	e := &errs.Error{Reason: reasonOf(st.Code()), Message: st.Message(), Cause: err}
	known := false
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			if d.GetDomain() == Domain {
				e.Reason, e.Cause, known = errs.Reason(d.GetReason()), nil, true
			}
		case *errdetails.RetryInfo:
			e.RetryAfter = d.GetRetryDelay().AsDuration()
		}
	}
	if !known && e.Reason == errs.ServiceUnavailable {
		// The transport's own words name addresses that are nobody's business.
		e.Message, e.RetryAfter = "a Berth service cannot be reached; repeating with the same request id is safe", time.Second
	}
	return e
}

func reasonOf(c codes.Code) errs.Reason {
	switch c {
	case codes.Unavailable:
		return errs.ServiceUnavailable
	case codes.DeadlineExceeded:
		return errs.DeadlineExceeded
	case codes.Canceled:
		return errs.Cancelled
	case codes.Unimplemented:
		return errs.MethodUnknown
	default:
		return errs.Internal
	}
}
