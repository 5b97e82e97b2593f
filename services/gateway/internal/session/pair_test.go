package session_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/sdk/go/token"

	"github.com/berth-dev/berth/services/gateway/internal/session"
)

var errVerified = errors.New("verified")

// never is for what needs no verification.
func never(context.Context, string, string) (session.Verified, error) {
	return session.Verified{}, errVerified
}

// The rest of what Pair does is tested over a socket with real tokens (TestEveryFrameCarriesBothCredentials).
func TestHandlesNeedNoVerification(t *testing.T) {
	server := token.Server{ID: "s", PairID: "p", Namespace: "default", ExpireTime: time.Now()}
	p := session.NewPair(server, "ey-game", "ey-social", never)
	game, social := p.Handles()
	now := server.ExpireTime.Add(token.Leeway)
	if expired, err := p.Check(t.Context(), game, social, now); expired || err != nil {
		t.Errorf("at the end of their life: %v, %v", expired, err)
	}
	if expired, err := p.Check(t.Context(), game, social, now.Add(time.Millisecond)); !expired || err != nil {
		t.Errorf("after it: %v, %v", expired, err)
	}
	if _, err := p.Check(t.Context(), "ey-other", social, now); !errors.Is(err, errVerified) {
		t.Errorf("another token: %v", err)
	}
}

func TestHandlesStandForTheNewestTokens(t *testing.T) {
	server := token.Server{ID: "s", PairID: "p", Namespace: "default", ExpireTime: time.Now(), GameKeyID: "k1"}
	var shown session.Verified
	var refused error
	p := session.NewPair(server, "ey-game", "ey-social", func(context.Context, string, string) (session.Verified, error) { return shown, refused })
	game, social := p.Handles()
	later := func(by time.Duration) token.Server { s := server; s.ExpireTime = s.ExpireTime.Add(by); return s }
	foreign := later(time.Hour)
	foreign.PairID = "another"
	for name, c := range map[string]struct {
		shown   session.Verified
		refused error
		want    errs.Reason
	}{
		"not ours":        {refused: errs.New(errs.CredentialsInvalid, "no"), want: errs.CredentialsInvalid},
		"of another pair": {shown: session.Verified{Server: foreign}, want: errs.CredentialsMismatch},
		"expired":         {shown: session.Verified{Server: later(time.Hour), Expired: true}, want: errs.CredentialsExpired},
		"older":           {shown: session.Verified{Server: later(-time.Hour)}},
	} {
		shown, refused = c.shown, c.refused
		if err := p.Renew(t.Context(), "ey-new", "ey-new"); errs.ReasonOf(err) != c.want {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
		if p.Server() != server {
			t.Errorf("%s: the pair is that of %+v", name, p.Server())
		}
	}
	fresh := later(time.Hour)
	fresh.GameKeyID = "k2"
	shown, refused = session.Verified{Server: fresh}, nil
	if err := p.Renew(t.Context(), "ey-game2", "ey-social2"); err != nil {
		t.Fatal(err)
	}
	if g, s := p.Handles(); g != game || s != social {
		t.Error("the handles changed")
	}
	refused = errVerified
	past := server.ExpireTime.Add(time.Minute)
	for _, c := range [][2]string{{game, social}, {"ey-game2", "ey-social2"}, {game, "ey-social2"}} {
		if expired, err := p.Check(t.Context(), c[0], c[1], past); expired || err != nil {
			t.Errorf("%v: %v, %v", c, expired, err)
		}
	}
	if _, err := p.Check(t.Context(), "ey-game", social, past); !errors.Is(err, errVerified) {
		t.Errorf("an old token is not verified: %v", err)
	}
	if p.Server() != fresh {
		t.Errorf("the pair is that of %+v", p.Server())
	}
}

func BenchmarkCheckOfHandles(b *testing.B) {
	p := session.NewPair(token.Server{ExpireTime: time.Now().Add(time.Hour)}, "ey-game", "ey-social", never)
	game, social := p.Handles()
	now := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		if expired, err := p.Check(context.Background(), game, social, now); expired || err != nil {
			b.Fatal(expired, err)
		}
	}
}
