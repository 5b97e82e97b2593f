package oidc_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/berth-dev/berth/pkg/auth/oidc"
	"github.com/berth-dev/berth/pkg/auth/oidc/oidctest"
	"github.com/berth-dev/berth/pkg/egress"
	"github.com/berth-dev/berth/pkg/errs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rsaKey makes keys once: they take long.
var rsaKey = sync.OnceValue(func() *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return k
})

// run starts to verify the tokens of an issuer, until the test ends.
func run(t testing.TB, cfg oidc.Config, client *http.Client) *oidc.Issuer {
	t.Helper()
	i, err := oidc.New(cfg, oidc.Options{Client: client, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan error, 1)
	go func() { stopped <- i.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
	return i
}

// client reaches servers as services do.
func client(t testing.TB, out egress.Config) *http.Client {
	t.Helper()
	c, err := out.Client(egress.Options{Timeout: 10 * time.Second, MaxBody: oidc.MaxDocument})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// connect is run for an issuer with a server, and returns once that was asked for its keys.
func connect(t testing.TB, provider *oidctest.Issuer, cfg oidc.Config) *oidc.Issuer {
	t.Helper()
	before := provider.Asked(oidctest.DiscoveryPath)
	i := run(t, cfg, client(t, provider.Egress()))
	for deadline := time.Now().Add(time.Minute); provider.Asked(oidctest.DiscoveryPath) == before; <-time.After(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the issuer is not asked for its keys")
		}
	}
	return i
}

// verify asks until there is a verdict: the first fetch is made in the background.
func verify(t testing.TB, i *oidc.Issuer, token string) (oidc.Claims, error) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; <-time.After(10 * time.Millisecond) {
		claims, err := i.Verify(t.Context(), token)
		if !errs.Is(err, errs.ServiceUnavailable) || time.Now().After(deadline) {
			return claims, err
		}
	}
}

func TestEachAlgorithmIsVerified(t *testing.T) {
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	keys := []oidctest.Key{
		{ID: "rs", Algorithm: jose.RS256, Private: rsaKey()}, {ID: "ps", Algorithm: jose.PS256, Private: rsaKey()}, oidctest.NewKey(t, "es"),
		{ID: "es384", Algorithm: jose.ES384, Private: p384}, {ID: "ed", Algorithm: jose.EdDSA, Private: ed},
	}
	provider := oidctest.New(t, keys...)
	i := connect(t, provider, provider.Config())
	for _, k := range keys {
		for _, typ := range []any{"JWT", "at+jwt", "application/at+JWT", nil} {
			claims, err := verify(t, i, k.Sign(t, oidctest.Claims(provider.URL, nil), map[string]any{"typ": typ}))
			if err != nil || claims.Text("sub") != "ann" {
				t.Errorf("%s, typ %v: %v", k.ID, typ, err)
			}
		}
	}
}

// encode writes a token by hand.
func encode(header, payload string, sign func(string) []byte) string {
	b64 := base64.RawURLEncoding.EncodeToString
	unsigned := b64([]byte(header)) + "." + b64([]byte(payload))
	return unsigned + "." + b64(sign(unsigned))
}

func text(t testing.TB, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func none(string) []byte { return nil }

func TestBadTokensAreRefused(t *testing.T) {
	es, rs, mallory := oidctest.NewKey(t, "es"), oidctest.Key{ID: "rs", Algorithm: jose.RS256, Private: rsaKey()}, oidctest.NewKey(t, "es")
	provider, theirs := oidctest.New(t, es, rs), oidctest.New(t, mallory)
	i := connect(t, provider, provider.Config())
	claims := func(more map[string]any) map[string]any { return oidctest.Claims(provider.URL, more) }
	good := es.Sign(t, claims(nil), nil)
	if _, err := verify(t, i, good); err != nil {
		t.Fatal(err)
	}
	fetches := provider.Asked(oidctest.KeysPath)
	in := func(d time.Duration) int64 { return time.Now().Add(d).Unix() }
	with := func(claim string, value any) string { return es.Sign(t, claims(map[string]any{claim: value}), nil) }
	header := func(k oidctest.Key, member string, value any) string {
		return k.Sign(t, claims(nil), map[string]any{member: value})
	}
	spki, err := x509.MarshalPKIXPublicKey(rsaKey().Public())
	if err != nil {
		t.Fatal(err)
	}
	hs256 := func(secret []byte) string {
		return encode(`{"alg":"HS256","kid":"rs"}`, text(t, claims(nil)), func(s string) []byte {
			h := hmac.New(sha256.New, secret)
			h.Write([]byte(s))
			return h.Sum(nil)
		})
	}
	ec := func(s string) []byte { // a good signature, for what its library would not write
		sum := sha256.Sum256([]byte(s))
		r, ss, err := ecdsa.Sign(rand.Reader, es.Private.(*ecdsa.PrivateKey), sum[:])
		if err != nil {
			t.Fatal(err)
		}
		return append(r.FillBytes(make([]byte, 32)), ss.FillBytes(make([]byte, 32))...)
	}
	parts := strings.Split(good, ".")
	other := strings.Split(with("sub", "root"), ".")
	for name, c := range map[string]struct {
		token string
		cause string
	}{
		"nothing":                     {"", "form"},
		"dots":                        {"..", "form"},
		"five parts":                  {good + ".x.y", "form"},
		"alg none":                    {encode(`{"alg":"none","kid":"es"}`, text(t, claims(nil)), none), "algorithm"},
		"alg none, signed":            {encode(`{"alg":"none","kid":"es"}`, text(t, claims(nil)), ec), "algorithm"},
		"no alg":                      {encode(`{"kid":"es"}`, text(t, claims(nil)), ec), "algorithm"},
		"HS256 with the DER":          {hs256(spki), "algorithm"},
		"HS256 with the PEM":          {hs256(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki})), "algorithm"},
		"RS512":                       {oidctest.Key{ID: "rs", Algorithm: jose.RS512, Private: rsaKey()}.Sign(t, claims(nil), nil), "algorithm"},
		"another key's algorithm":     {encode(`{"alg":"ES256","kid":"rs"}`, text(t, claims(nil)), ec), "is not for ES256"},
		"another algorithm's name":    {encode(`{"alg":"ES384","kid":"es"}`, text(t, claims(nil)), ec), "is not for ES384"},
		"forged":                      {mallory.Sign(t, claims(nil), nil), "signature"},
		"another's payload":           {parts[0] + "." + other[1] + "." + parts[2], "signature"},
		"no signature":                {parts[0] + "." + parts[1] + ".", "signature"},
		"brings its key":              {header(mallory, "jwk", mallory.JWK()), "signature"},
		"names an address of keys":    {header(mallory, "jku", theirs.Server.URL+oidctest.KeysPath), "signature"},
		"names a certificate":         {header(mallory, "x5u", theirs.Server.URL+"/cert"), "signature"},
		"no kid":                      {header(es, "kid", nil), "kid"},
		"kid is a number":             {encode(`{"alg":"ES256","kid":1}`, text(t, claims(nil)), ec), "form"},
		"kid twice":                   {encode(`{"alg":"ES256","kid":"es","kid":"es"}`, text(t, claims(nil)), ec), "header"},
		"asks for more":               {header(es, "crit", []string{"exp"}), "crit"},
		"payload as it is":            {encode(`{"alg":"ES256","kid":"es","b64":false,"crit":["b64"]}`, text(t, claims(nil)), ec), "crit"},
		"a logout token":              {header(es, "typ", "logout+jwt"), "logout+jwt"},
		"typ is a list":               {header(es, "typ", []string{"JWT"}), "typ"},
		"not yet valid":               {with("nbf", in(time.Minute)), "nbf"},
		"issued in the future":        {with("iat", in(time.Minute)), "iat"},
		"no exp":                      {with("exp", nil), "exp is missing"},
		"exp is a text":               {with("exp", "2100-01-01"), "claims"},
		"exp beyond all time":         {with("exp", 1e300), "claims"},
		"no issuer":                   {with("iss", nil), "iss"},
		"wrong issuer":                {with("iss", theirs.URL), "iss"},
		"the issuer with a slash":     {with("iss", provider.URL+"/"), "iss"},
		"no audience":                 {with("aud", nil), "aud"},
		"wrong audience":              {with("aud", "Berth"), "aud"},
		"audience is a number":        {with("aud", 1), "claims"},
		"other audiences":             {with("aud", []string{"a", "berth "}), "aud"},
		"two audiences":               {with("aud", []string{"berth", "account"}), "azp"},
		"two audiences, another's":    {es.Sign(t, claims(map[string]any{"aud": []string{"berth", "account"}, "azp": "web"}), nil), "azp"},
		"a claim twice":               {es.SignBytes(t, []byte(`{"sub":"ann",`+text(t, claims(nil))[1:]), nil), "duplicate"},
		"a claim twice, deeper":       {es.SignBytes(t, []byte(`{"realm_access":{"roles":[],"roles":["admin"]},`+text(t, claims(nil))[1:]), nil), "duplicate"},
		"claims in other letters":     {es.SignBytes(t, []byte(strings.ToUpper(text(t, claims(nil)))), nil), "iss"},
		"claims are a list":           {es.SignBytes(t, []byte(`[]`), nil), "claims"},
		"claims are null":             {es.SignBytes(t, []byte(`null`), nil), "iss"},
		"two claims after each other": {es.SignBytes(t, []byte(text(t, claims(nil))+"{}"), nil), "claims"},
		"1 MiB":                       {parts[0] + "." + strings.Repeat("A", 1<<20) + "." + parts[2], "at most 16384 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := i.Verify(t.Context(), c.token)
			if !errs.Is(err, errs.CredentialsInvalid) || !strings.Contains(err.Error(), c.cause) {
				t.Errorf("got %v, want a cause with %q", err, c.cause)
			}
			if c.token != "" && len(c.token) < 1<<16 && strings.Contains(err.Error(), strings.Split(c.token+"..", ".")[2]) && len(strings.Split(c.token+"..", ".")[2]) > 10 {
				t.Errorf("the error has the signature: %v", err)
			}
		})
	}
	if provider.Asked(oidctest.KeysPath) != fetches || theirs.Asked(oidctest.KeysPath)+theirs.Asked("/cert") != 0 {
		t.Error("a token with a known key, or one that names an address, has caused a fetch")
	}
	if _, err := i.Verify(t.Context(), with("exp", in(-time.Minute))); !errs.Is(err, errs.CredentialsExpired) {
		t.Errorf("expired: %v", err)
	}
	if _, err := i.Verify(t.Context(), es.Sign(t, claims(map[string]any{"exp": in(-time.Minute), "aud": "x"}), nil)); !errs.Is(err, errs.CredentialsInvalid) {
		t.Errorf("expired, and for somebody else: %v", err)
	}
	if _, err := i.Verify(t.Context(), with("exp", in(-10*time.Second))); err != nil {
		t.Errorf("expired by less than clocks may differ: %v", err)
	}
	if _, err := i.Verify(t.Context(), with("iat", in(10*time.Second))); err != nil {
		t.Errorf("from a clock that is ahead: %v", err)
	}
}

