// Package revocations keeps the list of what was revoked, for services that verify tokens.
package revocations

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"google.golang.org/grpc"

	"github.com/berth-dev/berth/pkg/auth"
	"github.com/berth-dev/berth/pkg/redisx"
	tokenv1 "github.com/berth-dev/berth/sdk/go/gen/berth/token/v1"
	"github.com/berth-dev/berth/sdk/go/token"
)

const (
	// pollEvery is how often the list is asked for without a hint: nothing depends on one arriving.
	pollEvery    = 5 * time.Second
	fetchTimeout = 3 * time.Second
	firstPause   = 100 * time.Millisecond // between tries until the list is known
)

// Config names what a Watch needs.
type Config struct {
	// Issuer is the connection to token-issuer. It needs to show nothing.
	Issuer grpc.ClientConnInterface
	// Redis is the store, for hints.
	Redis redis.UniversalClient
	// Changed is called with each new list, one call at a time; may be nil.
	Changed func(*token.Revocations)
	// Log is where failures are logged, the first of a row.
	Log *slog.Logger
}

// Watch keeps the list as new as it can be had: what it knows stays revoked while the list cannot be had. It is safe for concurrent use.
type Watch struct {
	cfg    Config
	client tokenv1.TokenServiceClient
	list   atomic.Pointer[token.Revocations]
}

// New returns a Watch, which knows nothing until Run has fetched the list.
func New(cfg Config) *Watch {
	return &Watch{cfg: cfg, client: tokenv1.NewTokenServiceClient(cfg.Issuer)}
}

// List returns what is revoked; nil before it is known.
func (w *Watch) List() *token.Revocations { return w.list.Load() }

// ErrUnknown means that the list was never had: nobody can be admitted.
var ErrUnknown = errors.New("what is revoked is not known yet")

// Ready returns ErrUnknown until the list is known.
func (w *Watch) Ready(context.Context) error {
	if w.list.Load() == nil {
		return ErrUnknown
	}
	return nil
}

// Check returns a *token.Error if a server's pair was revoked, and ErrUnknown as long as nobody can say.
func (w *Watch) Check(server token.Server) error {
	list := w.list.Load()
	switch {
	case list == nil:
		return ErrUnknown
	case list.Server(server):
		return &token.Error{Reason: token.Revoked, Message: "the tokens were revoked"}
	}
	return nil
}

// Run fetches the list, at once after each hint and every 5 s otherwise, until ctx ends.
func (w *Watch) Run(ctx context.Context) error {
	sub := w.cfg.Redis.Subscribe(ctx, redisx.RevocationsChannel)
	defer func() { _ = sub.Close() }()
	hints := sub.Channel(redis.WithChannelSize(1)) // overflow: one hint stands for all
	failing := false
	for {
		err := w.fetch(ctx)
		if err != nil && !failing && ctx.Err() == nil {
			w.cfg.Log.Warn("what is revoked cannot be fetched; trying again", "error", err)
		}
		failing = err != nil
		pause := pollEvery
		if w.list.Load() == nil {
			pause = firstPause
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		case <-hints:
			timer.Stop()
		}
	}
}

func (w *Watch) fetch(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	known := w.list.Load()
	out, err := w.client.GetRevocations(ctx, &tokenv1.GetRevocationsRequest{KnownVersion: known.Version()})
	if err != nil {
		return err
	}
	// A version below the known one is a store's that has lost writes; what was revoked stays so.
	if known != nil && (out.GetUnchanged() || out.GetVersion() <= known.Version()) {
		return nil
	}
	entries := make([]token.Revocation, 0, len(out.GetTargets()))
	for _, t := range out.GetTargets() {
		e, err := entry(t)
		if err != nil {
			return err
		}
		entries = append(entries, e)
	}
	list := token.NewRevocations(out.GetVersion(), entries)
	w.list.Store(list)
	if w.cfg.Changed != nil {
		w.cfg.Changed(list)
	}
	return nil
}

func entry(t *tokenv1.RevocationTarget) (token.Revocation, error) {
	e := token.Revocation{Namespace: t.GetNamespace()}
	switch target := t.GetTarget().(type) {
	case *tokenv1.RevocationTarget_PairId:
		e.PairID = target.PairId
	case *tokenv1.RevocationTarget_ServerId:
		e.ServerID = target.ServerId
	case *tokenv1.RevocationTarget_InstanceId:
		e.InstanceID = target.InstanceId
	case *tokenv1.RevocationTarget_IssuedBefore:
		e.IssuedBefore = target.IssuedBefore.AsTime()
	case *tokenv1.RevocationTarget_KeyId:
		e.KeyID = target.KeyId
	default:
		// Of a newer token-issuer. To let it pass could let somebody in who must not come in.
		return e, fmt.Errorf("a revocation of a kind that this version does not know: %v", t)
	}
	return e, nil
}

// Guard returns pairs without those that were revoked.
func (w *Watch) Guard(pairs auth.Pairs) auth.Pairs { return guarded{pairs, w} }

type guarded struct {
	auth.Pairs
	watch *Watch
}

// VerifyPair implements auth.Pairs. A pair that has expired is let through as such only if it was not revoked.
func (g guarded) VerifyPair(ctx context.Context, game, social string) (token.Server, error) {
	server, err := g.Pairs.VerifyPair(ctx, game, social)
	if err != nil && !auth.Expired(server, err) {
		return server, err
	}
	if revoked := g.watch.Check(server); revoked != nil {
		return token.Server{}, revoked
	}
	return server, err
}

// Claims verifies game servers' claim codes.
type Claims interface {
	VerifyClaim(ctx context.Context, code string) (token.Claim, error)
}

// GuardClaims returns claim codes without those that were revoked.
func (w *Watch) GuardClaims(claims Claims) Claims { return guardedClaims{claims, w} }

type guardedClaims struct {
	claims Claims
	watch  *Watch
}

// VerifyClaim implements Claims.
func (g guardedClaims) VerifyClaim(ctx context.Context, code string) (token.Claim, error) {
	claim, err := g.claims.VerifyClaim(ctx, code)
	if err != nil {
		return token.Claim{}, err
	}
	switch list := g.watch.list.Load(); {
	case list == nil:
		return token.Claim{}, ErrUnknown
	case list.Claim(claim):
		return token.Claim{}, &token.Error{Reason: token.Revoked, Message: "the claim code was revoked"}
	}
	return claim, nil
}
