package auth_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc/metadata"

	"github.com/berth-dev/berth/pkg/apikey"
	"github.com/berth-dev/berth/pkg/app"
	"github.com/berth-dev/berth/pkg/auth"
	"github.com/berth-dev/berth/pkg/auth/oidc"
	"github.com/berth-dev/berth/pkg/auth/oidc/oidctest"
	"github.com/berth-dev/berth/pkg/errs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// open returns an authenticator as services have it; it runs until the test ends. All providers share the file of the first one's authority.
func open(t testing.TB, providers []auth.OIDC, reach *oidctest.Issuer, pairs auth.Pairs) *auth.Authenticator {
	t.Helper()
	var a *auth.Authenticator
	ctx, cancel := context.WithCancel(context.Background())
	program, err := app.New(ctx, app.Config{Log: slog.New(slog.DiscardHandler)}, app.Module{Name: "test", Build: func(_ context.Context, b *app.Builder) (err error) {
		a, err = auth.Open(b, auth.Config{InternalKey: internalKey, APIKeySHA256: apikey.Hash(rootKey), OIDC: providers}, reach.Egress(), pairs, nil)
		return err
	}})
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- program.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
	return a
}

const rootKey = apikey.Prefix + "root"

// takes is the configuration for an issuer, with roles in the way of Keycloak.
func takes(provider *oidctest.Issuer) auth.OIDC {
	return auth.OIDC{Config: provider.Config(), RoleClaim: "realm_access.roles", Roles: map[string]auth.Role{"watch": auth.RoleViewer, "play": auth.RoleService, "run": auth.RoleOperator}}
}

// has are claims with roles, and more.
func has(provider *oidctest.Issuer, more map[string]any, roles ...string) map[string]any {
	claims := oidctest.Claims(provider.URL, map[string]any{"realm_access": map[string]any{"roles": roles}})
	for name, value := range more {
		claims[name] = value
	}
	return claims
}

// show shows a bearer token until there is a verdict: the keys are fetched in the background.
func show(t testing.TB, a *auth.Authenticator, token string) (auth.Principal, error) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; <-time.After(10 * time.Millisecond) {
		p, err := a.Authenticate(t.Context(), metadata.Pairs("authorization", "Bearer "+token))
		if !errs.Is(err, errs.ServiceUnavailable) || time.Now().After(deadline) {
			return p, err
		}
	}
}

func TestATokenGivesTheMightiestOfItsRoles(t *testing.T) {
	k := oidctest.NewKey(t, "k")
	provider := oidctest.New(t, k)
	a := open(t, []auth.OIDC{takes(provider)}, provider, nil)
	for name, c := range map[string]struct {
		claims map[string]any
		role   auth.Role
		fails  errs.Reason
	}{
		"one":            {has(provider, nil, "watch"), auth.RoleViewer, ""},
		"the mightiest":  {has(provider, nil, "watch", "run", "play", "fly"), auth.RoleOperator, ""},
		"none of ours":   {has(provider, nil, "fly", "ADMIN", "OPERATOR", "Run", "run "), "", errs.RoleRequired},
		"none":           {has(provider, nil), "", errs.RoleRequired},
		"no claim":       {has(provider, map[string]any{"realm_access": nil}), "", errs.RoleRequired},
		"another place":  {has(provider, map[string]any{"realm_access": nil, "roles": []string{"run"}}), "", errs.RoleRequired},
		"the whole path": {has(provider, map[string]any{"realm_access": nil, "realm_access.roles": "run"}), auth.RoleOperator, ""},
		"not valid":      {has(provider, map[string]any{"aud": "x"}, "run"), "", errs.CredentialsInvalid},
		"expired":        {has(provider, map[string]any{"exp": time.Now().Add(-time.Hour).Unix()}, "run"), "", errs.CredentialsExpired},
	} {
		t.Run(name, func(t *testing.T) {
			token := k.Sign(t, c.claims, nil)
			p, err := show(t, a, token)
			if p.Role != c.role || errs.ReasonOf(err) != c.fails {
				t.Errorf("%+v, %v", p, err)
			}
			var typed *errs.Error
			if errors.As(err, &typed) && (strings.Contains(err.Error(), token) || strings.Contains(typed.Message, "realm_access") || strings.Contains(typed.Message, "aud")) {
				t.Errorf("the error says too much: %v", err)
			}
		})
	}
}

