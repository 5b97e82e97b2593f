package provider

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
)

const (
	// maxRequest is above any request: the largest bootstrap document has 96 KiB.
	maxRequest = 1 << 20
	// maxCalls is how many calls one connection may have under way; more wait at the caller.
	maxCalls = 1024
	// stopTime is how long calls may go on once the server is to stop, and cutTime how long they may take to notice that they were cut off.
	stopTime = 10 * time.Second
	cutTime  = time.Second
)

// ServeConfig says how a provider is served.
type ServeConfig struct {
	// Address is where it listens: "unix:///run/berth/plugin.sock", or host:port; port 0 is any free one. A socket is made for this user alone. An
	// address that others on the network reach needs TLS.
	Address string
	// TLS is the certificate of the provider, and who may call it. Needed off this machine.
	TLS TLS
	// Log is where panics and failed starts are written; nil: slog.Default(). Neither requests nor bootstrap documents are logged.
	Log *slog.Logger
	// Ready is called once with the address when calls are taken; may be nil.
	Ready func(net.Addr)
}

// Serve serves p as berth.provider.v1.ProviderService, with grpc.health.v1 beside it, until ctx ends; then it takes no more calls, waits up to ten
// seconds for those that are under way, cuts off the rest, and returns nil. It settles the version of the contract for p. A panic in p is logged and answered with
// AMBIGUOUS, as is an error that names no reason.
func Serve(ctx context.Context, cfg ServeConfig, p Provider) error {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	options := []grpc.ServerOption{
		grpc.MaxRecvMsgSize(maxRequest), grpc.MaxConcurrentStreams(maxCalls), grpc.UnaryInterceptor(guard(cfg.Log)),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	}
	if cfg.TLS != (TLS{}) {
		config, err := cfg.TLS.server()
		if err != nil {
			return fmt.Errorf("provider: %w", err)
		}
		options = append(options, grpc.Creds(credentials.NewTLS(config)))
	}
	ln, remove, err := listen(ctx, cfg)
	if err != nil {
		return fmt.Errorf("provider: %w", err)
	}
	srv, alive := grpc.NewServer(options...), health.NewServer()
	providerv1.RegisterProviderServiceServer(srv, server{p: p})
	healthv1.RegisterHealthServer(srv, alive)
	alive.SetServingStatus(providerv1.ProviderService_ServiceDesc.ServiceName, healthv1.HealthCheckResponse_SERVING)
	if cfg.Ready != nil {
		cfg.Ready(ln.Addr())
	}
	served := make(chan error, 1) // Serve ends once
	go func() { served <- srv.Serve(ln) }()
	select {
	case err = <-served:
	case <-ctx.Done():
		alive.Shutdown()
		err = stop(srv, stopTime)
		if failed := <-served; !errors.Is(failed, grpc.ErrServerStopped) { // which is a stop that was quicker than the start
			err = errors.Join(err, failed)
		}
	}
	return errors.Join(err, remove())
}

// stop ends the server, calls under way first. A graceful stop alone waits for ever for a call that does not heed its context.
func stop(srv *grpc.Server, limit time.Duration) error {
	gone := make(chan struct{})
	go func() { defer close(gone); srv.GracefulStop() }()
	select {
	case <-gone:
		return nil
	case <-time.After(limit):
	}
	srv.Stop()
	select {
	case <-gone:
		return nil
	case <-time.After(cutTime):
		return errors.New("provider: a call goes on although its context has ended; a provider has to return then")
	}
}

// guard makes failures of what p returns, and of its panics.
func guard(log *slog.Logger) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (resp any, err error) {
		defer func() {
			if r := recover(); r != nil {
				log.ErrorContext(ctx, "the provider panicked", "method", info.FullMethod, "panic", fmt.Sprint(r), "stack", string(debug.Stack()))
				resp, err = nil, Failure(Ambiguous, "the provider panicked in %s; its log says where", info.FullMethod)
			}
		}()
		resp, err = handle(ctx, req)
		if _, typed := status.FromError(err); err != nil && !typed {
			err = Failure(Ambiguous, "%v", err)
		}
		return resp, err
	}
}

// server is p as gRPC knows it.
type server struct {
	providerv1.UnimplementedProviderServiceServer
	p Provider
}

// Describe implements providerv1.ProviderServiceServer.
func (s server) Describe(ctx context.Context, req *providerv1.DescribeRequest) (*providerv1.DescribeResponse, error) {
	contract, err := Negotiate(req)
	if err != nil {
		return nil, err
	}
	resp, err := s.p.Describe(ctx, req)
	if err == nil && resp.GetContract() == 0 && resp != nil {
		resp.Contract = contract
	}
	return answer(resp, err)
}

// Allocate implements providerv1.ProviderServiceServer.
func (s server) Allocate(ctx context.Context, req *providerv1.AllocateRequest) (*providerv1.AllocateResponse, error) {
	return answer(s.p.Allocate(ctx, req))
}

// Get implements providerv1.ProviderServiceServer.
func (s server) Get(ctx context.Context, req *providerv1.GetRequest) (*providerv1.GetResponse, error) {
	return answer(s.p.Get(ctx, req))
}

// List implements providerv1.ProviderServiceServer.
func (s server) List(ctx context.Context, req *providerv1.ListRequest) (*providerv1.ListResponse, error) {
	return answer(s.p.List(ctx, req))
}

// Release implements providerv1.ProviderServiceServer.
func (s server) Release(ctx context.Context, req *providerv1.ReleaseRequest) (*providerv1.ReleaseResponse, error) {
	return answer(s.p.Release(ctx, req))
}

// answer keeps a provider that returns nothing at all from looking like one that returns an empty message.
func answer[M any](resp *M, err error) (*M, error) {
	if err == nil && resp == nil {
		return nil, status.Error(codes.Internal, "the provider returned neither an answer nor an error")
	}
	return resp, err
}
