// Package allocation is the service that gets game servers from hosting providers and gives them back.
package allocation

import (
	"context"
	"errors"
	"net"

	"google.golang.org/grpc"

	"github.com/berth-dev/berth/pkg/app"
	"github.com/berth-dev/berth/pkg/audit"
	"github.com/berth-dev/berth/pkg/auth"
	attemptv1 "github.com/berth-dev/berth/pkg/gen/berth/attempt/v1"
	"github.com/berth-dev/berth/pkg/pagetoken"
	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/pkg/rpc"
	"github.com/berth-dev/berth/pkg/tlsx"
	allocationv1 "github.com/berth-dev/berth/sdk/go/gen/berth/allocation/v1"
	tokenv1 "github.com/berth-dev/berth/sdk/go/gen/berth/token/v1"
	"github.com/berth-dev/berth/services/allocation/internal/allocator"
	"github.com/berth-dev/berth/services/allocation/internal/grpcserver"
	"github.com/berth-dev/berth/services/allocation/internal/host"
	"github.com/berth-dev/berth/services/allocation/internal/peers"
	"github.com/berth-dev/berth/services/allocation/internal/redisstore"
	"github.com/berth-dev/berth/services/allocation/providers"
)

// Name is the service's name in logs.
const Name = "allocation"

// Module returns the service.
func Module(cfg Config) app.Module {
	return app.Module{Name: Name, Build: func(ctx context.Context, b *app.Builder) error { return build(ctx, b, cfg) }}
}

func build(ctx context.Context, b *app.Builder, cfg Config) error {
	if cfg.GRPCListener != nil { // first of all: it is this service's, even if the build fails
		b.OnStop(app.StageLast, "gRPC listener", func(context.Context) error { return closeListener(cfg.GRPCListener) })
	}
	if err := cfg.Validate(); err != nil {
		return err
	}
	cfg.Redis.Log = b.Log()
	ca, err := cfg.gatewayCA()
	if err != nil {
		return err
	}
	redis, err := redisx.Open(ctx, cfg.Redis)
	if err != nil {
		return err
	}
	b.OnStop(app.StageStore, "redis", func(context.Context) error { return redis.Close() })
	b.ReadyWhen("redis", redis.Ready)
	redis.Warn(b.Log())
	store := redisstore.New(redis)

	files, err := cfg.TLS.Open(b.Log())
	if err != nil {
		return err
	}
	cfg.TLS.Warn(b.Log(), cfg.addrs())
	tokens, err := dial(b, "token-issuer", cfg.TokenIssuer, cfg.Auth, files)
	if err != nil {
		return err
	}
	authenticator, err := auth.Open(b, cfg.Auth, cfg.Egress, nil, auth.NewIssuedKeys(tokens))
	if err != nil {
		return err
	}
	instances, err := dial(b, "game-instance", cfg.GameInstance, cfg.Auth, files)
	if err != nil {
		return err
	}
	configured, err := openProviders(ctx, b, cfg.Providers, providers.Deps{Log: b.Log(), GameInstance: instances, Deployment: cfg.Deployment})
	if err != nil {
		return err
	}
	e := &engine{
		store: store, providers: configured, attempts: peers.Instances{Attempts: attemptv1.NewAttemptServiceClient(instances)},
		issuer: peers.Issuer{Tokens: tokenv1.NewTokenServiceClient(tokens), Gateway: cfg.GatewayURL, CA: ca},
	}
	if err := e.start(ctx, b, cfg); err != nil {
		return err
	}

	srv, err := rpc.NewServer(rpc.Config{
		Services: []string{allocationv1.AllocationService_ServiceDesc.ServiceName}, Auth: authenticator, Log: b.Log(), Metrics: b.Metrics(),
		TLS: files, Peers: cfg.TLS.Peers, Audit: audit.Open(b, cfg.Audit, Name, redis), Tracer: b.Tracer(),
	})
	if err != nil {
		return err
	}
	pages, err := pagetoken.New(cfg.Auth.InternalKey, Name)
	if err != nil {
		return err
	}
	allocationv1.RegisterAllocationServiceServer(srv, grpcserver.New(e.allocations, e.hosts, e.orphans, pages))
	ln := cfg.GRPCListener
	if ln == nil {
		if ln, err = b.Listen(ctx, "gRPC", cfg.GRPCAddr); err != nil {
			return err
		}
	}
	srv.Mount(b, "gRPC server", ln)
	b.Log().Info("listening", "addr", ln.Addr().String())
	return nil
}

func dial(b *app.Builder, name, target string, cfg auth.Config, files *tlsx.Source) (*grpc.ClientConn, error) {
	conn, err := rpc.DialTLS(target, cfg.InternalKey, files, b.Tracer())
	if err != nil {
		return nil, err
	}
	b.OnStop(app.StageClients, "connection to "+name, func(context.Context) error { return conn.Close() })
	return conn, nil
}

// openProviders starts the providers. They are closed after the worker, which calls them, has ended.
func openProviders(ctx context.Context, b *app.Builder, list []providers.Config, deps providers.Deps) ([]allocator.Provider, error) {
	metrics, err := host.NewMetrics(b.Metrics())
	if err != nil {
		return nil, err
	}
	var configured []allocator.Provider
	for _, cfg := range list {
		plugin, err := providers.Open(ctx, cfg, deps)
		if err != nil {
			return nil, err
		}
		b.OnStop(app.StageClients, "provider "+cfg.Name, plugin.Close)
		p, err := host.Open(ctx, host.Config{Name: cfg.Name, Deployment: deps.Deployment, Provider: plugin, Metrics: metrics, Tracer: b.Tracer()})
		if err != nil {
			return nil, err
		}
		p.Info.Claims, p.Info.Pool, p.Info.MaxServers, p.Info.MaxCalls, p.Info.Timeout = cfg.Claims(), cfg.Pooled(), cfg.MaxServers, cfg.MaxCalls, cfg.Timeout
		configured = append(configured, p)
	}
	return configured, nil
}

func closeListener(ln net.Listener) error {
	if err := ln.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}