func TestATokenIsLimitedToNamespaces(t *testing.T) {
	k := oidctest.NewKey(t, "k")
	for name, c := range map[string]struct {
		claim      string
		namespaces []string // of the configuration
		token      any      // the claim
		want       []string
		fails      errs.Reason
	}{
		"all":                    {"", nil, nil, nil, ""},
		"all, whatever it says":  {"", nil, "a", nil, ""},
		"the issuer's":           {"", []string{"a", "b"}, nil, []string{"a", "b"}, ""},
		"its own":                {"ns", nil, []string{"c", "d"}, []string{"c", "d"}, ""},
		"its own one":            {"ns", nil, "c", []string{"c"}, ""},
		"its own of the issuers": {"ns", []string{"a", "b"}, []string{"b", "c"}, []string{"b"}, ""},
		"no claim is none":       {"ns", nil, nil, nil, errs.NamespaceDenied},
		"an empty claim is none": {"ns", []string{"a"}, []string{}, nil, errs.NamespaceDenied},
		"an empty name is none":  {"ns", nil, []string{""}, nil, errs.NamespaceDenied},
		"others' are none":       {"ns", []string{"a"}, []string{"c"}, nil, errs.NamespaceDenied},
		"numbers are none":       {"ns", nil, []int{1}, nil, errs.NamespaceDenied},
		"true is none":           {"ns", nil, true, nil, errs.NamespaceDenied},
	} {
		t.Run(name, func(t *testing.T) {
			provider := oidctest.New(t, k)
			cfg := takes(provider)
			cfg.NamespaceClaim, cfg.Namespaces = c.claim, c.namespaces
			p, err := show(t, open(t, []auth.OIDC{cfg}, provider, nil), k.Sign(t, has(provider, map[string]any{"ns": c.token}, "run"), nil))
			if errs.ReasonOf(err) != c.fails || fmt.Sprint(p.Namespaces) != fmt.Sprint(c.want) || err == nil && p.Role != auth.RoleOperator {
				t.Errorf("%+v, %v", p, err)
			}
			if denied := p.MayUse("elsewhere"); c.want != nil && !errs.Is(denied, errs.NamespaceDenied) {
				t.Errorf("another namespace: %v", denied)
			}
		})
	}
}

func TestCallersOfTwoIssuersAreNeverTheSame(t *testing.T) {
	k := oidctest.NewKey(t, "k")
	one := oidctest.New(t, k)
	// A second realm of the same server, whose path begins with that of the first.
	two := one.URL + "/a"
	one.Publish(oidctest.DiscoveryPath[:len("/realms/game")]+"/a"+oidctest.DiscoveryPath[len("/realms/game"):], one.Discovery(two, one.Server.URL+oidctest.KeysPath))
	first, second := takes(one), takes(one)
	second.Issuer = two
	a := open(t, []auth.OIDC{first, second}, one, nil)
	actors := map[string]bool{"key:ann": true}
	for _, claims := range []map[string]any{
		has(one, nil, "run"), has(one, map[string]any{"iss": two}, "run"),
		has(one, map[string]any{"sub": "/aann"}, "run"), has(one, map[string]any{"sub": "a/ann"}, "run"), has(one, map[string]any{"sub": "a#ann"}, "run"), has(one, map[string]any{"sub": "/a#ann"}, "run"), has(one, map[string]any{"sub": "#ann"}, "run"),
	} {
		p, err := show(t, a, k.Sign(t, claims, nil))
		if err != nil || actors[p.Actor()] || !strings.HasPrefix(p.Actor(), "oidc:127.0.0.1:") || !strings.HasSuffix(p.Actor(), "ann") {
			t.Errorf("%s: %v", p.Actor(), err)
		}
		actors[p.Actor()] = true
	}
}

// Another issuer's key is not good for an issuer's tokens, also under the same id.
func TestAnIssuerCannotSignForAnother(t *testing.T) {
	k, mallory := oidctest.NewKey(t, "k"), oidctest.NewKey(t, "k")
	provider := oidctest.New(t, k)
	theirs := provider.URL + "/theirs"
	provider.Publish("/realms/game/theirs/.well-known/openid-configuration", provider.Discovery(theirs, provider.Server.URL+"/theirs"))
	provider.Publish("/theirs", oidctest.KeySet(t, mallory))
	lesser := takes(provider)
	lesser.Issuer, lesser.Roles = theirs, map[string]auth.Role{"watch": auth.RoleViewer}
	a := open(t, []auth.OIDC{takes(provider), lesser}, provider, nil)
	if p, err := show(t, a, mallory.Sign(t, has(provider, map[string]any{"iss": theirs}, "watch", "run"), nil)); err != nil || p.Role != auth.RoleViewer {
		t.Errorf("its own: %+v, %v", p, err)
	}
	if _, err := show(t, a, mallory.Sign(t, has(provider, nil, "run"), nil)); !errs.Is(err, errs.CredentialsInvalid) {
		t.Errorf("the other's: %v", err)
	}
}

