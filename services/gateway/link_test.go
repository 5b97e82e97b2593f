package gateway_test

import (
	"bytes"
	"net/http"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/google/uuid"

	"github.com/berth-dev/berth/pkg/errs"
	sessionv1 "github.com/berth-dev/berth/pkg/gen/berth/session/v1"
	"github.com/berth-dev/berth/pkg/redisx/redistest"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"

	"github.com/berth-dev/berth/services/gateway"
)

func TestUpgradeIsRefusedWithoutAValidPair(t *testing.T) {
	w := start(t, nil)
	good, other := w.backend.issuer.pair(t), w.backend.issuer.pair(t)
	expired := w.backend.issuer.pairUntil(t, time.Now().Add(-time.Hour))
	foreign := newIssuer(t).pair(t)
	for name, c := range map[string]struct {
		path   string
		creds  credentials
		change func(http.Header)
		status int
		reason errs.Reason
	}{
		"no game token":    {creds: credentials{social: good.social}, change: func(h http.Header) { h.Del("Authorization") }, status: 401, reason: errs.CredentialsMissing},
		"no social token":  {creds: good, change: func(h http.Header) { h.Del("Berth-Social-Token") }, status: 401, reason: errs.CredentialsMissing},
		"swapped":          {creds: credentials{game: good.social, social: good.game}, status: 401, reason: errs.CredentialsSwapped},
		"twice the game":   {creds: credentials{game: good.game, social: good.game}, status: 401, reason: errs.CredentialsSwapped},
		"mismatched":       {creds: credentials{game: good.game, social: other.social}, status: 401, reason: errs.CredentialsMismatch},
		"expired":          {creds: expired, status: 401, reason: errs.CredentialsExpired},
		"foreign key":      {creds: foreign, status: 401, reason: errs.CredentialsInvalid},
		"garbage":          {creds: credentials{game: "x", social: "y"}, status: 401, reason: errs.CredentialsInvalid},
		"an API key":       {creds: credentials{game: apiKey, social: good.social}, status: 401, reason: errs.CredentialsInvalid},
		"basic":            {creds: good, change: func(h http.Header) { h.Set("Authorization", "Basic "+good.game) }, status: 401, reason: errs.CredentialsInvalid},
		"two game tokens":  {creds: good, change: func(h http.Header) { h.Add("Authorization", "Bearer "+good.game) }, status: 401, reason: errs.CredentialsInvalid},
		"two social ones":  {creds: good, change: func(h http.Header) { h.Add("Berth-Social-Token", good.social) }, status: 401, reason: errs.CredentialsInvalid},
		"origin":           {creds: good, change: func(h http.Header) { h.Set("Origin", "http://"+w.edge) }, status: 403, reason: errs.RoleRequired},
		"tokens in query":  {path: "/v1/link?access_token=" + good.game, creds: good, status: 400, reason: errs.Malformed},
		"no sub-protocol":  {creds: good, change: func(h http.Header) { h["Sec-Websocket-Protocol"] = nil }, status: 400, reason: errs.Malformed},
		"sub-protocol v2":  {creds: good, change: func(h http.Header) { h["Sec-Websocket-Protocol"] = []string{"berth.v2.proto"} }, status: 400, reason: errs.Malformed},
		"handle as tokens": {creds: credentials{game: "h_A", social: "h_B"}, status: 401, reason: errs.CredentialsInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			path := c.path
			if path == "" {
				path = "/v1/link"
			}
			s, resp, err := w.dialPath(path, c.creds, c.change)
			if err == nil {
				_ = s.ws.CloseNow()
				t.Fatal("the upgrade was accepted")
			}
			body := refusal(t, resp)
			if resp.StatusCode != c.status || body.Reason != string(c.reason) || body.Code != int(c.reason.Kind()) || body.Message == "" {
				t.Errorf("%d %+v, want %d %s", resp.StatusCode, body, c.status, c.reason)
			}
			if bytes.Contains([]byte(body.Message), []byte("eyJ")) {
				t.Errorf("the message quotes a token: %s", body.Message)
			}
		})
	}
	if n := len(w.backend.sessions.opened); n != 0 {
		t.Errorf("%d sessions were opened", n)
	}
}

func TestAPlainRequestIsToldToUpgrade(t *testing.T) {
	w := start(t, nil)
	resp, err := w.http.Get("http://" + w.edge + "/v1/link")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body := refusal(t, resp); resp.StatusCode != http.StatusUpgradeRequired || body.Reason != string(errs.Malformed) {
		t.Errorf("%d %+v", resp.StatusCode, body)
	}
}

