package gateway_test

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/google/uuid"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/berth-dev/berth/pkg/apikey"
	"github.com/berth-dev/berth/pkg/app"
	"github.com/berth-dev/berth/pkg/audit"
	"github.com/berth-dev/berth/pkg/auth"
	"github.com/berth-dev/berth/pkg/ids"
	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/pkg/redisx/redistest"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	tokenv1 "github.com/berth-dev/berth/sdk/go/gen/berth/token/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"github.com/berth-dev/berth/sdk/go/token"

	"github.com/berth-dev/berth/services/gameinstance"
	"github.com/berth-dev/berth/services/gateway"
)

// IssueTokenPair implements tokenv1.TokenServiceServer.
func (i *issuer) IssueTokenPair(_ context.Context, req *tokenv1.IssueTokenPairRequest) (*tokenv1.IssueTokenPairResponse, error) {
	c, until := credentials{server: ids.Server(req.GetAttemptId()), pair: uuid.NewString()}, time.Now().Add(time.Hour)
	game, err := i.signed(c, token.AudienceGame, until)
	if err != nil {
		return nil, err
	}
	social, err := i.signed(c, token.AudienceSocial, until)
	return &tokenv1.IssueTokenPairResponse{ServerId: c.server, PairId: c.pair, GameToken: game, SocialToken: social, ExpireTime: timestamppb.New(until)}, err
}

// pairOfGateways are two gateways before one game-instance and one store: what they say of a second connection is the service's own word.
func pairOfGateways(t *testing.T, change func(*gateway.Config)) (one, two *world) {
	t.Helper()
	store, behind := redistest.Embedded(t), startBackend(t, "", newIssuer(t), newSessions())
	cfg := gameinstance.Default()
	cfg.GRPCListener, cfg.TokenIssuer, cfg.Allocation, cfg.Redis = listenAny(t), behind.addr, behind.addr, redisx.Config{Addrs: []string{storeAddr(store)}}
	cfg.Auth = auth.Config{InternalKey: internalKey, APIKeys: []auth.APIKey{{Name: "test", SHA256: apikey.Hash(apiKey), Role: auth.RoleService}}}
	game, _ := run(t, gameinstance.Module(cfg))
	ready := func(a *app.App) {
		t.Helper()
		eventually(t, "it gets ready", func() error { return a.Ready(context.Background()) })
	}
	ready(game)
	configure := func(c *gateway.Config) {
		c.GameInstance = cfg.GRPCListener.Addr().String()
		if change != nil {
			change(c)
		}
	}
	one, two = newWorldOf(t, store, behind, configure), newWorldOf(t, store, behind, configure)
	ready(one.app)
	ready(two.app)
	return one, two
}

// register returns the credentials of a new game server.
func (w *world) register() credentials {
	w.tb.Helper()
	resp, raw := w.ask("POST", "http://"+w.api+serversPath, `{"capacity": 5}`, nil)
	var out struct {
		Server                 struct{ ID string }
		GameToken, SocialToken string
	}
	if err := json.Unmarshal(raw, &out); err != nil || resp.StatusCode != 200 {
		w.tb.Fatalf("%d %s: %v", resp.StatusCode, raw, err)
	}
	return credentials{server: out.Server.ID, game: out.GameToken, social: out.SocialToken}
}

// playing is a server that has an instance over a socket.
type playing struct {
	*socket
	instance string
	epoch    int64
}

func (w *world) plays(c credentials) *playing {
	w.tb.Helper()
	p := &playing{socket: w.open(c, &linkv1.Hello{})}
	var out gameserverv1.CreateAndLinkResponse
	p.must("CreateAndLink", new(gameserverv1.CreateAndLinkRequest), &out)
	p.instance, p.epoch = out.GetInstance().GetId(), out.GetLinkEpoch()
	return p
}

// must makes a call that succeeds.
func (p *playing) must(method string, req, out proto.Message) {
	p.tb.Helper()
	p.sendCall(method, req)
	r := p.answer(p.lastID)
	if r.GetError() != nil {
		p.tb.Fatalf("%s: %v", method, r.GetError())
	}
	if err := proto.Unmarshal(r.GetResult(), out); err != nil {
		p.tb.Fatal(err)
	}
}

