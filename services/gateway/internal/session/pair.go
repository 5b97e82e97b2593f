package session

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"strings"
	"sync/atomic"
	"time"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/sdk/go/token"
)

// handlePrefix tells a handle from a token, which is a JWT and begins with "ey".
const handlePrefix = "h_"

// Verified is a pair of tokens with which nothing is wrong, unless they have expired.
type Verified struct {
	// Server is whose pair it is.
	token.Server
	// Expired says that the pair's lifetime is over.
	Expired bool
}

// Verify verifies a pair of tokens. It returns an *errs.Error when they are refused for another reason than that they have expired. It bounds its time
// itself.
type Verify func(ctx context.Context, game, social string) (Verified, error)

// Pair is the pair of partner tokens with which a socket was opened, or that has taken their place since, and the handles that stand for them on that
// socket. Handles and the server never change. It is safe for concurrent use.
type Pair struct {
	game   place
	social place
	verify Verify
	held   atomic.Pointer[tokens]
}

// tokens are the two that the handles stand for.
type tokens struct {
	server       token.Server
	game, social string
}

// place is one of the two places of a pair's credentials.
type place struct {
	field  string // its name in messages
	handle string
}

// NewPair returns the pair of a socket whose two tokens were verified to be the server's, with fresh handles.
func NewPair(server token.Server, game, social string, verify Verify) *Pair {
	p := &Pair{
		game:   place{field: "auth.game", handle: handlePrefix + rand.Text()},
		social: place{field: "auth.social", handle: handlePrefix + rand.Text()},
		verify: verify,
	}
	p.held.Store(&tokens{server: server, game: game, social: social})
	return p
}

// Server returns whose pair it is, with the times and keys of the newest tokens.
func (p *Pair) Server() token.Server { return p.held.Load().server }

// Handles returns what may stand for the two tokens.
func (p *Pair) Handles() (game, social string) { return p.game.handle, p.social.handle }

// Check returns an error unless both credentials of a frame, each a token or its handle, stand in their own places and are of this socket's pair. expired
// says that this is all that is right with them. It verifies nothing for handles; for other tokens than the socket's it does, and may have to fetch keys.
func (p *Pair) Check(ctx context.Context, game, social string, now time.Time) (expired bool, err error) {
	held := p.held.Load()
	g, err := p.game.resolve(game, held.game, p.social.handle)
	if err != nil {
		return false, err
	}
	s, err := p.social.resolve(social, held.social, p.game.handle)
	if err != nil {
		return false, err
	}
	if same(g, held.game) && same(s, held.social) { // verified when the socket got them; only time can have changed that
		return now.After(held.server.ExpireTime.Add(token.Leeway)), nil
	}
	shown, err := p.verify(ctx, g, s)
	if err != nil {
		return false, err
	}
	return shown.Expired, samePair(held.server, shown.Server)
}

// Holds reports whether a frame's credentials are the two handles, each in its own place, and then whether the pair has expired. It allocates nothing; what it
// does not know is for Check.
func (p *Pair) Holds(game, social []byte, now time.Time) (held, expired bool) {
	if subtle.ConstantTimeCompare(game, []byte(p.game.handle))&subtle.ConstantTimeCompare(social, []byte(p.social.handle)) == 0 {
		return false, false
	}
	return true, now.After(p.held.Load().server.ExpireTime.Add(token.Leeway))
}

// Renew makes the handles stand for newer tokens of the pair. It verifies them, and may have to fetch keys. Tokens that do not live longer than those that
// the handles stand for change nothing.
func (p *Pair) Renew(ctx context.Context, game, social string) error {
	fresh, err := p.verify(ctx, game, social)
	if err != nil {
		return err
	}
	if fresh.Expired {
		return errs.New(errs.CredentialsExpired, "the new tokens have expired")
	}
	next := &tokens{server: fresh.Server, game: game, social: social}
	for {
		held := p.held.Load()
		if err := samePair(held.server, fresh.Server); err != nil {
			return err
		}
		if !fresh.ExpireTime.After(held.server.ExpireTime) || p.held.CompareAndSwap(held, next) {
			return nil
		}
	}
}

// samePair returns an error unless tokens that were shown are of the pair that a socket has.
func samePair(held, shown token.Server) error {
	if shown.ID != held.ID || shown.PairID != held.PairID || shown.Namespace != held.Namespace {
		return errs.New(errs.CredentialsMismatch, "auth: the tokens are of another pair than the one that opened this connection")
	}
	return nil
}

// resolve returns the token that a value in this place stands for.
func (p place) resolve(value, held, otherHandle string) (string, error) {
	switch {
	case value == "":
		return "", errs.New(errs.CredentialsMissing, "%s: the token, or the handle from Welcome, is missing", p.field)
	case same(value, p.handle):
		return held, nil
	case same(value, otherHandle):
		return "", errs.New(errs.CredentialsSwapped, "%s: the other token's handle stands here", p.field)
	case strings.HasPrefix(value, handlePrefix):
		return "", errs.New(errs.CredentialsInvalid, "%s: this is not a handle of this connection; handles are good for the socket whose Welcome gave them", p.field)
	default:
		return value, nil
	}
}

// same compares secrets in constant time.
func same(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }
