package token

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/berth-dev/berth/pkg/errs"
	sdk "github.com/berth-dev/berth/sdk/go/token"
)

// Introspection is what there is to say about a token.
type Introspection struct {
	// Refused is why the token is not active; nil if it is.
	Refused *sdk.Error
	// Verified is what it says, if one of the keys has signed it; otherwise nil.
	Verified *sdk.Verified
}

// Introspect says whether a token is active, and if not, why. A partner token is looked at by itself, without its other half.
func (i *Issuer) Introspect(ctx context.Context, raw string) (Introspection, error) {
	ring := i.cfg.Keys.Fresh(ctx)
	// With a key set of its own, so that invented key ids do not use up what others may fetch.
	keys := sdk.NewKeySet(func(context.Context) ([]byte, error) { return ring.JWKS() })
	verified, err := sdk.NewVerifier(keys).Inspect(ctx, raw)
	var refused *sdk.Error
	switch {
	case errors.As(err, &refused):
		return Introspection{Refused: refused}, nil
	case err != nil:
		return Introspection{}, errs.Wrap(err, errs.ServiceUnavailable, "the token cannot be looked at now; try again").Retry(time.Second)
	}
	_, list, err := i.cfg.Revocations.Current(ctx)
	if err != nil {
		return Introspection{}, err // better no answer than a wrong one
	}
	out := Introspection{Refused: verified.Refused, Verified: &verified}
	if out.Refused == nil && revoked(sdk.NewRevocations(0, Expand(list)), verified) {
		out.Refused = &sdk.Error{Reason: sdk.Revoked, Message: "the token was revoked"}
	}
	return out, nil
}

// revoked reports whether a token by itself is revoked.
func revoked(set *sdk.Revocations, t sdk.Verified) bool {
	var issued time.Time
	if t.IssuedAt != nil {
		issued = t.IssuedAt.Time
	}
	if slices.Contains(t.Audience, sdk.AudienceClaim) {
		return set.Claim(sdk.Claim{ServerID: t.Subject, PairID: t.Pair, InstanceID: t.Instance, Namespace: t.Namespace, IssueTime: issued, KeyID: t.KeyID})
	}
	if t.Instance != "" {
		return set.Ticket(sdk.Ticket{InstanceID: t.Instance, Namespace: t.Namespace, IssueTime: issued, KeyID: t.KeyID})
	}
	return set.Server(sdk.Server{ID: t.Subject, PairID: t.Pair, Namespace: t.Namespace, IssueTime: issued, GameKeyID: t.KeyID, SocialKeyID: t.KeyID})
}

// JWKS is the public halves of the ring's keys as a JSON Web Key Set.
func (r *Ring) JWKS() ([]byte, error) {
	type key struct {
		Kty string        `json:"kty"`
		Crv string        `json:"crv"`
		X   string        `json:"x"`
		Y   string        `json:"y,omitempty"`
		Kid string        `json:"kid"`
		Use string        `json:"use"`
		Alg sdk.Algorithm `json:"alg"`
	}
	keys := make([]key, 0, len(r.keys))
	for _, k := range r.keys {
		jwk, err := k.JWK()
		if err != nil {
			return nil, err
		}
		keys = append(keys, key{jwk.Kty, jwk.Crv, jwk.X, jwk.Y, jwk.Kid, "sig", jwk.Alg})
	}
	return json.Marshal(map[string]any{"keys": keys})
}