func (p *playing) sendCall(method string, req proto.Message) {
	p.tb.Helper()
	payload, err := proto.Marshal(req)
	if err != nil {
		p.tb.Fatal(err)
	}
	p.lastID++
	p.send(&linkv1.Frame{Kind: &linkv1.Frame_Request{Request: &linkv1.Request{
		Id: p.lastID, Auth: &linkv1.Credentials{Game: p.welcome.GetGameHandle(), Social: p.welcome.GetSocialHandle()},
		InstanceId: p.instance, LinkEpoch: p.epoch, Method: method, Payload: payload,
	}}})
}

func dataOf(text string) *gameserverv1.UpdateGameDataRequest {
	return &gameserverv1.UpdateGameDataRequest{GameData: &typev1.Data{Kind: &typev1.Data_Binary{Binary: []byte(text)}}}
}

// works fails the test unless the server can write.
func (p *playing) works(text string) {
	p.tb.Helper()
	p.must("UpdateGameData", dataOf(text), new(gameserverv1.UpdateGameDataResponse))
}

// stored returns an instance's data.
func (w *world) stored(instance string) string {
	w.tb.Helper()
	resp, raw := w.ask("GET", "http://"+w.api+"/v1/namespaces/default/instances/"+instance, "", nil)
	var out instancev1.GetGameInstanceResponse
	if err := protojson.Unmarshal(raw, &out); err != nil || resp.StatusCode != 200 {
		w.tb.Fatalf("%d %s: %v", resp.StatusCode, raw, err)
	}
	return string(out.GetInstance().GetGameData().GetBinary())
}

// refused says hello on a socket of its own, which must be sent away for the pair being in use.
func (w *world) refused(c credentials, hello *linkv1.Hello) {
	w.tb.Helper()
	s, _, err := w.dial(c, nil)
	if err != nil {
		w.tb.Fatal(err)
	}
	s.send(&linkv1.Frame{Kind: &linkv1.Frame_Hello{Hello: hello}})
	if code := s.closed(); code != linkv1.CloseCode_CLOSE_CODE_CREDENTIALS_IN_USE {
		w.tb.Errorf("closed with %v", code)
	}
}

const inUse = "berth_gateway_credentials_in_use_total"

func TestASecondConnectionOfAPairIsRefusedAndTheFirstUnhurt(t *testing.T) {
	for name, c := range map[string]struct {
		hello *linkv1.Hello
		shown string
	}{
		"without a resume key":   {&linkv1.Hello{}, "none"},
		"with a nonce":           {&linkv1.Hello{Nonce: "a nonce of some other process"}, "none"},
		"with a wrong key":       {&linkv1.Hello{ResumeKey: "a resume key that was guessed"}, "wrong"},
		"with the first's links": {&linkv1.Hello{ResumeKey: "a resume key that was guessed"}, "wrong"},
	} {
		t.Run(name, func(t *testing.T) {
			one, two := pairOfGateways(t, nil)
			creds := one.register()
			first := one.plays(creds)
			if name == "with the first's links" {
				c.hello.Instances = []*linkv1.HelloInstance{{InstanceId: first.instance, LinkEpoch: first.epoch}}
			}
			for _, door := range []*world{two, one} { // the gateway does not matter
				door.refused(creds, c.hello)
				if got := door.count(inUse, c.shown); got != 1 {
					t.Errorf("the metric says %v", got)
				}
			}
			first.works("unhurt")
			if got := two.stored(first.instance); got != "unhurt" {
				t.Errorf("the data is %q", got)
			}
			eventually(t, "the audit has it", func() error {
				page, _, err := audit.NewStream(two.store).Page(context.Background(), "", 100, func(e audit.Entry) bool {
					return e.Action == audit.CredentialsInUse && e.Actor == "server:"+creds.server && e.Outcome == "CREDENTIALS_IN_USE" && e.Namespace == "default"
				})
				if err == nil && len(page) != 2 { // one of each gateway
					err = fmt.Errorf("%d entries", len(page))
				}
				return err
			})
		})
	}
}

// A server that was stopped, or whose network is gone, does not answer pings; whoever has its pair gets in then, as it does itself when it was started anew.
func TestWhoComesGetsInWhenTheFirstIsSilentForTwoHeartbeats(t *testing.T) {
	one, two := pairOfGateways(t, func(c *gateway.Config) { c.Heartbeat = 300 * time.Millisecond })
	creds := one.register()
	first := one.plays(creds) // from now on nobody reads its socket, so nothing answers the pings
	var second *socket
	eventually(t, "the second gets in", func() error {
		s, _, err := two.dial(creds, nil)
		if err != nil {
			return err
		}
		s.send(&linkv1.Frame{Kind: &linkv1.Frame_Hello{Hello: &linkv1.Hello{}}})
		f := s.receive()
		if f.GetWelcome() == nil {
			return fmt.Errorf("%v", f)
		}
		s.welcome, second = f.GetWelcome(), s
		return nil
	})
	if first.lost() > 0 {
		t.Error("the first was sent away, and not cut for its silence")
	}
	if second.welcome.GetResumeKey() == first.welcome.GetResumeKey() {
		t.Error("the second has the first's resume key")
	}
	// Where that was a thief, the first is locked out when it is back. It shows a key that is good no more: that is to be told from a thief who is refused.
	two.kept(second)
	one.refused(creds, &linkv1.Hello{ResumeKey: first.welcome.GetResumeKey()})
	if got := one.count(inUse, "wrong"); got != 1 {
		t.Errorf("the metric says %v", got)
	}
}

