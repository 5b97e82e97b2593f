package auth

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/berth-dev/berth/pkg/apikey"
	"github.com/berth-dev/berth/pkg/app"
	"github.com/berth-dev/berth/pkg/auth/oidc"
	"github.com/berth-dev/berth/pkg/egress"
	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/sdk/go/token"
)

// OIDC is an identity provider whose tokens are credentials here, and what they are worth.
type OIDC struct {
	oidc.Config `yaml:",inline"`
	// RoleClaim is the claim that gives its holder a role: a name, or a path with dots such as realm_access.roles. It is a text or a list of texts.
	RoleClaim string `yaml:"role_claim"`
	// Roles are the roles that values of the claim give: VIEWER, SERVICE, OPERATOR or ADMIN. The mightiest counts; who has none of them is refused.
	Roles map[string]Role `yaml:"roles"`
	// Namespaces that all tokens of the issuer are limited to; empty: all.
	Namespaces []string `yaml:"namespaces"`
	// NamespaceClaim is the claim with the namespaces that a token is limited to. If it is set, a token without it has access to none.
	NamespaceClaim string `yaml:"namespace_claim"`
	// NameClaim is the claim that names the caller in history and audit. Default sub.
	NameClaim string `yaml:"name_claim"`
}

// maxActor is how long the name of a caller in history and audit may be, in bytes; the audit cuts what is longer.
const maxActor = 256

// fetchDeadline bounds what is fetched from an identity provider, one document at a time.
const fetchDeadline = 5 * time.Second

// validateOIDC returns an error that names each setting that cannot be used.
func validateOIDC(providers []OIDC) error {
	var bad []error
	seen := make(map[string]bool, len(providers))
	for _, p := range providers {
		wrong := func(format string, args ...any) {
			bad = append(bad, fmt.Errorf("auth.oidc: %q: %w", p.Issuer, fmt.Errorf(format, args...)))
		}
		if err := p.Validate(); err != nil {
			wrong("%w", err)
		}
		if seen[p.Issuer] {
			wrong("issuer: is there twice")
		}
		seen[p.Issuer] = true
		if p.RoleClaim == "" || len(p.Roles) == 0 {
			wrong("role_claim and roles: are needed; nobody has a role otherwise")
		}
		for value, role := range p.Roles {
			if value == "" || !slices.Contains(ladder[:], role) {
				wrong("roles: %q: needs a value of the claim and one of the roles %v", value, ladder)
			}
		}
		if slices.Contains(p.Namespaces, "") {
			wrong("namespaces: one has no name")
		}
	}
	return errors.Join(bad...)
}

// Open returns an Authenticator as New does, which also knows the tokens of the configured identity providers. Their keys are fetched while the program
// runs; one that is away keeps nobody from starting, and no other callers out.
func Open(b *app.Builder, cfg Config, out egress.Config, pairs Pairs, issued Keys) (*Authenticator, error) {
	a, err := New(cfg, pairs, issued)
	if err != nil || len(cfg.OIDC) == 0 {
		return a, err
	}
	client, err := out.Client(egress.Options{Timeout: fetchDeadline, MaxBody: oidc.MaxDocument})
	if err != nil {
		return nil, err
	}
	a.providers = make(map[string]provider, len(cfg.OIDC))
	for _, p := range cfg.OIDC {
		issuer, err := oidc.New(p.Config, oidc.Options{Client: client, Log: b.Log(), Metrics: b.Metrics()})
		if err != nil {
			return nil, err
		}
		b.Run("identity provider "+p.Issuer, issuer.Run)
		a.providers[p.Issuer] = provider{p, issuer}
	}
	return a, nil
}

// provider is an identity provider in use.
type provider struct {
	OIDC
	issuer *oidc.Issuer
}

