package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"google.golang.org/grpc"

	"github.com/berth-dev/berth/pkg/app"
	"github.com/berth-dev/berth/pkg/audit"
	"github.com/berth-dev/berth/pkg/auth"
	"github.com/berth-dev/berth/pkg/conf"
	"github.com/berth-dev/berth/pkg/errs"
	eventv1 "github.com/berth-dev/berth/pkg/gen/berth/event/v1"
	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/pkg/revocations"
	"github.com/berth-dev/berth/pkg/rpc"
	"github.com/berth-dev/berth/pkg/tlsx"
	tokenv1 "github.com/berth-dev/berth/sdk/go/gen/berth/token/v1"
	"github.com/berth-dev/berth/sdk/go/token"

	"github.com/berth-dev/berth/services/gateway/internal/broker"
	"github.com/berth-dev/berth/services/gateway/internal/door"
	"github.com/berth-dev/berth/services/gateway/internal/hub"
	"github.com/berth-dev/berth/services/gateway/internal/incarnation"
	"github.com/berth-dev/berth/services/gateway/internal/keys"
	"github.com/berth-dev/berth/services/gateway/internal/memory"
	"github.com/berth-dev/berth/services/gateway/internal/messages"
	"github.com/berth-dev/berth/services/gateway/internal/metrics"
	"github.com/berth-dev/berth/services/gateway/internal/rest"
	"github.com/berth-dev/berth/services/gateway/internal/session"
	"github.com/berth-dev/berth/services/gateway/internal/upstream"
	"github.com/berth-dev/berth/services/gateway/internal/wsserver"
)

// Module returns the gateway.
func Module(cfg Config) app.Module {
	return app.Module{Name: "gateway", Build: func(ctx context.Context, b *app.Builder) error {
		if err := cfg.Validate(); err != nil {
			return err
		}
		conns, err := dialAll(b, cfg)
		if err != nil {
			return err
		}
		cfg.Redis.Log = b.Log()
		store, err := redisx.Open(ctx, cfg.Redis)
		if err != nil {
			return err
		}
		b.OnStop(app.StageStore, "redis", func(context.Context) error { return store.Close() })
		b.ReadyWhen("store", store.Ready)

		keySource := keys.New(tokenv1.NewTokenServiceClient(conns.tokenIssuer), b.Log())
		b.Run("keys", keySource.Run)
		b.ReadyWhen("keys", keySource.Ready)
		var link *wsserver.Server
		revoked := revocations.New(revocations.Config{Issuer: conns.tokenIssuer, Redis: store, Log: b.Log(), Changed: func(*token.Revocations) { link.CloseRevoked() }})
		authenticator, err := auth.New(cfg.Auth, revoked.Guard(keySource.Verifier()), nil)
		if err != nil {
			return err
		}
		counts, recorder := metrics.New(b.Metrics()), audit.Open(b, cfg.Audit, "gateway", store)
		entrance, err := door.New(door.Config{
			TrustedProxies: cfg.TrustedProxies, AllowedHosts: cfg.AllowedHosts, Rates: cfg.Limits.Rates, Now: cfg.Now, Limited: counts.RateLimited, Audit: recorder,
		})
		if err != nil {
			return err
		}
		link = buildLink(b, cfg, conns, linkParts{store, keySource, revoked, authenticator, entrance, counts, recorder})
		b.Run("revocations", revoked.Run)
		b.ReadyWhen("revocations", revoked.Ready)
		return serve(ctx, b, cfg, rest.Config{
			GameInstance: conns.gameInstance, Allocation: conns.allocation, TokenIssuer: conns.tokenIssuer,
			Keys: keySource, Link: link, Log: b.Log(), Door: entrance, AllowedOrigins: cfg.CORS.AllowedOrigins,
		})
	}}
}

// connections are those to the other services.
type connections struct {
	sessions                              *grpc.ClientConn // speaks as a Berth service
	gameInstance, tokenIssuer, allocation *grpc.ClientConn // forward their callers' credentials
}

func dialAll(b *app.Builder, cfg Config) (c connections, err error) {
	files, err := cfg.TLS.Open(b.Log())
	if err != nil {
		return c, err
	}
	cfg.TLS.Warn(b.Log(), cfg.addrs())
	for _, d := range []struct {
		conn   **grpc.ClientConn
		target string
		key    conf.Secret
	}{
		{&c.sessions, cfg.GameInstance, cfg.Auth.InternalKey},
		{&c.gameInstance, cfg.GameInstance, ""},
		{&c.tokenIssuer, cfg.TokenIssuer, ""},
		{&c.allocation, cfg.Allocation, ""},
	} {
		conn, err := rpc.DialTLS(d.target, d.key, files, b.Tracer())
		if err != nil {
			return c, fmt.Errorf("dial %s: %w", d.target, err)
		}
		b.OnStop(app.StageClients, d.target, func(context.Context) error { return conn.Close() })
		*d.conn = conn
	}
	return c, nil
}

