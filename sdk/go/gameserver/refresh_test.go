package gameserver_test

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-dev/berth/sdk/go/bootstrap"
	"github.com/berth-dev/berth/sdk/go/gameserver"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	"github.com/berth-dev/berth/sdk/go/token"
	"github.com/golang-jwt/jwt/v5"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// pair mints tokens that are valid from now on.
func (g *gateway) pair(lifetime time.Duration) *gameserverv1.RefreshTokensResponse {
	g.t.Helper()
	now := time.Now().Truncate(time.Second)
	mint := func(audience string) string {
		return g.sign(token.Claims{
			RegisteredClaims: jwt.RegisteredClaims{
				Issuer: token.Issuer, Subject: "server-1", Audience: jwt.ClaimStrings{audience},
				IssuedAt: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(now.Add(lifetime)),
			},
			Namespace: "default", Pair: "pair-1",
		})
	}
	return &gameserverv1.RefreshTokensResponse{
		GameToken: mint(token.AudienceGame), SocialToken: mint(token.AudienceSocial), ExpireTime: timestamppb.New(now.Add(lifetime)),
	}
}

// withPair returns the document with these tokens in it.
func (g *gateway) withPair(pair *gameserverv1.RefreshTokensResponse) gameserver.Option {
	doc := g.bootstrap()
	doc.Game, doc.Social = bootstrap.Secret(pair.GetGameToken()), bootstrap.Secret(pair.GetSocialToken())
	return gameserver.WithBootstrap(doc)
}

// connectWith links a server that has these tokens.
func (g *gateway) connectWith(pair *gameserverv1.RefreshTokensResponse, opts ...gameserver.Option) (*gameserver.Server, *peer) {
	g.t.Helper()
	c := g.connecting(append(opts, g.withPair(pair))...)
	p := g.accept()
	p.wantTokens(pair)
	p.hello()
	p.welcome("1", calm)
	p.reply(p.request("Link"), startData("ann"))
	return c.server(), p
}

// wantTokens checks with what the server has upgraded.
func (p *peer) wantTokens(pair *gameserverv1.RefreshTokensResponse) {
	p.t.Helper()
	if p.header.Get("Authorization") != "Bearer "+pair.GetGameToken() || p.header.Get("Berth-Social-Token") != pair.GetSocialToken() {
		p.t.Errorf("the upgrade carries other tokens than the newest")
	}
}

// refresh waits for a refresh over the link.
func (p *peer) refresh(within time.Duration) *linkv1.Request {
	p.t.Helper()
	var f *linkv1.Frame
	select {
	case f = <-p.frames:
	case <-time.After(within):
		p.t.Fatal("waited in vain for a refresh")
	}
	r := f.GetRequest()
	if r.GetMethod() != "RefreshTokens" || r.GetInstanceId() != "" || r.GetLinkEpoch() != 0 {
		p.t.Fatalf("got %v, want a refresh", f)
	}
	if r.GetAuth().GetGame() != p.game || r.GetAuth().GetSocial() != p.social {
		p.t.Errorf("the refresh carries credentials %v, want this connection's two handles", r.GetAuth())
	}
	want := &gameserverv1.RefreshTokensRequest{ResumeKey: "RESUME-KEY", InstanceId: instanceID}
	if got := new(gameserverv1.RefreshTokensRequest); proto.Unmarshal(r.GetPayload(), got) != nil || !proto.Equal(got, want) {
		p.t.Errorf("RefreshTokens carries %v, want %v", got, want)
	}
	return r
}

// quiet lets time pass in which the server must not send anything.
func (p *peer) quiet(d time.Duration) {
	p.t.Helper()
	time.Sleep(d)
	synctest.Wait()
	if len(p.frames) > 0 {
		p.t.Fatalf("too early: %v", <-p.frames)
	}
}

// berthRefuses is a refusal over REST.
func berthRefuses(status int, reason string) *refusal {
	return &refusal{status: status, body: fmt.Sprintf(
		`{"code":1,"message":"no","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","domain":"berth.dev","reason":%q}]}`, reason)}
}

func berthAnswers(t *testing.T, m proto.Message) *refusal {
	t.Helper()
	body, err := protojson.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return &refusal{status: http.StatusOK, body: strings.Replace(string(body), "{", `{"new": 1, `, 1), opens: true}
}

