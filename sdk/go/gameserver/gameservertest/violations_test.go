package gameservertest_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/berth-dev/berth/sdk/go/gameserver/gameservertest"
	"github.com/berth-dev/berth/sdk/go/gameserver/gameservertest/wire"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	"github.com/coder/websocket"
)

// recorder is a test that is expected to fail.
type recorder struct {
	*testing.T
	mu     sync.Mutex
	failed []string
	ends   []func()
}

func (r *recorder) Errorf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed = append(r.failed, fmt.Sprintf(format, args...))
}

func (r *recorder) Cleanup(f func()) { r.ends = append(r.ends, f) }

// end ends the test and returns why it has failed.
func (r *recorder) end() string {
	for _, f := range r.ends {
		f()
	}
	return strings.Join(r.failed, "\n")
}

// rude is a client that does as it is told.
type rude struct {
	t     *testing.T
	b     *gameservertest.Backend
	ws    *websocket.Conn
	codec *wire.Codec
	game  string
	other string
}

func dial(t *testing.T, b *gameservertest.Backend, subprotocol string) *rude {
	t.Helper()
	doc := b.Bootstrap()
	header := http.Header{"Authorization": {"Bearer " + doc.Game.Reveal()}, "Berth-Social-Token": {doc.Social.Reveal()}}
	ws, resp, err := websocket.Dial(within(t), doc.Gateway+"/v1/link", &websocket.DialOptions{HTTPHeader: header, Subprotocols: []string{subprotocol}})
	if err != nil {
		t.Fatal(resp, err)
	}
	codec, err := wire.New(subprotocol)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ws.CloseNow() })
	return &rude{t: t, b: b, ws: ws, codec: codec, game: doc.Game.Reveal(), other: doc.Social.Reveal()}
}

func (r *rude) send(f *linkv1.Frame) {
	r.t.Helper()
	raw, err := r.codec.Encode(f)
	if err == nil {
		err = r.ws.Write(within(r.t), r.codec.Type(), raw)
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rude) hello() *rude {
	r.t.Helper()
	r.send(&linkv1.Frame{Kind: &linkv1.Frame_Hello{Hello: &linkv1.Hello{Nonce: "0123456789abcdef"}}})
	if r.next().GetWelcome() == nil {
		r.t.Fatal("no welcome")
	}
	return r
}

func (r *rude) next() *linkv1.Frame {
	r.t.Helper()
	typ, raw, err := r.ws.Read(within(r.t))
	if err != nil {
		return nil
	}
	f, err := r.codec.Decode(typ, raw)
	if err != nil {
		r.t.Fatal(err)
	}
	return f
}

// request sends a request as changed, and waits for what comes.
func (r *rude) request(id int64, method string, change func(*linkv1.Request)) *linkv1.Frame {
	r.t.Helper()
	q := &linkv1.Request{Id: id, Method: method, Auth: &linkv1.Credentials{Game: r.game, Social: r.other}, InstanceId: r.b.Bootstrap().Instance}
	if change != nil {
		change(q)
	}
	r.send(&linkv1.Frame{Kind: &linkv1.Frame_Request{Request: q}})
	return r.next()
}

func (r *rude) linked() *rude {
	r.t.Helper()
	if r.hello().request(1, "Link", nil).GetResponse().GetResult() == nil {
		r.t.Fatal("not linked")
	}
	return r
}

func epoch(e int64) func(*linkv1.Request) { return func(r *linkv1.Request) { r.LinkEpoch = e } }

func TestWhatIsAgainstTheProtocolFailsTheTest(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(*rude)
		want string
		code websocket.StatusCode // with which the connection is closed
	}{
		"a request before welcome": {func(r *rude) { r.request(1, "Link", nil) }, "the first frame is request", 4004},
		"hello twice": {func(r *rude) {
			r.hello().send(&linkv1.Frame{Kind: &linkv1.Frame_Hello{Hello: &linkv1.Hello{}}})
			r.next()
		}, "hello came twice", 4004},
		"a frame of the gateway's": {func(r *rude) {
			r.hello().send(&linkv1.Frame{Kind: &linkv1.Frame_Welcome{Welcome: &linkv1.Welcome{}}})
			r.next()
		}, "only the gateway sends", 4004},
		"number 0":        {func(r *rude) { r.hello().request(0, "Link", nil) }, "has the number 0", 4004},
		"text":            {func(r *rude) { _ = r.ws.Write(within(r.t), websocket.MessageText, []byte("{}")); r.next() }, "cannot be read", 4002},
		"garbage":         {func(r *rude) { _ = r.ws.Write(within(r.t), websocket.MessageBinary, []byte{0xff}); r.next() }, "cannot be read", 4002},
		"a huge frame":    {func(r *rude) { _ = r.ws.Write(within(r.t), websocket.MessageBinary, make([]byte, 2<<20)); r.next() }, "larger than", 4003},
		"before the link": {func(r *rude) { r.hello().request(1, "ConnectPlayers", epoch(101)) }, "before the instance was linked", 0},
		"another epoch":   {func(r *rude) { r.linked().request(2, "ConnectPlayers", epoch(7)) }, "has the link epoch 7", 0},
		"a number reused": {func(r *rude) { r.linked().request(1, "ConnectPlayers", epoch(101)) }, "was another request before", 0},
		"no such method":  {func(r *rude) { r.linked().request(2, "Win", epoch(101)) }, `no method "Win"`, 0},
		"swapped credentials": {func(r *rude) {
			r.linked().request(2, "ConnectPlayers", func(q *linkv1.Request) { q.Auth = &linkv1.Credentials{Game: r.other, Social: r.game} })
		}, "CREDENTIALS_SWAPPED", 0},
		"no credentials": {func(r *rude) { r.linked().request(2, "ConnectPlayers", func(q *linkv1.Request) { q.Auth = nil }) }, "CREDENTIALS_MISSING", 0},
		"an ack of nothing": {func(r *rude) {
			r.linked().send(&linkv1.Frame{Kind: &linkv1.Frame_Ack{Ack: &linkv1.Ack{InstanceId: r.b.Bootstrap().Instance, Offset: 1 << 40}}})
			r.request(2, "ConnectPlayers", epoch(101))
		}, "acknowledges the offset", 0},
		"last_request of the future": {func(r *rude) {
			r.linked().request(2, "ConnectPlayers", func(q *linkv1.Request) { q.LinkEpoch, q.LastRequest = 101, 99 })
		}, "says that request 99 was answered", 0},
		"left without a word": {func(r *rude) { r.linked(); _ = r.ws.Close(websocket.StatusNormalClosure, "") }, "closed with 1000 without having ended", 0},
		"nothing acknowledged": {func(r *rude) {
			r.linked()
			r.b.AddPlayers(players("ann")...)
			r.next()
			r.request(2, "EndGameInstance", epoch(101))
			_ = r.ws.Close(websocket.StatusNormalClosure, "")
		}, "has not acknowledged the notifications [1007]", 0},
		"back after goodbye": {func(r *rude) {
			r.linked()
			r.b.Goodbye(linkv1.CloseCode_CLOSE_CODE_SUPERSEDED)
			for r.next() != nil {
			}
			dial(r.t, r.b, wire.Proto)
		}, "sent away for good (SUPERSEDED)", 0},
	} {
		t.Run(name, func(t *testing.T) {
			tb := &recorder{T: t}
			b := gameservertest.Start(tb, gameservertest.Config{Strict: strings.HasPrefix(c.want, "closed") || strings.HasPrefix(c.want, "has not")})
			r := dial(t, b, wire.Proto)
			c.do(r)
			if c.code != 0 {
				_, _, err := r.ws.Read(within(t))
				if got := websocket.CloseStatus(err); got != c.code {
					t.Errorf("closed with %v (%v); want %d", got, err, c.code)
				}
			}
			if got := tb.end(); !strings.Contains(got, c.want) {
				t.Errorf("the test failed for %q; want %q", got, c.want)
			}
		})
	}
}

func TestTokensOfTheUpgradeAreChecked(t *testing.T) {
	tb := &recorder{T: t}
	b := gameservertest.Start(tb, gameservertest.Config{})
	doc := b.Bootstrap()
	header := http.Header{"Authorization": {"Bearer " + doc.Social.Reveal()}, "Berth-Social-Token": {doc.Game.Reveal()}}
	_, resp, err := websocket.Dial(within(t), doc.Gateway+"/v1/link", &websocket.DialOptions{HTTPHeader: header, Subprotocols: []string{wire.Proto}})
	if err == nil || resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("swapped tokens: %v, %v", resp, err)
	}
	if got := tb.end(); !strings.Contains(got, "CREDENTIALS_SWAPPED") {
		t.Errorf("the test failed for %q", got)
	}
}

// A second server with the same tokens is refused as Berth refuses it. That is no fault of either.
func TestASecondServerIsRefused(t *testing.T) {
	b := gameservertest.Start(t, gameservertest.Config{})
	r := dial(t, b, wire.Proto).linked()
	second := dial(t, b, wire.Proto)
	second.send(&linkv1.Frame{Kind: &linkv1.Frame_Hello{Hello: &linkv1.Hello{Nonce: "another process!"}}})
	if bye := second.next().GetGoodbye(); bye.GetCode() != linkv1.CloseCode_CLOSE_CODE_CREDENTIALS_IN_USE || bye.GetReconnect() {
		t.Errorf("it got %v", bye)
	}
	if r.request(2, "ConnectPlayers", epoch(101)).GetResponse().GetResult() == nil {
		t.Error("the first one was disturbed")
	}
}

func TestAServerMaySpeakJSON(t *testing.T) {
	b := gameservertest.Start(t, gameservertest.Config{Players: players("ann")})
	r := dial(t, b, wire.JSON).linked()
	if r.request(2, "ConnectPlayers", epoch(101)).GetResponse().GetResult() == nil {
		t.Error("ConnectPlayers failed")
	}
	b.WaitForState(running)
}

// What is waited for in vain fails the test, and says what came instead.
func TestWaitingHasAnEnd(t *testing.T) {
	tb := &recorder{T: t}
	fatal := make(chan string, 1)
	b := gameservertest.Start(&fatalRecorder{tb, fatal}, gameservertest.Config{Patience: 1})
	b.WaitForCall("EndGameInstance")
	if got := <-fatal; !strings.Contains(got, "no (further) call of EndGameInstance came") {
		t.Errorf("it failed with %q", got)
	}
	tb.end()
}

type fatalRecorder struct {
	*recorder
	fatal chan string
}

func (r *fatalRecorder) Fatalf(format string, args ...any) { r.fatal <- fmt.Sprintf(format, args...) }