// linkParts are what the link has in common with the rest of the gateway.
type linkParts struct {
	store         *redisx.Store
	keys          *keys.Source
	revoked       *revocations.Watch
	authenticator *auth.Authenticator
	door          *door.Door
	counts        *metrics.Metrics
	audit         *audit.Recorder
}

// buildLink wires what serves the link.
func buildLink(b *app.Builder, cfg Config, conns connections, p linkParts) *wsserver.Server {
	counts := p.counts
	sockets := hub.New(cfg.Limits.Sockets)
	up := upstream.New(upstream.Config{Conn: conns.sessions, Streams: cfg.RelayStreams, CallTimeout: cfg.RequestTimeout, Log: b.Log(), Metrics: counts})
	b.Run("upstream", up.Run)

	var keeper *incarnation.Keeper
	alive := func() bool { _, err := keeper.Current(); return err == nil }
	subscription := newSubscription(b.Log(), p, alive, sockets, up)
	b.ReadyWhen("subscription", subscription.Ready)

	keeper = incarnation.New(incarnation.Config{
		Subscription: subscription, Leases: up, Lease: cfg.Lease, Interval: cfg.LeaseInterval,
		Remind: sockets.Remind, Lapse: func() func(context.Context) { up.Lapsed(); return sockets.Lapse() }, Forgotten: sockets.Forgotten,
		Log: b.Log(), Metrics: counts,
	})
	b.Run("incarnation", keeper.Run)
	b.ReadyWhen("game-instance", keeper.Ready)

	publisher := messages.New(messages.Config{Store: p.store, Gateway: keeper.Current, Log: b.Log(), Metrics: counts})
	b.Run("messages", publisher.Run)

	mem := memory.New(memory.Config{Limit: cfg.Limits.MemoryBytes, InUse: cfg.MemoryInUse, Log: b.Log(), Short: counts.MemoryShort})
	b.Run("memory", mem.Run)

	server := wsserver.New(wsserver.Config{
		Verify: func(ctx context.Context, game, social string) (session.Verified, error) {
			principal, err := p.authenticator.Pair(ctx, game, social)
			return session.Verified{Server: principal.Server, Expired: principal.Expired}, err
		},
		Revoked: func(server token.Server) bool { return p.revoked.List().Server(server) },
		Outage:  func() bool { return p.keys.Failing() || keeper.Failing() },
		Ready: func(ctx context.Context) error {
			_, err := keeper.Current()
			return errors.Join(p.keys.Ready(ctx), p.revoked.Ready(ctx), err)
		},
		Short:   mem.Short,
		Gateway: keeper.Current, Hub: sockets, Upstream: up, Messages: publisher,
		Limits: wsserver.Limits{
			MaxFrameBytes: cfg.Limits.FrameBytes, MaxInFlight: cfg.Limits.InFlight,
			MaxQueue: cfg.Limits.Queue, MaxQueueBytes: cfg.Limits.QueueBytes,
		},
		Heartbeat: cfg.Heartbeat, HelloTimeout: cfg.HelloTimeout, Now: cfg.Now,
		Log: b.Log(), Tracer: b.Tracer(), Metrics: counts, Audit: p.audit, Door: p.door,
	})
	b.Run("link", server.Run)
	b.OnStop(app.StageDrain, "link", func(ctx context.Context) error { return leave(ctx, b.Log(), sockets, up, keeper) })
	b.OnStop(app.StageWorkers, "link sockets", server.Wait)
	return server
}

// newSubscription returns the subscription whose envelopes go to the sockets. While the gateway's lease may be over nothing is delivered: who serves these
// instances may be decided elsewhere by then.
func newSubscription(log *slog.Logger, p linkParts, alive func() bool, sockets *hub.Hub, up *upstream.Client) *broker.Broker {
	return broker.New(broker.Config{
		Client: p.store, Log: log, Metrics: p.counts,
		Deliver: func(e *eventv1.Envelope) {
			if !alive() { // that somebody took over is as true as ever
				e = &eventv1.Envelope{Replaced: e.GetReplaced()}
			}
			sockets.Deliver(e)
			for _, r := range e.GetReplaced() {
				up.TakenOver(r.GetServerId(), r.GetSessionEpoch())
			}
		},
		Message: func(m broker.Message) {
			if !alive() || !sockets.Message(m.Instance, m.Topic, m.Data) {
				p.counts.MessagesLost.WithLabelValues(string(errs.NotConnected)).Inc()
			}
		},
		Again: sockets.RemindAll,
	})
}

