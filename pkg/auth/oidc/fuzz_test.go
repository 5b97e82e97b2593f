package oidc_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"net/url"
	"testing"
	"time"

	"github.com/berth-dev/berth/pkg/auth/oidc"
	"github.com/berth-dev/berth/pkg/auth/oidc/oidctest"
	"github.com/berth-dev/berth/pkg/errs"
)

// FuzzVerify: whatever comes in, there is no panic, what is refused is refused with a reason, and nobody else than the one whom the issuer has named comes in.
func FuzzVerify(f *testing.F) {
	k := oidctest.NewKey(f, "k")
	provider := oidctest.New(f, k)
	i := connect(f, provider, provider.Config())
	good := k.Sign(f, oidctest.Claims(provider.URL, map[string]any{"exp": time.Now().Add(24 * time.Hour).Unix()}), nil)
	if _, err := verify(f, i, good); err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(k.Sign(f, oidctest.Claims(provider.URL, map[string]any{"aud": []string{"a", "b"}}), map[string]any{"typ": nil}))
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	f.Add("eyJhbGciOiJFUzI1NiIsImtpZCI6ImsifQ.e30.AA")
	f.Add("..")
	f.Fuzz(func(t *testing.T, token string) {
		claims, err := i.Verify(t.Context(), token)
		switch reason := errs.ReasonOf(err); reason {
		case "":
			if claims.Text("sub") != "ann" {
				t.Errorf("accepted %q, whom nobody has named", claims.Text("sub"))
			}
		case errs.CredentialsInvalid, errs.CredentialsExpired, errs.ServiceUnavailable:
		default:
			t.Errorf("failed with %v, which is no refusal", err)
		}
	})
}

// FuzzDiscovery: whatever an issuer publishes about itself, its keys are looked for over https only, and only if the document is its own.
func FuzzDiscovery(f *testing.F) {
	f.Add([]byte(`{"issuer":"https://id.example.com","jwks_uri":"https://id.example.com/keys"}`))
	f.Add([]byte(`{"issuer":"https://id.example.com","jwks_uri":"http://id.example.com/keys"}`))
	f.Add([]byte(`{"issuer":"https://id.example.com","issuer":"x","jwks_uri":"//"}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, doc []byte) {
		at, err := oidc.ParseDiscovery(doc, "https://id.example.com")
		if err != nil {
			return
		}
		if u, err := url.Parse(at); err != nil || u.Scheme != "https" || u.User != nil || u.Hostname() == "" {
			t.Errorf("keys at %q, %v", at, err)
		}
	})
}

// FuzzKeys: whatever an issuer publishes as its keys, those that are used are public, and strong enough.
func FuzzKeys(f *testing.F) {
	f.Add(oidctest.KeySet(f, oidctest.NewKey(f, "a"), oidctest.NewKey(f, "a")))
	f.Add([]byte(`{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB","kid":"a"},{"kty":"oct","k":"AQAB","kid":"b"},{"kty":"OKP","crv":"Ed25519","x":"","kid":"c"}]}`))
	f.Add([]byte(`{"keys":null}`))
	f.Fuzz(func(t *testing.T, doc []byte) {
		all, err := oidc.ParseKeys(doc)
		if err != nil && len(all) > 0 {
			t.Error("keys and an error")
		}
		for id, keys := range all {
			for _, k := range keys {
				switch k := k.(type) {
				case *rsa.PublicKey:
					if k.N.BitLen() < 2048 {
						t.Errorf("key %q has %d bits", id, k.N.BitLen())
					}
				case *ecdsa.PublicKey, ed25519.PublicKey:
				default:
					t.Errorf("key %q is a %T", id, k)
				}
			}
		}
	})
}
