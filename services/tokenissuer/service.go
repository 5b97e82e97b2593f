// Package tokenissuer is the service that owns credentials: it mints partner tokens and players' tickets, publishes the keys that verify them, keeps what was
// revoked, and makes API keys.
package tokenissuer

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/berth-dev/berth/pkg/app"
	"github.com/berth-dev/berth/pkg/audit"
	"github.com/berth-dev/berth/pkg/auth"
	"github.com/berth-dev/berth/pkg/pagetoken"
	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/pkg/rpc"
	tokenv1 "github.com/berth-dev/berth/sdk/go/gen/berth/token/v1"
	sdk "github.com/berth-dev/berth/sdk/go/token"
	"github.com/berth-dev/berth/services/tokenissuer/internal/caller"
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
	cfg.Redis.Log = b.Log()
	store, err := redisx.Open(ctx, cfg.Redis)
	if err != nil {
		return err
	}
	b.OnStop(app.StageStore, "redis", func(context.Context) error { return store.Close() })
	// While the store is away, minting and publishing go on: the keys are in memory. Readiness goes nevertheless, as in every service, so that
	// replicas that still reach the store are preferred; connections that are open stay.
	b.ReadyWhen("redis", store.Ready)
	store.Warn(b.Log())

	domain, err := newDomain(ctx, b, redisstore.New(store), cfg)
	if err != nil {
		return err
	}
	server, err := newServer(b, cfg, domain, store)
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

// newDomain opens what is stored, and follows it.
func newDomain(ctx context.Context, b *app.Builder, store *redisstore.Store, cfg Config) (grpcserver.Config, error) {
	keys, err := openKeyring(ctx, b, store, cfg)
	if err != nil {
		return grpcserver.Config{}, err
	}
	b.Run("key ring", keys.Run)
	b.ReadyWhen("signing key", keys.Ready)
	revocations, err := token.OpenRevocations(ctx, token.RevocationsConfig{Store: store, Keep: cfg.RevocationRetention, Log: b.Log()})
	if err != nil {
		return grpcserver.Config{}, err
	}
	b.Run("revocations", revocations.Run)
	issuer := token.New(token.Config{
		Keys: keys, Revocations: revocations,
		PairLifetime: cfg.PairLifetime, RefreshWindow: cfg.refreshWindow(), TicketLifetime: cfg.TicketLifetime,
	})
	pages, err := pagetoken.New(cfg.Auth.InternalKey, "token-issuer")
	return grpcserver.Config{Issuer: issuer, Keys: keys, Revocations: revocations, Callers: caller.New(store, cfg.rootKeys()), Pages: pages}, err
}

func openKeyring(ctx context.Context, b *app.Builder, store token.RingStore, cfg Config) (*token.Keyring, error) {
	sealer, err := cfg.sealer()
	if err != nil {
		return nil, err
	}
	keys, err := token.OpenKeyring(ctx, token.KeyringConfig{Store: store, Sealer: sealer, Policy: cfg.policy(), Log: b.Log()})
	if errors.Is(err, token.ErrSeal) {
		return nil, fmt.Errorf("the signing keys in Redis do not open with this sealing key: start with the one that they were sealed under (sealing_key, BERTH_SEALING_KEY), "+
			"or name that one as previous_sealing_key (BERTH_PREVIOUS_SEALING_KEY) if you have changed it, "+
			"or, if it is lost, stop all replicas and delete %s from Redis, which ends all tokens in use: %w", redisstore.RingKey, err)
	}
	return keys, err
}

func newServer(b *app.Builder, cfg Config, domain grpcserver.Config, store *redisx.Store) (*rpc.Server, error) {
	// Game servers show their pair on every call, to the public key set too; it is checked against the very document that is published.
	published := sdk.NewKeySet(func(ctx context.Context) ([]byte, error) { return domain.Keys.Fresh(ctx).JWKS() })
	authenticator, err := auth.Open(b, cfg.Auth, cfg.Egress, sdk.NewVerifier(published), issuedKeys{domain.Callers})
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
		Audit: audit.Open(b, cfg.Audit, "token-issuer", store), Tracer: b.Tracer(),
	})
	if err != nil {
		return nil, err
	}
	tokenv1.RegisterTokenServiceServer(server, grpcserver.New(domain))
	return server, nil
}

// issuedKeys are the API keys that this service itself has made.
type issuedKeys struct{ *caller.Keys }

// LookupKey implements auth.Keys.
func (k issuedKeys) LookupKey(ctx context.Context, hash string) (auth.APIKey, bool, error) {
	found, ok, err := k.Lookup(ctx, hash)
	return auth.APIKey{Name: found.Name, SHA256: found.Hash, Role: auth.Role(found.Role), Namespaces: found.Namespaces}, ok, err
}

func closeListener(ln net.Listener) error {
	if err := ln.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}
