package token_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/berth-dev/berth/sdk/go/token"
)

// signJSON signs a payload as it stands, which need not be what a JSON encoder would write. extra goes into the header, over what belongs there.
func (i issuer) signJSON(tb testing.TB, payload string, extra map[string]any) string {
	tb.Helper()
	header := map[string]any{"typ": "JWT", "alg": i.method.Alg(), "kid": i.kid}
	maps.Copy(header, extra)
	doc, err := json.Marshal(header)
	if err != nil {
		tb.Fatal(err)
	}
	b64 := base64.RawURLEncoding.EncodeToString
	text := b64(doc) + "." + b64([]byte(payload))
	signature, err := i.method.Sign(text, i.key)
	if err != nil {
		tb.Fatal(err)
	}
	return text + "." + b64(signature)
}

// members is the inside of a good payload.
func members(tb testing.TB, audience string) string {
	tb.Helper()
	doc, err := json.Marshal(claims(audience))
	if err != nil {
		tb.Fatal(err)
	}
	return strings.Trim(string(doc), "{}")
}

// A key id is looked up among Berth's keys, and no other key than those verifies, wherever a token says that it is to be found.
func TestATokenCannotBringItsKey(t *testing.T) {
	for algorithm, genuine := range issuers(t, "k1") {
		forger := issuers(t, "k1")[algorithm]
		payload := "{" + members(t, token.AudienceGame) + "}"
		social := genuine.sign(t, claims(token.AudienceSocial))
		if _, err := verifier(t, genuine).VerifyPair(t.Context(), genuine.signJSON(t, payload, nil), social); err != nil {
			t.Fatalf("the forger's tool makes no tokens: %v", err)
		}
		for name, header := range map[string]map[string]any{
			"path":        {"kid": "../../../../dev/null"},
			"address":     {"kid": "https://attacker.example/jwks.json"},
			"statement":   {"kid": "k1' UNION SELECT 'AA'; --"},
			"pattern":     {"kid": "k*"},
			"other case":  {"kid": "K1"},
			"zero byte":   {"kid": "k1\x00"},
			"long":        {"kid": strings.Repeat("k", 4096)},
			"empty":       {"kid": ""},
			"null":        {"kid": nil},
			"number":      {"kid": 1},
			"list":        {"kid": []string{"k1"}},
			"object":      {"kid": map[string]string{"k1": "k1"}},
			"its own key": {"jwk": forger.jwk(t)},
			"where it is": {"jku": "https://attacker.example/jwks.json", "x5u": "https://attacker.example/cert.pem"},
			"certificate": {"x5c": []string{"AAAA"}},
			"no key":      {},
		} {
			t.Run(algorithm+" "+name, func(t *testing.T) {
				_, err := verifier(t, genuine).VerifyPair(t.Context(), forger.signJSON(t, payload, header), social)
				wantReason(t, err, token.Invalid)
				if _, renamed := header["kid"]; renamed { // no key has another name than its own
					_, err = verifier(t, genuine).VerifyPair(t.Context(), genuine.signJSON(t, payload, header), social)
					wantReason(t, err, token.Invalid)
				}
			})
		}
	}
}

// What is too long is refused before anything is decoded, verified or fetched, however genuine it is.
func TestATokenThatIsTooLongIsNotLookedAt(t *testing.T) {
	i, fetches := newIssuer(t, "k1"), 0
	doc := document(t, i)
	v := token.NewVerifier(token.NewKeySet(func(context.Context) ([]byte, error) { fetches++; return doc, nil }))
	of := func(size int) string {
		return i.signJSON(t, fmt.Sprintf(`{%s,"pad":%q}`, members(t, token.AudienceTicket), strings.Repeat("x", size)), nil)
	}
	for name, raw := range map[string]string{
		"a mebibyte": of(1 << 20), "a mebibyte of nothing": strings.Repeat("A", 1<<20), "a mebibyte of dots": strings.Repeat(".", 1<<20), "just too long": of(token.MaxSize * 3 / 4),
	} {
		_, err := v.VerifyTicket(t.Context(), raw)
		wantReason(t, err, token.Invalid)
		if fetches != 0 {
			t.Fatalf("%s: keys were fetched for it", name)
		}
	}
	long := of(token.MaxSize / 2)
	if _, err := v.VerifyTicket(t.Context(), long); err != nil || len(long) > token.MaxSize {
		t.Errorf("%d bytes: %v", len(long), err)
	}
}

// Of a claim that is there twice the last one counts for every check. Nobody but the issuer could have signed such a token, and it makes none.
func TestAClaimThatIsThereTwice(t *testing.T) {
	i := newIssuer(t, "k1")
	v, past := verifier(t, i), time.Now().Add(-time.Hour).Unix()
	good, social := members(t, token.AudienceGame), i.sign(t, claims(token.AudienceSocial))
	for name, tc := range map[string]struct {
		payload string
		want    token.Reason
	}{
		"the same twice":      {good + "," + good, ""},
		"audience":            {good + `,"aud":"social"`, token.Swapped},
		"audience, a ticket":  {good + `,"aud":["ticket"]`, token.Invalid},
		"expiry":              {fmt.Sprintf(`%s,"exp":%d`, good, past), token.Expired},
		"expiry taken away":   {good + `,"exp":null`, token.Invalid},
		"issuer":              {good + `,"iss":"somebody"`, token.Invalid},
		"server":              {good + `,"sub":"server-2"`, token.Mismatched},
		"pair":                {good + `,"pair":"pair-2"`, token.Mismatched},
		"namespace":           {good + `,"namespace":"prod"`, token.Mismatched},
		"namespace, in front": {`"namespace":"prod",` + good, ""},
	} {
		_, err := v.VerifyPair(t.Context(), i.signJSON(t, "{"+tc.payload+"}", nil), social)
		if tc.want == "" && err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if tc.want != "" {
			wantReason(t, err, tc.want)
		}
	}
}

// Of what a token must say nothing may be missing.
func TestAClaimThatIsMissing(t *testing.T) {
	i := newIssuer(t, "k1")
	v := verifier(t, i)
	without := func(audience, claim string) string {
		var all map[string]any
		if err := json.Unmarshal([]byte("{"+members(t, audience)+"}"), &all); err != nil {
			t.Fatal(err)
		}
		if _, ok := all[claim]; !ok && claim != "" {
			t.Fatalf("a %s token has no %s", audience, claim)
		}
		delete(all, claim)
		doc, err := json.Marshal(all)
		if err != nil {
			t.Fatal(err)
		}
		return i.signJSON(t, string(doc), nil)
	}
	if _, err := v.VerifyPair(t.Context(), without(token.AudienceGame, ""), without(token.AudienceSocial, "")); err != nil {
		t.Fatal(err)
	}
	for _, claim := range []string{"iss", "aud", "exp", "sub", "pair", "namespace"} {
		_, err := v.VerifyPair(t.Context(), without(token.AudienceGame, claim), without(token.AudienceSocial, claim))
		wantReason(t, err, token.Invalid)
	}
	for _, claim := range []string{"iss", "aud", "exp", "sub", "instance", "namespace", "jti"} {
		_, err := v.VerifyTicket(t.Context(), without(token.AudienceTicket, claim))
		wantReason(t, err, token.Invalid)
	}
}