// What is left of the drain's deadline when the lease is given back, whether every session's end could be told or not, and when that is given up.
const (
	releaseMargin = time.Second
	giveUpMargin  = 200 * time.Millisecond
)

// leave moves the sockets elsewhere, waits until the ends of their sessions are told, and gives the lease back. That nobody is there to be told does
// not keep the gateway from stopping: the lease will run out.
func leave(ctx context.Context, log *slog.Logger, sockets *hub.Hub, up *upstream.Client, keeper *incarnation.Keeper) error {
	err := sockets.Drain(ctx)
	flushCtx, cancel := before(ctx, releaseMargin)
	defer cancel()
	if err := up.Flush(flushCtx); err != nil {
		log.Warn("not every session's end could be told; the end of the lease will tell", "error", err)
	}
	releaseCtx, cancel := before(ctx, giveUpMargin)
	defer cancel()
	if err := keeper.Release(releaseCtx); err != nil {
		log.Warn("the lease could not be given back; it will run out", "error", err)
	}
	return err
}

// before returns a context that ends some time before ctx's deadline.
func before(ctx context.Context, margin time.Duration) (context.Context, context.CancelFunc) {
	if deadline, ok := ctx.Deadline(); ok {
		return context.WithDeadline(ctx, deadline.Add(-margin))
	}
	return context.WithCancel(ctx)
}

// serve puts the handlers on their listeners.
func serve(ctx context.Context, b *app.Builder, cfg Config, handlers rest.Config) error {
	stopping, stop := context.WithCancel(context.WithoutCancel(ctx))
	b.OnStop(app.StageDrain, "streams", func(context.Context) error { stop(); return nil })
	handlers.Stopping = stopping
	edge, err := rest.NewEdge(handlers) //nolint:contextcheck // the calls that it passes on have their streams' contexts
	if err != nil {
		return err
	}
	b.OnStop(app.StageGRPC, "edge gRPC", func(context.Context) error { edge.Close(); return nil })
	api, err := rest.API(handlers)
	if err != nil {
		return err
	}
	cfg.EdgeTLS.Warn("edge_tls", b.Log(), tlsx.ListenAddr(cfg.EdgeListener, cfg.EdgeAddr))
	cfg.APITLS.Warn("api_tls", b.Log(), tlsx.ListenAddr(cfg.APIListener, cfg.APIAddr))
	edgeFiles, err := cfg.EdgeTLS.Open("edge_tls", b.Log())
	if err != nil {
		return err
	}
	apiFiles, err := cfg.APITLS.Open("api_tls", b.Log())
	if err != nil {
		return err
	}
	var h1, h1AndH2 http.Protocols
	h1.SetHTTP1(true)
	h1AndH2.SetHTTP1(true)
	h1AndH2.SetHTTP2(edgeFiles != nil) // gRPC
	h1AndH2.SetUnencryptedHTTP2(edgeFiles == nil)
	if err := listen(ctx, b, "edge", cfg.EdgeListener, cfg.EdgeAddr, newHTTPServer(b, edge, &h1AndH2, edgeFiles)); err != nil {
		return err
	}
	return listen(ctx, b, "api", cfg.APIListener, cfg.APIAddr, newHTTPServer(b, api, &h1, apiFiles))
}

// newHTTPServer returns a server, which speaks TLS where there are files for it.
func newHTTPServer(b *app.Builder, h http.Handler, protocols *http.Protocols, files *tlsx.Source) *http.Server {
	srv := &http.Server{
		Handler: h, Protocols: protocols, ErrorLog: slog.NewLogLogger(b.Log().Handler(), slog.LevelDebug),
		// Watches and bodies last as they last; bodies have a deadline of their own.
		ReadHeaderTimeout: 5 * time.Second, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 64 << 10, // two tokens of at most 8 KiB, and room
	}
	if files != nil {
		srv.TLSConfig = files.PublicConfig()
	}
	return srv
}

// listen makes a server run and stop with the program.
func listen(ctx context.Context, b *app.Builder, name string, ln net.Listener, addr string, srv *http.Server) error {
	if ln == nil {
		var err error
		if ln, err = b.Listen(ctx, name, addr); err != nil {
			return err
		}
	}
	b.Log().Info("listening", "listener", name, "addr", ln.Addr().String())
	b.Run(name, func(ctx context.Context) error {
		serve := srv.Serve
		if srv.TLSConfig != nil {
			serve = func(ln net.Listener) error { return srv.ServeTLS(ln, "", "") }
		}
		if err := serve(ln); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		<-ctx.Done()
		return nil
	})
	b.OnStop(app.StageHTTP, name, func(ctx context.Context) error {
		if err := srv.Shutdown(ctx); err != nil {
			return errors.Join(err, srv.Close())
		}
		return nil
	})
	return nil
}
