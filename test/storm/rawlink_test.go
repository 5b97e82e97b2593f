package storm

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"github.com/coder/websocket"
	"google.golang.org/protobuf/proto"

	"github.com/berth-dev/berth/sdk/go/bootstrap"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
)

// rawLink is a game server with the least that the link needs, so that one process can hold 10,000 of them: it links one instance, and resumes when its
// connection is lost.
type rawLink struct {
	doc      *bootstrap.Document
	gateways []string // which it tries in turn
	at       int      // the one of the last try
	nonce    string
	instance string
	epoch    int64
	resume   string
	conn     *websocket.Conn
}

// connect opens the session, or resumes it; goesOn reports whether the instance is still linked.
func (l *rawLink) connect(ctx context.Context) (goesOn bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, l.gateways[l.at]+"/v1/link", &websocket.DialOptions{ //nolint:bodyclose // the WebSocket package closes it
		Subprotocols: []string{"berth.v1.proto"},
		HTTPHeader:   http.Header{"Authorization": {"Bearer " + l.doc.Game.Reveal()}, "Berth-Social-Token": {l.doc.Social.Reveal()}},
	})
	if err != nil {
		return false, err
	}
	conn.SetReadLimit(8 << 20)
	hello := &linkv1.Hello{ResumeKey: l.resume, Nonce: l.nonce, Sdk: "raw"}
	if l.instance != "" {
		hello.Instances = []*linkv1.HelloInstance{{InstanceId: l.instance, LinkEpoch: l.epoch}}
	}
	l.conn = conn
	if err := l.send(ctx, &linkv1.Frame{Kind: &linkv1.Frame_Hello{Hello: hello}}); err != nil {
		return false, err
	}
	welcome, err := l.until(ctx, func(f *linkv1.Frame) bool { return f.GetWelcome() != nil })
	if err != nil {
		return false, err
	}
	w := welcome.GetWelcome()
	l.resume = w.GetResumeKey()
	for _, in := range w.GetInstances() {
		goesOn = goesOn || in.GetInstanceId() == l.instance
		l.epoch = in.GetLinkEpoch()
	}
	if l.instance == "" {
		return true, l.create(ctx, &linkv1.Credentials{Game: w.GetGameHandle(), Social: w.GetSocialHandle()})
	}
	return goesOn, nil
}

// create makes the server's instance.
func (l *rawLink) create(ctx context.Context, auth *linkv1.Credentials) error {
	payload, err := proto.Marshal(&gameserverv1.CreateAndLinkRequest{RequestId: l.nonce})
	if err != nil {
		return err
	}
	err = l.send(ctx, &linkv1.Frame{Kind: &linkv1.Frame_Request{Request: &linkv1.Request{Id: 1, Auth: auth, Method: "CreateAndLink", Payload: payload}}})
	if err != nil {
		return err
	}
	answer, err := l.until(ctx, func(f *linkv1.Frame) bool { return f.GetResponse() != nil })
	if err != nil {
		return err
	}
	var made gameserverv1.CreateAndLinkResponse
	if e := answer.GetResponse().GetError(); e != nil {
		return fmt.Errorf("create: %s: %s", e.GetReason(), e.GetMessage())
	}
	if err := proto.Unmarshal(answer.GetResponse().GetResult(), &made); err != nil {
		return err
	}
	l.instance, l.epoch = made.GetInstance().GetId(), made.GetLinkEpoch()
	return nil
}

func (l *rawLink) send(ctx context.Context, f *linkv1.Frame) error {
	raw, err := proto.Marshal(f)
	if err != nil {
		return err
	}
	return l.conn.Write(ctx, websocket.MessageBinary, raw)
}

// until reads frames until the wanted one.
func (l *rawLink) until(ctx context.Context, wanted func(*linkv1.Frame) bool) (*linkv1.Frame, error) {
	for {
		_, raw, err := l.conn.Read(ctx)
		if err != nil {
			return nil, err
		}
		f := new(linkv1.Frame)
		if err := proto.Unmarshal(raw, f); err != nil {
			return nil, err
		}
		if bye := f.GetGoodbye(); bye != nil {
			return nil, errors.New(strings.ToLower(bye.GetCode().String()) + ": " + bye.GetMessage())
		}
		if wanted(f) {
			return f, nil
		}
	}
}

// live holds the link until ctx ends, connecting again with the waits of the protocol whenever it is lost. It says when it is lost, and when it is back, after
// how many tries and whether the instance was still linked.
func (l *rawLink) live(ctx context.Context, lost func(), back func(goesOn bool, tries int)) {
	for ctx.Err() == nil {
		_, _ = l.until(ctx, func(*linkv1.Frame) bool { return false })
		_ = l.conn.CloseNow()
		lost()
		l.again(ctx, back)
	}
	_ = l.conn.CloseNow()
}

// again connects again, at the next gateway each time.
func (l *rawLink) again(ctx context.Context, back func(goesOn bool, tries int)) {
	pause := 100 * time.Millisecond
	for tries := 1; wait(ctx, nil, pause/2+rand.N(pause)); tries++ {
		l.at = (l.at + 1) % len(l.gateways)
		goesOn, err := l.connect(ctx)
		if err == nil {
			back(goesOn, tries)
			return
		}
		if l.conn != nil {
			_ = l.conn.CloseNow()
		}
		pause = min(2*pause, 5*time.Second)
	}
}
