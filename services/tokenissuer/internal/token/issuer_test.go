package token

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-dev/berth/pkg/conf"
	"github.com/berth-dev/berth/pkg/ids"
	sdk "github.com/berth-dev/berth/sdk/go/token"
)

const attempt = "6f1c1b53-4a2e-4c4e-9c57-0d3a0d6b1a10-1"

func newIssuer(tb testing.TB) *Issuer {
	tb.Helper()
	return newIssuerOf(tb, sdk.EdDSA)
}

func newIssuerOf(tb testing.TB, algorithm sdk.Algorithm) *Issuer {
	tb.Helper()
	p := policy()
	p.Algorithm = algorithm
	return New(Config{
		Keys: openKeyring(tb, newStore(), p), Revocations: openRevocations(tb, newList()),
		PairLifetime: time.Hour, RefreshWindow: 20 * time.Minute, TicketLifetime: 2 * time.Minute,
	})
}

// verifier is the SDK's, which knows the issuer's public keys.
func verifier(i *Issuer) *sdk.Verifier {
	return sdk.NewVerifier(sdk.NewKeySet(func(context.Context) ([]byte, error) {
		return i.cfg.Keys.Ring().JWKS()
	}))
}

// claimsOf reads the header and the claims of a token, unverified and as they stand on the wire.
func claimsOf(tb testing.TB, raw conf.Secret) (header, claims map[string]any) {
	tb.Helper()
	for i, into := range []*map[string]any{&header, &claims} {
		part, err := base64.RawURLEncoding.DecodeString(strings.Split(raw.Reveal(), ".")[i])
		if err != nil {
			tb.Fatal(err)
		}
		if err := json.Unmarshal(part, into); err != nil {
			tb.Fatal(err)
		}
	}
	return header, claims
}

func TestIssuePair(t *testing.T) {
	for _, algorithm := range []sdk.Algorithm{sdk.EdDSA, sdk.ES256} {
		t.Run(string(algorithm), func(t *testing.T) { testIssuePair(t, algorithm) })
	}
}

func testIssuePair(t *testing.T, algorithm sdk.Algorithm) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(300 * time.Millisecond) // tokens know whole seconds only; the answer must not promise more
		i := newIssuerOf(t, algorithm)
		kid := signing(t, i.cfg.Keys).ID()
		p, err := i.IssuePair(t.Context(), "prod", attempt)
		if err != nil {
			t.Fatal(err)
		}
		now := time.Now().Truncate(time.Second)
		if p.ServerID != ids.Server(attempt) || p.PairID != ids.Pair(attempt) || !p.ExpireTime.Equal(now.Add(time.Hour)) || !p.RefreshTime.Equal(now.Add(40*time.Minute)) {
			t.Errorf("got %+v", p)
		}
		server, err := verifier(i).VerifyPair(t.Context(), p.Game.Reveal(), p.Social.Reveal())
		if want := (sdk.Server{ID: p.ServerID, PairID: p.PairID, Namespace: "prod", IssueTime: now, ExpireTime: p.ExpireTime, GameKeyID: kid, SocialKeyID: kid}); err != nil || server != want {
			t.Errorf("verified as %+v, %v, want %+v", server, err, want)
		}
		for audience, raw := range map[string]conf.Secret{"game": p.Game, "social": p.Social} {
			header, claims := claimsOf(t, raw)
			if want := (map[string]any{"alg": string(algorithm), "typ": "JWT", "kid": kid}); !reflect.DeepEqual(header, want) {
				t.Errorf("%s: header %v, want %v", audience, header, want)
			}
			if claims["jti"] == "" {
				t.Errorf("%s: no jti", audience)
			}
			delete(claims, "jti")
			want := map[string]any{
				"iss": "berth", "sub": p.ServerID, "aud": []any{audience}, "namespace": "prod", "pair": p.PairID,
				"iat": float64(now.Unix()), "exp": float64(now.Add(time.Hour).Unix()),
			}
			if !reflect.DeepEqual(claims, want) {
				t.Errorf("%s: claims %v, want %v", audience, claims, want)
			}
		}
	})
}