func TestNobodyIsLetInBeforeTheKeysAreKnown(t *testing.T) {
	ses := newSessions()
	store := redistest.Embedded(t)
	var iss *issuer
	w := newWorldWithout(t, store, ses, func(i *issuer) { iss = i; i.setDown(true) })
	eventually(t, "everything but the keys is ready", func() error { return onlyMissing(w, "keys") })
	_, resp, err := w.dial(iss.pair(t), nil)
	if err == nil {
		t.Fatal("the upgrade was accepted")
	}
	if body := refusal(t, resp); resp.StatusCode != 503 || body.Reason != string(errs.ServiceUnavailable) || resp.Header.Get("Retry-After") == "" {
		t.Errorf("%d %+v, Retry-After %q", resp.StatusCode, body, resp.Header.Get("Retry-After"))
	}
	iss.setDown(false)
	eventually(t, "the gateway gets ready", func() error { return w.app.Ready(t.Context()) })
	w.open(iss.pair(t), &linkv1.Hello{})
}

// Known keys go on to verify while token-issuer is away.
func TestAServerIsLetInWhileTokenIssuerIsAway(t *testing.T) {
	w := start(t, nil)
	w.backend.issuer.setDown(true)
	w.open(w.backend.issuer.pair(t), &linkv1.Hello{})
}

func TestHelloIsAnsweredWithWelcome(t *testing.T) {
	w := start(t, nil)
	c, id := w.backend.issuer.pair(t), uuid.NewString()
	s := w.open(c, &linkv1.Hello{ResumeKey: "k", Sdk: "test", Instances: []*linkv1.HelloInstance{{InstanceId: id, LastOffset: 3, LinkEpoch: 7}}})
	req := next(t, "OpenSession", w.backend.sessions.opened)
	if req.GetServerId() != c.server || req.GetPairId() != c.pair || req.GetNamespace() != "default" || req.GetGatewayId() != w.backend.sessions.gateway() {
		t.Errorf("OpenSession %v", req)
	}
	if req.GetHello().GetResumeKey() != "k" || req.GetHello().GetInstances()[0].GetLastOffset() != 3 {
		t.Errorf("Hello arrived as %v", req.GetHello())
	}
	got := s.welcome
	if got.GetSessionId() == "" || got.GetResumeKey() != "resume-"+c.server || got.GetHeartbeat().AsDuration() != 10*time.Second {
		t.Errorf("Welcome %v", got)
	}
	if got.GetLimits().GetMaxFrameBytes() != 1<<20+64<<10 || got.GetLimits().GetMaxInFlight() != 64 {
		t.Errorf("limits %v", got.GetLimits())
	}
	if len(got.GetInstances()) != 1 || got.GetInstances()[0].GetInstanceId() != id || got.GetInstances()[0].GetLinkEpoch() != 8 {
		t.Errorf("instances %v", got.GetInstances())
	}
	if got.GetGameHandle() == got.GetSocialHandle() || len(got.GetGameHandle()) < 20 {
		t.Error("the handles are no good")
	}
	again := w.open(w.backend.issuer.pair(t), &linkv1.Hello{})
	if again.welcome.GetGameHandle() == got.GetGameHandle() {
		t.Error("two sockets have the same handle")
	}
}

// After the store has lost writes the server is told of which instances it knows more, so that it can make up for them.
func TestWelcomeNamesTheInstancesThatWereRolledBack(t *testing.T) {
	w := start(t, nil)
	kept, lost := uuid.NewString(), uuid.NewString()
	w.backend.sessions.set(func(s *sessions) {
		s.opens = func(req *sessionv1.OpenSessionRequest) (*sessionv1.OpenSessionResponse, error) {
			resp := &sessionv1.OpenSessionResponse{SessionId: uuid.NewString(), SessionEpoch: 1, ResumeKey: "k"}
			for _, i := range req.GetHello().GetInstances() {
				if i.GetRevision() > 100 {
					resp.RolledBackInstanceIds = append(resp.RolledBackInstanceIds, i.GetInstanceId())
				} else {
					resp.Links = append(resp.Links, &sessionv1.LinkState{InstanceId: i.GetInstanceId(), LinkEpoch: 8})
				}
			}
			return resp, nil
		}
	})
	s := w.open(w.backend.issuer.pair(t), &linkv1.Hello{ResumeKey: "k", Instances: []*linkv1.HelloInstance{
		{InstanceId: kept, LinkEpoch: 7, Revision: 100}, {InstanceId: lost, LinkEpoch: 7, Revision: 101},
	}})
	if got := s.welcome.GetRolledBackInstanceIds(); len(got) != 1 || got[0] != lost {
		t.Errorf("rolled back: %v, want %s", got, lost)
	}
	if got := s.welcome.GetInstances(); len(got) != 1 || got[0].GetInstanceId() != kept {
		t.Errorf("resumed: %v, want %s", got, kept)
	}
}

func TestARefusedSessionSaysWhetherToComeBack(t *testing.T) {
	w := start(t, nil)
	for reason, want := range map[errs.Reason]linkv1.CloseCode{
		errs.CredentialsInUse: linkv1.CloseCode_CLOSE_CODE_CREDENTIALS_IN_USE,
		errs.Superseded:       linkv1.CloseCode_CLOSE_CODE_SUPERSEDED,
		errs.StoreUnavailable: linkv1.CloseCode_CLOSE_CODE_UNAVAILABLE,
		errs.ValidationFailed: linkv1.CloseCode_CLOSE_CODE_PROTOCOL_VIOLATION,
	} {
		w.backend.sessions.set(func(s *sessions) { s.opens = refuseOpen(errs.New(reason, "because")) })
		s, _, err := w.dial(w.backend.issuer.pair(t), nil)
		if err != nil {
			t.Fatal(err)
		}
		s.send(&linkv1.Frame{Kind: &linkv1.Frame_Hello{Hello: &linkv1.Hello{}}})
		goodbye := s.receive().GetGoodbye()
		if goodbye.GetCode() != want || goodbye.GetMessage() != "because" || goodbye.GetReconnect() != (reason == errs.StoreUnavailable) {
			t.Errorf("%s: %v", reason, goodbye)
		}
		if code := s.lost(); code != websocket.StatusCode(want) {
			t.Errorf("%s: closed with %v", reason, code)
		}
	}
}

func TestAMissingHelloEndsTheConnection(t *testing.T) {
	w := start(t, func(c *gateway.Config) { c.HelloTimeout = 30 * time.Millisecond })
	s, _, err := w.dial(w.backend.issuer.pair(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	if code := s.closed(); code != linkv1.CloseCode_CLOSE_CODE_HELLO_TIMEOUT {
		t.Errorf("closed with %v", code)
	}
}

func TestBadFramesEndTheConnection(t *testing.T) {
	w := start(t, func(c *gateway.Config) { c.Limits.FrameBytes = 4096 })
	hello := &linkv1.Frame{Kind: &linkv1.Frame_Hello{Hello: &linkv1.Hello{}}}
	for name, c := range map[string]struct {
		send func(*socket)
		want linkv1.CloseCode
	}{
		"garbage":       {func(s *socket) { s.sendRaw(websocket.MessageBinary, []byte("\xff\xff\xff not a frame")) }, linkv1.CloseCode_CLOSE_CODE_MALFORMED_FRAME},
		"text":          {func(s *socket) { s.sendRaw(websocket.MessageText, []byte("{}")) }, linkv1.CloseCode_CLOSE_CODE_MALFORMED_FRAME},
		"too large":     {func(s *socket) { s.sendRaw(websocket.MessageBinary, make([]byte, 4097)) }, linkv1.CloseCode_CLOSE_CODE_FRAME_TOO_LARGE},
		"far too large": {func(s *socket) { s.sendRaw(websocket.MessageBinary, make([]byte, 2<<20)) }, linkv1.CloseCode_CLOSE_CODE_FRAME_TOO_LARGE},
		"request before hello": {func(s *socket) {
			s.send(&linkv1.Frame{Kind: &linkv1.Frame_Request{Request: &linkv1.Request{Id: 1, Method: "Link"}}})
		}, linkv1.CloseCode_CLOSE_CODE_PROTOCOL_VIOLATION},
		"two hellos": {func(s *socket) { s.send(hello); s.send(hello) }, linkv1.CloseCode_CLOSE_CODE_PROTOCOL_VIOLATION},
		"request 0": {func(s *socket) {
			s.send(hello)
			s.send(&linkv1.Frame{Kind: &linkv1.Frame_Request{Request: &linkv1.Request{}}})
		}, linkv1.CloseCode_CLOSE_CODE_PROTOCOL_VIOLATION},
		"welcome from the wrong side": {func(s *socket) {
			s.send(&linkv1.Frame{Kind: &linkv1.Frame_Welcome{Welcome: &linkv1.Welcome{}}})
		}, linkv1.CloseCode_CLOSE_CODE_PROTOCOL_VIOLATION},
	} {
		t.Run(name, func(t *testing.T) {
			s, _, err := w.dial(w.backend.issuer.pair(t), nil)
			if err != nil {
				t.Fatal(err)
			}
			s.tb = t
			c.send(s)
			if code := s.closed(); code != c.want {
				t.Errorf("closed with %v, want %v", code, c.want)
			}
		})
	}
}

func TestAFrameOfAnUnknownKindIsIgnored(t *testing.T) {
	w := start(t, nil)
	s := w.open(w.backend.issuer.pair(t), &linkv1.Hello{})
	s.sendRaw(websocket.MessageBinary, []byte{0xfa, 0x01, 0x00}) // field 31, which no version has
	if r := s.call("Echo", "", []byte("still here")); string(r.GetResult()) != "still here" {
		t.Errorf("%v", r)
	}
}

func TestAFrameAtTheLimitPasses(t *testing.T) {
	w := start(t, nil)
	s := w.open(w.backend.issuer.pair(t), &linkv1.Hello{})
	payload := bytes.Repeat([]byte("x"), 1<<20)
	if r := s.call("UpdateGameData", uuid.NewString(), payload); !bytes.Equal(r.GetResult(), payload) {
		t.Errorf("%d bytes came back, error %v", len(r.GetResult()), r.GetError())
	}
}
