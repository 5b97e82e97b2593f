package gameserver

import (
	"context"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/berth-dev/berth/sdk/go/bootstrap"
	"github.com/berth-dev/berth/sdk/go/token"
	"github.com/golang-jwt/jwt/v5"
	"google.golang.org/protobuf/types/known/timestamppb"
)

const (
	minRefresh = time.Second // between a refresh and the next, whatever the tokens say
	// After a refresh that failed the next waits for twice as long each time, up to the first of these. That is for as long as the tokens
	// are valid; afterwards the second counts.
	maxRefreshWait  = time.Minute
	maxExpiredWait  = 30 * time.Second
	refreshFraction = 10 // of what is left of the tokens' life, one part is for jitter, and for the longest wait after a failure
)

// tokens are the two partner tokens as they are now, and when to refresh them. It is safe for concurrent use.
//
// How long tokens last is told by their own claims, and counted from when they came on the monotonic clock: a clock that is wrong, or is
// put right, does no harm.
type tokens struct {
	changed chan struct{} // the time of the next refresh is another; holds one

	mu           sync.Mutex
	game, social bootstrap.Secret
	came         time.Time
	expire       time.Time // the zero time if that is not known
	refresh      time.Time // when to refresh them next; the zero time: when the gateway finds them expired
	failures     int       // refreshes that have failed in a row
}

// newTokens returns the tokens of a bootstrap document. How old they are only the clocks of two machines tell; it is never taken for less
// than nothing or more than their whole life.
func newTokens(doc *bootstrap.Document, now time.Time) *tokens {
	t := &tokens{changed: make(chan struct{}, 1)}
	t.game, t.social, t.came = doc.Game, doc.Social, now
	if issued, life := lifeOf(doc.Game, doc.Social); life > 0 {
		left := life - min(max(now.Sub(issued), 0), life)
		t.schedule(left, left/2)
	}
	return t
}

// authorize puts both tokens into the header of a request to the gateway.
func (t *tokens) authorize(header http.Header) {
	t.mu.Lock()
	defer t.mu.Unlock()
	header.Set("Authorization", "Bearer "+t.game.Reveal())
	header.Set("Berth-Social-Token", t.social.Reveal())
}

// pair is an answer with tokens.
type pair interface {
	GetGameToken() string
	GetSocialToken() string
	GetExpireTime() *timestamppb.Timestamp
	GetRefreshTime() *timestamppb.Timestamp
}

// take replaces the tokens by those of an answer that came now, and reports whether it has them.
func (t *tokens) take(a pair, now time.Time) bool {
	game, social := bootstrap.Secret(a.GetGameToken()), bootstrap.Secret(a.GetSocialToken())
	if game == "" || social == "" {
		return false
	}
	issued, left := lifeOf(game, social)
	if left == 0 && a.GetExpireTime() != nil { // they do not tell: there is nothing left but to trust the clock
		issued, left = now, max(a.GetExpireTime().AsTime().Sub(now), 0)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.game, t.social, t.came, t.failures = game, social, now, 0
	t.expire, t.refresh = time.Time{}, time.Time{}
	if left > 0 {
		after := a.GetRefreshTime().AsTime().Sub(issued)
		if a.GetRefreshTime() == nil || after <= 0 || after >= left {
			after = left / 2
		}
		t.schedule(left, after)
	}
	wake(t.changed)
	return true
}

// schedule notes how long the tokens are valid from when they came, and after which time to refresh them. The caller holds mu.
func (t *tokens) schedule(left, after time.Duration) {
	t.expire = t.came.Add(left)
	t.refresh = t.came.Add(max(after+jitter(left-after), minRefresh))
}

// connected says that there is a new connection. A refresh that is overdue is put off a little: if there was none for long, others are in
// the same position.
func (t *tokens) connected(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.refresh.IsZero() && t.refresh.Before(now) {
		t.refresh = now.Add(jitter(t.expire.Sub(now)))
	}
}

// failed says that a refresh has failed, and returns how long the next waits, which is at least as long as Berth asked for.
func (t *tokens) failed(now time.Time, atLeast time.Duration) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	wait := maxRefreshWait
	if t.failures < 6 { // 32 s, for the shift below
		wait = min(minRefresh<<t.failures, maxRefreshWait)
	}
	t.failures++
	switch left := t.expire.Sub(now); {
	case t.expire.IsZero():
	case left > 0:
		wait = min(wait, max(left/refreshFraction, minRefresh))
	default:
		wait = min(wait, maxExpiredWait)
	}
	wait = max(wait/2+rand.N(wait/2), atLeast) //nolint:gosec // spreads load, guards nothing
	t.refresh = now.Add(wait)
	wake(t.changed)
	return wait
}

// expired says that the gateway has found the tokens expired, which are refreshed soon then.
func (t *tokens) expired(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.expire.IsZero() || now.Before(t.expire) {
		t.expire = now
	}
	if t.failures == 0 {
		t.refresh = now
		if soonest := t.came.Add(minRefresh); now.Before(soonest) {
			t.refresh = soonest
		}
		wake(t.changed)
	}
}

// old reports whether the tokens have expired, or will in a moment.
func (t *tokens) old(now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return !t.expire.IsZero() && t.expire.Add(-token.Leeway).Before(now)
}

// due waits until it is time to refresh the tokens. It returns false when ctx has ended.
func (t *tokens) due(ctx context.Context) bool {
	for {
		t.mu.Lock()
		at := t.refresh
		t.mu.Unlock()
		var reached <-chan time.Time
		if !at.IsZero() {
			reached = time.After(time.Until(at))
		}
		select {
		case <-reached:
			return true
		case <-t.changed:
		case <-ctx.Done():
			return false
		}
	}
}

// jitter returns a random part of a tenth of what is left, so that servers with tokens of the same age do not all come at once.
func jitter(left time.Duration) time.Duration {
	if left < refreshFraction {
		return 0
	}
	return rand.N(left / refreshFraction) //nolint:gosec // spreads load, guards nothing
}

// lifeOf returns since when both tokens are valid, and for how long; 0 if that is not there to be read. Nothing is verified: they are
// this server's own.
func lifeOf(game, social bootstrap.Secret) (issued time.Time, life time.Duration) {
	for n, t := range []bootstrap.Secret{game, social} {
		var c token.Claims
		if _, _, err := jwt.NewParser().ParseUnverified(t.Reveal(), &c); err != nil || c.IssuedAt == nil || c.ExpiresAt == nil {
			return time.Time{}, 0
		}
		if d := c.ExpiresAt.Sub(c.IssuedAt.Time); n == 0 || d < life {
			issued, life = c.IssuedAt.Time, max(d, 0)
		}
	}
	return issued, life
}
