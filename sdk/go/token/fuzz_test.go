package token_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"errors"
	"testing"

	"github.com/berth-dev/berth/sdk/go/token"
)

// FuzzVerify: whatever comes in, the verifier does not panic, refuses with a *Error, and accepts only what was signed. Of invented key ids it finds so many
// that it may come to no verdict.
func FuzzVerify(f *testing.F) {
	i := newIssuer(f, "k1")
	v := verifier(f, i)
	good := i.sign(f, claims(token.AudienceTicket))
	f.Add(good)
	f.Add(i.sign(f, claims(token.AudienceGame)))
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	f.Add("..")
	f.Fuzz(func(t *testing.T, raw string) {
		_, err := v.VerifyTicket(t.Context(), raw)
		var refused *token.Error
		switch {
		case err == nil && raw != good:
			t.Errorf("accepted a ticket that nobody issued")
		case err != nil && !errors.As(err, &refused) && !errors.Is(err, token.ErrKeysUnavailable):
			t.Errorf("failed with %v, which is no refusal", err)
		}
	})
}

// FuzzParseKeys: whatever comes in, there is no panic and each key can be used.
func FuzzParseKeys(f *testing.F) {
	f.Add(document(f, newIssuer(f, "k1"), newES256Issuer(f, "k2")))
	f.Add([]byte(`{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":""}]}`))
	f.Add([]byte(`{"keys":null}`))
	f.Fuzz(func(t *testing.T, doc []byte) {
		keys, err := token.ParseKeys(doc)
		if err != nil && keys != nil {
			t.Error("keys and an error")
		}
		for kid, key := range keys {
			ed, isEd := key.(ed25519.PublicKey)
			ec, isEC := key.(*ecdsa.PublicKey)
			if kid == "" || isEd == isEC || isEd && len(ed) != ed25519.PublicKeySize || isEC && ec.Curve.Params().Name != "P-256" {
				t.Errorf("key %q is a %T", kid, key)
			}
		}
	})
}
