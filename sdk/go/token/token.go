// Package token verifies the JWTs that Berth issues: the pair of partner tokens that a game server carries, the claim code that it may get in
// their place, and the tickets that players show to it. Verification needs nothing but Berth's public keys.
package token

import (
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// Issuer is the `iss` of every token.
const Issuer = "berth"

// The audiences; a token has exactly one, and it says in which place the token belongs.
const (
	// AudienceGame is the audience of a server's game token.
	AudienceGame = "game"
	// AudienceSocial is the audience of a server's social token.
	AudienceSocial = "social"
	// AudienceTicket is the audience of a player's ticket.
	AudienceTicket = "ticket"
	// AudienceClaim is the audience of a claim code.
	AudienceClaim = "claim"
)

const (
	// Leeway is how far the clocks of issuer and verifier may be apart. A token counts as expired this long after its `exp`.
	Leeway = 30 * time.Second
	// MaxSize is the size in bytes above which a token is refused without being looked at.
	MaxSize = 8 << 10
)

// Claims is what is in a token. The issuer signs this very type.
type Claims struct {
	// RegisteredClaims has iss, aud, sub (the server's id, or in a ticket the player's), jti, iat and exp.
	jwt.RegisteredClaims
	// Namespace is the namespace of the server, or of the ticket's instance.
	Namespace string `json:"namespace"`
	// Pair is the id of the pair; empty in a ticket.
	Pair string `json:"pair,omitempty"`
	// Instance is the id of the instance that a ticket or a claim code is for; empty in partner tokens.
	Instance string `json:"instance,omitempty"`
}

// Server is a game server that showed a valid pair of partner tokens.
type Server struct {
	// ID is the server's id.
	ID string
	// PairID is the id of its pair.
	PairID string
	// Namespace is the namespace that it serves.
	Namespace string
	// IssueTime is when the older of the two tokens was issued; the zero time if one does not say.
	IssueTime time.Time
	// ExpireTime is when the first of the two tokens expires; it is valid for Leeway longer.
	ExpireTime time.Time
	// GameKeyID and SocialKeyID are the ids of the keys that signed the two tokens.
	GameKeyID, SocialKeyID string
}

// Ticket is a player's valid ticket. That it is used once only is up to the game server (package gameserver sees to it).
type Ticket struct {
	// ID is the ticket's own id (jti).
	ID string
	// PlayerID is the player who may join with it.
	PlayerID string
	// InstanceID is the instance that it is for.
	InstanceID string
	// Namespace is the instance's namespace.
	Namespace string
	// IssueTime is when it was issued; the zero time if it does not say.
	IssueTime time.Time
	// ExpireTime is when it expires; it is valid for Leeway longer.
	ExpireTime time.Time
	// KeyID is the id of the key that signed it.
	KeyID string
}

// Claim is a valid claim code: what a game server exchanges for its pair. Whether it may still be used, the instance knows.
type Claim struct {
	// AttemptID is the attempt that the server is for (jti): however often its code is minted, it is the same code.
	AttemptID string
	// ServerID and PairID are the ids of the server and of the pair that it will get.
	ServerID, PairID string
	// InstanceID is the instance that the server is for.
	InstanceID string
	// Namespace is the namespace of server and instance.
	Namespace string
	// IssueTime is when it was issued; the zero time if it does not say.
	IssueTime time.Time
	// ExpireTime is when it expires; it is valid for Leeway longer.
	ExpireTime time.Time
	// KeyID is the id of the key that signed it.
	KeyID string
}

// Reason says what is wrong with a credential: a berth.type.v1.ErrorReason without its prefix.
type Reason string

// The reasons.
const (
	// Missing means that a token is not there.
	Missing Reason = "CREDENTIALS_MISSING"
	// Invalid means that a token is not one of Berth's, or not of this kind.
	Invalid Reason = "CREDENTIALS_INVALID"
	// Expired means that a token's lifetime is over.
	Expired Reason = "CREDENTIALS_EXPIRED"
	// Swapped means that a token stands in the other token's place.
	Swapped Reason = "CREDENTIALS_SWAPPED"
	// Mismatched means that the two tokens are halves of different pairs.
	Mismatched Reason = "CREDENTIALS_MISMATCHED"
	// Revoked means that a token is genuine, and was revoked. A Verifier does not know it; see Revocations.
	Revoked Reason = "CREDENTIALS_REVOKED"
)

// Error says that a token was refused. A verification that fails with any other error came to no verdict: the keys could
// not be had now (ErrKeysUnavailable).
type Error struct {
	// Reason is what is wrong, for programs.
	Reason Reason
	// Message is what is wrong, for people. It never contains any part of a token.
	Message string
}

// Error implements error.
func (e *Error) Error() string { return fmt.Sprintf("%s: %s", e.Reason, e.Message) }

func refuse(r Reason, format string, args ...any) *Error {
	return &Error{Reason: r, Message: fmt.Sprintf(format, args...)}
}
