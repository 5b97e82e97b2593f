package tokenissuer_test

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"google.golang.org/grpc/metadata"

	"github.com/berth-dev/berth/pkg/apikey"
	"github.com/berth-dev/berth/pkg/auth"
	"github.com/berth-dev/berth/pkg/conf"
	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/pkg/rpc"
	tokenv1 "github.com/berth-dev/berth/sdk/go/gen/berth/token/v1"
	sdk "github.com/berth-dev/berth/sdk/go/token"
	"github.com/berth-dev/berth/services/tokenissuer"
	"github.com/berth-dev/berth/services/tokenissuer/internal/redisstore"
)

// with returns a context that shows an API key.
func with(t *testing.T, key string) context.Context {
	return metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+key)
}

// withKey adds a key of a role to the configuration.
func withKey(cfg tokenissuer.Config, key string, role auth.Role, namespaces ...string) tokenissuer.Config {
	cfg.Auth.APIKeys = append(cfg.Auth.APIKeys, auth.APIKey{Name: key, SHA256: apikey.Hash(key), Role: role, Namespaces: namespaces})
	return cfg
}

// keyStates names the states of the keys, in their order.
func keyStates(keys []*tokenv1.SigningKey) string {
	var all []string
	for _, k := range keys {
		all = append(all, strings.TrimPrefix(k.GetState().String(), "STATE_"))
	}
	return strings.Join(all, " ")
}

func wantReason(t *testing.T, err error, want errs.Reason) {
	t.Helper()
	if got := errs.ReasonOf(rpc.FromStatus(err)); got != want {
		t.Errorf("got %v, want reason %q", err, want)
	}
}

// Two replicas: what one rotates, the other publishes at once, and each verifies what the other has signed.
func TestRotation(t *testing.T) {
	each(t, func(t *testing.T, addr string, _ *redisx.Store) {
		one, two := start(t, slog.New(slog.DiscardHandler), config(addr)), start(t, slog.New(slog.DiscardHandler), config(addr))
		admin := with(t, apiKey)
		old := one.pair(t)

		rotated, err := one.public.RotateSigningKey(admin, &tokenv1.RotateSigningKeyRequest{})
		if err != nil || keyStates(rotated.GetSigningKeys()) != "SIGNING PUBLISHED" {
			t.Fatalf("%v, %v", rotated, err)
		}
		published := rotated.GetSigningKeys()[1]
		if wait := published.GetSignTime().AsTime().Sub(published.GetCreateTime().AsTime()); wait != 10*time.Minute {
			t.Errorf("published for %v", wait)
		}
		rotated, err = two.public.RotateSigningKey(admin, &tokenv1.RotateSigningKeyRequest{Immediate: true})
		if err != nil || keyStates(rotated.GetSigningKeys()) != "RETIRED SIGNING" || rotated.GetSigningKeys()[1].GetKeyId() != published.GetKeyId() {
			t.Fatalf("%v, %v", rotated, err)
		}
		if kept := rotated.GetSigningKeys()[0]; kept.GetRemoveTime().AsTime().Sub(kept.GetRetireTime().AsTime()) < time.Hour+sdk.Leeway {
			t.Errorf("the retired key goes before what it has signed: %v", kept)
		}
		for _, i := range []*issuer{one, two} {
			if _, err := i.verifier().VerifyPair(t.Context(), old.GetGameToken(), old.GetSocialToken()); err != nil {
				t.Errorf("a pair from before the rotation: %v", err)
			}
		}
		renewed := two.pair(t)
		server, err := one.verifier().VerifyPair(t.Context(), renewed.GetGameToken(), renewed.GetSocialToken())
		if err != nil || server.GameKeyID != published.GetKeyId() {
			t.Errorf("a pair from after the rotation: %+v, %v", server, err)
		}
	})
}

