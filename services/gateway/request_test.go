package gateway_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/berth-dev/berth/pkg/errs"
	sessionv1 "github.com/berth-dev/berth/pkg/gen/berth/session/v1"
	"github.com/berth-dev/berth/pkg/redisx/redistest"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	"github.com/berth-dev/berth/sdk/go/token"

	"github.com/berth-dev/berth/services/gateway"
)

func TestARequestIsRelayedWithItsServersIdentityAndWithoutCredentials(t *testing.T) {
	w := start(t, nil)
	relayed := make(chan *sessionv1.RelayRequest, 1)
	w.backend.sessions.set(func(s *sessions) {
		s.relays = func(r *sessionv1.RelayRequest) (*sessionv1.RelayResponse, error) { relayed <- r; return echo(r) }
	})
	c, id := w.backend.issuer.pair(t), uuid.NewString()
	s := w.open(c, &linkv1.Hello{})
	if r := s.call("UpdateGameData", id, []byte("data")); string(r.GetResult()) != "data" {
		t.Errorf("answer %v", r)
	}
	got := next(t, "the relayed request", relayed)
	if i := got.GetIdentity(); i.GetServerId() != c.server || i.GetPairId() != c.pair || i.GetNamespace() != "default" || i.GetSessionId() != s.welcome.GetSessionId() {
		t.Errorf("identity %v", i)
	}
	if r := got.GetRequest(); r.GetId() != 1 || r.GetMethod() != "UpdateGameData" || r.GetInstanceId() != id || string(r.GetPayload()) != "data" || r.GetAuth() != nil {
		t.Errorf("request %v", r)
	}
	if d := got.GetTimeout().AsDuration(); d <= 9*time.Second || d > 10*time.Second {
		t.Errorf("timeout %v", d)
	}
}

func TestEveryFrameCarriesBothCredentials(t *testing.T) {
	w := start(t, nil)
	iss := w.backend.issuer
	c, other := iss.pair(t), iss.pair(t)
	renewed := c
	renewed.game, renewed.social = iss.sign(t, c, token.AudienceGame, time.Now().Add(2*time.Hour)), iss.sign(t, c, token.AudienceSocial, time.Now().Add(2*time.Hour))
	old := iss.sign(t, c, token.AudienceGame, time.Now().Add(-time.Hour))
	s, foreign := w.open(c, &linkv1.Hello{}), w.open(other, &linkv1.Hello{})
	gh, sh := s.welcome.GetGameHandle(), s.welcome.GetSocialHandle()
	for name, q := range map[string]struct {
		game, social string
		want         errs.Reason
	}{
		"handles":              {gh, sh, ""},
		"tokens":               {c.game, c.social, ""},
		"one of each":          {gh, c.social, ""},
		"renewed":              {renewed.game, renewed.social, ""},
		"one renewed":          {renewed.game, sh, ""},
		"no game":              {"", sh, errs.CredentialsMissing},
		"no social":            {gh, "", errs.CredentialsMissing},
		"none":                 {"", "", errs.CredentialsMissing},
		"swapped handles":      {sh, gh, errs.CredentialsSwapped},
		"twice the handle":     {gh, gh, errs.CredentialsSwapped},
		"swapped tokens":       {c.social, c.game, errs.CredentialsSwapped},
		"other's social token": {c.game, other.social, errs.CredentialsMismatch},
		"with handle":          {gh, other.social, errs.CredentialsMismatch},
		"another pair":         {other.game, other.social, errs.CredentialsMismatch},
		"another's handles":    {foreign.welcome.GetGameHandle(), foreign.welcome.GetSocialHandle(), errs.CredentialsInvalid},
		"expired":              {old, sh, errs.CredentialsExpired},
		"garbage":              {"x", sh, errs.CredentialsInvalid},
		"a handle cut short":   {gh[:len(gh)-1], sh, errs.CredentialsInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			s.tb = t
			r := s.answer(s.requestAs(q.game, q.social, "Echo", "", []byte("data")))
			switch e := r.GetError(); {
			case q.want == "" && string(r.GetResult()) != "data":
				t.Errorf("refused: %v", e)
			case q.want != "" && (e.GetReason() != string(q.want) || e.GetCode() != 16 || e.GetMessage() == ""):
				t.Errorf("answer %v, want %s", r, q.want)
			case strings.Contains(e.GetMessage(), "eyJ") || strings.Contains(e.GetMessage(), gh):
				t.Errorf("the message quotes a credential: %s", e.GetMessage())
			}
		})
	}
}

