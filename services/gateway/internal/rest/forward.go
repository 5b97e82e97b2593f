package rest

import (
	"context"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/berth-dev/berth/pkg/auth"
	"github.com/berth-dev/berth/pkg/rpc"
	"github.com/berth-dev/berth/pkg/tracing"
)

// traceparent is the key under which W3C Trace Context names a caller's trace.
const traceparent = "traceparent"

// callTimeout bounds a forwarded unary call, whatever its caller asks for.
const callTimeout = 30 * time.Second

// forwarded are the only metadata keys that pass from outside to a service. Above all auth.MetadataInternalKey does not. The address for
// which a call is passed on is never the caller's own word: over REST guard lets none through, over gRPC outgoing replaces it.
func forwarded() [4]string {
	return [...]string{auth.MetadataAuthorization, auth.MetadataSocialToken, traceparent, rpc.MetadataForwardedFor}
}

// forwarder is a connection to a service over which calls from outside go, with their own credentials. Streams end when the gateway stops.
type forwarder struct {
	conn     grpc.ClientConnInterface
	stopping context.Context
}

// Invoke implements grpc.ClientConnInterface.
func (f forwarder) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	ctx, cancel := context.WithTimeout(tracing.WithParent(filter(ctx), traceOf(ctx)), callTimeout)
	defer cancel()
	return f.conn.Invoke(ctx, method, args, reply, opts...)
}

// NewStream implements grpc.ClientConnInterface.
func (f forwarder) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	ctx, cancel := context.WithCancel(tracing.WithParent(filter(ctx), traceOf(ctx)))
	stop := context.AfterFunc(f.stopping, cancel) //nolint:contextcheck // the gateway's end, beside that of the request
	context.AfterFunc(ctx, func() { stop() })     // ctx ends with the request
	stream, err := f.conn.NewStream(ctx, desc, method, opts...)
	if err != nil {
		return nil, err
	}
	return refusable{stream}, nil
}

// refusable is a stream whose Header fails when the stream was refused, so that a refusal is answered like that of any other call and not as a line of a
// stream.
type refusable struct{ grpc.ClientStream }

// Header implements grpc.ClientStream.
func (r refusable) Header() (metadata.MD, error) {
	md, err := r.ClientStream.Header()
	if md == nil && err == nil { // the stream ended before it began; why, only a read tells
		return nil, r.RecvMsg(new(emptypb.Empty))
	}
	return md, err
}

// traceOf returns the trace that the caller has named.
func traceOf(ctx context.Context) string {
	md, _ := metadata.FromOutgoingContext(ctx)
	return strings.Join(md.Get(traceparent), "")
}

// filter leaves only what may pass in the outgoing metadata.
func filter(ctx context.Context) context.Context {
	from, _ := metadata.FromOutgoingContext(ctx)
	to := metadata.MD{}
	for _, key := range forwarded() {
		if values := from.Get(key); len(values) > 0 {
			to[key] = values
		}
	}
	return metadata.NewOutgoingContext(ctx, to)
}
