// Package token owns the signing keys and mints what they sign: the pairs of partner tokens for game servers and the tickets for players.
package token

import (
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"

	"github.com/berth-dev/berth/pkg/conf"
	"github.com/berth-dev/berth/pkg/ids"
	sdk "github.com/berth-dev/berth/sdk/go/token"
)

// Config configures an Issuer. All fields are required.
type Config struct {
	// Keys has the keys.
	Keys *Keyring
	// PairLifetime is how long partner tokens are valid.
	PairLifetime time.Duration
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
}

// IssuePair mints the pair of an attempt's server. Server and pair id follow from the attempt's: minting again renews the same pair.
func (i *Issuer) IssuePair(namespace, attemptID string) (Pair, error) {
	p := Pair{ServerID: ids.Server(attemptID), PairID: ids.Pair(attemptID)}
	claims := sdk.Claims{Namespace: namespace, Pair: p.PairID}
	claims.Subject = p.ServerID
	claims.IssuedAt, claims.ExpiresAt = validFor(i.cfg.PairLifetime)
	p.ExpireTime = claims.ExpiresAt.Time
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

// IssueTicket mints a ticket with which one player joins one instance.
func (i *Issuer) IssueTicket(namespace, instanceID, playerID string) (Ticket, error) {
	claims := sdk.Claims{Namespace: namespace, Instance: instanceID}
	claims.Subject = playerID
	claims.IssuedAt, claims.ExpiresAt = validFor(i.cfg.TicketLifetime)
	signed, err := i.sign(sdk.AudienceTicket, claims)
	if err != nil {
		return Ticket{}, err
	}
	return Ticket{Token: signed, ExpireTime: claims.ExpiresAt.Time}, nil
}

// validFor returns iat and exp, in whole seconds as tokens have them.
func validFor(lifetime time.Duration) (issued, expires *jwt.NumericDate) {
	now := time.Now()
	return jwt.NewNumericDate(now), jwt.NewNumericDate(now.Add(lifetime))
}

// sign makes a token of the claims, with an id of its own.
func (i *Issuer) sign(audience string, claims sdk.Claims) (conf.Secret, error) {
	claims.Issuer = sdk.Issuer
	claims.Audience = jwt.ClaimStrings{audience}
	claims.ID = uuid.NewString()
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
