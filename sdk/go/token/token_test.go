package token_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-dev/berth/sdk/go/token"
	"github.com/golang-jwt/jwt/v5"
)

// issuer signs tokens as the token-issuer does, with what each test changes.
type issuer struct {
	kid    string
	method jwt.SigningMethod
	key    crypto.Signer
}

func newIssuer(tb testing.TB, kid string) issuer {
	tb.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return issuer{kid, jwt.SigningMethodEdDSA, key}
}

func newES256Issuer(tb testing.TB, kid string) issuer {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return issuer{kid, jwt.SigningMethodES256, key}
}

// issuers are issuers of both algorithms, with the same key id.
func issuers(tb testing.TB, kid string) map[string]issuer {
	return map[string]issuer{"EdDSA": newIssuer(tb, kid), "ES256": newES256Issuer(tb, kid)}
}

func (i issuer) sign(tb testing.TB, c token.Claims) string {
	return i.signWith(tb, c, i.method, i.key)
}

// point is the uncompressed point of an EC key.
func point(tb testing.TB, key *ecdsa.PublicKey) []byte {
	tb.Helper()
	raw, err := key.Bytes()
	if err != nil {
		tb.Fatal(err)
	}
	return raw
}

// jwk is the issuer's public key.
func (i issuer) jwk(tb testing.TB) map[string]string {
	b64 := base64.RawURLEncoding.EncodeToString
	switch public := i.key.Public().(type) {
	case ed25519.PublicKey:
		return map[string]string{"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": i.kid, "x": b64(public)}
	case *ecdsa.PublicKey:
		raw := point(tb, public)
		return map[string]string{"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": i.kid, "x": b64(raw[1:33]), "y": b64(raw[33:])}
	default:
		tb.Fatalf("a %T", public)
		return nil
	}
}

// hmacSecrets are the bytes of a public key that a careless verifier might take for the secret of an HMAC.
func (i issuer) hmacSecrets(tb testing.TB) map[string][]byte {
	tb.Helper()
	der, err := x509.MarshalPKIXPublicKey(i.key.Public())
	if err != nil {
		tb.Fatal(err)
	}
	secrets := map[string][]byte{"DER": der, "PEM": pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), "x": []byte(i.jwk(tb)["x"])}
	switch public := i.key.Public().(type) {
	case ed25519.PublicKey:
		secrets["raw"] = public
	case *ecdsa.PublicKey:
		secrets["raw"] = point(tb, public)
	}
	return secrets
}

func (i issuer) signWith(tb testing.TB, c token.Claims, m jwt.SigningMethod, key crypto.PrivateKey) string {
	tb.Helper()
	t := jwt.NewWithClaims(m, c)
	if i.kid != "" {
		t.Header["kid"] = i.kid
	}
	raw, err := t.SignedString(key)
	if err != nil {
		tb.Fatal(err)
	}
	return raw
}

// document is the JSON Web Key Set of the issuers.
func document(tb testing.TB, issuers ...issuer) []byte {
	tb.Helper()
	var keys []map[string]string
	for _, i := range issuers {
		keys = append(keys, i.jwk(tb))
	}
	doc, err := json.Marshal(map[string]any{"keys": keys})
	if err != nil {
		tb.Fatal(err)
	}
	return doc
}

func verifier(tb testing.TB, issuers ...issuer) *token.Verifier {
	doc := document(tb, issuers...)
	return token.NewVerifier(token.NewKeySet(func(context.Context) ([]byte, error) { return doc, nil }))
}

func claims(audience string) token.Claims {
	now := time.Now()
	c := token.Claims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer: token.Issuer, Subject: "server-1", Audience: jwt.ClaimStrings{audience}, ID: "jti-" + audience,
			IssuedAt: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(now.Add(time.Hour)),
		},
		Namespace: "default",
		Pair:      "pair-1",
	}
	if audience == token.AudienceTicket {
		c.Subject, c.Pair, c.Instance = "player-1", "", "instance-1"
	}
	if audience == token.AudienceClaim {
		c.Instance = "instance-1"
	}
	return c
}

func wantReason(t *testing.T, err error, want token.Reason) {
	t.Helper()
	var refused *token.Error
	if !errors.As(err, &refused) {
		t.Fatalf("got error %v, want a refusal with %s", err, want)
	}
	if refused.Reason != want {
		t.Fatalf("got %s (%s), want %s", refused.Reason, refused.Message, want)
	}
	if strings.Contains(err.Error(), "eyJ") {
		t.Errorf("the message quotes the token: %s", err)
	}
}

