package token

import (
	"context"
	"errors"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// Verifier verifies tokens against a key set. It is safe for concurrent use.
type Verifier struct {
	keys   *KeySet
	parser *jwt.Parser
}

// NewVerifier returns a verifier of tokens that are signed with one of the keys.
func NewVerifier(keys *KeySet) *Verifier {
	return &Verifier{
		keys: keys,
		parser: jwt.NewParser(
			jwt.WithValidMethods([]string{jwt.SigningMethodEdDSA.Alg()}),
			jwt.WithIssuer(Issuer),
			jwt.WithExpirationRequired(),
			jwt.WithLeeway(Leeway),
			jwt.WithStrictDecoding(),
		),
	}
}

// VerifyPair verifies a game server's two tokens, each in its own place. It fails with a *Error when they are refused and
// with ErrKeysUnavailable when there is no verdict.
func (v *Verifier) VerifyPair(ctx context.Context, game, social string) (Server, error) {
	g, err := v.verify(ctx, "game token", game, AudienceGame)
	if err != nil {
		return Server{}, err
	}
	s, err := v.verify(ctx, "social token", social, AudienceSocial)
	if err != nil {
		return Server{}, err
	}
	if g.Pair == "" || g.Subject == "" || g.Namespace == "" {
		return Server{}, refuse(Invalid, "the game token names no server, pair or namespace")
	}
	if g.Pair != s.Pair || g.Subject != s.Subject || g.Namespace != s.Namespace {
		return Server{}, refuse(Mismatched, "the game token and the social token are of different pairs: use the two that came together")
	}
	return Server{
		ID:         g.Subject,
		PairID:     g.Pair,
		Namespace:  g.Namespace,
		ExpireTime: earlier(g.ExpiresAt.Time, s.ExpiresAt.Time),
	}, nil
}

// VerifyTicket verifies a player's ticket. It fails with a *Error when the ticket is refused and with ErrKeysUnavailable
// when there is no verdict. Whether the ticket is for the caller's instance, and new, is for the caller to check.
func (v *Verifier) VerifyTicket(ctx context.Context, ticket string) (Ticket, error) {
	c, err := v.verify(ctx, "ticket", ticket, AudienceTicket)
	if err != nil {
		return Ticket{}, err
	}
	if c.ID == "" || c.Subject == "" || c.Instance == "" || c.Namespace == "" {
		return Ticket{}, refuse(Invalid, "the ticket names no player, instance, namespace or id of its own")
	}
	return Ticket{
		ID:         c.ID,
		PlayerID:   c.Subject,
		InstanceID: c.Instance,
		Namespace:  c.Namespace,
		ExpireTime: c.ExpiresAt.Time,
	}, nil
}

// verify checks everything that holds for one token by itself. what names the token in messages.
func (v *Verifier) verify(ctx context.Context, what, raw, audience string) (*Claims, error) {
	if raw == "" {
		return nil, refuse(Missing, "the %s is missing", what)
	}
	if len(raw) > MaxSize {
		return nil, refuse(Invalid, "the %s is longer than %d bytes", what, MaxSize)
	}
	claims := new(Claims)
	_, err := v.parser.ParseWithClaims(raw, claims, func(t *jwt.Token) (any, error) {
		kid, ok := t.Header["kid"].(string)
		if !ok || kid == "" {
			return nil, refuse(Invalid, "the token names no key")
		}
		return v.keys.Key(ctx, kid)
	})
	if err != nil {
		return nil, verdict(what, err)
	}
	switch {
	case len(claims.Audience) == 1 && claims.Audience[0] == audience:
		return claims, nil
	case len(claims.Audience) == 1 && isPartner(audience) && isPartner(claims.Audience[0]):
		return nil, refuse(Swapped, "a %s token stands in the place of the %s", claims.Audience[0], what)
	default:
		return nil, refuse(Invalid, "the %s is a token of another kind", what)
	}
}

// verdict turns the parser's error into ours. The parser's words are left out: they may quote the token.
func verdict(what string, err error) error {
	switch {
	case errors.Is(err, ErrKeysUnavailable):
		return err
	case errors.Is(err, jwt.ErrTokenMalformed):
		return refuse(Invalid, "the %s is not a JWT", what)
	case errors.Is(err, jwt.ErrTokenUnverifiable), errors.Is(err, jwt.ErrTokenSignatureInvalid):
		return refuse(Invalid, "the %s is not signed by Berth", what)
	case errors.Is(err, jwt.ErrTokenInvalidIssuer), errors.Is(err, jwt.ErrTokenRequiredClaimMissing):
		return refuse(Invalid, "the %s has no expiry or another issuer", what)
	case errors.Is(err, jwt.ErrTokenExpired):
		return refuse(Expired, "the %s has expired", what)
	default:
		return refuse(Invalid, "the %s is not valid (yet)", what)
	}
}

func isPartner(audience string) bool { return audience == AudienceGame || audience == AudienceSocial }

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
