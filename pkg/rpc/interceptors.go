package rpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"time"

	"buf.build/go/protovalidate"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/berth-dev/berth/pkg/app"
	"github.com/berth-dev/berth/pkg/auth"
	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/ids"
)

type callMetrics struct {
	handled *prometheus.CounterVec
	seconds *prometheus.HistogramVec
}

func newCallMetrics(reg prometheus.Registerer) *callMetrics {
	m := &callMetrics{
		handled: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "berth_rpc_handled_total", Help: "Calls answered, by method and status code."}, []string{"method", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "berth_rpc_seconds", Help: "Time from a call's arrival to its answer, by method.", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14)}, []string{"method"}),
	}
	if reg != nil { // several servers of one program share their metrics
		m.handled = app.Register(reg, m.handled)
		m.seconds = app.Register(reg, m.seconds)
	}
	return m
}

// edge is the outermost interceptor: it keeps panics inside, turns errors into statuses, and logs what callers are not told.
func (s *Server) edge(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (resp any, err error) {
	start := time.Now()
	ctx = withCall(ctx)
	callOf(ctx).req, _ = req.(proto.Message)
	defer func() { err = s.finish(ctx, info.FullMethod, start, recover(), err) }()
	if resp, err = next(ctx, req); err != nil {
		return nil, err
	}
	callOf(ctx).response, _ = resp.(proto.Message)
	return encode(resp)
}

func (s *Server) edgeStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
	start := time.Now()
	ctx := withCall(stream.Context())
	defer func() { err = s.finish(ctx, info.FullMethod, start, recover(), err) }()
	return next(srv, &callStream{stream, ctx})
}

func (s *Server) finish(ctx context.Context, method string, start time.Time, panicked any, err error) error {
	if panicked != nil {
		err = fmt.Errorf("panic: %v\n%s", panicked, debug.Stack())
	}
	s.record(ctx, method, err)
	st := s.conceal(ctx, method, err)
	if _, known := s.access[method]; !known {
		method = "unknown" // whoever invents names must not make metrics of them
	}
	s.calls.handled.WithLabelValues(method, st.Code().String()).Inc()
	s.calls.seconds.WithLabelValues(method).Observe(time.Since(start).Seconds())
	return st.Err()
}

// conceal returns the status for a caller; an internal error is logged here, once, and the caller gets an id to ask for.
func (s *Server) conceal(ctx context.Context, method string, err error) *status.Status {
	var typed *errs.Error
	if st, ok := status.FromError(err); ok && !errors.As(err, &typed) { // nil, or made by RegisterService or the runtime
		return st
	}
	if reason := errs.ReasonOf(err); reason == errs.Internal && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		return Conceal(ctx, s.log, method, err)
	} else if reason == errs.StoreUnavailable {
		s.log.WarnContext(ctx, "store unavailable", "method", method, "error", err)
	}
	return Status(err)
}

// Conceal logs a defect and returns the status with which its caller can ask for it. The edge that found it calls it, once.
func Conceal(ctx context.Context, log *slog.Logger, method string, err error) *status.Status {
	id := uuid.NewString()
	log.ErrorContext(ctx, "call failed", "method", method, "request_id", id, "error", err)
	return Status(errs.New(errs.Internal, "internal error; the logs have it under request id %s", id))
}

// authenticate puts the caller's principal into the context.
func (s *Server) authenticate(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	p, err := s.principal(ctx)
	if err != nil {
		return nil, err
	}
	return next(auth.NewContext(ctx, p), req)
}

// Guard authorises the principal in the context for the method, and validates the request. It is exported for calls that reach a
// service's handlers without gRPC, such as those over a game server's link.
func (s *Server) Guard(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	p, c := auth.FromContext(ctx), callOf(ctx)
	c.principal = &p
	c.req, _ = req.(proto.Message)
	if err := s.access.Authorize(p, info.FullMethod); err != nil {
		return nil, err
	}
	if err := s.check(ctx, req); err != nil {
		return nil, err
	}
	return next(ctx, req)
}