func TestVerifyPair(t *testing.T) {
	// The halves may be signed by different keys: one was renewed around a rotation, or the algorithm was changed.
	one, two := newIssuer(t, "k1"), newES256Issuer(t, "k2")
	game, social := claims(token.AudienceGame), claims(token.AudienceSocial)
	social.ExpiresAt = jwt.NewNumericDate(game.ExpiresAt.Add(-time.Minute))
	game.IssuedAt = jwt.NewNumericDate(social.IssuedAt.Add(-time.Hour))
	got, err := verifier(t, one, two).VerifyPair(t.Context(), one.sign(t, game), two.sign(t, social))
	if err != nil {
		t.Fatal(err)
	}
	want := token.Server{
		ID: "server-1", PairID: "pair-1", Namespace: "default", IssueTime: game.IssuedAt.Time, ExpireTime: social.ExpiresAt.Time,
		GameKeyID: "k1", SocialKeyID: "k2",
	}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestVerifyPairRefuses(t *testing.T) {
	for name, i := range issuers(t, "k1") {
		t.Run(name, func(t *testing.T) { testVerifyPairRefuses(t, i) })
	}
}

func testVerifyPairRefuses(t *testing.T, i issuer) {
	other, otherAlgorithm := newIssuer(t, "k1"), newES256Issuer(t, "k1")
	if i.method == jwt.SigningMethodES256 {
		other, otherAlgorithm = otherAlgorithm, other
	}
	v := verifier(t, i)
	game, social := i.sign(t, claims(token.AudienceGame)), i.sign(t, claims(token.AudienceSocial))
	changed := func(audience string, change func(*token.Claims)) string {
		c := claims(audience)
		change(&c)
		return i.sign(t, c)
	}
	unnamed := issuer{"", i.method, i.key}
	unknown := issuer{"k2", i.method, i.key}
	gameClaims := claims(token.AudienceGame)

	for name, tc := range map[string]struct {
		game, social string
		want         token.Reason
	}{
		"no game token":            {"", social, token.Missing},
		"no social token":          {game, "", token.Missing},
		"swapped":                  {social, game, token.Swapped},
		"game token twice":         {game, game, token.Swapped},
		"social token twice":       {social, social, token.Swapped},
		"ticket as game token":     {i.sign(t, claims(token.AudienceTicket)), social, token.Invalid},
		"claim code as game token": {i.sign(t, claims(token.AudienceClaim)), social, token.Invalid},
		"claim code as social one": {game, i.sign(t, claims(token.AudienceClaim)), token.Invalid},
		"two audiences":            {changed("game", func(c *token.Claims) { c.Audience = jwt.ClaimStrings{"game", "social"} }), social, token.Invalid},
		"no audience":              {changed("game", func(c *token.Claims) { c.Audience = nil }), social, token.Invalid},
		"other pair":               {game, changed("social", func(c *token.Claims) { c.Pair = "pair-2" }), token.Mismatched},
		"other server":             {game, changed("social", func(c *token.Claims) { c.Subject = "server-2" }), token.Mismatched},
		"other namespace":          {game, changed("social", func(c *token.Claims) { c.Namespace = "prod" }), token.Mismatched},
		"no pair":                  {changed("game", func(c *token.Claims) { c.Pair = "" }), changed("social", func(c *token.Claims) { c.Pair = "" }), token.Invalid},
		"game token expired":       {changed("game", func(c *token.Claims) { c.ExpiresAt = jwt.NewNumericDate(time.Now().Add(-time.Minute)) }), social, token.Expired},
		"social token expired":     {game, changed("social", func(c *token.Claims) { c.ExpiresAt = jwt.NewNumericDate(time.Now().Add(-time.Minute)) }), token.Expired},
		"no expiry":                {changed("game", func(c *token.Claims) { c.ExpiresAt = nil }), social, token.Invalid},
		"not valid yet":            {changed("game", func(c *token.Claims) { c.NotBefore = jwt.NewNumericDate(time.Now().Add(time.Hour)) }), social, token.Invalid},
		"wrong issuer":             {changed("game", func(c *token.Claims) { c.Issuer = "somebody" }), social, token.Invalid},
		"wrong issuer and expired": {changed("game", func(c *token.Claims) { c.Issuer, c.ExpiresAt = "somebody", jwt.NewNumericDate(time.Unix(1, 0)) }), social, token.Invalid},
		"forged":                   {other.sign(t, claims("game")), social, token.Invalid},
		"key id unknown":           {unknown.sign(t, claims("game")), social, token.Invalid},
		"no key id":                {unnamed.sign(t, claims("game")), social, token.Invalid},
		"alg none":                 {i.signWith(t, gameClaims, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType), social, token.Invalid},
		"other algorithm":          {otherAlgorithm.sign(t, gameClaims), social, token.Invalid},
		"other algorithm's name":   {rename(t, game, otherAlgorithm.method.Alg()), social, token.Invalid},
		"alg none, signed":         {rename(t, game, "none"), social, token.Invalid},
		"not valid yet, expired": {changed("game", func(c *token.Claims) {
			c.NotBefore, c.ExpiresAt = jwt.NewNumericDate(time.Now().Add(time.Hour)), jwt.NewNumericDate(time.Unix(1, 0))
		}), social, token.Invalid},
		"expired and other pair":   {changed("game", func(c *token.Claims) { c.Pair, c.ExpiresAt = "pair-2", jwt.NewNumericDate(time.Unix(1, 0)) }), social, token.Mismatched},
		"expired and swapped":      {changed("social", func(c *token.Claims) { c.ExpiresAt = jwt.NewNumericDate(time.Unix(1, 0)) }), social, token.Swapped},
		"payload of another token": {splice(game, changed("game", func(c *token.Claims) { c.Subject = "server-2" })), social, token.Invalid},
		"signature cut off":        {game[:strings.LastIndex(game, ".")+1], social, token.Invalid},
		"not a JWT":                {"not a token", social, token.Invalid},
		"oversized":                {game + strings.Repeat("A", token.MaxSize), social, token.Invalid},
	} {
		t.Run(name, func(t *testing.T) {
			server, err := v.VerifyPair(t.Context(), tc.game, tc.social)
			wantReason(t, err, tc.want)
			if (server != token.Server{}) != (tc.want == token.Expired) {
				t.Errorf("refused with %s, and the server is %+v", tc.want, server)
			}
		})
	}
	for form, secret := range i.hmacSecrets(t) {
		for _, method := range []jwt.SigningMethod{jwt.SigningMethodHS256, jwt.SigningMethodHS512} {
			t.Run(method.Alg()+" with the public key as "+form, func(t *testing.T) {
				_, err := v.VerifyPair(t.Context(), i.signWith(t, gameClaims, method, secret), social)
				wantReason(t, err, token.Invalid)
			})
		}
	}
}

// rename puts another algorithm's name into a token's header.
func rename(tb testing.TB, raw, alg string) string {
	tb.Helper()
	header, rest, _ := strings.Cut(raw, ".")
	doc, err := base64.RawURLEncoding.DecodeString(header)
	if err != nil {
		tb.Fatal(err)
	}
	var h map[string]string
	if err := json.Unmarshal(doc, &h); err != nil {
		tb.Fatal(err)
	}
	h["alg"] = alg
	if doc, err = json.Marshal(h); err != nil {
		tb.Fatal(err)
	}
	return base64.RawURLEncoding.EncodeToString(doc) + "." + rest
}

// An expired pair is named beside its refusal, so that it can be renewed.
func TestAnExpiredPairIsNamed(t *testing.T) {
	i := newIssuer(t, "k1")
	over := jwt.NewNumericDate(time.Now().Add(-time.Hour))
	for name, expire := range map[string][2]bool{"game": {true, false}, "social": {false, true}, "both": {true, true}} {
		t.Run(name, func(t *testing.T) {
			game, social := claims(token.AudienceGame), claims(token.AudienceSocial)
			if expire[0] {
				game.ExpiresAt = over
			}
			if expire[1] {
				social.ExpiresAt = over
			}
			server, err := verifier(t, i).VerifyPair(t.Context(), i.sign(t, game), i.sign(t, social))
			wantReason(t, err, token.Expired)
			if server.ID != "server-1" || server.PairID != "pair-1" || !server.ExpireTime.Equal(over.Time) {
				t.Errorf("got %+v", server)
			}
		})
	}
}

func TestInspect(t *testing.T) {
	i := newIssuer(t, "k1")
	v := verifier(t, i)
	for name, tc := range map[string]struct {
		change  func(*token.Claims)
		refused token.Reason
	}{
		"valid":        {func(*token.Claims) {}, ""},
		"expired":      {func(c *token.Claims) { c.ExpiresAt = jwt.NewNumericDate(time.Unix(1, 0)) }, token.Expired},
		"not yet":      {func(c *token.Claims) { c.NotBefore = jwt.NewNumericDate(time.Now().Add(time.Hour)) }, token.Invalid},
		"other issuer": {func(c *token.Claims) { c.Issuer = "somebody" }, token.Invalid},
	} {
		t.Run(name, func(t *testing.T) {
			c := claims(token.AudienceSocial)
			tc.change(&c)
			got, err := v.Inspect(t.Context(), i.sign(t, c))
			if err != nil || got.KeyID != "k1" || got.Pair != "pair-1" || got.Subject != "server-1" {
				t.Fatalf("got %+v, %v", got, err)
			}
			if (got.Refused == nil) != (tc.refused == "") || got.Refused != nil && got.Refused.Reason != tc.refused {
				t.Errorf("refused: %v, want %q", got.Refused, tc.refused)
			}
		})
	}
	for name, raw := range map[string]string{"forged": newIssuer(t, "k1").sign(t, claims("game")), "alg none": rename(t, i.sign(t, claims("game")), "none"), "no JWT": "x"} {
		got, err := v.Inspect(t.Context(), raw)
		wantReason(t, err, token.Invalid)
		if got.Subject != "" || got.KeyID != "" {
			t.Errorf("%s: what nobody signed is said: %+v", name, got)
		}
	}
}

// splice puts the payload of one token between the header and signature of another.
func splice(a, b string) string {
	x, y := strings.Split(a, "."), strings.Split(b, ".")
	return x[0] + "." + y[1] + "." + x[2]
}

func TestVerifyTicket(t *testing.T) {
	i := newES256Issuer(t, "k1")
	v := verifier(t, i)
	c := claims(token.AudienceTicket)
	got, err := v.VerifyTicket(t.Context(), i.sign(t, c))
	if err != nil {
		t.Fatal(err)
	}
	want := token.Ticket{ID: "jti-ticket", PlayerID: "player-1", InstanceID: "instance-1", Namespace: "default", IssueTime: c.IssuedAt.Time, ExpireTime: c.ExpiresAt.Time, KeyID: "k1"}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}

	_, err = v.VerifyTicket(t.Context(), i.sign(t, claims(token.AudienceGame)))
	wantReason(t, err, token.Invalid)
	_, err = v.VerifyTicket(t.Context(), "")
	wantReason(t, err, token.Missing)
	for name, drop := range map[string]func(*token.Claims){
		"player":    func(c *token.Claims) { c.Subject = "" },
		"instance":  func(c *token.Claims) { c.Instance = "" },
		"namespace": func(c *token.Claims) { c.Namespace = "" },
		"jti":       func(c *token.Claims) { c.ID = "" },
	} {
		t.Run("without "+name, func(t *testing.T) {
			c := claims(token.AudienceTicket)
			drop(&c)
			_, err := v.VerifyTicket(t.Context(), i.sign(t, c))
			wantReason(t, err, token.Invalid)
		})
	}
}

func TestLeeway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer(t, "k1")
		v := verifier(t, i)
		raw := i.sign(t, claims(token.AudienceTicket)) // for an hour
		time.Sleep(time.Hour + token.Leeway - time.Second)
		if _, err := v.VerifyTicket(t.Context(), raw); err != nil {
			t.Errorf("refused within the leeway: %v", err)
		}
		time.Sleep(2 * time.Second)
		_, err := v.VerifyTicket(t.Context(), raw)
		wantReason(t, err, token.Expired)
	})
}

func TestFetchURL(t *testing.T) {
	i := newIssuer(t, "k1")
	status := http.StatusOK
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		w.Write(document(t, i)) //nolint:errcheck // the test sees what arrives
	}))
	defer srv.Close()
	fetch := token.FetchURL(srv.Client(), srv.URL)
	doc, err := fetch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if keys, err := token.ParseKeys(doc); err != nil || !keys["k1"].Equal(i.key.Public()) {
		t.Errorf("got keys %v, error %v", keys, err)
	}
	status = http.StatusServiceUnavailable
	if _, err := fetch(t.Context()); err == nil {
		t.Error("a document that came with status 503 was taken")
	}
}