// Ids of keys are looked up and nothing else is done with them.
func TestKeyIDsCannotBeInjected(t *testing.T) {
	k := oidctest.NewKey(t, "k")
	provider := oidctest.New(t, k)
	i := connect(t, provider, provider.Config())
	if _, err := verify(t, i, k.Sign(t, oidctest.Claims(provider.URL, nil), nil)); err != nil {
		t.Fatal(err)
	}
	for _, kid := range []string{"../../../dev/null", "k' OR '1'='1", "https://example.com/key", "k\x00", strings.Repeat("k", 4000), "K"} {
		_, err := i.Verify(t.Context(), k.Sign(t, oidctest.Claims(provider.URL, nil), map[string]any{"kid": kid}))
		if !errs.Is(err, errs.CredentialsInvalid) && !errs.Is(err, errs.ServiceUnavailable) {
			t.Errorf("%.20q: %v", kid, err)
		}
	}
}

func TestPartiesAndLifetimes(t *testing.T) {
	k := oidctest.NewKey(t, "k")
	provider := oidctest.New(t, k)
	limited := provider.Config()
	limited.AuthorizedParties, limited.MaxLifetime = []string{"web"}, time.Hour
	free, strict := connect(t, provider, provider.Config()), connect(t, provider, limited)
	two := []string{"berth", "account"}
	now := time.Now()
	for name, c := range map[string]struct {
		claims       map[string]any
		free, strict bool
	}{
		"one audience":                    {map[string]any{}, true, false},
		"one audience, another's party":   {map[string]any{"azp": "x"}, true, false},
		"one audience, the party":         {map[string]any{"azp": "web"}, true, true},
		"two audiences, the party":        {map[string]any{"aud": two, "azp": "web"}, false, true},
		"two audiences, itself the party": {map[string]any{"aud": two, "azp": "berth"}, true, true},
		"two audiences, no party":         {map[string]any{"aud": two}, false, false},
		"party is a list":                 {map[string]any{"aud": two, "azp": []string{"berth"}}, false, false},
		"an hour":                         {map[string]any{"azp": "web", "iat": now.Unix(), "exp": now.Add(time.Hour).Unix()}, true, true},
		"a day":                           {map[string]any{"azp": "web", "exp": now.Add(24 * time.Hour).Unix()}, true, false},
		"no beginning":                    {map[string]any{"azp": "web", "iat": nil}, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			token := k.Sign(t, oidctest.Claims(provider.URL, c.claims), nil)
			for issuer, want := range map[*oidc.Issuer]bool{free: c.free, strict: c.strict} {
				if _, err := verify(t, issuer, token); (err == nil) != want || err != nil && !errs.Is(err, errs.CredentialsInvalid) {
					t.Errorf("strict %v: %v", issuer == strict, err)
				}
			}
		})
	}
}