func TestEmergencyRetirement(t *testing.T) {
	each(t, func(t *testing.T, addr string, _ *redisx.Store) {
		cfg := withKey(config(addr), apikey.Prefix+"operator", auth.RoleOperator)
		one, two := start(t, slog.New(slog.DiscardHandler), cfg), start(t, slog.New(slog.DiscardHandler), cfg)
		stolen := one.pair(t)
		keys, err := one.public.ListSigningKeys(with(t, apikey.Prefix+"operator"), &tokenv1.ListSigningKeysRequest{})
		if err != nil || keyStates(keys.GetSigningKeys()) != "SIGNING" {
			t.Fatalf("%v, %v", keys, err)
		}
		req := &tokenv1.RetireSigningKeyRequest{KeyId: keys.GetSigningKeys()[0].GetKeyId()}
		for range 2 {
			retired, err := one.public.RetireSigningKey(with(t, apiKey), req)
			if err != nil || keyStates(retired.GetSigningKeys()) != "WITHDRAWN SIGNING" {
				t.Fatalf("%v, %v", retired, err)
			}
		}
		for _, i := range []*issuer{one, two} {
			_, err := i.verifier().VerifyPair(t.Context(), stolen.GetGameToken(), stolen.GetSocialToken())
			if auth.TokenErr(err) == nil || !errs.Is(auth.TokenErr(err), errs.CredentialsInvalid) {
				t.Errorf("what the stolen key has signed: %v", err)
			}
		}
		_, err = one.public.RetireSigningKey(with(t, apiKey), &tokenv1.RetireSigningKeyRequest{KeyId: strings.Repeat("x", 43)})
		wantReason(t, err, errs.ValidationFailed)
		_, err = one.public.RetireSigningKey(with(t, apikey.Prefix+"operator"), req)
		wantReason(t, err, errs.RoleRequired)
		_, err = one.public.RotateSigningKey(with(t, apikey.Prefix+"operator"), &tokenv1.RotateSigningKeyRequest{})
		wantReason(t, err, errs.RoleRequired)
	})
}

func TestSealingKeyIsChanged(t *testing.T) {
	each(t, func(t *testing.T, addr string, s *redisx.Store) {
		before := start(t, slog.New(slog.DiscardHandler), config(addr))
		pair := before.pair(t)
		before.stop()
		was := s.Get(t.Context(), redisstore.RingKey).Val()
		cfg := config(addr)
		cfg.PreviousSealingKey = cfg.SealingKey
		cfg.SealingKey = conf.Secret("another-another-another-another-another")
		start(t, slog.New(slog.DiscardHandler), cfg).stop()
		if s.Get(t.Context(), redisstore.RingKey).Val() == was {
			t.Error("the ring was not sealed anew")
		}
		cfg.PreviousSealingKey = ""
		after := start(t, slog.New(slog.DiscardHandler), cfg)
		if _, err := after.verifier().VerifyPair(t.Context(), pair.GetGameToken(), pair.GetSocialToken()); err != nil {
			t.Errorf("a pair from before the change: %v", err)
		}
	})
}

// A Redis that comes back empty costs no token: a running replica writes its ring back by itself.
func TestARunningReplicaWritesALostRingBack(t *testing.T) {
	m := miniredis.RunT(t)
	var logs lockedBuffer
	i := start(t, slog.New(slog.NewJSONHandler(&logs, nil)), config(m.Addr()))
	pair := i.pair(t)
	m.FlushAll()
	for deadline := time.Now().Add(time.Minute); !m.Exists(redisstore.RingKey); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nobody has written the ring back")
		}
	}
	after := start(t, slog.New(slog.DiscardHandler), config(m.Addr()))
	if _, err := after.verifier().VerifyPair(t.Context(), pair.GetGameToken(), pair.GetSocialToken()); err != nil {
		t.Errorf("a pair from before the loss: %v", err)
	}
	if !strings.Contains(logs.String(), `"level":"ERROR","msg":"the key ring is gone from the store`) {
		t.Errorf("the log does not say so: %s", logs.String())
	}
}
