// Package token owns the signing keys and mints what they sign: the pairs of partner tokens for game servers, the claim codes that
// stand in for them, and the tickets for players.
package token

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"

	"github.com/berth-dev/berth/pkg/conf"
	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/ids"
	sdk "github.com/berth-dev/berth/sdk/go/token"
)

// Config configures an Issuer. All fields are required.
type Config struct {
	// Keys has the keys.
	Keys *Keyring
	// Revocations has what was revoked: nothing is minted for it.
	Revocations *Revocations
	// PairLifetime is how long partner tokens are valid.
	PairLifetime time.Duration
	// RefreshWindow is how long before its expiry a pair should be renewed.
	RefreshWindow time.Duration
	// TicketLifetime is how long players' tickets are valid.
	TicketLifetime time.Duration
}

// Issuer mints tokens. All that it needs is in memory, so it goes on while the store is away. It is safe for concurrent use.
type Issuer struct {
	cfg Config
}

// New returns an Issuer.
func New(cfg Config) *Issuer { return &Issuer{cfg} }

// Pair is a game server's pair of partner tokens.
type Pair struct {
	// ServerID is the server's id.
	ServerID string
	// PairID is the pair's id.
	PairID string
	// Game and Social are the tokens.
	Game, Social conf.Secret
	// ExpireTime is when both expire.
	ExpireTime time.Time
	// RefreshTime is from when on the pair should be renewed.
	RefreshTime time.Time
}

// IssuePair mints the pair of an attempt's server. Server and pair id follow from the attempt's: minting again renews the same pair. It fails with
// CREDENTIALS_REVOKED if the pair, its server or its instance was revoked.
func (i *Issuer) IssuePair(ctx context.Context, namespace, attemptID string) (Pair, error) {
	set := i.cfg.Revocations.Set(ctx)
	if id := ids.AttemptInstance(attemptID); id != "" {
		if err := instanceRevoked(set, namespace, id); err != nil {
			return Pair{}, err
		}
	}
	return i.mintPair(set, namespace, ids.Server(attemptID), ids.Pair(attemptID))
}

func instanceRevoked(set *sdk.Revocations, namespace, id string) error {
	if set.Ticket(sdk.Ticket{InstanceID: id, Namespace: namespace, IssueTime: never}) {
		return errs.New(errs.CredentialsRevoked, "everything that was minted for instance %s was revoked", id)
	}
	return nil
}

func pairRevoked(set *sdk.Revocations, namespace, serverID, pairID string) error {
	if set.Server(sdk.Server{ID: serverID, PairID: pairID, Namespace: namespace, IssueTime: never}) {
		return errs.New(errs.CredentialsRevoked, "the pair of game server %s was revoked", serverID)
	}
	return nil
}

// ClaimCode is what a game server exchanges for its pair.
type ClaimCode struct {
	// ServerID is the server's id.
	ServerID string
	// Code is the code itself.
	Code conf.Secret
	// ExpireTime is when it expires at the latest: it is good for as long as its attempt is open, which the instance knows.
	ExpireTime time.Time
}

// IssueClaim mints the claim code of an attempt's server, which is good for as long as a pair would be. Everything in it but the times follows from the
// attempt, so nothing is kept of it. It fails with CREDENTIALS_REVOKED as IssuePair does.
func (i *Issuer) IssueClaim(ctx context.Context, namespace, attemptID string) (ClaimCode, error) {
	instance := ids.AttemptInstance(attemptID)
	if instance == "" {
		return ClaimCode{}, errs.New(errs.ValidationFailed, "attempt_id: %q is not the id of an attempt of an instance, and nobody else has claim codes", attemptID)
	}
	set := i.cfg.Revocations.Set(ctx)
	claims := sdk.Claims{Namespace: namespace, Pair: ids.Pair(attemptID), Instance: instance}
	claims.ID, claims.Subject = attemptID, ids.Server(attemptID)
	if err := cmp.Or(instanceRevoked(set, namespace, instance), pairRevoked(set, namespace, claims.Subject, claims.Pair)); err != nil {
		return ClaimCode{}, err
	}
	claims.IssuedAt, claims.ExpiresAt = validFor(i.cfg.PairLifetime, set.IssuedBefore(namespace))
	signed, err := i.sign(sdk.AudienceClaim, claims)
	if err != nil {
		return ClaimCode{}, err
	}
	return ClaimCode{ServerID: claims.Subject, Code: signed, ExpireTime: claims.ExpiresAt.Time}, nil
}

