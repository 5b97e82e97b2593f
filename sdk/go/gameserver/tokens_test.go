package gameserver

import (
	"math"
	"net/http"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-dev/berth/sdk/go/bootstrap"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	"github.com/berth-dev/berth/sdk/go/token"
	"github.com/golang-jwt/jwt/v5"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// minted returns a token that says when it was issued and for how long it is valid.
func minted(t *testing.T, issued time.Time, life time.Duration) bootstrap.Secret {
	t.Helper()
	c := token.Claims{RegisteredClaims: jwt.RegisteredClaims{IssuedAt: jwt.NewNumericDate(issued), ExpiresAt: jwt.NewNumericDate(issued.Add(life))}}
	raw, err := jwt.NewWithClaims(jwt.SigningMethodHS256, c).SignedString([]byte("whoever"))
	if err != nil {
		t.Fatal(err)
	}
	return bootstrap.Secret(raw)
}

// wantTimes checks when tokens expire and are refreshed, both counted from now.
func wantTimes(t *testing.T, got *tokens, now time.Time, expire, refresh, latest time.Duration) {
	t.Helper()
	if d := got.expire.Sub(now); d != expire {
		t.Errorf("they expire in %s, want %s", d, expire)
	}
	if d := got.refresh.Sub(now); d < refresh || d > latest {
		t.Errorf("they are refreshed in %s, want %s to %s", d, refresh, latest)
	}
}

// The age of a document's tokens is a matter of two clocks. One that is wrong makes the first refresh early, or at half the lifetime.
func TestWhenTheTokensOfADocumentAreRefreshed(t *testing.T) {
	const life = time.Hour
	for name, c := range map[string]struct {
		age                     time.Duration
		expire, refresh, latest time.Duration
	}{
		"new":                           {0, time.Hour, 30 * time.Minute, 33 * time.Minute},
		"minted a while ago":            {20 * time.Minute, 40 * time.Minute, 20 * time.Minute, 22 * time.Minute},
		"almost over":                   {life - 10*time.Second, 10 * time.Second, 5 * time.Second, 5500 * time.Millisecond},
		"this clock is a day slow":      {-24 * time.Hour, time.Hour, 30 * time.Minute, 33 * time.Minute},
		"this clock is a day fast":      {24 * time.Hour, 0, time.Second, time.Second},
		"this clock has never been set": {-50 * 365 * 24 * time.Hour, time.Hour, 30 * time.Minute, 33 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				now := time.Now()
				issued := now.Add(-c.age)
				for range 50 {
					got := newTokens(&bootstrap.Document{Game: minted(t, issued, life), Social: minted(t, issued, life)}, now)
					wantTimes(t, got, now, c.expire, c.refresh, c.latest)
				}
			})
		})
	}
}