func TestNamesThatCannotStandInTheAuditAreRefused(t *testing.T) {
	k := oidctest.NewKey(t, "k")
	provider := oidctest.New(t, k)
	byMail := takes(provider)
	byMail.NameClaim = "email"
	bySubject, byEmail := open(t, []auth.OIDC{takes(provider)}, provider, nil), open(t, []auth.OIDC{byMail}, provider, nil)
	for name, sub := range map[string]any{
		"missing": nil, "empty": "", "number": 7, "list": []string{"ann"}, "line": "ann\nroot", "null": "ann\x00", "escape": "\x1b[2J", "right to left": "ann\u202etoor",
		"long": strings.Repeat("a", 256),
	} {
		if _, err := show(t, bySubject, k.Sign(t, has(provider, map[string]any{"sub": sub}, "run"), nil)); !errs.Is(err, errs.CredentialsInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	longest := strings.Repeat("a", 256-len("oidc:#")-len(strings.TrimPrefix(provider.URL, "https://")))
	for name, sub := range map[string]string{"of people": "Ann Müller", "of services": "auth0|5f7c8ec7c33c6c004bbafe82", "longest": longest} {
		if p, err := show(t, bySubject, k.Sign(t, has(provider, map[string]any{"sub": sub}, "run"), nil)); err != nil || p.Name != sub || len(p.Actor()) > 256 {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
	}
	for verified, fails := range map[any]errs.Reason{true: "", false: errs.CredentialsInvalid, "true": errs.CredentialsInvalid, nil: errs.CredentialsInvalid} {
		p, err := show(t, byEmail, k.Sign(t, has(provider, map[string]any{"email": "ann@example.com", "email_verified": verified}, "run"), nil))
		if errs.ReasonOf(err) != fails || err == nil && p.Name != "ann@example.com" {
			t.Errorf("an address that is verified: %v: %+v, %v", verified, p, err)
		}
	}
}

func TestWhoseTokenItIs(t *testing.T) {
	k := oidctest.NewKey(t, "k")
	provider, other := oidctest.New(t, k), oidctest.New(t, k)
	a := open(t, []auth.OIDC{takes(provider)}, provider, pairs{})
	alone := open(t, []auth.OIDC{takes(provider)}, provider, nil)
	without := newAuthenticator(t, auth.Config{})
	sign := func(claims map[string]any) string { return k.Sign(t, claims, nil) }
	const neither = "neither an API key (berth_…) nor a token of a configured issuer"
	for name, c := range map[string]struct {
		a     *auth.Authenticator
		token string
		says  string
	}{
		"an issuer that is not configured":                {a, sign(has(other, nil, "run")), neither},
		"the same, where no game server calls":            {alone, sign(has(other, nil, "run")), neither},
		"no issuer":                                       {a, sign(has(provider, map[string]any{"iss": nil}, "run")), neither},
		"an issuer that is a list":                        {a, sign(has(provider, map[string]any{"iss": []string{provider.URL}}, "run")), neither},
		"no token":                                        {a, "a.b.c", neither},
		"a game server's":                                 {a, sign(has(provider, map[string]any{"iss": "berth"})), "CREDENTIALS_INVALID: no"}, // what the pairs say
		"a game server's, where none calls":               {alone, sign(has(provider, map[string]any{"iss": "berth"})), neither},
		"any, where no issuer is configured":              {without, sign(has(provider, nil, "run")), "CREDENTIALS_INVALID: no"},
		"something, where no issuer is configured":        {without, "something", "neither an API key (berth_…) nor a game server's token"},
		"larger than a token is":                          {a, sign(has(provider, map[string]any{"x": strings.Repeat("x", 16<<10)}, "run")), "at most 16384 bytes"},
		"larger than a token is, where no server calls":   {alone, strings.Repeat("x", 1<<20) + "..", "at most 16384 bytes"},
		"with claims that two readers read as two things": {a, k.SignBytes(t, []byte(`{"iss":"berth","iss":"`+provider.URL+`"}`), nil), "is not valid here"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := show(t, c.a, c.token); !errs.Is(err, errs.CredentialsInvalid) || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), c.token) {
				t.Errorf("got %v, want %q", err, c.says)
			}
		})
	}
	// With a social token beside it, it is taken for half of a pair, which it is not.
	md := metadata.Pairs("authorization", "Bearer "+sign(has(provider, nil, "run")), "berth-social-token", "social")
	if _, err := a.Authenticate(t.Context(), md); !errs.Is(err, errs.CredentialsInvalid) {
		t.Errorf("beside a social token: %v", err)
	}
}

