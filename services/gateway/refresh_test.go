package gateway_test

import (
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/berth-dev/berth/pkg/errs"
	sessionv1 "github.com/berth-dev/berth/pkg/gen/berth/session/v1"
	"github.com/berth-dev/berth/pkg/rpc"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	"github.com/berth-dev/berth/sdk/go/token"

	"github.com/berth-dev/berth/services/gateway"
)

// clock is one that a test moves.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time          { return time.Now().Add(time.Duration(c.ahead.Load())) }
func (c *clock) set(ahead time.Duration) { c.ahead.Store(int64(ahead)) }
func (c *clock) use(cfg *gateway.Config) { cfg.Now = c.now }
func on(c *clock) func(*gateway.Config)  { return c.use }

// renewal is a pair's new tokens.
func (i *issuer) renewal(tb testing.TB, c credentials, expires time.Time) *gameserverv1.RefreshTokensResponse {
	return &gameserverv1.RefreshTokensResponse{GameToken: i.sign(tb, c, token.AudienceGame, expires), SocialToken: i.sign(tb, c, token.AudienceSocial, expires)}
}

// refreshes makes the backend answer RefreshTokens, and echo everything else. What is relayed is noted.
func (s *sessions) refreshes(answer func(*sessionv1.RelayRequest) (proto.Message, error)) <-chan *sessionv1.RelayRequest {
	relayed := make(chan *sessionv1.RelayRequest, 100)
	s.set(func(s *sessions) {
		s.relays = func(r *sessionv1.RelayRequest) (*sessionv1.RelayResponse, error) {
			relayed <- r
			if r.GetRequest().GetMethod() != "RefreshTokens" {
				return echo(r)
			}
			out := &linkv1.Response{Id: r.GetRequest().GetId()}
			msg, err := answer(r)
			if err == nil {
				raw, err := proto.Marshal(msg)
				if err != nil {
					return nil, err
				}
				out.Outcome = &linkv1.Response_Result{Result: raw}
			} else {
				out.Outcome = &linkv1.Response_Error{Error: &linkv1.Error{Code: int32(errs.ReasonOf(err).Kind()), Reason: string(errs.ReasonOf(err)), Message: "no"}}
			}
			return &sessionv1.RelayResponse{Id: r.GetId(), Response: out}, nil
		}
	})
	return relayed
}

func reasonOf(r *linkv1.Response) errs.Reason { return errs.Reason(r.GetError().GetReason()) }

// The handles of a socket outlive the tokens that it was opened with, once these were refreshed over it, even if they had expired by then.
func TestARefreshTakesEffectInPlace(t *testing.T) {
	for name, late := range map[string]bool{"in time": false, "expired": true} {
		t.Run(name, func(t *testing.T) {
			var clock clock
			w := start(t, on(&clock))
			iss := w.backend.issuer
			c := iss.pair(t)
			fresh := iss.renewal(t, c, time.Now().Add(10*time.Hour))
			relayed := w.backend.sessions.refreshes(func(*sessionv1.RelayRequest) (proto.Message, error) { return fresh, nil })
			s := w.open(c, &linkv1.Hello{})
			if late {
				clock.set(2 * time.Hour)
				if got := reasonOf(s.call("Echo", "", nil)); got != errs.CredentialsExpired {
					t.Fatalf("an expired pair is answered %q", got)
				}
				if got := reasonOf(s.call("EndGameInstance", knownInstance, nil)); got != errs.CredentialsExpired {
					t.Fatalf("an expired pair ends a game: %q", got)
				}
			}
			payload, err := proto.Marshal(&gameserverv1.RefreshTokensRequest{ResumeKey: "k"})
			if err != nil {
				t.Fatal(err)
			}
			answer, want := s.call("RefreshTokens", "", payload), new(gameserverv1.RefreshTokensResponse)
			if err := proto.Unmarshal(answer.GetResult(), want); err != nil || !proto.Equal(want, fresh) {
				t.Errorf("the answer did not come through as it was: %v, %v", answer, err)
			}
			asked := next(t, "the relayed refresh", relayed)
			if asked.GetIdentity().GetExpired() != late || asked.GetIdentity().GetPairId() != c.pair || string(asked.GetRequest().GetPayload()) != string(payload) || asked.GetRequest().GetAuth() != nil {
				t.Errorf("relayed as %v", asked)
			}
			clock.set(9 * time.Hour)
			for name, q := range map[string][2]string{
				"handles":        {s.welcome.GetGameHandle(), s.welcome.GetSocialHandle()},
				"new tokens":     {fresh.GetGameToken(), fresh.GetSocialToken()},
				"new and handle": {fresh.GetGameToken(), s.welcome.GetSocialHandle()},
				"old tokens":     {c.game, c.social}, // by the real clock they are valid
			} {
				if r := s.answer(s.requestAs(q[0], q[1], "Echo", "", []byte("data"))); string(r.GetResult()) != "data" {
					t.Errorf("%s: %v", name, r.GetError())
				}
				if next(t, "the relayed request", relayed).GetIdentity().GetExpired() {
					t.Errorf("%s: passed on as expired", name)
				}
			}
			clock.set(11 * time.Hour)
			if got := reasonOf(s.call("Echo", "", nil)); got != errs.CredentialsExpired {
				t.Errorf("when the new tokens have expired: %q", got)
			}
		})
	}
}

// Old tokens that have expired are good for a refresh, also where a frame shows them themselves, and for nothing else. A foreign pair is good for nothing.
func TestExpiredTokensInAFrameMayOnlyBeRefreshed(t *testing.T) {
	w := start(t, nil)
	iss := w.backend.issuer
	c := iss.pair(t)
	relayed := w.backend.sessions.refreshes(func(*sessionv1.RelayRequest) (proto.Message, error) {
		return nil, errs.New(errs.CredentialsExpired, "no")
	})
	old := iss.renewal(t, c, time.Now().Add(-time.Hour))
	foreign := iss.pairUntil(t, time.Now().Add(-time.Hour))
	s := w.open(c, &linkv1.Hello{})
	if got := reasonOf(s.answer(s.requestAs(old.GetGameToken(), old.GetSocialToken(), "Echo", "", nil))); got != errs.CredentialsExpired {
		t.Errorf("a call: %q", got)
	}
	if got := reasonOf(s.answer(s.requestAs(foreign.game, foreign.social, "RefreshTokens", "", nil))); got != errs.CredentialsMismatch {
		t.Errorf("a refresh with another's pair: %q", got)
	}
	if len(relayed) != 0 {
		t.Fatal("it was passed on")
	}
	s.answer(s.requestAs(old.GetGameToken(), old.GetSocialToken(), "RefreshTokens", "", nil))
	if !next(t, "the refresh", relayed).GetIdentity().GetExpired() {
		t.Error("it was passed on as valid")
	}
	if r := s.call("Echo", "", []byte("data")); string(r.GetResult()) != "data" {
		t.Errorf("the pair of the socket is still valid, but: %v", r)
	}
}

// What game-instance answers is checked before the handles stand for it.
func TestForeignTokensDoNotTakeThePairsPlace(t *testing.T) {
	var clock clock
	w := start(t, on(&clock))
	c := w.backend.issuer.pair(t)
	answers := map[string]*gameserverv1.RefreshTokensResponse{
		"another pair":  w.backend.issuer.renewal(t, w.backend.issuer.pair(t), time.Now().Add(9*time.Hour)),
		"another key":   newIssuer(t).renewal(t, c, time.Now().Add(9*time.Hour)),
		"nothing":       {},
		"no new social": {GameToken: w.backend.issuer.renewal(t, c, time.Now().Add(9*time.Hour)).GetGameToken()},
	}
	s := w.open(c, &linkv1.Hello{})
	for name, answer := range answers {
		clock.set(0)
		w.backend.sessions.refreshes(func(*sessionv1.RelayRequest) (proto.Message, error) { return answer, nil })
		if r := s.call("RefreshTokens", "", nil); r.GetError() != nil {
			t.Errorf("%s: %v", name, r)
		}
		clock.set(2 * time.Hour)
		if got := reasonOf(s.call("Echo", "", nil)); got != errs.CredentialsExpired {
			t.Errorf("%s: the pair was renewed: %q", name, got)
		}
	}
}

func TestNobodyIsLetInWithAnExpiredPair(t *testing.T) {
	w := start(t, nil)
	expired := w.backend.issuer.pairUntil(t, time.Now().Add(-time.Hour))
	refuse := func(when string) {
		t.Helper()
		_, resp, err := w.dial(expired, nil)
		if err == nil {
			t.Fatalf("%s: let in", when)
		}
		if body := refusal(t, resp); resp.StatusCode != 401 || body.Reason != string(errs.CredentialsExpired) || !strings.Contains(body.Message, "tokens:refresh") {
			t.Errorf("%s: %d %+v", when, resp.StatusCode, body)
		}
	}
	refuse("as always")
	outage(t, w)
	refuse("in an outage")
}

// outage takes game-instance away and waits until the gateway knows it.
func outage(t *testing.T, w *world) {
	t.Helper()
	w.backend.sessions.set(func(s *sessions) { s.renewErr = errs.New(errs.StoreUnavailable, "away") })
	n := w.backend.sessions.renewals.Load()
	eventually(t, "renewals fail", func() error {
		if w.backend.sessions.renewals.Load() < n+2 { // the first may have been under way
			return fmt.Errorf("%d renewals", w.backend.sessions.renewals.Load()-n)
		}
		return nil
	})
}

// An outage of Berth ends no match: a server that was let in loses no call because its pair could not be renewed, and has to renew it afterwards.
func TestAnExpiredPairGoesOnWhileBerthCannotRenewIt(t *testing.T) {
	t.Run("no lease", func(t *testing.T) {
		var clock clock
		w := start(t, on(&clock))
		s := w.open(w.backend.issuer.pair(t), &linkv1.Hello{})
		relayed := w.backend.sessions.refreshes(func(*sessionv1.RelayRequest) (proto.Message, error) {
			return nil, errs.New(errs.CredentialsExpired, "no")
		})
		clock.set(2 * time.Hour)
		if got := reasonOf(s.call("Echo", "", nil)); got != errs.CredentialsExpired {
			t.Fatalf("before the outage: %q", got)
		}
		outage(t, w)
		eventually(t, "the pair goes on", func() error {
			if r := s.call("Echo", "", []byte("data")); string(r.GetResult()) != "data" {
				return fmt.Errorf("%v", r)
			}
			return nil
		})
		if next(t, "the call", relayed).GetIdentity().GetExpired() {
			t.Error("game-instance would refuse it: it is passed on as expired")
		}
		s.call("RefreshTokens", "", nil)
		if !next(t, "the refresh", relayed).GetIdentity().GetExpired() {
			t.Error("a refresh in an outage is passed on as if the pair were valid")
		}
		w.backend.sessions.set(func(s *sessions) { s.renewErr = nil })
		eventually(t, "the pair counts as expired again", func() error {
			if got := reasonOf(s.call("Echo", "", nil)); got != errs.CredentialsExpired {
				return fmt.Errorf("answered %q", got)
			}
			return nil
		})
	})
	t.Run("no refresh", func(t *testing.T) {
		var clock clock
		w := start(t, on(&clock))
		c := w.backend.issuer.pair(t)
		s, other := w.open(c, &linkv1.Hello{}), w.open(w.backend.issuer.pair(t), &linkv1.Hello{})
		reasons := make(chan errs.Reason, 1)
		w.backend.sessions.refreshes(func(*sessionv1.RelayRequest) (proto.Message, error) { return nil, errs.New(<-reasons, "no") })
		clock.set(2 * time.Hour)
		refresh := func(reason errs.Reason) {
			reasons <- reason
			if got := reasonOf(s.call("RefreshTokens", "", nil)); got != reason {
				t.Fatalf("refresh: %q, want %s", got, reason)
			}
		}
		for _, reason := range []errs.Reason{errs.StoreUnavailable, errs.ServiceUnavailable, errs.DeadlineExceeded} {
			refresh(reason)
			if r := s.call("Echo", "", []byte("data")); string(r.GetResult()) != "data" {
				t.Errorf("after %s: %v", reason, r)
			}
			if got := reasonOf(other.call("Echo", "", nil)); got != errs.CredentialsExpired {
				t.Errorf("another server goes on after this one's %s: %q", reason, got)
			}
			refresh(errs.CredentialsExpired)
			if got := reasonOf(s.call("Echo", "", nil)); got != errs.CredentialsExpired {
				t.Errorf("after a refusal: %q", got)
			}
		}
		refresh(errs.StoreUnavailable)
		clock.set(2*time.Hour + 2*time.Minute)
		if got := reasonOf(s.call("Echo", "", nil)); got != errs.CredentialsExpired {
			t.Errorf("two minutes after the last try: %q", got)
		}
	})
}