// RefreshPair mints a pair anew. It fails with CREDENTIALS_REVOKED as IssuePair does. It does not ask whether there is such a server, and whether it may.
func (i *Issuer) RefreshPair(ctx context.Context, namespace, serverID, pairID string) (Pair, error) {
	return i.mintPair(i.cfg.Revocations.Set(ctx), namespace, serverID, pairID)
}

// never is the time of issue of what is not issued yet: no time before which everything is revoked concerns it.
var never = time.Unix(1<<40, 0)

func (i *Issuer) mintPair(set *sdk.Revocations, namespace, serverID, pairID string) (Pair, error) {
	if err := pairRevoked(set, namespace, serverID, pairID); err != nil {
		return Pair{}, err
	}
	p := Pair{ServerID: serverID, PairID: pairID}
	claims := sdk.Claims{Namespace: namespace, Pair: pairID}
	claims.Subject = serverID
	claims.IssuedAt, claims.ExpiresAt = validFor(i.cfg.PairLifetime, set.IssuedBefore(namespace))
	p.ExpireTime = claims.ExpiresAt.Time
	p.RefreshTime = p.ExpireTime.Add(-i.cfg.RefreshWindow)
	var err error
	if p.Game, err = i.sign(sdk.AudienceGame, claims); err != nil {
		return Pair{}, err
	}
	if p.Social, err = i.sign(sdk.AudienceSocial, claims); err != nil {
		return Pair{}, err
	}
	return p, nil
}

// Ticket is a player's ticket to an instance.
type Ticket struct {
	// Token is the ticket itself.
	Token conf.Secret
	// ExpireTime is when it expires.
	ExpireTime time.Time
}

// IssueTicket mints a ticket with which one player joins one instance. It fails with CREDENTIALS_REVOKED if the instance was revoked.
func (i *Issuer) IssueTicket(ctx context.Context, namespace, instanceID, playerID string) (Ticket, error) {
	set := i.cfg.Revocations.Set(ctx)
	if err := instanceRevoked(set, namespace, instanceID); err != nil {
		return Ticket{}, err
	}
	claims := sdk.Claims{Namespace: namespace, Instance: instanceID}
	claims.Subject = playerID
	claims.IssuedAt, claims.ExpiresAt = validFor(i.cfg.TicketLifetime, set.IssuedBefore(namespace))
	signed, err := i.sign(sdk.AudienceTicket, claims)
	if err != nil {
		return Ticket{}, err
	}
	return Ticket{Token: signed, ExpireTime: claims.ExpiresAt.Time}, nil
}

// RetireKey takes a signing key out of use in an emergency: it leaves the key set, and verifiers that have it already are told that it is revoked. If it fails,
// some of that may be done; doing it again does the rest.
func (i *Issuer) RetireKey(ctx context.Context, keyID, actor string) error {
	if err := i.cfg.Keys.Withdraw(ctx, keyID); err != nil {
		return err
	}
	_, err := i.cfg.Revocations.Revoke(ctx, Revocation{Target: Target{KeyID: keyID}, Reason: "signing key retired in an emergency", Actor: actor})
	return err
}

// validFor returns iat and exp, in whole seconds as tokens have them. Everything issued before a time may be revoked, by another machine's clock: what is issued
// now is issued after it.
func validFor(lifetime time.Duration, notBefore time.Time) (issued, expires *jwt.NumericDate) {
	now := time.Now().Truncate(time.Second)
	if now.Before(notBefore) {
		now = notBefore.Add(time.Second - time.Nanosecond).Truncate(time.Second)
	}
	return jwt.NewNumericDate(now), jwt.NewNumericDate(now.Add(lifetime))
}

// sign makes a token of the claims, with an id of its own if they have none.
func (i *Issuer) sign(audience string, claims sdk.Claims) (conf.Secret, error) {
	claims.Issuer = sdk.Issuer
	claims.Audience = jwt.ClaimStrings{audience}
	claims.ID = cmp.Or(claims.ID, uuid.NewString())
	key, err := i.cfg.Keys.Ring().Signing()
	if err != nil {
		return "", err
	}
	t := jwt.NewWithClaims(key.method(), claims)
	t.Header["kid"] = key.id
	signed, err := t.SignedString(key.private())
	if err != nil {
		return "", fmt.Errorf("sign a token with audience %q: %w", audience, err)
	}
	return conf.Secret(signed), nil
}
