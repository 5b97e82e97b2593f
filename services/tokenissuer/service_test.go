package tokenissuer_test

import (
	"context"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/google/uuid"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/berth-dev/berth/pkg/apikey"
	"github.com/berth-dev/berth/pkg/app"
	"github.com/berth-dev/berth/pkg/auth"
	"github.com/berth-dev/berth/pkg/conf"
	"github.com/berth-dev/berth/pkg/ids"
	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/pkg/redisx/redistest"
	"github.com/berth-dev/berth/pkg/rpc"
	tokenv1 "github.com/berth-dev/berth/sdk/go/gen/berth/token/v1"
	sdk "github.com/berth-dev/berth/sdk/go/token"
	"github.com/berth-dev/berth/services/tokenissuer"
	"github.com/berth-dev/berth/services/tokenissuer/internal/redisstore"
)

const (
	internalKey = conf.Secret("internal-internal-internal-internal")
	sealingKey  = conf.Secret("sealing-sealing-sealing-sealing-sealing")
	apiKey      = apikey.Prefix + "a-test's-key"
	attempt     = "6f1c1b53-4a2e-4c4e-9c57-0d3a0d6b1a10-1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// issuer is a running service.
type issuer struct {
	tokenv1.TokenServiceClient // shows the internal key

	// public shows nothing.
	public tokenv1.TokenServiceClient
	// internal and nobody are their connections.
	internal, nobody *grpc.ClientConn

	app  *app.App
	stop func()
}

func config(redisAddr string) tokenissuer.Config {
	cfg := tokenissuer.Default()
	cfg.GRPCAddr = "127.0.0.1:0"
	cfg.Redis.Addrs = []string{redisAddr}
	cfg.Auth = auth.Config{InternalKey: internalKey, APIKeySHA256: apikey.Hash(apiKey)}
	cfg.SealingKey = sealingKey
	return cfg
}

// start runs the service as its main does, until the test ends or stops it.
func start(t *testing.T, log *slog.Logger, cfg tokenissuer.Config) *issuer {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg.GRPCListener = ln
	a, err := app.New(context.Background(), app.Config{Log: log}, tokenissuer.Module(cfg))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := a.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	stop := sync.OnceFunc(func() { cancel(); running.Wait() })
	t.Cleanup(stop)
	addr := ln.Addr().String()
	internal, nobody := dial(t, addr, internalKey), dial(t, addr, "")
	return &issuer{
		TokenServiceClient: tokenv1.NewTokenServiceClient(internal), public: tokenv1.NewTokenServiceClient(nobody),
		internal: internal, nobody: nobody, app: a, stop: stop,
	}
}

func dial(t *testing.T, addr string, key conf.Secret) *grpc.ClientConn {
	t.Helper()
	conn, err := rpc.Dial(addr, key)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// each runs a test on the address of each kind of store.
func each(t *testing.T, test func(t *testing.T, addr string, s *redisx.Store)) {
	redistest.Each(t, func(t *testing.T, s *redisx.Store) {
		test(t, s.Addrs()[0], s)
	})
}

// jwks is the service's key set as REST shows it.
func (i *issuer) jwks(ctx context.Context) ([]byte, error) {
	set, err := i.public.GetJsonWebKeySet(ctx, &tokenv1.GetJsonWebKeySetRequest{})
	if err != nil {
		return nil, err
	}
	return protojson.Marshal(set)
}

func (i *issuer) verifier() *sdk.Verifier { return sdk.NewVerifier(sdk.NewKeySet(i.jwks)) }

func (i *issuer) pair(t *testing.T) *tokenv1.IssueTokenPairResponse {
	t.Helper()
	pair, err := i.IssueTokenPair(t.Context(), &tokenv1.IssueTokenPairRequest{Namespace: "default", AttemptId: attempt})
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

func (i *issuer) ticket(t *testing.T, instance string) *tokenv1.IssuePlayerTicketResponse {
	t.Helper()
	ticket, err := i.IssuePlayerTicket(t.Context(), &tokenv1.IssuePlayerTicketRequest{Namespace: "default", InstanceId: instance, PlayerId: "player-1"})
	if err != nil {
		t.Fatal(err)
	}
	return ticket
}

func TestPairVerifies(t *testing.T) {
	each(t, func(t *testing.T, addr string, _ *redisx.Store) {
		i := start(t, slog.New(slog.DiscardHandler), config(addr))
		pair := i.pair(t)
		got, err := i.verifier().VerifyPair(t.Context(), pair.GetGameToken(), pair.GetSocialToken())
		want := sdk.Server{ID: ids.Server(attempt), PairID: ids.Pair(attempt), Namespace: "default", IssueTime: got.IssueTime, ExpireTime: got.ExpireTime, GameKeyID: got.GameKeyID, SocialKeyID: got.GameKeyID}
		if err != nil || got != want || pair.GetServerId() != want.ID || pair.GetPairId() != want.PairID || !pair.GetExpireTime().AsTime().Equal(got.ExpireTime) {
			t.Errorf("issued for %s, verified as %+v, %v", pair.GetServerId(), got, err)
		}
	})
}

func TestTicketVerifies(t *testing.T) {
	each(t, func(t *testing.T, addr string, _ *redisx.Store) {
		i := start(t, slog.New(slog.DiscardHandler), config(addr))
		instance := uuid.NewString()
		ticket := i.ticket(t, instance)
		got, err := i.verifier().VerifyTicket(t.Context(), ticket.GetTicket())
		want := sdk.Ticket{ID: got.ID, PlayerID: "player-1", InstanceID: instance, Namespace: "default", ExpireTime: ticket.GetExpireTime().AsTime()}
		if err != nil || !got.ExpireTime.Equal(want.ExpireTime) || got.PlayerID != want.PlayerID || got.InstanceID != want.InstanceID || got.Namespace != want.Namespace {
			t.Errorf("verified as %+v, %v", got, err)
		}
	})
}

func TestReplicasShareTheirKeys(t *testing.T) {
	each(t, func(t *testing.T, addr string, _ *redisx.Store) {
		replicas := make([]*issuer, 2)
		var started sync.WaitGroup
		for n := range replicas {
			started.Go(func() { replicas[n] = start(t, slog.New(slog.DiscardHandler), config(addr)) })
		}
		started.Wait()
		pair := replicas[0].pair(t)
		if _, err := replicas[1].verifier().VerifyPair(t.Context(), pair.GetGameToken(), pair.GetSocialToken()); err != nil {
			t.Errorf("a pair of one replica, with the keys of the other: %v", err)
		}
	})
}

func TestRestartKeepsTheKey(t *testing.T) {
	each(t, func(t *testing.T, addr string, _ *redisx.Store) {
		before := start(t, slog.New(slog.DiscardHandler), config(addr))
		pair := before.pair(t)
		before.stop()
		after := start(t, slog.New(slog.DiscardHandler), config(addr))
		if _, err := after.verifier().VerifyPair(t.Context(), pair.GetGameToken(), pair.GetSocialToken()); err != nil {
			t.Errorf("a pair from before the restart: %v", err)
		}
	})
}

func TestOtherSealingKeyIsRefusedAtStart(t *testing.T) {
	each(t, func(t *testing.T, addr string, s *redisx.Store) {
		start(t, slog.New(slog.DiscardHandler), config(addr)).stop()
		before := s.Get(t.Context(), redisstore.RingKey).Val()
		cfg := config(addr)
		cfg.SealingKey += "x"
		_, err := app.New(t.Context(), app.Config{Log: slog.New(slog.DiscardHandler)}, tokenissuer.Module(cfg))
		if err == nil || !strings.Contains(err.Error(), "BERTH_SEALING_KEY") || !strings.Contains(err.Error(), "sealed under another sealing key") {
			t.Errorf("got %v", err)
		}
		if s.Get(t.Context(), redisstore.RingKey).Val() != before {
			t.Error("the ring was changed")
		}
	})
}

func TestMintingGoesOnWithoutRedis(t *testing.T) {
	m := miniredis.RunT(t)
	i := start(t, slog.New(slog.DiscardHandler), config(m.Addr()))
	i.pair(t) // from here on it runs
	if err := i.app.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.Close()
	pair := i.pair(t)
	if _, err := i.verifier().VerifyPair(t.Context(), pair.GetGameToken(), pair.GetSocialToken()); err != nil {
		t.Error(err)
	}
	if err := i.app.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), "redis") {
		t.Errorf("ready without Redis: %v", err)
	}
	if err := m.Restart(); err != nil {
		t.Fatal(err)
	}
	if err := i.app.Ready(t.Context()); err != nil {
		t.Errorf("not ready although Redis is back: %v", err)
	}
}

func TestStartWithoutRedisFails(t *testing.T) {
	m := miniredis.RunT(t)
	cfg := config(m.Addr())
	m.Close()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg.GRPCListener = ln
	if _, err := app.New(t.Context(), app.Config{Log: slog.New(slog.DiscardHandler)}, tokenissuer.Module(cfg)); err == nil || !strings.Contains(err.Error(), "redis") {
		t.Errorf("got %v", err)
	}
	if _, err := ln.Accept(); err == nil {
		t.Error("the listener is still open")
	}
}