func TestWhenFreshTokensAreRefreshed(t *testing.T) {
	at := func(d time.Duration) *timestamppb.Timestamp {
		return timestamppb.New(time.Unix(1_000_000_000, 0).Add(d))
	}
	for name, c := range map[string]struct {
		skew                    time.Duration // of this clock
		life                    time.Duration // 0: the tokens do not tell
		answer                  *gameserverv1.RefreshTokensResponse
		expire, refresh, latest time.Duration
	}{
		"as Berth says":                  {0, time.Hour, &gameserverv1.RefreshTokensResponse{ExpireTime: at(time.Hour), RefreshTime: at(50 * time.Minute)}, time.Hour, 50 * time.Minute, 51 * time.Minute},
		"this clock is a day slow":       {-24 * time.Hour, time.Hour, &gameserverv1.RefreshTokensResponse{ExpireTime: at(time.Hour), RefreshTime: at(50 * time.Minute)}, time.Hour, 50 * time.Minute, 51 * time.Minute},
		"this clock is a day fast":       {24 * time.Hour, time.Hour, &gameserverv1.RefreshTokensResponse{ExpireTime: at(time.Hour), RefreshTime: at(50 * time.Minute)}, time.Hour, 50 * time.Minute, 51 * time.Minute},
		"Berth does not say":             {0, time.Hour, &gameserverv1.RefreshTokensResponse{}, time.Hour, 30 * time.Minute, 33 * time.Minute},
		"before it was issued":           {0, time.Hour, &gameserverv1.RefreshTokensResponse{RefreshTime: at(-1)}, time.Hour, 30 * time.Minute, 33 * time.Minute},
		"after it has expired":           {0, time.Hour, &gameserverv1.RefreshTokensResponse{RefreshTime: at(2 * time.Hour)}, time.Hour, 30 * time.Minute, 33 * time.Minute},
		"a token that cannot be read":    {0, 0, &gameserverv1.RefreshTokensResponse{ExpireTime: at(time.Hour), RefreshTime: at(50 * time.Minute)}, time.Hour, 50 * time.Minute, 51 * time.Minute},
		"a moment":                       {0, time.Second, &gameserverv1.RefreshTokensResponse{}, time.Second, time.Second, time.Second},
		"for years":                      {0, 100_000 * time.Hour, &gameserverv1.RefreshTokensResponse{}, 100_000 * time.Hour, 50_000 * time.Hour, 55_000 * time.Hour},
		"neither token nor answer tells": {0, 0, &gameserverv1.RefreshTokensResponse{}, math.MinInt64, math.MinInt64, math.MinInt64},
	} {
		t.Run(name, func(t *testing.T) {
			issued := time.Unix(1_000_000_000, 0)
			now := issued.Add(c.skew)
			got := newTokens(&bootstrap.Document{Game: "old", Social: "old"}, now)
			got.failures = 9
			c.answer.GameToken, c.answer.SocialToken = "new", "new"
			if c.life > 0 {
				c.answer.GameToken, c.answer.SocialToken = minted(t, issued, c.life).Reveal(), minted(t, issued, c.life).Reveal()
			}
			if !got.take(c.answer, now) || got.failures != 0 {
				t.Fatal("not taken")
			}
			if c.expire < 0 {
				if !got.expire.IsZero() || !got.refresh.IsZero() {
					t.Errorf("they expire at %s and are refreshed at %s", got.expire, got.refresh)
				}
				return
			}
			wantTimes(t, got, now, c.expire, c.refresh, c.latest)
		})
	}
}

// Of two halves the one counts that expires first, and half a pair is none.
func TestTheTwoTokensGoTogether(t *testing.T) {
	now := time.Unix(1_000_000_000, 0)
	long, short := minted(t, now, time.Hour), minted(t, now, 10*time.Minute)
	for _, doc := range []*bootstrap.Document{{Game: long, Social: short}, {Game: short, Social: long}} {
		got := newTokens(doc, now)
		wantTimes(t, got, now, 10*time.Minute, 5*time.Minute, 5*time.Minute+30*time.Second)
		for _, half := range []*gameserverv1.RefreshTokensResponse{{GameToken: "x"}, {SocialToken: "x"}, {}} {
			if got.take(half, now) {
				t.Errorf("took %v", half)
			}
		}
		header := http.Header{}
		got.authorize(header)
		if header.Get("Authorization") != "Bearer "+doc.Game.Reveal() || header.Get("Berth-Social-Token") != doc.Social.Reveal() {
			t.Error("the tokens are gone")
		}
	}
}

// Equal tokens, different times: spread over the whole of a tenth of the second half.
func TestRefreshesAreSpread(t *testing.T) {
	now := time.Unix(1_000_000_000, 0)
	doc := &bootstrap.Document{Game: minted(t, now, time.Hour), Social: minted(t, now, time.Hour)}
	var early, late int
	for range 1000 {
		switch d := newTokens(doc, now).refresh.Sub(now) - 30*time.Minute; {
		case d < 0 || d > 3*time.Minute:
			t.Fatalf("%s after half of the lifetime", d)
		case d < 90*time.Second:
			early++
		default:
			late++
		}
	}
	if early < 300 || late < 300 {
		t.Errorf("%d early, %d late", early, late)
	}
}

// After an outage all servers are back at once, and each has been waiting for its refresh.
func TestOverdueRefreshesAreSpread(t *testing.T) {
	began := time.Unix(1_000_000_000, 0)
	doc := &bootstrap.Document{Game: minted(t, began, time.Hour), Social: minted(t, began, time.Hour)}
	for name, c := range map[string]struct{ at, latest time.Duration }{
		"valid":   {40 * time.Minute, 42 * time.Minute},
		"expired": {2 * time.Hour, 2 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			seen := make(map[time.Time]bool)
			for range 20 {
				got := newTokens(doc, began)
				got.connected(began.Add(c.at))
				if d := got.refresh.Sub(began); d < c.at || d > c.latest {
					t.Errorf("refreshed after %s", d)
				}
				seen[got.refresh] = true
			}
			if (len(seen) > 1) != (c.latest > c.at) {
				t.Errorf("%d different times", len(seen))
			}
		})
	}
	got := newTokens(doc, began)
	planned := got.refresh
	if got.connected(began.Add(time.Minute)); got.refresh != planned {
		t.Error("a refresh that is not due yet was moved")
	}
}

