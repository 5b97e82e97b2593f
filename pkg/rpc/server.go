// Package rpc is how Berth's services speak gRPC: one server with the one chain of interceptors, one way to dial, one mapping of errors.
package rpc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/protoadapt"

	"buf.build/go/protovalidate"

	"github.com/berth-dev/berth/pkg/app"
	"github.com/berth-dev/berth/pkg/audit"
	"github.com/berth-dev/berth/pkg/auth"
	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/tlsx"
	"github.com/berth-dev/berth/pkg/tracing"
)

type protoadaptMessage = protoadapt.MessageV1

// maxMessage is the largest message, which leaves room around 1 MiB of a game's data.
const maxMessage = 8 << 20

const maxConnectionAge = 10 * time.Minute

// Authenticator turns a call's metadata into a principal.
type Authenticator = *auth.Authenticator

// Config configures a Server.
type Config struct {
	// Services are the full proto names of the services that will be registered; their access options make the default-deny table.
	Services []string
	// Auth knows the callers.
	Auth Authenticator
	// Log is where failures are logged, once each.
	Log *slog.Logger
	// Metrics is where calls are counted.
	Metrics prometheus.Registerer
	// TLS, where set, makes the server speak TLS. Callers may show a certificate; one with a name of Peers has the role INTERNAL, and the internal
	// key has none.
	TLS *tlsx.Source
	// Peers are the names of the services that may call as such; see tlsx.ServerConfig.
	Peers []string
	// Audit gets refusals, and the acts of backends and people; nil: nothing is recorded.
	Audit *audit.Recorder
	// Tracer makes spans of calls; nil: there are none.
	Tracer *tracing.Tracer
	// MaxConnectionAge is after how long a caller is asked, over TLS, to connect anew: a certificate that has ended, or whose authority is no longer
	// believed, does not live on with its connection. Calls and streams that are under way stay. 0 means 10 minutes.
	MaxConnectionAge time.Duration
}

// Server is a gRPC server whose calls are logged, counted, authenticated, authorised and validated, and whose errors are typed. Register
// services on it as on a *grpc.Server.
type Server struct {
	grpc      *grpc.Server
	access    auth.Table
	auth      Authenticator
	validator protovalidate.Validator
	carriers  carriers
	tls       bool
	peers     []string
	audit     *audit.Recorder
	acts      map[string]bool
	log       *slog.Logger
	tracer    *tracing.Tracer
	calls     *callMetrics

	stopping context.Context // cancelled when streams should end
	stop     context.CancelFunc
}

// NewServer returns a Server.
func NewServer(cfg Config) (*Server, error) {
	access, err := auth.NewTable(cfg.Services...)
	if err != nil {
		return nil, err
	}
	validator, err := protovalidate.New()
	if err != nil {
		return nil, fmt.Errorf("validation rules: %w", err)
	}
	carriers, err := newCarriers(cfg.Services)
	if err != nil {
		return nil, err
	}
	s := &Server{
		access: access, auth: cfg.Auth, validator: validator, carriers: carriers, log: cfg.Log, calls: newCallMetrics(cfg.Metrics),
		tracer: cfg.Tracer, tls: cfg.TLS != nil, peers: cfg.Peers, audit: cfg.Audit, acts: acts(access),
	}
	s.stopping, s.stop = context.WithCancel(context.Background())
	connections := keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}
	transport := insecure.NewCredentials()
	if cfg.TLS != nil {
		transport = serverCreds{credentials.NewTLS(cfg.TLS.ServerConfig()), s.handshakeRefused}
		connections.MaxConnectionAge = cmp.Or(cfg.MaxConnectionAge, maxConnectionAge)
	}
	s.grpc = grpc.NewServer(append(traced(cfg.Tracer),
		grpc.Creds(transport),
		grpc.ChainUnaryInterceptor(s.edge, s.authenticate, s.Guard),
		grpc.ChainStreamInterceptor(s.edgeStream, s.guardStream),
		grpc.UnknownServiceHandler(s.unknown),
		grpc.ForceServerCodecV2(newCodec()),
		grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(connections),
	)...)
	return s, nil
}

func traced(t *tracing.Tracer) []grpc.ServerOption {
	if h := t.ServerHandler(); h != nil {
		return []grpc.ServerOption{grpc.StatsHandler(h)}
	}
	return nil
}

// RegisterService registers a service, as generated code wants it. A request that cannot be decoded answers MALFORMED.
func (s *Server) RegisterService(desc *grpc.ServiceDesc, impl any) {
	d := *desc
	d.Methods = make([]grpc.MethodDesc, len(desc.Methods))
	for i, m := range desc.Methods {
		handler := m.Handler
		m.Handler = func(srv any, ctx context.Context, dec func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
			return handler(srv, ctx, func(msg any) error {
				// The interceptors have not run yet, so this error needs its status here.
				err := decode(msg, dec)
				var typed *errs.Error
				if errors.As(err, &typed) {
					return Status(typed).Err()
				}
				return err
			}, interceptor)
		}
		d.Methods[i] = m
	}
	s.grpc.RegisterService(&d, impl)
}

// Mount makes the server run and stop with the program: streams end first, then calls get time to finish.
func (s *Server) Mount(b *app.Builder, name string, ln net.Listener) {
	b.OnStop(app.StageDrain, name+" streams", func(context.Context) error { s.stop(); return nil })
	b.Run(name, func(ctx context.Context) error {
		served := make(chan error, 1)
		go func() { served <- s.Serve(ln) }()
		select {
		case err := <-served:
			if ctx.Err() == nil && s.stopping.Err() == nil {
				return err
			}
			return nil
		case <-ctx.Done():
			s.grpc.Stop()
			if err := <-served; !errors.Is(err, grpc.ErrServerStopped) { // it was stopped before it had begun
				return err
			}
			return nil
		}
	})
	b.OnStop(app.StageGRPC, name, s.Shutdown)
}

// Serve serves until Shutdown. Mount does it within a program.
func (s *Server) Serve(ln net.Listener) error { return s.grpc.Serve(ln) }

// Shutdown ends streams, lets calls finish until ctx ends, and then cuts what is left.
func (s *Server) Shutdown(ctx context.Context) error {
	s.stop()
	var done sync.WaitGroup
	done.Go(s.grpc.GracefulStop)
	stopped := make(chan struct{})
	go func() { done.Wait(); close(stopped) }()
	select {
	case <-stopped:
	case <-time.After(untilDeadline(ctx)):
		s.grpc.Stop()
		<-stopped
	}
	return nil
}

// untilDeadline leaves a little of the deadline for the hard stop.
func untilDeadline(ctx context.Context) time.Duration {
	if d, ok := ctx.Deadline(); ok {
		return time.Until(d) * 3 / 4
	}
	return time.Minute
}
