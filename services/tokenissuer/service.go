// Package tokenissuer is the service that owns the signing keys: it mints partner tokens and players' tickets and publishes the keys that verify them.
package tokenissuer

import (
	"context"
	"errors"
	"fmt"
	"net"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/berth-dev/berth/pkg/app"
	"github.com/berth-dev/berth/pkg/audit"
	"github.com/berth-dev/berth/pkg/auth"
	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/pkg/rpc"
	tokenv1 "github.com/berth-dev/berth/sdk/go/gen/berth/token/v1"
	sdk "github.com/berth-dev/berth/sdk/go/token"
	"github.com/berth-dev/berth/services/tokenissuer/internal/grpcserver"
	"github.com/berth-dev/berth/services/tokenissuer/internal/redisstore"
	"github.com/berth-dev/berth/services/tokenissuer/internal/token"
)

// Module returns the service.
func Module(cfg Config) app.Module {
	return app.Module{Name: "token-issuer", Build: func(ctx context.Context, b *app.Builder) error { return build(ctx, b, cfg) }}
}

func build(ctx context.Context, b *app.Builder, cfg Config) error {
	if cfg.GRPCListener != nil { // first of all: it is this service's, even if the build fails
		b.OnStop(app.StageLast, "gRPC listener", func(context.Context) error { return closeListener(cfg.GRPCListener) })
	}
	if err := cfg.Validate(); err != nil {
		return err
	}
	store, err := redisx.Open(ctx, cfg.Redis)
	if err != nil {
		return err
	}
	b.OnStop(app.StageStore, "redis", func(context.Context) error { return store.Close() })
	// While the store is away, minting and publishing go on: the keys are in memory. Readiness goes nevertheless, as in every service, so that
	// replicas that still reach the store are preferred; connections that are open stay.
	b.ReadyWhen("redis", store.Ready)
	store.Warn(b.Log())

	ring, err := openRing(ctx, store, cfg)
	if err != nil {
		return err
	}
	b.Log().Info("key ring opened", "signing_key", ring.Signing().ID(), "keys", len(ring.Keys()))

	server, err := newServer(b, cfg, ring, store)
	if err != nil {
		return err
	}
	ln := cfg.GRPCListener
	if ln == nil {
		if ln, err = b.Listen(ctx, "gRPC", cfg.GRPCAddr); err != nil {
			return err
		}
	}
	server.Mount(b, "gRPC server", ln)
	b.Log().Info("listening", "addr", ln.Addr().String())
	return nil
}

func openRing(ctx context.Context, store *redisx.Store, cfg Config) (*token.Ring, error) {
	sealer, err := cfg.sealer()
	if err != nil {
		return nil, err
	}
	ring, err := token.OpenRing(ctx, redisstore.New(store), sealer)
	if errors.Is(err, token.ErrSeal) {
		return nil, fmt.Errorf("the signing keys in Redis do not open with this sealing key: start with the one that they were sealed under (sealing_key, BERTH_SEALING_KEY) "+
			"or, if it is lost, delete %s from Redis, which ends all tokens in use: %w", redisstore.RingKey, err)
	}
	return ring, err
}

func newServer(b *app.Builder, cfg Config, ring *token.Ring, store *redisx.Store) (*rpc.Server, error) {
	// Game servers show their pair on every call, to the public key set too; it is checked against the very document that is published.
	published := sdk.NewKeySet(func(context.Context) ([]byte, error) { return protojson.Marshal(grpcserver.KeySet(ring)) })
	authenticator, err := auth.New(cfg.Auth, sdk.NewVerifier(published))
	if err != nil {
		return nil, err
	}
	files, err := cfg.TLS.Open(b.Log())
	if err != nil {
		return nil, err
	}
	cfg.TLS.Warn(b.Log(), cfg.addrs())
	server, err := rpc.NewServer(rpc.Config{
		Services: []string{tokenv1.TokenService_ServiceDesc.ServiceName},
		Auth:     authenticator, Log: b.Log(), Metrics: b.Metrics(), TLS: files, Peers: cfg.TLS.Peers,
		Audit: audit.Open(b, cfg.Audit, "token-issuer", store),
	})
	if err != nil {
		return nil, err
	}
	issuer := token.New(token.Config{Ring: ring, PairLifetime: cfg.PairLifetime, TicketLifetime: cfg.TicketLifetime})
	tokenv1.RegisterTokenServiceServer(server, grpcserver.New(issuer))
	return server, nil
}

func closeListener(ln net.Listener) error {
	if err := ln.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}