func TestKeysThatAreNoneAreNotUsed(t *testing.T) {
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	good := oidctest.NewKey(t, "good")
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	jwk := func(k jose.JSONWebKey) string { return text(t, k) }
	doc := `{"keys":[` + strings.Join([]string{
		jwk(jose.JSONWebKey{Key: weak.Public(), KeyID: "weak"}),
		jwk(jose.JSONWebKey{Key: []byte("0123456789abcdef0123456789abcdef"), KeyID: "symmetric"}),
		jwk(jose.JSONWebKey{Key: good.Private, KeyID: "private"}),
		jwk(jose.JSONWebKey{Key: p521.Public(), KeyID: "large"}),
		jwk(jose.JSONWebKey{Key: good.Private.Public(), KeyID: "other", Algorithm: "ES512"}),
		jwk(jose.JSONWebKey{Key: good.Private.Public(), KeyID: "encryption", Use: "enc"}),
		jwk(jose.JSONWebKey{Key: rsaKey().Public(), KeyID: "only-ps", Algorithm: "PS256"}),
		`{"kty":"EC","crv":"P-256","x":"AA","y":"AA","kid":"off"}`, `{"kty":"XX","kid":"unknown"}`, `[]`, `7`, `{"kid":7}`,
		text(t, good.JWK()),
	}, ",") + `]}`
	provider := oidctest.New(t, good)
	provider.Publish(oidctest.KeysPath, []byte(doc))
	i := connect(t, provider, provider.Config())
	if _, err := verify(t, i, good.Sign(t, oidctest.Claims(provider.URL, nil), nil)); err != nil {
		t.Fatalf("the one that can be used: %v", err)
	}
	for kid, c := range map[string]struct {
		private   crypto.Signer
		algorithm jose.SignatureAlgorithm
		cause     string
	}{
		"weak": {weak, jose.RS256, "1024"}, "private": {good.Private, jose.ES256, "private"}, "other": {good.Private, jose.ES256, "ES512"},
		"encryption": {good.Private, jose.ES256, "has no key"}, "only-ps": {rsaKey(), jose.RS256, "is not for RS256"},
		"symmetric": {good.Private, jose.ES256, "private"}, "large": {good.Private, jose.ES256, "type"}, "off": {good.Private, jose.ES256, "not used"},
	} {
		token := oidctest.Key{ID: kid, Algorithm: c.algorithm, Private: c.private}.Sign(t, oidctest.Claims(provider.URL, nil), nil)
		if _, err := verify(t, i, token); !errs.Is(err, errs.CredentialsInvalid) || !strings.Contains(err.Error(), c.cause) {
			t.Errorf("%s: %v", kid, err)
		}
	}
}