func TestAnIssuerThatIsAwayKeepsNobodyElseOut(t *testing.T) {
	k := oidctest.NewKey(t, "k")
	good := oidctest.New(t, k)
	gone, hangs := takes(good), takes(good)
	gone.Issuer, hangs.Issuer = "https://127.0.0.1:1", good.Server.URL+"/hangs"
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	good.Handle("/hangs/.well-known/openid-configuration", func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	a := open(t, []auth.OIDC{gone, hangs, takes(good)}, good, nil)
	if p, err := show(t, a, k.Sign(t, has(good, nil, "run"), nil)); err != nil || p.Role != auth.RoleOperator {
		t.Errorf("another issuer's: %+v, %v", p, err)
	}
	if p, err := show(t, a, rootKey); err != nil || p.Role != auth.RoleAdmin {
		t.Errorf("an API key: %+v, %v", p, err)
	}
	for _, issuer := range []string{gone.Issuer, hangs.Issuer} {
		_, err := a.Authenticate(t.Context(), metadata.Pairs("authorization", "Bearer "+k.Sign(t, has(good, map[string]any{"iss": issuer}, "run"), nil)))
		if !errs.Is(err, errs.ServiceUnavailable) {
			t.Errorf("%s: %v", issuer, err)
		}
	}
}

func TestIdentityProvidersThatCannotWorkAreRefused(t *testing.T) {
	good := auth.OIDC{Config: oidc.Config{Issuer: "https://id.example.com", Audience: "berth"}, RoleClaim: "groups", Roles: map[string]auth.Role{"ops": auth.RoleOperator}}
	change := func(f func(*auth.OIDC)) []auth.OIDC {
		c := good
		f(&c)
		return []auth.OIDC{c}
	}
	if err := (auth.Config{InternalKey: internalKey, OIDC: []auth.OIDC{good}}).Validate(); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		providers []auth.OIDC
		says      string
	}{
		"http":          {change(func(c *auth.OIDC) { c.Issuer = "http://id.example.com" }), "issuer: must begin with https://"},
		"twice":         {[]auth.OIDC{good, good}, "issuer: is there twice"},
		"no audience":   {change(func(c *auth.OIDC) { c.Audience = "" }), "audience"},
		"no role claim": {change(func(c *auth.OIDC) { c.RoleClaim = "" }), "role_claim"},
		"no roles":      {change(func(c *auth.OIDC) { c.Roles = nil }), "roles"},
		"another role":  {change(func(c *auth.OIDC) { c.Roles = map[string]auth.Role{"ops": auth.RoleInternal} }), "roles: \"ops\""},
		"a server":      {change(func(c *auth.OIDC) { c.Roles = map[string]auth.Role{"ops": auth.RoleGameServer} }), "roles: \"ops\""},
		"no value":      {change(func(c *auth.OIDC) { c.Roles = map[string]auth.Role{"": auth.RoleAdmin} }), "roles: \"\""},
		"namespace":     {change(func(c *auth.OIDC) { c.Namespaces = []string{"a", ""} }), "namespaces"},
	} {
		err := auth.Config{InternalKey: internalKey, OIDC: c.providers}.Validate()
		if err == nil || !strings.Contains(err.Error(), "auth.oidc: \"http") || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzToken: whatever is shown as a token, the only ones who come in are those whom an issuer or Berth has named.
func FuzzToken(f *testing.F) {
	k := oidctest.NewKey(f, "k")
	provider := oidctest.New(f, k)
	a := open(f, []auth.OIDC{takes(provider)}, provider, pairs{})
	good := k.Sign(f, has(provider, map[string]any{"exp": time.Now().Add(24 * time.Hour).Unix()}, "run"), nil)
	if _, err := show(f, a, good); err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(k.Sign(f, has(provider, map[string]any{"iss": "berth"}), nil))
	f.Add("e30.eyJpc3MiOiJiZXJ0aCIsImlzcyI6MX0.")
	f.Add("berth_x")
	f.Fuzz(func(t *testing.T, bearer string) {
		p, err := a.Authenticate(t.Context(), metadata.Pairs("authorization", "Bearer "+bearer))
		if err == nil && (p.Role != auth.RoleOperator || p.Name != "ann") {
			t.Errorf("%+v came in", p)
		}
		if kind := errs.ReasonOf(err).Kind(); err != nil && kind != errs.KindUnauthenticated && kind != errs.KindUnavailable {
			t.Errorf("failed with %v, which is no refusal", err)
		}
	})
}
