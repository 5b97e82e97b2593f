package rpc

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"

	"github.com/berth-dev/berth/pkg/auth"
	"github.com/berth-dev/berth/pkg/conf"
	"github.com/berth-dev/berth/pkg/tlsx"
	"github.com/berth-dev/berth/pkg/tracing"
)

// defaultTimeout bounds unary calls whose context has no deadline.
const defaultTimeout = 10 * time.Second

// Dial is DialTLS without TLS and without tracing.
func Dial(target string, key conf.Secret) (*grpc.ClientConn, error) {
	return DialTLS(target, key, nil, nil)
}

// DialTLS returns a connection to another service at a gRPC target such as "127.0.0.1:7101" or "dns:///game-instance:7101". With a key it speaks as a
// Berth service; without one it forwards what it is given, and the caller's own credentials decide. It connects in the background and
// comes back by itself. With a source it uses TLS: what then shows that it is a Berth service is the source's certificate, and the key stays here.
// A tracer makes spans of its calls; nil: there are none.
func DialTLS(target string, key conf.Secret, source *tlsx.Source, tracer *tracing.Tracer) (*grpc.ClientConn, error) {
	if target == "" {
		return nil, fmt.Errorf("no address of the service is configured")
	}
	transport := insecure.NewCredentials()
	if source != nil {
		transport = newClientCreds(source, key != "")
		key = ""
	}
	opts := []grpc.DialOption{
		grpc.WithTransportCredentials(transport),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"round_robin":{}}]}`),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: 2 * time.Second,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 15 * time.Second, Timeout: 5 * time.Second, PermitWithoutStream: true}),
		grpc.WithChainUnaryInterceptor(withDeadline, settle, unaryKey(key)),
		grpc.WithChainStreamInterceptor(streamKey(key)),
	}
	if h := tracer.ClientHandler(); h != nil {
		opts = append(opts, grpc.WithStatsHandler(h))
	}
	return grpc.NewClient(target, opts...)
}

func withDeadline(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, defaultTimeout)
		defer cancel()
	}
	return invoke(ctx, method, req, reply, cc, opts...)
}

// settleTime is how long a call waits for a connection that is being made: a service that was just restarted is not away.
const settleTime = 1500 * time.Millisecond

func settle(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	wait, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	for state := cc.GetState(); state != connectivity.Ready && state != connectivity.Shutdown; state = cc.GetState() {
		cc.Connect()
		if !cc.WaitForStateChange(wait, state) {
			break
		}
	}
	return invoke(ctx, method, req, reply, cc, opts...)
}

func withKey(ctx context.Context, key conf.Secret) context.Context {
	if key == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, auth.MetadataInternalKey, key.Reveal())
}

func unaryKey(key conf.Secret) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		return invoke(withKey(ctx, key), method, req, reply, cc, opts...)
	}
}

func streamKey(key conf.Secret) grpc.StreamClientInterceptor {
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, stream grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		return stream(withKey(ctx, key), desc, cc, method, opts...)
	}
}
