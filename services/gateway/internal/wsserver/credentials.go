package wsserver

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/berth-dev/berth/pkg/errs"
	sessionv1 "github.com/berth-dev/berth/pkg/gen/berth/session/v1"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"

	"github.com/berth-dev/berth/services/gateway/internal/session"
)

const (
	// verifyTimeout bounds the verification of tokens, which fetches keys when it meets an unknown one.
	verifyTimeout = 5 * time.Second
	// refreshPatience is how long an expired pair goes on after a refresh of it that Berth could not do.
	refreshPatience = time.Minute
)

// bounded gives a verification its time.
func bounded(verify session.Verify) session.Verify {
	return func(ctx context.Context, game, social string) (session.Verified, error) {
		ctx, cancel := context.WithTimeout(ctx, verifyTimeout)
		defer cancel()
		return verify(ctx, game, social)
	}
}

// errExpired is for who must refresh first.
func errExpired() error {
	return errs.New(errs.CredentialsExpired, "auth: the tokens have expired; refresh them (RefreshTokens), and send the request again")
}

func errRevoked() error {
	return errs.New(errs.CredentialsRevoked, "auth: the tokens were revoked")
}

// admit checks a request's credentials and returns as whom it is passed on. A pair that has expired may ask for its renewal, and game-instance decides
// about that; with everything else it waits until it is renewed, unless Berth cannot renew it now: an outage of Berth takes no calls from a server that was
// let in before.
func (c *conn) admit(r *linkv1.Request, caller *sessionv1.ServerIdentity) (*sessionv1.ServerIdentity, error) {
	if c.srv.cfg.Revoked(c.pair.Server()) {
		return nil, errRevoked()
	}
	now := c.srv.cfg.Now()
	expired, err := c.pair.Check(context.Background(), r.GetAuth().GetGame(), r.GetAuth().GetSocial(), now)
	switch {
	case err != nil:
		return nil, err
	case !expired:
		return caller, nil
	case r.GetMethod() == methodRefresh:
		caller = proto.CloneOf(caller)
		caller.Expired = true
		return caller, nil
	case c.srv.cfg.Outage() || c.unrefreshable(now):
		return caller, nil
	default:
		return nil, errExpired()
	}
}

// unrefreshable reports whether Berth could not refresh the pair lately, although it was asked to.
func (c *conn) unrefreshable(now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.unrefreshed.IsZero() && now.Sub(c.unrefreshed) < refreshPatience
}

// refreshed notes how RefreshTokens was answered, and calls answer when the handles stand for the new tokens. Those are verified, for which keys may have
// to be fetched, so that does not hold the caller up.
func (c *conn) refreshed(result []byte, reason errs.Reason, answer func()) {
	c.mu.Lock()
	c.unrefreshed = time.Time{}
	if kind := reason.Kind(); reason != "" && (kind == errs.KindUnavailable || kind == errs.KindDeadlineExceeded) {
		c.unrefreshed = c.srv.cfg.Now()
	}
	renews := reason == "" && !c.over
	if renews {
		c.others.Go(func() { c.renew(result); answer() })
	}
	c.mu.Unlock()
	if !renews {
		answer()
	}
}

// renew makes the handles stand for the tokens of an answer. When it cannot, they go on to stand for the old ones, the server can use the new ones, and
// it will have to refresh again when the old ones have expired.
func (c *conn) renew(result []byte) {
	fresh := new(gameserverv1.RefreshTokensResponse)
	err := proto.Unmarshal(result, fresh)
	if err == nil {
		err = c.pair.Renew(context.Background(), fresh.GetGameToken(), fresh.GetSocialToken())
	}
	if err != nil {
		c.srv.cfg.Log.Error("refreshed tokens could not be taken over", append(identity(c.pair.Server()), "error", err)...)
	}
}

// CloseRevoked closes the connections whose pairs were revoked.
func (s *Server) CloseRevoked() {
	for _, socket := range s.cfg.Hub.Sockets() {
		if c, ok := socket.(*conn); ok {
			c.closeIfRevoked()
		}
	}
}

func (c *conn) closeIfRevoked() {
	if c.srv.cfg.Revoked(c.pair.Server()) {
		c.Close(linkv1.CloseCode_CLOSE_CODE_REVOKED, "the tokens were revoked")
	}
}