// expired is the answer to an upgrade with a pair that has expired.
var expired = &refusal{status: http.StatusUnauthorized, body: `{"code":16,"reason":"CREDENTIALS_EXPIRED","message":"too late"}`}

func wantReason(t *testing.T, err error, want string) {
	t.Helper()
	var refused *gameserver.Error
	if !errors.As(err, &refused) || refused.Reason != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestTokensAreRefreshedInPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newBubbleGateway(t)
		s, p := g.connectWith(g.pair(time.Hour))

		// Half of the lifetime, and up to a tenth of the other half.
		p.quiet(30*time.Minute - time.Second)
		r := p.refresh(3*time.Minute + time.Second)
		second := g.pair(time.Hour)
		second.RefreshTime = timestamppb.New(time.Now().Truncate(time.Second).Add(50 * time.Minute))
		p.reply(r, second)

		// The socket goes on with its handles.
		call := async(func() error { return s.ConnectPlayers(t.Context()) })
		p.reply(p.request("ConnectPlayers"), new(gameserverv1.ConnectPlayersResponse))
		if err := receive(t, call, "the answer"); err != nil {
			t.Error(err)
		}

		// What Berth says of when counts from when the answer came.
		p.quiet(50*time.Minute - time.Second)
		r = p.refresh(time.Minute + time.Second)
		third := g.pair(time.Hour)
		p.reply(r, third)
		synctest.Wait()

		p.cut()
		p = g.accept()
		p.wantTokens(third)
		p.hello()
		p.welcome("2", calm, resumed(100))
		p.quiet(20 * time.Minute)
		if len(g.renewed) > 0 {
			t.Error("the tokens were refreshed over REST, too")
		}
	})
}

// One at a time, until it succeeds; and it does not wait for room among the game's own calls.
func TestARefreshThatFailsIsRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newBubbleGateway(t)
		first := g.pair(time.Hour)
		s, p := g.connectWith(first)
		r := p.refresh(33 * time.Minute)
		p.quiet(10 * time.Second) // it has no answer yet
		numbers := map[int64]bool{r.GetId(): true}
		for n, e := range []*linkv1.Error{
			{Code: int32(codes.Unavailable), Reason: "SERVICE_UNAVAILABLE"},
			{Code: int32(codes.Internal), Reason: "INTERNAL"},
			{Code: int32(codes.ResourceExhausted), Reason: "LIMIT_EXCEEDED"},
			{Code: int32(codes.Unimplemented), Reason: "METHOD_UNKNOWN"},
			{Code: int32(codes.Unavailable), Reason: "STORE_UNAVAILABLE", RetryAfter: durationpb.New(20 * time.Second)},
			nil,
		} {
			if e != nil {
				p.fail(r, e)
			} else {
				p.reply(r, &gameserverv1.RefreshTokensResponse{GameToken: "HALF-A-TOKEN"})
			}
			if e.GetRetryAfter() != nil {
				p.quiet(20*time.Second - 1)
			}
			if r = p.refresh(time.Minute); numbers[r.GetId()] {
				t.Errorf("try %d has the number %d of another", n+1, r.GetId())
			}
			numbers[r.GetId()] = true
		}

		// One that the connection takes with it does not come back, for that would be beside a new one.
		p.cut()
		p = g.accept()
		p.wantTokens(first)
		p.hello()
		p.welcome("2", calm, resumed(100))
		if r = p.refresh(3 * time.Minute); numbers[r.GetId()] {
			t.Error("the refresh of the last connection came again")
		}
		p.quiet(10 * time.Second)
		p.reply(r, g.pair(time.Hour))
		p.quiet(29 * time.Minute)
		p.reply(p.refresh(5*time.Minute), g.pair(time.Hour))
		if err := s.Err(); err != nil {
			t.Error(err)
		}
	})
}

// Berth's last word on the tokens ends the link, but not a word of a service that fails.
func TestARefreshThatIsRefusedForGood(t *testing.T) {
	for _, reason := range []string{"CREDENTIALS_EXPIRED", "CREDENTIALS_REVOKED"} {
		t.Run("over the link: "+reason, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newBubbleGateway(t)
				s, p := g.connectWith(g.pair(time.Hour))
				p.fail(p.refresh(33*time.Minute), &linkv1.Error{Code: int32(codes.Unauthenticated), Reason: reason, Message: "no"})
				closedSoon(t, s.Done(), "the link's end")
				wantReason(t, s.Err(), reason)
				synctest.Wait()
				if len(g.renewed) > 0 || len(g.peers) > 0 {
					t.Error("the server tried again")
				}
			})
		})
		t.Run("over REST: "+reason, func(t *testing.T) {
			g := newGateway(t)
			s, p := g.connect(nil)
			g.refusal.Store(expired)
			g.edge.Store(berthRefuses(http.StatusUnauthorized, reason))
			p.cut()
			closedSoon(t, s.Done(), "the link's end")
			wantReason(t, s.Err(), reason)
			if len(g.renewed) != 1 {
				t.Errorf("%d refreshes, want 1", len(g.renewed))
			}
		})
	}
}

func TestTokensExpireWhileDisconnected(t *testing.T) {
	g := newGateway(t)
	s, p := g.connect(nil)
	call := async(func() error { return s.ConnectPlayers(t.Context()) })
	p.request("ConnectPlayers")
	fresh := g.pair(time.Hour)
	g.refusal.Store(expired)
	g.edge.Store(berthAnswers(t, fresh))
	p.cut()
	asked := receive(t, g.renewed, "a refresh over REST")
	if asked.authorization != "Bearer GAME-TOKEN" || asked.social != "SOCIAL-TOKEN" {
		t.Errorf("the refresh carries %q and %q", asked.authorization, asked.social)
	}
	if body := strings.ReplaceAll(asked.body, " ", ""); body != `{"resumeKey":"RESUME-KEY","instanceId":"`+instanceID+`"}` {
		t.Errorf("the refresh says %s", asked.body)
	}
	p = g.accept()
	p.wantTokens(fresh)
	if h := p.hello(); h.GetResumeKey() != "RESUME-KEY" || len(h.GetInstances()) != 1 {
		t.Errorf("Hello is %v", h)
	}
	p.welcome("2", resumed(100))
	p.reply(p.request("ConnectPlayers"), new(gameserverv1.ConnectPlayersResponse))
	if err := receive(t, call, "the answer"); err != nil {
		t.Error(err)
	}
}

// A server that never had a session has nothing to show.
func TestTokensExpireBeforeTheFirstHello(t *testing.T) {
	g := newGateway(t)
	g.refusal.Store(expired)
	g.edge.Store(berthAnswers(t, g.pair(time.Hour)))
	wantReason(t, receive(t, g.connecting().failed, "the failure"), "CREDENTIALS_EXPIRED")
	if len(g.renewed) > 0 {
		t.Error("the server asked for fresh tokens all the same")
	}
}

// A registered server's document names no instance: Berth knows them.
func TestTheTokensOfAHostExpire(t *testing.T) {
	g := newGateway(t)
	_, p, _ := g.host("a", "b")
	g.refusal.Store(expired)
	g.edge.Store(berthAnswers(t, g.pair(time.Hour)))
	p.cut()
	if asked := receive(t, g.renewed, "a refresh over REST"); strings.ReplaceAll(asked.body, " ", "") != `{"resumeKey":"RESUME-KEY"}` {
		t.Errorf("the refresh says %s", asked.body)
	}
	p, _ = g.again("a", "b")
	p.welcome("2", goesOn("a", 1), goesOn("b", 2))
}