func (s *Server) guardStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	p, err := s.principal(stream.Context())
	if err != nil {
		return err
	}
	callOf(stream.Context()).principal = &p
	if err := s.access.Authorize(p, info.FullMethod); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(auth.NewContext(stream.Context(), p))
	defer cancel()
	defer context.AfterFunc(s.stopping, cancel)()
	err = next(srv, &guardedStream{ServerStream: stream, ctx: ctx, server: s})
	if s.stopping.Err() != nil && errors.Is(err, context.Canceled) {
		return errs.New(errs.ServiceUnavailable, "this replica is stopping; call again").Retry(100 * time.Millisecond)
	}
	return err
}

// guardedStream validates what arrives, and ends with the server.
type guardedStream struct {
	grpc.ServerStream
	ctx    context.Context
	server *Server
}

func (g *guardedStream) Context() context.Context { return g.ctx }

func (g *guardedStream) RecvMsg(m any) error {
	if err := decode(m, g.ServerStream.RecvMsg); err != nil {
		return err
	}
	return g.server.check(g.ctx, m)
}

// SendMsg makes an answer that cannot be encoded the handler's failure.
func (g *guardedStream) SendMsg(m any) error {
	out, err := encode(m)
	if err != nil {
		return err
	}
	return g.ServerStream.SendMsg(out)
}

// check validates a request against the rules of its proto, and the caller's access to the namespace that it names.
func (s *Server) check(ctx context.Context, req any) error {
	if msg, ok := req.(proto.Message); ok {
		if err := s.carriers.check(msg); err != nil {
			return err
		}
		if err := s.validator.Validate(msg); err != nil {
			return invalid(err)
		}
	}
	if r, ok := req.(interface{ GetNamespace() string }); ok {
		return auth.FromContext(ctx).MayUse(ids.Namespace(r.GetNamespace()))
	}
	return nil
}

// invalid names every broken rule with its field.
func invalid(err error) error {
	var v *protovalidate.ValidationError
	if !errors.As(err, &v) {
		return fmt.Errorf("validation rules: %w", err)
	}
	rules := make([]string, 0, len(v.Violations))
	for _, violation := range v.Violations {
		field := protovalidate.FieldPathString(violation.Proto.GetField())
		rules = append(rules, strings.TrimPrefix(field+": "+violation.Proto.GetMessage(), ": "))
	}
	return errs.New(errs.ValidationFailed, "%s", strings.Join(rules, "; "))
}

// unknown answers calls of services and methods that are not there.
func (s *Server) unknown(_ any, stream grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(stream)
	return errs.New(errs.MethodUnknown, "there is no method %s", method)
}

// Call runs a unary method of a registered service's description in this process, with the guard, as principal p. decode fills the
// request message.
func (s *Server) Call(ctx context.Context, p auth.Principal, desc *grpc.ServiceDesc, impl any, method string, decode func(proto.Message) error) (proto.Message, error) {
	for _, m := range desc.Methods {
		if m.MethodName != method {
			continue
		}
		full := "/" + desc.ServiceName + "/" + method
		ctx, span := s.tracer.Start(ctx, full[1:])
		out, err := s.call(auth.NewContext(ctx, p), m, impl, full, decode)
		span.End(string(errs.ReasonOf(err)))
		return out, err
	}
	return nil, errs.New(errs.MethodUnknown, "there is no method %q; the methods are those of %s", method, desc.ServiceName)
}

func (s *Server) call(ctx context.Context, m grpc.MethodDesc, impl any, full string, decode func(proto.Message) error) (resp proto.Message, err error) {
	start := time.Now()
	ctx = withCall(ctx)
	defer func() {
		err = FromStatus(s.finish(ctx, full, start, recover(), err))
	}()
	out, err := m.Handler(impl, ctx, func(msg any) error {
		pm, ok := msg.(proto.Message)
		if !ok {
			return fmt.Errorf("%T is no proto message", msg)
		}
		err := decode(pm)
		var typed *errs.Error
		if errors.As(err, &typed) {
			return typed
		}
		if err != nil {
			return undecodable(err, "payload", pm)
		}
		return nil
	}, s.guardNamed(full))
	if err != nil {
		return nil, err
	}
	pm, _ := out.(proto.Message)
	return pm, nil
}

// guardNamed is Guard with the full method name filled in: generated handlers know it, but only for the server that they were made for.
func (s *Server) guardNamed(full string) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		return s.Guard(ctx, req, &grpc.UnaryServerInfo{FullMethod: full}, next)
	}
}
