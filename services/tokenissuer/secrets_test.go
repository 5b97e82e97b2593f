package tokenissuer_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"

	"github.com/berth-dev/berth/pkg/apikey"
	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/pkg/redisx/redistest"
	tokenv1 "github.com/berth-dev/berth/sdk/go/gen/berth/token/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"github.com/berth-dev/berth/services/tokenissuer/internal/redisstore"
	"github.com/berth-dev/berth/services/tokenissuer/internal/token"
)

func TestNothingSecretInRedisOrLogs(t *testing.T) {
	each(t, func(t *testing.T, addr string, s *redisx.Store) {
		var logs lockedBuffer
		i := start(t, slog.New(slog.NewJSONHandler(&logs, &slog.HandlerOptions{Level: slog.LevelDebug})), config(addr))
		pair, ticket := i.pair(t), i.ticket(t, uuid.NewString())
		claim, err := i.IssueClaimCode(t.Context(), &tokenv1.IssueClaimCodeRequest{Namespace: "default", AttemptId: attempt})
		if err != nil {
			t.Fatal(err)
		}
		made, err := i.public.CreateApiKey(with(t, apiKey), &tokenv1.CreateApiKeyRequest{Name: "x", Role: typev1.Role_ROLE_ADMIN})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := i.public.RevokeTokens(with(t, apiKey), &tokenv1.RevokeTokensRequest{Target: &tokenv1.RevokeTokensRequest_PairId{PairId: pair.GetPairId()}}); err != nil {
			t.Fatal(err)
		}
		if _, err := i.public.IntrospectToken(with(t, apiKey), &tokenv1.IntrospectTokenRequest{Token: pair.GetGameToken()}); err != nil {
			t.Fatal(err)
		}
		i.stop()

		ring, _, err := redisstore.New(s).LoadRing(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		seed := unsealed(t, ring.Keys[0])
		secrets := map[string]string{
			"seed": string(seed), "seed in hex": hex.EncodeToString(seed),
			"seed in base64": base64.RawStdEncoding.EncodeToString(seed)[:40], "seed in base64url": base64.RawURLEncoding.EncodeToString(seed)[:40],
			"game token": signature(pair.GetGameToken()), "social token": signature(pair.GetSocialToken()), "ticket": signature(ticket.GetTicket()), "claim code": signature(claim.GetClaim()),
			"sealing key": sealingKey.Reveal(), "internal key": internalKey.Reveal(), "any JWT": "eyJ",
			"API key": made.GetKey(), "an API key's random part": made.GetKey()[6:40], "root key": apiKey,
		}
		stored := dump(t, s)
		if !strings.Contains(stored, apikey.Hash(made.GetKey())) || !strings.Contains(stored, ring.Keys[0].ID) || !strings.Contains(logs.String(), ring.Keys[0].ID) {
			t.Fatal("the scan does not even find the key's id and the API key's hash")
		}
		for name, secret := range secrets {
			if strings.Contains(stored, secret) {
				t.Errorf("%s is in Redis", name)
			}
			if strings.Contains(logs.String(), secret) {
				t.Errorf("%s is in the log", name)
			}
		}
	})
}

// unsealed returns the seed of a stored key, opened by hand: how keys are sealed is a contract with every ring in use.
func unsealed(t *testing.T, sealed token.SealedKey) []byte {
	t.Helper()
	derived, err := hkdf.Key(sha256.New, []byte(sealingKey.Reveal()), nil, "berth token-issuer: seal signing keys, v1", 32)
	if err != nil {
		t.Fatal(err)
	}
	block, err := aes.NewCipher(derived)
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	nonce, text := sealed.Sealed[:gcm.NonceSize()], sealed.Sealed[gcm.NonceSize():]
	seed, err := gcm.Open(nil, nonce, text, []byte(sealed.ID))
	if err != nil {
		t.Fatal(err)
	}
	return seed
}

func signature(jwt string) string { return jwt[strings.LastIndex(jwt, ".")+1:] }

// dump returns every key of the store with its value.
func dump(t *testing.T, s *redisx.Store) string {
	t.Helper()
	var out strings.Builder
	for _, key := range redistest.Keys(t, s) {
		out.WriteString(key + "\n")
		switch kind := s.Type(t.Context(), key).Val(); kind {
		case "string":
			out.WriteString(s.Get(t.Context(), key).Val())
		case "hash":
			for field, value := range s.HGetAll(t.Context(), key).Val() {
				out.WriteString(field + " " + value + "\n")
			}
		case "zset":
			out.WriteString(strings.Join(s.ZRange(t.Context(), key, 0, -1).Val(), "\n"))
		case "stream":
			for _, entry := range s.XRange(t.Context(), key, "-", "+").Val() {
				fmt.Fprintln(&out, entry.Values)
			}
		default:
			t.Errorf("%s is a %s, which this test cannot read", key, kind)
		}
	}
	return out.String()
}

type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
