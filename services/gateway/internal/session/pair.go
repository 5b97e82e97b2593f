package session

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"strings"
	"time"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/sdk/go/token"
)

// handlePrefix tells a handle from a token, which is a JWT and begins with "ey".
const handlePrefix = "h_"

// Verify verifies a pair of tokens. It returns an *errs.Error when they are refused.
type Verify func(ctx context.Context, game, social string) (token.Server, error)

// Pair is the pair of partner tokens with which a socket was opened, and the handles that stand for them on that socket. It does not change and is
// safe for concurrent use.
type Pair struct {
	server token.Server
	game   credential
	social credential
	verify Verify
}

// credential is one place of a pair.
type credential struct {
	field  string // its name in messages
	token  string
	handle string
}

// NewPair returns the pair of a socket whose two tokens were verified to be the server's, with fresh handles.
func NewPair(server token.Server, game, social string, verify Verify) *Pair {
	return &Pair{
		server: server,
		game:   credential{field: "auth.game", token: game, handle: handlePrefix + rand.Text()},
		social: credential{field: "auth.social", token: social, handle: handlePrefix + rand.Text()},
		verify: verify,
	}
}

// Server returns whose pair it is.
func (p *Pair) Server() token.Server { return p.server }

// Handles returns what may stand for the two tokens.
func (p *Pair) Handles() (game, social string) { return p.game.handle, p.social.handle }

// Check returns an error unless both credentials of a frame, each a token or its handle, are valid now, stand in their own places and are of this
// socket's pair. It may have to fetch keys when a frame shows another token than the socket was opened with.
func (p *Pair) Check(ctx context.Context, game, social string, now time.Time) error {
	g, err := p.game.resolve(game, p.social.handle)
	if err != nil {
		return err
	}
	s, err := p.social.resolve(social, p.game.handle)
	if err != nil {
		return err
	}
	if g == p.game.token && s == p.social.token { // verified when the socket was opened; only time can have changed that
		if now.After(p.server.ExpireTime.Add(token.Leeway)) {
			return errs.New(errs.CredentialsExpired, "auth: the tokens of this connection have expired")
		}
		return nil
	}
	server, err := p.verify(ctx, g, s)
	if err != nil {
		return err
	}
	if server.ID != p.server.ID || server.PairID != p.server.PairID || server.Namespace != p.server.Namespace {
		return errs.New(errs.CredentialsMismatch, "auth: the tokens are of another pair than the one that opened this connection")
	}
	return nil
}

// resolve returns the token that a value in this place stands for.
func (c credential) resolve(value, otherHandle string) (string, error) {
	switch {
	case value == "":
		return "", errs.New(errs.CredentialsMissing, "%s: the token, or the handle from Welcome, is missing", c.field)
	case same(value, c.handle):
		return c.token, nil
	case same(value, otherHandle):
		return "", errs.New(errs.CredentialsSwapped, "%s: the other token's handle stands here", c.field)
	case strings.HasPrefix(value, handlePrefix):
		return "", errs.New(errs.CredentialsInvalid, "%s: this is not a handle of this connection; handles are good for the socket whose Welcome gave them", c.field)
	default:
		return value, nil
	}
}

// same compares secrets in constant time.
func same(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }
