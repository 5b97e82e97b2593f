package gameinstance

import (
	"context"
	"fmt"
	"net"

	"github.com/google/uuid"
	"google.golang.org/grpc"

	attemptv1 "github.com/berth-dev/berth/pkg/gen/berth/attempt/v1"
	poolv1 "github.com/berth-dev/berth/pkg/gen/berth/pool/v1"
	sessionv1 "github.com/berth-dev/berth/pkg/gen/berth/session/v1"

	"github.com/berth-dev/berth/pkg/app"
	"github.com/berth-dev/berth/pkg/audit"
	"github.com/berth-dev/berth/pkg/auth"
	"github.com/berth-dev/berth/pkg/conf"
	"github.com/berth-dev/berth/pkg/pagetoken"
	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/pkg/revocations"
	"github.com/berth-dev/berth/pkg/rpc"
	"github.com/berth-dev/berth/pkg/tlsx"
	auditv1 "github.com/berth-dev/berth/sdk/go/gen/berth/audit/v1"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	"github.com/berth-dev/berth/services/gameinstance/internal/courier"
	"github.com/berth-dev/berth/services/gameinstance/internal/grpcserver"
	"github.com/berth-dev/berth/services/gameinstance/internal/instance"
	"github.com/berth-dev/berth/services/gameinstance/internal/messages"
	"github.com/berth-dev/berth/services/gameinstance/internal/outbox"
	"github.com/berth-dev/berth/services/gameinstance/internal/peers"
	"github.com/berth-dev/berth/services/gameinstance/internal/redisstore"
	"github.com/berth-dev/berth/services/gameinstance/internal/registry"
	"github.com/berth-dev/berth/services/gameinstance/internal/session"
	"github.com/berth-dev/berth/services/gameinstance/internal/timer"
	"github.com/berth-dev/berth/services/gameinstance/internal/watch"
)

// Module returns the service.
func Module(cfg Config) app.Module {
	return app.Module{Name: "game-instance", Build: func(ctx context.Context, b *app.Builder) error {
		return build(ctx, b, cfg)
	}}
}

func build(ctx context.Context, b *app.Builder, cfg Config) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	log := b.Log()

	cfg.Redis.Log = b.Log()
	store, err := redisx.Open(ctx, cfg.Redis)
	if err != nil {
		return err
	}
	b.OnStop(app.StageStore, "redis", func(context.Context) error { return store.Close() })
	b.ReadyWhen("redis", store.Ready)
	store.Warn(b.Log())

	files, err := cfg.TLS.Open(log)
	if err != nil {
		return err
	}
	cfg.TLS.Warn(log, cfg.addrs())
	issuerConn, err := dial(b, "token-issuer", cfg.TokenIssuer, cfg.Auth.InternalKey, files)
	if err != nil {
		return err
	}
	allocationConn, err := dial(b, "allocation", cfg.Allocation, cfg.Auth.InternalKey, files)
	if err != nil {
		return err
	}

	records := redisstore.New(store)
	news := courier.New(records, log)
	allocation := peers.NewAllocation(allocationConn)
	issuer := peers.NewTokenIssuer(issuerConn)
	servers := registry.New(records, records, news, log)
	instances := instance.NewService(instance.Config{
		Store: records, Courier: news, Placements: allocation, Servers: servers, Tickets: issuer, Timeouts: instance.Timeouts(cfg.Timeouts),
	})
	calls := outbox.New(instances, allocation, servers, log)
	instances.SetDriver(calls)
	sessions := session.New(session.Config{Sessions: records, Gateways: records, Mailboxes: records, Instances: instances, Servers: servers, Herald: news, Log: log})
	pools := registry.NewPools(records, records, sessions, log)
	watches := watch.New(watch.Config{Feed: records, Records: records, Instances: instances, Messages: records, Log: log})
	sweeper := timer.New(timer.Config{
		Store: redisstore.NewTimers(store), Instances: instances, Driver: calls, Reaper: sessions, Servers: servers, Log: log, Metrics: timer.NewMetrics(b.Metrics()),
		Replica: uuid.NewString(), Gap: cfg.Timers.Gap, Hold: cfg.Timers.Hold,
		MassLoss: timer.MassLoss{Share: cfg.Timers.MassLossShare, Min: cfg.Timers.MassLossMin, Limit: cfg.Timers.MassLossLimit},
	})
	if err := sweeper.Mark(ctx); err != nil { // before anybody can make an instance
		return err
	}

	exchange := messages.New(messages.Config{Store: store, Instances: instances, Log: log, Metrics: messages.NewMetrics(b.Metrics())})
	b.Run("messages", exchange.Run)
	b.Run("news", news.Run)
	b.Run("outbox", calls.Run)
	b.Run("watches", watches.Run)
	b.Run("sweeper", sweeper.Run)
	b.Run("pools", pools.Run)

	verifier := auth.NewTokenVerifier(issuerConn)
	revoked := revocations.New(revocations.Config{Issuer: issuerConn, Redis: store, Log: log})
	b.Run("revocations", revoked.Run)
	b.ReadyWhen("revocations", revoked.Ready)
	server, err := newServer(b, cfg, store, revoked.Guard(verifier), issuerConn, files)
	if err != nil {
		return err
	}
	tokens, err := pagetoken.New(cfg.Auth.InternalKey, "game-instance")
	if err != nil {
		return err
	}
	gameServers := grpcserver.NewGameServer(instances, sessions, issuer, revoked.GuardClaims(verifier))
	instancev1.RegisterGameInstanceServiceServer(server, grpcserver.NewInstance(instances, records, tokens, watches))
	instancev1.RegisterMessageServiceServer(server, grpcserver.NewMessage(instances, watches, exchange))
	gameserverv1.RegisterGameServerServiceServer(server, gameServers)
	gameserverv1.RegisterGameServerRegistryServiceServer(server, grpcserver.NewRegistry(servers, pools, issuer, tokens))
	sessionv1.RegisterSessionServiceServer(server, grpcserver.NewSession(sessions, gameServers, server))
	auditv1.RegisterAuditServiceServer(server, grpcserver.NewAudit(audit.NewStream(store), tokens))
	attemptv1.RegisterAttemptServiceServer(server, grpcserver.NewAttempt(instances, pools))
	poolv1.RegisterPoolServiceServer(server, grpcserver.NewPool(pools))

	ln, err := listener(ctx, b, cfg)
	if err != nil {
		return err
	}
	server.Mount(b, "game-instance grpc", ln)
	log.Info("listening", "grpc_addr", ln.Addr().String())
	return nil
}

func dial(b *app.Builder, name, target string, key conf.Secret, files *tlsx.Source) (*grpc.ClientConn, error) {
	conn, err := rpc.DialTLS(target, key, files, b.Tracer())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	b.OnStop(app.StageClients, name+" client", func(context.Context) error { return conn.Close() })
	return conn, nil
}

// newServer returns the server for all rpcs of the service, which knows its callers.
func newServer(b *app.Builder, cfg Config, store *redisx.Store, pairs auth.Pairs, issuer *grpc.ClientConn, files *tlsx.Source) (*rpc.Server, error) {
	authenticator, err := auth.Open(b, cfg.Auth, cfg.Egress, pairs, auth.NewIssuedKeys(issuer))
	if err != nil {
		return nil, err
	}
	return rpc.NewServer(rpc.Config{
		Services: []string{
			instancev1.GameInstanceService_ServiceDesc.ServiceName, gameserverv1.GameServerService_ServiceDesc.ServiceName,
			instancev1.MessageService_ServiceDesc.ServiceName, gameserverv1.GameServerRegistryService_ServiceDesc.ServiceName,
			sessionv1.SessionService_ServiceDesc.ServiceName, attemptv1.AttemptService_ServiceDesc.ServiceName,
			auditv1.AuditService_ServiceDesc.ServiceName, poolv1.PoolService_ServiceDesc.ServiceName,
		},
		Auth: authenticator, Log: b.Log(), Metrics: b.Metrics(), TLS: files, Peers: cfg.TLS.Peers,
		Audit: audit.Open(b, cfg.Audit, "game-instance", store), Tracer: b.Tracer(),
	})
}

func listener(ctx context.Context, b *app.Builder, cfg Config) (net.Listener, error) {
	if cfg.GRPCListener != nil {
		return cfg.GRPCListener, nil
	}
	return b.Listen(ctx, "game-instance grpc", cfg.GRPCAddr)
}
