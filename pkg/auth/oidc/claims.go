package oidc

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4/json"
	"github.com/go-jose/go-jose/v4/jwt"
)

// Claims are what a verified token says.
type Claims struct {
	registered jwt.Claims
	all        map[string]any
}

// parseClaims reads a token's payload.
func parseClaims(payload []byte) (c Claims, err error) {
	if err := json.Unmarshal(payload, &c.all); err != nil {
		return Claims{}, fmt.Errorf("the claims: %w", err)
	}
	if err := json.Unmarshal(payload, &c.registered); err != nil {
		return Claims{}, fmt.Errorf("the claims: %w", err)
	}
	return c, nil
}

// errExpired means that nothing is wrong with a token but that its lifetime is over.
var errExpired = errors.New("the token has expired")

// check returns an error unless the token is the issuer's, for the audience, and valid at a time. That it has expired is found last.
func (c Claims) check(cfg Config, now time.Time) error {
	r := c.registered
	switch {
	case r.Issuer != cfg.Issuer:
		return fmt.Errorf("iss is %.200q, and not %q", r.Issuer, cfg.Issuer)
	case !r.Audience.Contains(cfg.Audience):
		return fmt.Errorf("aud does not have %q", cfg.Audience)
	case r.Expiry == nil:
		return errors.New("exp is missing")
	case r.NotBefore != nil && now.Add(Leeway).Before(r.NotBefore.Time()):
		return errors.New("nbf is in the future")
	case r.IssuedAt != nil && now.Add(Leeway).Before(r.IssuedAt.Time()):
		return errors.New("iat is in the future")
	case cfg.MaxLifetime > 0 && r.IssuedAt == nil:
		return errors.New("iat is missing, and lifetimes are limited")
	case cfg.MaxLifetime > 0 && r.Expiry.Time().After(r.IssuedAt.Time().Add(cfg.MaxLifetime)):
		return fmt.Errorf("exp is more than %s after iat", cfg.MaxLifetime)
	}
	if err := c.checkParty(cfg); err != nil {
		return err
	}
	if now.After(r.Expiry.Time().Add(Leeway)) {
		return errExpired
	}
	return nil
}

// checkParty looks at whom a token was issued to: one for several audiences could be passed on by each of them.
func (c Claims) checkParty(cfg Config) error {
	if len(c.registered.Audience) < 2 && len(cfg.AuthorizedParties) == 0 {
		return nil
	}
	party, _ := c.all["azp"].(string)
	if party == "" || party != cfg.Audience && !slices.Contains(cfg.AuthorizedParties, party) {
		return fmt.Errorf("azp is %.200q, which is neither the audience nor in authorized_parties", party)
	}
	return nil
}

// lookup returns a claim by its name, or by a path of names with dots between them.
func (c Claims) lookup(path string) any {
	if v, ok := c.all[path]; ok { // names may have dots: "https://example.com/roles"
		return v
	}
	in := c.all
	for {
		name, rest, more := strings.Cut(path, ".")
		if !more {
			return in[name]
		}
		var ok bool
		if in, ok = in[name].(map[string]any); !ok {
			return nil
		}
		path = rest
	}
}

// Strings returns the texts of a claim: one, or a list of them. Of "scope" they are what stands between the spaces. An address that the issuer has not
// verified counts as none: users choose theirs.
func (c Claims) Strings(path string) []string {
	if path == "email" && c.all["email_verified"] != true {
		return nil
	}
	switch v := c.lookup(path).(type) {
	case string:
		if path == "scope" {
			return strings.Fields(v)
		}
		return nonEmpty(v)
	case []any:
		var all []string
		for _, e := range v {
			if text, ok := e.(string); ok {
				all = append(all, nonEmpty(text)...)
			}
		}
		return all
	default:
		return nil
	}
}

// Text returns a claim that is one text; "" if it is not.
func (c Claims) Text(path string) string {
	if _, one := c.lookup(path).(string); !one {
		return ""
	}
	if all := c.Strings(path); len(all) == 1 {
		return all[0]
	}
	return ""
}

func nonEmpty(text string) []string {
	if text == "" {
		return nil
	}
	return []string{text}
}