func TestConfigurationsThatCannotWorkAreRefused(t *testing.T) {
	for name, c := range map[string]oidc.Config{
		"no issuer":   {Audience: "a"},
		"http":        {Issuer: "http://example.com", Audience: "a"},
		"no host":     {Issuer: "https://", Audience: "a"},
		"user":        {Issuer: "https://u:p@example.com", Audience: "a"},
		"query":       {Issuer: "https://example.com?x", Audience: "a"},
		"fragment":    {Issuer: "https://example.com#x", Audience: "a"},
		"empty query": {Issuer: "https://example.com?", Audience: "a"},
		"no URL":      {Issuer: "https://exa mple.com", Audience: "a"},
		"long":        {Issuer: "https://example.com/" + strings.Repeat("x", 128), Audience: "a"},
		"no audience": {Issuer: "https://example.com"},
		"lifetime":    {Issuer: "https://example.com", Audience: "a", MaxLifetime: -1},
	} {
		if _, err := oidc.New(c, oidc.Options{Metrics: prometheus.NewRegistry()}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestClaims(t *testing.T) {
	k := oidctest.NewKey(t, "k")
	provider := oidctest.New(t, k)
	i := connect(t, provider, provider.Config())
	c, err := verify(t, i, k.Sign(t, oidctest.Claims(provider.URL, map[string]any{
		"realm_access": map[string]any{"roles": []any{"a", "", 7, "b c"}}, "https://example.com/roles": "x.y", "scope": "openid  berth:read", "n": 7, "email": "e@example.com",
		"verified": map[string]any{"email": "f@example.com"},
	}), nil))
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"realm_access.roles": "a|b c", "https://example.com/roles": "x.y", "scope": "openid|berth:read", "n": "", "email": "", "realm_access": "", "realm_access.": "",
		"realm_access.roles.a": "", "nothing": "", "": "", ".": "", "n.x": "", "verified.email": "f@example.com",
	} {
		if got := strings.Join(c.Strings(path), "|"); got != want {
			t.Errorf("%q: %q, want %q", path, got, want)
		}
	}
	if c.Text("realm_access.roles") != "" || c.Text("sub") != "ann" || c.Text("n") != "" {
		t.Error("a text is one text")
	}
	if c, err = verify(t, i, k.Sign(t, oidctest.Claims(provider.URL, map[string]any{"email": "e@example.com", "email_verified": true}), nil)); err != nil || c.Text("email") != "e@example.com" {
		t.Errorf("a verified address: %v, %v", c.Text("email"), err)
	}
}
