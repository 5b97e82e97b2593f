package rest

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/berth-dev/berth/pkg/auth"
	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/rpc"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	tokenv1 "github.com/berth-dev/berth/sdk/go/gen/berth/token/v1"

	"github.com/berth-dev/berth/services/gateway/internal/door"
)

// maxMessage is that of the services behind.
const maxMessage = 8 << 20

// newProxy returns a gRPC server that passes the methods of game servers on as bytes, and answers every other one with METHOD_UNKNOWN.
func newProxy(log *slog.Logger, d *door.Door, servers, tokens grpc.ClientConnInterface) *grpc.Server {
	allowed := map[string]grpc.ClientConnInterface{tokenv1.TokenService_GetJsonWebKeySet_FullMethodName: tokens}
	for _, m := range gameserverv1.GameServerService_ServiceDesc.Methods {
		allowed[fmt.Sprintf("/%s/%s", gameserverv1.GameServerService_ServiceDesc.ServiceName, m.MethodName)] = servers
	}
	allowed[gameserverv1.GameServerRegistryService_JoinPool_FullMethodName] = servers
	return grpc.NewServer(
		grpc.ForceServerCodecV2(rawCodec{}),
		grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage),
		grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
			host, remote, authorization := caller(stream.Context())
			if err := d.Call(host, remote, authorization); err != nil {
				return rpc.Status(err).Err()
			}
			method, _ := grpc.MethodFromServerStream(stream)
			conn, ok := allowed[method]
			if !ok {
				return rpc.Status(errs.New(errs.MethodUnknown, "there is no method %s on this port", method)).Err()
			}
			err := pass(log, stream, conn, method)
			d.Refused(remote, errs.ReasonOf(rpc.FromStatus(err)))
			return err
		}),
	)
}

// pass passes one unary call on.
func pass(log *slog.Logger, stream grpc.ServerStream, conn grpc.ClientConnInterface, method string) error {
	var request, response raw
	if err := stream.RecvMsg(&request); err != nil {
		return rpc.Status(errs.Wrap(err, errs.Malformed, "the request did not arrive whole")).Err()
	}
	defer request.free()
	defer response.free()
	if err := conn.Invoke(outgoing(stream.Context()), method, &request, &response, grpc.ForceCodecV2(rawCodec{})); err != nil {
		return visible(stream.Context(), log, method, err).Err()
	}
	return stream.SendMsg(&response)
}

// caller returns what the door wants to know of a call.
func caller(ctx context.Context) (host, remote string, authorization []string) {
	md, _ := metadata.FromIncomingContext(ctx)
	if p, ok := peer.FromContext(ctx); ok {
		remote = p.Addr.String()
	}
	return strings.Join(md.Get(":authority"), ""), remote, md.Get(auth.MetadataAuthorization)
}

// outgoing makes the caller's metadata that of the call to the service; forwarder decides what of it passes.
func outgoing(ctx context.Context) context.Context {
	md, _ := metadata.FromIncomingContext(ctx)
	delete(md, rpc.MetadataForwardedFor) // the caller's own word
	if p, ok := peer.FromContext(ctx); ok {
		if host, _, err := net.SplitHostPort(p.Addr.String()); err == nil {
			md.Set(rpc.MetadataForwardedFor, host)
		}
	}
	return metadata.NewOutgoingContext(ctx, md)
}

// raw is a message that is passed on unread.
type raw struct{ data mem.BufferSlice }

func (r *raw) free() { r.data.Free() }

// rawCodec is the proto codec for raw messages.
type rawCodec struct{}

var _ encoding.CodecV2 = rawCodec{}

// Marshal implements encoding.CodecV2.
func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	r, ok := v.(*raw)
	if !ok {
		return nil, fmt.Errorf("%T is no raw message", v)
	}
	r.data.Ref()
	return r.data, nil
}

// Unmarshal implements encoding.CodecV2.
func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	r, ok := v.(*raw)
	if !ok {
		return fmt.Errorf("%T is no raw message", v)
	}
	data.Ref()
	r.data = data
	return nil
}

// Name implements encoding.CodecV2.
func (rawCodec) Name() string { return "proto" }