// A pair that has expired is refreshed over REST and gRPC, too, and no further than to the service is anything verified.
func TestExpiredTokensReachGameInstanceThroughTheEdge(t *testing.T) {
	w := start(t, nil)
	c := w.backend.issuer.pairUntil(t, time.Now().Add(-time.Hour))
	resp, raw := w.ask("POST", "http://"+w.edge+"/v1/game-server/tokens:refresh", `{"resumeKey": "k", "instanceId": "`+knownInstance+`"}`, func(h http.Header) {
		h["Authorization"], h["Berth-Social-Token"] = []string{"Bearer " + c.game}, []string{c.social}
	})
	if resp.StatusCode != 200 || string(raw) != `{"gameToken":"new of `+c.server+`, k"}` {
		t.Errorf("REST: %d %s", resp.StatusCode, raw)
	}
	servers := gameserverv1.NewGameServerServiceClient(dialGRPC(t, w.edge))
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+c.game, "berth-social-token", c.social)
	if out, err := servers.RefreshTokens(ctx, &gameserverv1.RefreshTokensRequest{ResumeKey: "k"}); err != nil || out.GetGameToken() != "new of "+c.server+", k" {
		t.Errorf("gRPC: %v, %v", out, err)
	}
	if _, err := servers.UpdateGameData(ctx, gameData()); !errs.Is(rpc.FromStatus(err), errs.CredentialsExpired) {
		t.Errorf("another call: %v", err)
	}
}

// Not even at the finest level, and not when something goes wrong, is a token, a handle or a resume key logged.
func TestNoSecretIsLogged(t *testing.T) {
	var log record
	w := startLogged(t, log.logger(), nil)
	c, other := w.backend.issuer.pair(t), w.backend.issuer.pair(t)
	answers := make(chan *gameserverv1.RefreshTokensResponse, 1)
	w.backend.sessions.refreshes(func(*sessionv1.RelayRequest) (proto.Message, error) { return <-answers, nil })
	s := w.open(c, &linkv1.Hello{ResumeKey: "a-key-that-resumes", Nonce: "a-nonce-of-a-process"})
	fresh, foreign := w.backend.issuer.renewal(t, c, time.Now().Add(2*time.Hour)), w.backend.issuer.renewal(t, other, time.Now().Add(2*time.Hour))
	for _, answer := range []*gameserverv1.RefreshTokensResponse{fresh, foreign} {
		answers <- answer
		s.call("RefreshTokens", "", []byte("\x0a\x12a-key-that-resumes"))
	}
	s.answer(s.requestAs(other.game, other.social, "Echo", "", nil))
	if _, _, err := w.dial(credentials{game: c.game, social: other.social}, nil); err == nil {
		t.Error("halves of two pairs were let in")
	}
	if err := s.ws.Close(1000, ""); err != nil {
		t.Fatal(err)
	}
	next(t, "the end of the session", w.backend.sessions.closed)
	w.stop()
	got := log.String()
	if !strings.Contains(got, "refreshed tokens could not be taken over") || !strings.Contains(got, "link closed") {
		t.Errorf("the log is not that of this test: %s", got)
	}
	for name, secret := range map[string]string{
		"game token": c.game, "social token": c.social, "new game token": fresh.GetGameToken(), "foreign token": foreign.GetSocialToken(), "another's token": other.social,
		"handle": s.welcome.GetGameHandle(), "social handle": s.welcome.GetSocialHandle(), "resume key": "a-key-that-resumes", "nonce": "a-nonce-of-a-process",
		"new resume key": s.welcome.GetResumeKey(),
	} {
		for _, part := range strings.Split(secret, ".") { // a JWT's parts, too; its header is no secret
			if part != "" && !strings.HasPrefix(part, "eyJhbGci") && strings.Contains(got, part) {
				t.Errorf("the log has the %s", name)
			}
		}
	}
}

// record collects a log.
type record struct {
	mu  sync.Mutex
	log strings.Builder
}

func (r *record) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log.Write(p)
}

func (r *record) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log.String()
}

func (r *record) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(r, &slog.HandlerOptions{Level: slog.LevelDebug}))
}