// Hours without Berth, in which the tokens expire, and then some in which it can be reached and cannot mint any.
func TestAnOutageThatOutlastsTheTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newBubbleGateway(t)
		first := g.pair(time.Hour)
		s, p := g.connectWith(first)
		call := async(func() error { return s.ConnectPlayers(t.Context()) })
		p.request("ConnectPlayers")
		g.refusal.Store(&refusal{status: http.StatusServiceUnavailable})
		p.cut()
		time.Sleep(3 * time.Hour)
		g.refusal.Store(expired)
		for _, answer := range []*refusal{
			berthRefuses(http.StatusServiceUnavailable, "STORE_UNAVAILABLE"),
			berthRefuses(http.StatusInternalServerError, "INTERNAL"),
			{status: http.StatusBadGateway, body: "<html>"},
			{status: http.StatusUnauthorized, body: "<html>"}, // somebody in between
			{status: http.StatusFound},
			{status: http.StatusOK, body: "<html>"},
		} {
			g.edge.Store(answer)
			time.Sleep(10 * time.Minute)
			if len(g.renewed) == 0 {
				t.Errorf("nobody asked while the answer was %v", answer)
			}
			for len(g.renewed) > 0 {
				<-g.renewed
			}
		}
		fresh := g.pair(time.Hour)
		g.edge.Store(berthAnswers(t, fresh))
		p = g.accept()
		p.wantTokens(fresh)
		if h := p.hello(); h.GetResumeKey() != "RESUME-KEY" {
			t.Errorf("Hello is %v", h)
		}
		p.welcome("2", calm, resumed(100))
		p.reply(p.request("ConnectPlayers"), new(gameserverv1.ConnectPlayersResponse))
		if err := receive(t, call, "the answer"); err != nil {
			t.Error(err)
		}
	})
}

// An issuer that is away while the tokens expire costs no call: those that are refused for it are made again.
func TestTokensExpireOnAnOpenSocket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tooLate := &linkv1.Error{Code: int32(codes.Unauthenticated), Reason: "CREDENTIALS_EXPIRED", Message: "too late"}
		g := newBubbleGateway(t)
		c := g.connecting() // with tokens that do not tell how long they last
		p := g.accept()
		p.hello()
		p.welcome("1", calm)
		link := p.request("Link")
		time.Sleep(2 * time.Second) // for there is a pause between two refreshes
		p.fail(link, tooLate)
		refresh := p.refresh(time.Second)
		again := p.request("Link")
		if again.GetId() != link.GetId() {
			t.Errorf("Link has number %d now and had %d", again.GetId(), link.GetId())
		}
		p.reply(refresh, &gameserverv1.RefreshTokensResponse{GameToken: "NEW-GAME-TOKEN", SocialToken: "NEW-SOCIAL-TOKEN"})
		p.reply(again, startData("ann"))
		s := c.server()

		time.Sleep(time.Hour)
		call := async(func() error { return s.ConnectPlayers(t.Context()) })
		first := p.request("ConnectPlayers")
		p.fail(first, tooLate)
		p.reply(p.refresh(time.Second), g.pair(time.Hour))
		second := p.request("ConnectPlayers")
		if second.GetId() != first.GetId() {
			t.Errorf("the call has number %d now and had %d", second.GetId(), first.GetId())
		}
		p.reply(second, new(gameserverv1.ConnectPlayersResponse))
		if err := receive(t, call, "the answer"); err != nil {
			t.Error(err)
		}
	})
}

// Tokens can be good for the upgrade and expire before Hello. The close code does not say so, but their age does.
func TestTokensExpireBetweenUpgradeAndHello(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newBubbleGateway(t)
		s, p := g.connectWith(g.pair(time.Hour))
		g.refusal.Store(&refusal{status: http.StatusServiceUnavailable})
		p.cut()
		time.Sleep(time.Hour)
		fresh := g.pair(time.Hour)
		g.edge.Store(berthAnswers(t, fresh))
		g.refusal.Store(nil)
		p = g.accept()
		p.hello()
		p.bye(linkv1.CloseCode_CLOSE_CODE_UNAUTHENTICATED, true)
		p = g.accept()
		p.wantTokens(fresh)
		p.hello()
		p.bye(linkv1.CloseCode_CLOSE_CODE_UNAUTHENTICATED, true) // that is not for their age
		closedSoon(t, s.Done(), "the link's end")
		var closed *gameserver.CloseError
		if !errors.As(s.Err(), &closed) || closed.Code != linkv1.CloseCode_CLOSE_CODE_UNAUTHENTICATED {
			t.Errorf("Err is %v", s.Err())
		}
	})
}

// Fresh tokens that the gateway takes for expired, because its clock is wrong, do not make the server ask without a pause.
func TestFreshTokensThatTheGatewayRefusesAreNoLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newBubbleGateway(t)
		s, p := g.connectWith(g.pair(time.Hour))
		fresh := berthAnswers(t, g.pair(time.Hour))
		fresh.opens = false
		g.edge.Store(fresh)
		g.refusal.Store(expired)
		p.cut()
		asked := 0
		for range 60 {
			time.Sleep(time.Second)
			for len(g.renewed) > 0 {
				<-g.renewed
				asked++
			}
		}
		if asked < 10 || asked > 35 { // the longest pause is 5 s, and the shortest half of that
			t.Errorf("asked %d times in a minute", asked)
		}
		if err := s.Err(); err != nil {
			t.Errorf("the server has given up: %v", err)
		}
	})
}

