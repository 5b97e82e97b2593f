package token_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/berth-dev/berth/sdk/go/token"
)

// BenchmarkVerifyPair reports what it costs to verify a pair, beside two bare verifications of the same signatures, turn by turn so that both see the same
// machine. It is what each call over REST or gRPC pays for its two tokens.
func BenchmarkVerifyPair(b *testing.B) {
	i := newIssuer(b, "k1")
	v := verifier(b, i)
	game, social := i.sign(b, claims(token.AudienceGame)), i.sign(b, claims(token.AudienceSocial))
	key := i.key.Public().(ed25519.PublicKey)
	bare := func(raw string) {
		dot := strings.LastIndex(raw, ".")
		signature, err := base64.RawURLEncoding.DecodeString(raw[dot+1:])
		if err != nil || !ed25519.Verify(key, []byte(raw[:dot]), signature) {
			b.Fatal("the signature is not right")
		}
	}
	var whole, least time.Duration
	for b.Loop() {
		start := time.Now()
		if _, err := v.VerifyPair(b.Context(), game, social); err != nil {
			b.Fatal(err)
		}
		half := time.Now()
		bare(game)
		bare(social)
		whole += half.Sub(start)
		least += time.Since(half)
	}
	b.ReportMetric(0, "ns/op") // both sides together: of no use
	b.ReportMetric(float64(whole.Microseconds())/float64(b.N), "pair:us")
	b.ReportMetric(float64(whole)/float64(least), "to_two_bare:ratio")
}