// kept reads a socket in the background, so that pings are answered.
func (w *world) kept(s *socket) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			if _, _, err := s.ws.Read(context.Background()); err != nil {
				return
			}
		}
	}()
	w.tb.Cleanup(func() { _ = s.ws.CloseNow(); <-ended })
}

// A first connection that answers its pings keeps its session, however long somebody else tries.
func TestAFirstThatAnswersItsPingsStays(t *testing.T) {
	const heartbeat = 400 * time.Millisecond
	one, two := pairOfGateways(t, func(c *gateway.Config) { c.Heartbeat = heartbeat })
	creds := one.register()
	first := one.plays(creds)
	one.kept(first.socket)
	tries := 0
	for began := time.Now(); tries < 20 || time.Since(began) < 3*heartbeat; tries++ {
		two.refused(creds, &linkv1.Hello{})
	}
	if got := two.count(inUse, "none"); got != float64(tries) {
		t.Errorf("the metric says %v after %d tries", got, tries)
	}
}

func TestTheResumeKeyMovesTheSessionAndFencesTheOldSocket(t *testing.T) {
	one, two := pairOfGateways(t, nil)
	creds := one.register()
	first := one.plays(creds)
	first.works("before")
	second := &playing{instance: first.instance, socket: two.open(creds, &linkv1.Hello{
		ResumeKey: first.welcome.GetResumeKey(), Instances: []*linkv1.HelloInstance{{InstanceId: first.instance, LinkEpoch: first.epoch, LastRequest: 2}},
	})}
	late := first.lastID
	first.sendLate("too late") // its gateway may not know yet
	if len(second.welcome.GetInstances()) != 1 || second.welcome.GetSessionId() != first.welcome.GetSessionId() {
		t.Fatalf("Welcome is %v", second.welcome)
	}
	second.epoch, second.lastID = second.welcome.GetInstances()[0].GetLinkEpoch(), late+1
	if code, answered := first.sentAway(); code != linkv1.CloseCode_CLOSE_CODE_REPLACED || answered {
		t.Errorf("the first is closed with %v, and its late request was answered with success: %v", code, answered)
	}
	if got := two.stored(first.instance); got != "before" {
		t.Errorf("the late request made the data %q", got)
	}
	second.works("after")
	if got := one.stored(first.instance); got != "after" {
		t.Errorf("the data is %q", got)
	}
	if n := one.count(inUse, "none") + two.count(inUse, "none") + two.count(inUse, "wrong"); n != 0 {
		t.Errorf("%v refusals are counted", n)
	}
}

// sendLate sends a request on a socket that may be closed meanwhile.
func (p *playing) sendLate(text string) {
	p.tb.Helper()
	payload, err := proto.Marshal(dataOf(text))
	if err != nil {
		p.tb.Fatal(err)
	}
	raw, err := proto.Marshal(&linkv1.Frame{Kind: &linkv1.Frame_Request{Request: &linkv1.Request{
		Id: p.lastID + 1, Auth: &linkv1.Credentials{Game: p.welcome.GetGameHandle(), Social: p.welcome.GetSocialHandle()},
		InstanceId: p.instance, LinkEpoch: p.epoch, Method: "UpdateGameData", Payload: payload,
	}}})
	if err != nil {
		p.tb.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_ = p.ws.Write(ctx, websocket.MessageBinary, raw)
}

// sentAway reads until the socket is closed: the code, and whether a request was answered with a result before.
func (p *playing) sentAway() (code linkv1.CloseCode, answered bool) {
	for {
		f, err := p.read()
		if err != nil {
			return linkv1.CloseCode(websocket.CloseStatus(err)), answered
		}
		if r := f.GetResponse(); r != nil && r.GetError() == nil {
			answered = true
		}
	}
}