func TestHandlesExpireWithTheirTokens(t *testing.T) {
	w := start(t, nil)
	s := w.open(w.backend.issuer.pairUntil(t, time.Now().Add(-token.Leeway+2*time.Second)), &linkv1.Hello{})
	eventually(t, "the handles expire", func() error {
		if e := s.call("Echo", "", nil).GetError(); e.GetReason() != string(errs.CredentialsExpired) {
			return fmt.Errorf("the answer is %v", e)
		}
		return nil
	})
}

func TestTheAnswerOfTheServiceComesThroughAsItIs(t *testing.T) {
	w := start(t, nil)
	w.backend.sessions.set(func(s *sessions) {
		s.relays = func(r *sessionv1.RelayRequest) (*sessionv1.RelayResponse, error) {
			return &sessionv1.RelayResponse{Id: r.GetId(), Response: &linkv1.Response{Outcome: &linkv1.Response_Error{
				Error: &linkv1.Error{Code: 12, Reason: "METHOD_UNKNOWN", Message: "there is no method \"Nonsense\""},
			}}}, nil
		}
	})
	s := w.open(w.backend.issuer.pair(t), &linkv1.Hello{})
	if e := s.call("Nonsense", "", nil).GetError(); e.GetCode() != 12 || e.GetReason() != "METHOD_UNKNOWN" || !strings.Contains(e.GetMessage(), "Nonsense") {
		t.Errorf("%v", e)
	}
}

func TestTooManyRequestsWithoutAnAnswerEndTheConnection(t *testing.T) {
	w := start(t, func(c *gateway.Config) { c.Limits.InFlight = 3 })
	w.backend.sessions.set(func(s *sessions) {
		s.relays = func(r *sessionv1.RelayRequest) (*sessionv1.RelayResponse, error) {
			if r.GetRequest().GetMethod() == "Never" {
				return nil, nil
			}
			return echo(r)
		}
	})
	s := w.open(w.backend.issuer.pair(t), &linkv1.Hello{})
	s.request("Never", "", nil)
	s.request("Never", "", nil)
	for range 10 { // an answered request makes room
		s.call("Echo", "", nil)
	}
	s.request("Never", "", nil)
	s.request("Never", "", nil)
	if code := s.closed(); code != linkv1.CloseCode_CLOSE_CODE_TOO_MANY_REQUESTS {
		t.Errorf("closed with %v", code)
	}
}

// A relay stream that breaks takes no call with it: it is sent again on the next stream, with its frame's number.
func TestACutRelayStreamLosesNoCall(t *testing.T) {
	w := start(t, func(c *gateway.Config) { c.RelayStreams = 1 })
	var arrivals atomic.Int32
	w.backend.sessions.set(func(s *sessions) {
		s.relays = func(r *sessionv1.RelayRequest) (*sessionv1.RelayResponse, error) {
			if arrivals.Add(1) <= 3 {
				return nil, errors.New("cut")
			}
			return echo(r)
		}
	})
	s := w.open(w.backend.issuer.pair(t), &linkv1.Hello{})
	var want []int64
	for range 20 {
		want = append(want, s.request("Echo", "", []byte("x")))
	}
	for _, id := range want {
		s.answer(id) // in order: one stream, one answer after the other
	}
	if arrivals.Load() < 23 {
		t.Errorf("%d arrivals", arrivals.Load())
	}
}

func TestACallWithoutAnAnswerFailsSoThatItIsSentAgain(t *testing.T) {
	w := start(t, func(c *gateway.Config) { c.RequestTimeout = 300 * time.Millisecond })
	w.backend.sessions.set(func(s *sessions) {
		s.relays = func(*sessionv1.RelayRequest) (*sessionv1.RelayResponse, error) { return nil, nil }
	})
	s := w.open(w.backend.issuer.pair(t), &linkv1.Hello{})
	e := s.call("Never", "", nil).GetError()
	if e.GetReason() != string(errs.ServiceUnavailable) || e.GetCode() != 14 || e.GetRetryAfter().AsDuration() <= 0 {
		t.Errorf("%v", e)
	}
}

// When game-instance goes away the sockets stay, calls wait for it, and it is found again at its address.
func TestSocketsOutliveGameInstance(t *testing.T) {
	w := start(t, nil)
	s := w.open(w.backend.issuer.pair(t), &linkv1.Hello{})
	s.call("Echo", "", nil)
	w.backend.stop()
	id := s.request("Echo", "", []byte("still there?"))
	startBackend(t, w.backend.addr, w.backend.issuer, w.backend.sessions)
	if r := s.answer(id); string(r.GetResult()) != "still there?" {
		t.Errorf("%v", r)
	}
}

