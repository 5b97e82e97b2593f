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
			jwt.WithValidMethods([]string{string(EdDSA), string(ES256)}),
			jwt.WithIssuer(Issuer),
			jwt.WithExpirationRequired(),
			jwt.WithLeeway(Leeway),
			jwt.WithStrictDecoding(),
		),
	}
}

// VerifyPair verifies a game server's two tokens, each in its own place. It fails with a *Error when they are refused and
// with ErrKeysUnavailable when there is no verdict. If nothing is wrong but that a token's lifetime is over (Expired), the
// Server is returned beside the error, for the one thing that an expired pair may do: ask for its renewal. With any other
// error it is empty. Whether the pair was revoked is for the caller to check (Revocations).
func (v *Verifier) VerifyPair(ctx context.Context, game, social string) (Server, error) {
	g, gameErr := v.verify(ctx, "game token", game, AudienceGame)
	if gameErr != nil && !g.expired() {
		return Server{}, gameErr
	}
	s, socialErr := v.verify(ctx, "social token", social, AudienceSocial)
	if socialErr != nil && !s.expired() {
		return Server{}, socialErr
	}
	if g.Pair == "" || g.Subject == "" || g.Namespace == "" {
		return Server{}, refuse(Invalid, "the game token names no server, pair or namespace")
	}
	if g.Pair != s.Pair || g.Subject != s.Subject || g.Namespace != s.Namespace {
		return Server{}, refuse(Mismatched, "the game token and the social token are of different pairs: use the two that came together")
	}
	server := Server{
		ID:         g.Subject,
		PairID:     g.Pair,
		Namespace:  g.Namespace,
		IssueTime:  earlier(g.issued(), s.issued()),
		ExpireTime: earlier(g.ExpiresAt.Time, s.ExpiresAt.Time),
		GameKeyID:  g.KeyID, SocialKeyID: s.KeyID,
	}
	if gameErr != nil {
		return server, gameErr
	}
	return server, socialErr
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
		IssueTime:  c.issued(),
		ExpireTime: c.ExpiresAt.Time,
		KeyID:      c.KeyID,
	}, nil
}

// VerifyClaim verifies a game server's claim code. It fails with a *Error when the code is refused and with ErrKeysUnavailable when there is
// no verdict. Whether it was revoked (Revocations), and may still be used, is for the caller to check.
func (v *Verifier) VerifyClaim(ctx context.Context, code string) (Claim, error) {
	c, err := v.verify(ctx, "claim code", code, AudienceClaim)
	if err != nil {
		return Claim{}, err
	}
	if c.ID == "" || c.Subject == "" || c.Pair == "" || c.Instance == "" || c.Namespace == "" {
		return Claim{}, refuse(Invalid, "the claim code names no attempt, server, pair, instance or namespace")
	}
	return Claim{
		AttemptID:  c.ID,
		ServerID:   c.Subject,
		PairID:     c.Pair,
		InstanceID: c.Instance,
		Namespace:  c.Namespace,
		IssueTime:  c.issued(),
		ExpireTime: c.ExpiresAt.Time,
		KeyID:      c.KeyID,
	}, nil
}

// Verified is what a token of any kind says that one of Berth's keys has signed.
type Verified struct {
	// Claims is what is in it.
	Claims
	// KeyID is the id of the key that signed it.
	KeyID string
	// Refused is why the token is nevertheless not valid, such as Expired; nil if it is.
	Refused *Error
}

// Inspect verifies one token of any kind by itself and returns what it says, also of a token that is signed by Berth and no longer valid. It
// fails with a *Error when the token is not signed by one of Berth's keys, and with ErrKeysUnavailable when there is no verdict.
func (v *Verifier) Inspect(ctx context.Context, raw string) (Verified, error) {
	t, err := v.parse(ctx, "token", raw)
	if t == nil {
		return Verified{}, err
	}
	return *t, nil
}

// verify checks everything that holds for one token by itself. what names the token in messages. Of a token that is right but has expired it
// returns the claims beside the error.
func (v *Verifier) verify(ctx context.Context, what, raw, audience string) (*Verified, error) {
	t, err := v.parse(ctx, what, raw)
	if err != nil && !t.expired() {
		return nil, err
	}
	switch {
	case len(t.Audience) == 1 && t.Audience[0] == audience:
		return t, err
	case len(t.Audience) == 1 && isPartner(audience) && isPartner(t.Audience[0]):
		return nil, refuse(Swapped, "a %s token stands in the place of the %s", t.Audience[0], what)
	default:
		return nil, refuse(Invalid, "the %s is a token of another kind", what)
	}
}

// parse checks signature and times, and returns what is signed, also if a time or the issuer is wrong; nil if nothing is.
func (v *Verifier) parse(ctx context.Context, what, raw string) (*Verified, error) {
	if raw == "" {
		return nil, refuse(Missing, "the %s is missing", what)
	}
	if len(raw) > MaxSize {
		return nil, refuse(Invalid, "the %s is longer than %d bytes", what, MaxSize)
	}
	t := new(Verified)
	_, err := v.parser.ParseWithClaims(raw, &t.Claims, func(parsed *jwt.Token) (any, error) {
		kid, ok := parsed.Header["kid"].(string)
		if !ok || kid == "" {
			return nil, refuse(Invalid, "the token names no key")
		}
		key, err := v.keys.Key(ctx, kid)
		if err != nil {
			return nil, err
		}
		// The key says how it is used, and never the token.
		if parsed.Method.Alg() != string(algorithmOf(key)) {
			return nil, refuse(Invalid, "the token names another algorithm than that of its key")
		}
		t.KeyID = kid
		return key, nil
	})
	switch {
	case err == nil:
		return t, nil
	case errors.Is(err, jwt.ErrTokenInvalidClaims): // found after the signature was
		return t.refusedFor(verdict(what, err))
	default:
		return nil, verdict(what, err)
	}
}

func (t *Verified) refusedFor(err error) (*Verified, error) {
	errors.As(err, &t.Refused)
	return t, err
}

// expired reports whether nothing is wrong with the token but that its lifetime is over.
func (t *Verified) expired() bool { return t != nil && t.Refused != nil && t.Refused.Reason == Expired }

// issued is when the token was issued; the zero time if it does not say.
func (t *Verified) issued() time.Time {
	if t.IssuedAt == nil {
		return time.Time{}
	}
	return t.IssuedAt.Time
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
	case errors.Is(err, jwt.ErrTokenNotValidYet):
		return refuse(Invalid, "the %s is not valid yet", what)
	case errors.Is(err, jwt.ErrTokenExpired):
		return refuse(Expired, "the %s has expired", what)
	default:
		return refuse(Invalid, "the %s is not valid", what)
	}
}

func isPartner(audience string) bool { return audience == AudienceGame || audience == AudienceSocial }

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
