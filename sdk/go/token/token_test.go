package token_test

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
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
	kid string
	key ed25519.PrivateKey
}

func newIssuer(tb testing.TB, kid string) issuer {
	tb.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return issuer{kid, key}
}

func (i issuer) public() ed25519.PublicKey { return i.key.Public().(ed25519.PublicKey) }

func (i issuer) sign(tb testing.TB, c token.Claims) string {
	return i.signWith(tb, c, jwt.SigningMethodEdDSA, i.key)
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
		keys = append(keys, map[string]string{
			"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA",
			"kid": i.kid, "x": base64.RawURLEncoding.EncodeToString(i.public()),
		})
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
	i := newIssuer(t, "k1")
	game, social := claims(token.AudienceGame), claims(token.AudienceSocial)
	social.ExpiresAt = jwt.NewNumericDate(game.ExpiresAt.Add(-time.Minute))
	got, err := verifier(t, i).VerifyPair(t.Context(), i.sign(t, game), i.sign(t, social))
	if err != nil {
		t.Fatal(err)
	}
	want := token.Server{ID: "server-1", PairID: "pair-1", Namespace: "default", ExpireTime: social.ExpiresAt.Time}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestVerifyPairRefuses(t *testing.T) {
	i, other := newIssuer(t, "k1"), newIssuer(t, "k1")
	v := verifier(t, i)
	game, social := i.sign(t, claims(token.AudienceGame)), i.sign(t, claims(token.AudienceSocial))
	changed := func(audience string, change func(*token.Claims)) string {
		c := claims(audience)
		change(&c)
		return i.sign(t, c)
	}
	unnamed := issuer{"", i.key}
	unknown := issuer{"k2", i.key}
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
		"HS256 with public key":    {i.signWith(t, gameClaims, jwt.SigningMethodHS256, []byte(i.public())), social, token.Invalid},
		"payload of another token": {splice(game, changed("game", func(c *token.Claims) { c.Subject = "server-2" })), social, token.Invalid},
		"signature cut off":        {game[:strings.LastIndex(game, ".")+1], social, token.Invalid},
		"not a JWT":                {"not a token", social, token.Invalid},
		"oversized":                {game + strings.Repeat("A", token.MaxSize), social, token.Invalid},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := v.VerifyPair(t.Context(), tc.game, tc.social)
			wantReason(t, err, tc.want)
		})
	}
}

// splice puts the payload of one token between the header and signature of another.
func splice(a, b string) string {
	x, y := strings.Split(a, "."), strings.Split(b, ".")
	return x[0] + "." + y[1] + "." + x[2]
}

func TestVerifyTicket(t *testing.T) {
	i := newIssuer(t, "k1")
	v := verifier(t, i)
	c := claims(token.AudienceTicket)
	got, err := v.VerifyTicket(t.Context(), i.sign(t, c))
	if err != nil {
		t.Fatal(err)
	}
	want := token.Ticket{ID: "jti-ticket", PlayerID: "player-1", InstanceID: "instance-1", Namespace: "default", ExpireTime: c.ExpiresAt.Time}
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
	if keys, err := token.ParseKeys(doc); err != nil || !keys["k1"].Equal(i.public()) {
		t.Errorf("got keys %v, error %v", keys, err)
	}
	status = http.StatusServiceUnavailable
	if _, err := fetch(t.Context()); err == nil {
		t.Error("a document that came with status 503 was taken")
	}
}