func TestASlowConsumerIsClosedAndHoldsNobodyUp(t *testing.T) {
	w := startOn(t, redistest.Embedded(t), newSessions(), func(c *gateway.Config) { c.Limits.QueueBytes = 1 << 20 })
	big := bytes.Repeat([]byte("x"), 512<<10)
	w.backend.sessions.set(func(s *sessions) {
		s.relays = func(r *sessionv1.RelayRequest) (*sessionv1.RelayResponse, error) {
			if r.GetRequest().GetMethod() == "Big" {
				r.Request.Payload = big
			}
			return echo(r)
		}
	})
	slow, quick := w.open(w.backend.issuer.pair(t), &linkv1.Hello{}), w.open(w.backend.issuer.pair(t), &linkv1.Hello{})
	for range 60 { // 30 MiB of answers that nobody reads: more than the kernel's buffers and the queue
		slow.request("Big", "", nil)
	}
	for range 100 {
		quick.call("Echo", "", []byte("x"))
	}
	if code := slow.closed(); code != linkv1.CloseCode_CLOSE_CODE_SLOW_CONSUMER {
		t.Errorf("closed with %v", code)
	}
	quick.call("Echo", "", []byte("x"))
	next(t, "the end of the slow one's session", w.backend.sessions.closed)
}

func TestManyServersAtOnce(t *testing.T) {
	w := start(t, nil)
	var all sync.WaitGroup
	for range 20 {
		s := w.open(w.backend.issuer.pair(t), &linkv1.Hello{})
		all.Go(func() {
			for n := range 100 {
				payload := fmt.Appendf(nil, "%s/%d", s.welcome.GetSessionId(), n)
				id := s.request("Echo", "", payload)
				f, err := s.read()
				if err != nil || f.GetResponse().GetId() != id || !bytes.Equal(f.GetResponse().GetResult(), payload) {
					t.Errorf("got %v, %v", f, err)
					return
				}
			}
		})
	}
	all.Wait()
}

func TestTheEndOfASocketIsToldUntilItIsAnswered(t *testing.T) {
	w := start(t, nil)
	c, id := w.backend.issuer.pair(t), uuid.NewString()
	s := w.linked(c, id)
	w.backend.sessions.set(func(s *sessions) { s.closeErr = errs.New(errs.StoreUnavailable, "away") })
	if err := s.ws.Close(1000, ""); err != nil {
		t.Fatal(err)
	}
	w.backend.sessions.set(func(s *sessions) { s.closeErr = nil })
	req := next(t, "CloseSession", w.backend.sessions.closed)
	if req.GetServerId() != c.server || req.GetSessionEpoch() != 1 || len(req.GetInstanceIds()) != 1 || req.GetInstanceIds()[0] != id {
		t.Errorf("%v", req)
	}
}

// A peer that is gone without a word is noticed by its silence, although TCP says nothing.
func TestASilentPeerIsCut(t *testing.T) {
	w := start(t, func(c *gateway.Config) { c.Heartbeat = 50 * time.Millisecond })
	s := w.open(w.backend.issuer.pair(t), &linkv1.Hello{})
	// Nobody reads the socket now, so no ping is answered.
	next(t, "the end of the session", w.backend.sessions.closed)
	_ = s
}

func TestPingsKeepAnIdlePeer(t *testing.T) {
	w := start(t, func(c *gateway.Config) { c.Heartbeat = 50 * time.Millisecond })
	s := w.open(w.backend.issuer.pair(t), &linkv1.Hello{})
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond) // ten heartbeats
	defer cancel()
	if _, _, err := s.ws.Read(ctx); !errors.Is(err, context.DeadlineExceeded) { // answers pings
		t.Errorf("the connection ended: %v", err)
	}
}

// A payload that is larger than what services take, as JSON can become when it is encoded for them, must not break the stream that others' requests go over.
func TestAPayloadThatServicesDoNotTakeIsRefused(t *testing.T) {
	w := start(t, func(c *gateway.Config) { c.Limits.FrameBytes, c.RelayStreams = 10<<20, 1 })
	s, other := w.open(w.backend.issuer.pair(t), &linkv1.Hello{}), w.open(w.backend.issuer.pair(t), &linkv1.Hello{})
	if r := s.call("Echo", "", make([]byte, 9<<20)); r.GetError().GetReason() != string(errs.LimitExceeded) {
		t.Errorf("answered %v", r.GetError())
	}
	if r := other.call("Echo", "", nil); r.GetError() != nil {
		t.Errorf("another's request is answered %v", r)
	}
}