func TestIssuePairAgainRenewsTheSamePair(t *testing.T) {
	i := newIssuer(t)
	first, err := i.IssuePair(t.Context(), "default", attempt)
	if err != nil {
		t.Fatal(err)
	}
	again, err := i.IssuePair(t.Context(), "default", attempt)
	if err != nil {
		t.Fatal(err)
	}
	refreshed, err := i.RefreshPair(t.Context(), "default", first.ServerID, first.PairID)
	if err != nil || refreshed.ServerID != first.ServerID || refreshed.PairID != first.PairID {
		t.Fatal(refreshed, err)
	}
	other, err := i.IssuePair(t.Context(), "default", attempt+"1")
	if err != nil {
		t.Fatal(err)
	}
	if again.ServerID != first.ServerID || again.PairID != first.PairID {
		t.Error("another pair for the same attempt")
	}
	if other.ServerID == first.ServerID || other.PairID == first.PairID {
		t.Error("the same pair for another attempt")
	}
	var seen []string
	for _, raw := range []conf.Secret{first.Game, first.Social, again.Game, again.Social, refreshed.Game, refreshed.Social} {
		_, claims := claimsOf(t, raw)
		jti, _ := claims["jti"].(string)
		if slices.Contains(seen, jti) {
			t.Error("a jti repeats")
		}
		seen = append(seen, jti)
	}
	// Halves that were minted at different times are still one pair.
	if _, err := verifier(i).VerifyPair(t.Context(), first.Game.Reveal(), refreshed.Social.Reveal()); err != nil {
		t.Errorf("first game token with renewed social token: %v", err)
	}
}

func TestIssueTicket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer(t)
		v := verifier(i)
		ticket, err := i.IssueTicket(t.Context(), "prod", "instance-1", "player-1")
		if err != nil {
			t.Fatal(err)
		}
		if want := time.Now().Truncate(time.Second).Add(2 * time.Minute); !ticket.ExpireTime.Equal(want) {
			t.Errorf("expires %v, want %v", ticket.ExpireTime, want)
		}
		got, err := v.VerifyTicket(t.Context(), ticket.Token.Reveal())
		want := sdk.Ticket{ID: got.ID, PlayerID: "player-1", InstanceID: "instance-1", Namespace: "prod", IssueTime: got.IssueTime, ExpireTime: ticket.ExpireTime, KeyID: got.KeyID}
		if err != nil || got != want {
			t.Errorf("verified as %+v, %v, want %+v", got, err, want)
		}
		_, claims := claimsOf(t, ticket.Token)
		if _, ok := claims["pair"]; ok {
			t.Error("a ticket names a pair")
		}

		time.Sleep(2*time.Minute + sdk.Leeway + time.Second)
		_, err = v.VerifyTicket(t.Context(), ticket.Token.Reveal())
		var refused *sdk.Error
		if !errors.As(err, &refused) || refused.Reason != sdk.Expired {
			t.Errorf("after its lifetime: %v", err)
		}
	})
}

func TestTokensAreNeverPrinted(t *testing.T) {
	i := newIssuer(t)
	pair, err := i.IssuePair(t.Context(), "default", attempt)
	if err != nil {
		t.Fatal(err)
	}
	ticket, err := i.IssueTicket(t.Context(), "default", "instance-1", "player-1")
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	claim, err := i.IssueClaim(t.Context(), "default", attempt)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []any{pair, &pair, ticket, &ticket, claim, &claim} {
		fmt.Fprintf(&out, "%v %+v %#v %s\n", v, v, v, v)
		slog.New(slog.NewTextHandler(&out, nil)).Info("text", "v", v)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("json", "v", v)
	}
	if strings.Contains(out.String(), "eyJ") || !strings.Contains(out.String(), pair.PairID) {
		t.Errorf("printed %s", out.String())
	}
}

// BenchmarkIssuePair reports what a pair costs beside two bare signatures over the same bytes, taken turn by turn so that both see the same machine.
func BenchmarkIssuePair(b *testing.B) {
	i := newIssuer(b)
	key := signing(b, i.cfg.Keys).private().(ed25519.PrivateKey)
	p, err := i.IssuePair(b.Context(), "default", attempt)
	if err != nil {
		b.Fatal(err)
	}
	raw := p.Social.Reveal()
	input := []byte(raw[:strings.LastIndex(raw, ".")])
	var pair, bare time.Duration
	for b.Loop() {
		start := time.Now()
		if _, err := i.IssuePair(b.Context(), "default", attempt); err != nil {
			b.Fatal(err)
		}
		half := time.Now()
		for range 2 {
			ed25519.Sign(key, input)
		}
		pair += half.Sub(start)
		bare += time.Since(half)
	}
	b.ReportMetric(0, "ns/op") // both sides together: of no use
	b.ReportMetric(float64(pair.Microseconds())/float64(b.N), "pair:us")
	b.ReportMetric(float64(pair)/float64(bare), "to_two_bare:ratio")
}