// identity returns the principal of a bearer token, if identity providers are configured and it is for one of them; false if it is none of theirs.
func (a *Authenticator) identity(ctx context.Context, bearer string) (Principal, bool, error) {
	if len(a.providers) == 0 || strings.Count(bearer, ".") != 2 {
		return Principal{}, false, nil
	}
	if len(bearer) > oidc.MaxToken {
		return Principal{}, true, errs.New(errs.CredentialsInvalid, "authorization: a token must have at most %d bytes", oidc.MaxToken)
	}
	claimed := claimedIssuer(bearer)
	if p, ok := a.providers[claimed]; ok {
		claims, err := p.issuer.Verify(ctx, bearer)
		if err != nil {
			return Principal{}, true, err
		}
		principal, err := p.principal(claims)
		return principal, true, err
	}
	if claimed == token.Issuer && a.pairs != nil { // a game server without its other token, which is told so
		return Principal{}, false, nil
	}
	return Principal{}, true, errs.New(errs.CredentialsInvalid, "authorization: neither an API key (%s…) nor a token of a configured issuer", apikey.Prefix)
}

// claimedIssuer returns what a token says about who has issued it. It is not verified: it chooses who does that.
func claimedIssuer(bearer string) string {
	_, rest, _ := strings.Cut(bearer, ".")
	payload, _, _ := strings.Cut(rest, ".")
	raw, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil {
		return ""
	}
	var claims map[string]json.RawMessage
	var issuer string
	if json.Unmarshal(raw, &claims) != nil || json.Unmarshal(claims["iss"], &issuer) != nil {
		return ""
	}
	return issuer
}

// principal returns what a verified token is worth.
func (p provider) principal(c oidc.Claims) (Principal, error) {
	role := p.role(c.Strings(p.RoleClaim))
	if role == "" {
		why := fmt.Errorf("the claim %s of %.100q has none of the values in auth.oidc.roles", p.RoleClaim, c.Text(p.nameClaim()))
		return Principal{}, errs.Wrap(why, errs.RoleRequired, "the token gives its holder no role here")
	}
	namespaces, err := p.limits(c)
	if err != nil {
		return Principal{}, err
	}
	who := Principal{Role: role, Name: c.Text(p.nameClaim()), Namespaces: namespaces, Issuer: strings.TrimPrefix(p.Issuer, "https://")}
	if err := checkName(who); err != nil {
		return Principal{}, errs.Wrap(fmt.Errorf("the claim %s: %w", p.nameClaim(), err), errs.CredentialsInvalid,
			"authorization: the token does not name its holder in a way that can be used here")
	}
	return who, nil
}

// role returns the mightiest role that one of the values gives; "" if none does.
func (p provider) role(values []string) Role {
	best := -1
	for _, v := range values {
		best = max(best, slices.Index(ladder[:], p.Roles[v]))
	}
	if best < 0 {
		return ""
	}
	return ladder[best]
}

// limits returns the namespaces that the token is limited to; none, without an error, stands for all.
func (p provider) limits(c oidc.Claims) ([]string, error) {
	if p.NamespaceClaim == "" {
		return p.Namespaces, nil
	}
	limited := slices.DeleteFunc(c.Strings(p.NamespaceClaim), func(n string) bool { return len(p.Namespaces) > 0 && !slices.Contains(p.Namespaces, n) })
	if len(limited) == 0 {
		why := fmt.Errorf("the claim %s of %.100q has none that the issuer may give", p.NamespaceClaim, c.Text(p.nameClaim()))
		return nil, errs.Wrap(why, errs.NamespaceDenied, "the token gives its holder access to no namespace")
	}
	return limited, nil
}

func (p provider) nameClaim() string {
	if p.NameClaim == "" {
		return "sub"
	}
	return p.NameClaim
}

// checkName returns an error unless a caller's name can stand in history and audit as it is.
func checkName(p Principal) error {
	unprintable := func(r rune) bool { return !unicode.IsPrint(r) }
	switch {
	case p.Name == "":
		return errors.New("is missing, or no text")
	case strings.ContainsFunc(p.Name, unprintable):
		return errors.New("has characters that cannot be printed")
	case len(p.Actor()) > maxActor:
		return fmt.Errorf("has %d bytes, and with the issuer's name only %d fit", len(p.Name), maxActor)
	}
	return nil
}