// Servers that were started together do not all come at the same time.
func TestServersWithEqualTokensRefreshAtDifferentTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newBubbleGateway(t)
		pair := g.pair(time.Hour)
		began := time.Now()
		var after []time.Duration
		came := make(chan time.Duration, 2)
		for range cap(came) {
			_, p := g.connectWith(pair)
			go func() {
				<-p.frames
				came <- time.Since(began)
			}()
		}
		for range cap(came) {
			d := <-came
			if d < 30*time.Minute || d > 33*time.Minute {
				t.Errorf("refreshed after %s", d)
			}
			after = append(after, d)
		}
		if after[0] == after[1] {
			t.Errorf("both refreshed after %s", after[0])
		}
	})
}

// A key that was withdrawn is not trusted for ever, though no ticket asks for another.
func TestTheKeysAreFetchedWithTheTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newBubbleGateway(t)
		s, p := g.connectWith(g.pair(time.Hour))
		if _, err := s.VerifyTicket(t.Context(), g.ticket("ann", nil)); err != nil {
			t.Fatal(err)
		}
		r := p.refresh(33 * time.Minute)
		forged := g.ticket("ann", nil)
		g.rotate("k2")
		p.reply(r, g.pair(time.Hour))
		synctest.Wait()
		if n := g.keysets.Load(); n != 2 {
			t.Errorf("the keys were fetched %d times, want 2", n)
		}
		_, err := s.VerifyTicket(t.Context(), forged)
		var refused *token.Error
		if !errors.As(err, &refused) || refused.Reason != token.Invalid {
			t.Errorf("a ticket that is signed with a withdrawn key: %v", err)
		}
	})
}

// No token, old or new, and no resume key is in what is logged or in an error, whatever way a refresh takes.
func TestARefreshTellsNoSecrets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out lockedBuffer
		g := newBubbleGateway(t)
		log := slog.New(slog.NewJSONHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
		s, p := g.connectWith(g.pair(time.Hour), gameserver.WithLogger(log))
		p.fail(p.refresh(33*time.Minute), &linkv1.Error{Code: int32(codes.Unavailable), Reason: "SERVICE_UNAVAILABLE", Message: "later"})
		p.reply(p.refresh(time.Minute), g.pair(time.Hour))
		synctest.Wait()
		g.refusal.Store(expired)
		half := g.pair(time.Hour)
		half.SocialToken = ""
		garbled := berthAnswers(t, g.pair(time.Hour))
		garbled.body = strings.Replace(garbled.body, `"gameToken":`, `"gameToken" `, 1)
		p.cut()
		for _, answer := range []*refusal{
			berthAnswers(t, half), garbled, berthRefuses(http.StatusServiceUnavailable, "STORE_UNAVAILABLE"), berthAnswers(t, g.pair(time.Hour)),
			berthRefuses(http.StatusUnauthorized, "CREDENTIALS_REVOKED"),
		} {
			g.edge.Store(answer)
			time.Sleep(time.Minute)
			g.refusal.Store(expired)
			for len(g.peers) > 0 {
				(<-g.peers).cut()
			}
		}
		closedSoon(t, s.Done(), "the link's end")
		wantReason(t, s.Err(), "CREDENTIALS_REVOKED")
		told := out.String() + fmt.Sprintf("%v %+v %#v", s.Err(), s.Err(), s.Err())
		for _, want := range []string{"tokens refreshed", "later", "cannot be read", "STORE_UNAVAILABLE", "CREDENTIALS_REVOKED"} {
			if !strings.Contains(told, want) {
				t.Errorf("%q was not told:\n%s", want, told)
			}
		}
		for _, secret := range []string{"eyJ", "RESUME-KEY", "HANDLE"} {
			if strings.Contains(told, secret) {
				t.Errorf("%s was told:\n%s", secret, told)
			}
		}
	})
}