// Failed refreshes are repeated ever more slowly at first, and then more eagerly as expiry nears. Afterwards nothing can be lost any more.
func TestFailedRefreshesAreRepeated(t *testing.T) {
	now := time.Unix(1_000_000_000, 0)
	got := newTokens(&bootstrap.Document{Game: minted(t, now, time.Hour), Social: minted(t, now, time.Hour)}, now)
	expire := now.Add(time.Hour)
	now = got.refresh
	lastMinute := 0
	for n := 0; now.Before(expire.Add(time.Hour)); n++ {
		wait := got.failed(now, 0)
		left := expire.Sub(now)
		longest := time.Minute
		if n < 6 {
			longest = time.Second << n
		}
		switch {
		case left > 0 && left < 10*time.Second:
			longest = time.Second
		case left > 0:
			longest = min(longest, left/10)
		default:
			longest = 30 * time.Second
		}
		if wait < longest/2 || wait > longest {
			t.Errorf("after failure %d, with %s left, the wait is %s; want half of %s at least", n+1, left, wait, longest)
		}
		if !got.refresh.Equal(now.Add(wait)) {
			t.Errorf("the refresh is in %s, not in %s", got.refresh.Sub(now), wait)
		}
		if left > 0 && left < time.Minute {
			lastMinute++
		}
		now = now.Add(wait)
	}
	if lastMinute < 10 {
		t.Errorf("%d tries in the last minute", lastMinute)
	}
	if wait := got.failed(now, 2*time.Minute); wait != 2*time.Minute {
		t.Errorf("waits for %s though Berth asked for two minutes", wait)
	}
}

// The gateway's word that the tokens have expired brings the refresh forward, once: after a failure the pauses count.
func TestTheGatewayFindsTheTokensExpired(t *testing.T) {
	now := time.Unix(1_000_000_000, 0)
	got := newTokens(&bootstrap.Document{Game: "unreadable", Social: "unreadable"}, now)
	if got.old(now.Add(1000*time.Hour)) || !got.refresh.IsZero() {
		t.Error("their age is known")
	}
	got.expired(now)
	if !got.old(now) || got.refresh.Sub(now) != time.Second {
		t.Errorf("the refresh is in %s", got.refresh.Sub(now))
	}
	now = now.Add(time.Minute)
	if got.expired(now); !got.refresh.Equal(now) {
		t.Errorf("the refresh is in %s", got.refresh.Sub(now))
	}
	wait := got.failed(now, 0)
	if got.expired(now); !got.refresh.Equal(now.Add(wait)) {
		t.Error("the pause after a failure was cut short")
	}
}

// The host works with copies, and keeps nothing of tokens that were replaced.
func TestOldTokensAreForgotten(t *testing.T) {
	doc := &bootstrap.Document{Gateway: "http://127.0.0.1:1", Game: "OLD-GAME", Social: "OLD-SOCIAL"}
	h, err := newHost(t.Context(), []Option{WithBootstrap(doc)})
	if err != nil {
		t.Fatal(err)
	}
	if h.doc.Game != "" || h.doc.Social != "" || h.options.bootstrap != nil || doc.Game != "OLD-GAME" || doc.Social != "OLD-SOCIAL" {
		t.Error("the host keeps the document's tokens, or has changed the document")
	}
	if !h.tokens.take(&gameserverv1.RefreshTokensResponse{GameToken: "NEW-GAME", SocialToken: "NEW-SOCIAL"}, time.Now()) ||
		h.tokens.game != "NEW-GAME" || h.tokens.social != "NEW-SOCIAL" {
		t.Error("the tokens were not replaced")
	}
}

// What has expired is refused for that, and need not be remembered.
func TestUsedTicketsAreForgotten(t *testing.T) {
	var used usedTickets
	now := time.Unix(1_000_000_000, 0)
	for n := range 10_000 {
		now = now.Add(time.Second)
		if ticket := (token.Ticket{ID: strconv.Itoa(n), ExpireTime: now.Add(2 * time.Minute)}); !used.use(ticket, now) || used.use(ticket, now) {
			t.Fatal("a ticket is not used once")
		}
		if len(used.until) > 250 { // two minutes, the leeway, and a minute between two looks
			t.Fatalf("%d tickets are remembered", len(used.until))
		}
	}
}
