package kit

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"io"
	"net/http"
	"strings"

	"github.com/coder/websocket"
	"google.golang.org/protobuf/proto"

	"github.com/berth-dev/berth/sdk/go/bootstrap"
	"github.com/berth-dev/berth/sdk/go/gameserver/gameservertest/wire"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
)

// client is a game server's end of one connection that says just what a check tells it to. Whatever does not come as it must ends the check.
type client struct {
	ctx   context.Context
	doc   *bootstrap.Document
	ws    *websocket.Conn
	codec *wire.Codec
	pings chan struct{}

	nonce   string
	welcome *linkv1.Welcome
	epoch   int64
	offset  int64
	id      int64
}

// dial opens a connection with headers as changed, and returns the HTTP answer where it is refused.
func dial(ctx context.Context, doc *bootstrap.Document, subprotocol string, change func(path *string, h http.Header)) (*client, *http.Response, error) {
	c := &client{ctx: ctx, doc: doc, nonce: rand.Text(), pings: make(chan struct{}, 1)}
	header := http.Header{"Authorization": {"Bearer " + doc.Game.Reveal()}, "Berth-Social-Token": {doc.Social.Reveal()}}
	path, protocols := "/v1/link", []string{subprotocol}
	if subprotocol == "" {
		protocols = nil
	}
	if change != nil {
		change(&path, header)
	}
	ws, resp, err := websocket.Dial(ctx, strings.TrimRight(doc.Gateway, "/")+path, &websocket.DialOptions{
		HTTPHeader: header, Subprotocols: protocols,
		OnPingReceived: func(context.Context, []byte) bool {
			select {
			case c.pings <- struct{}{}:
			default:
			}
			return true
		},
	})
	if err != nil {
		return nil, resp, err
	}
	ws.SetReadLimit(32 << 20)
	context.AfterFunc(ctx, func() { _ = ws.CloseNow() })
	c.ws = ws
	c.codec, err = wire.New(ws.Subprotocol())
	return c, nil, err
}

func (c *client) write(typ websocket.MessageType, raw []byte) {
	if err := c.ws.Write(c.ctx, typ, raw); err != nil {
		fail("the connection does not take what the server says: %v", err)
	}
}

func (c *client) raw(raw []byte) { c.write(c.codec.Type(), raw) }

func (c *client) send(f *linkv1.Frame) {
	raw, err := c.codec.Encode(f)
	if err != nil {
		fail("%v", err)
	}
	c.raw(raw)
}

// reading reads, and drops what comes, until the connection ends; then the context does. The library's own way of it would answer a frame with a
// closing handshake, and outlive the check.
func (c *client) reading() context.Context {
	ctx, end := context.WithCancel(c.ctx)
	go func() {
		defer end()
		for {
			if _, _, err := c.ws.Read(c.ctx); err != nil {
				return
			}
		}
	}()
	return ctx
}

// next waits for the next frame.
func (c *client) next() *linkv1.Frame {
	typ, raw, err := c.ws.Read(c.ctx)
	if err != nil {
		fail("instead of a frame: %v", err)
	}
	f, err := c.codec.Decode(typ, raw)
	if err != nil {
		fail("the gateway sent what is no frame: %v", err)
	}
	return f
}

// until waits for a frame that is wanted, and drops others.
func until[T any](c *client, want func(*linkv1.Frame) (T, bool)) T {
	for {
		f := c.next()
		if got, ok := want(f); ok {
			return got
		}
		if bye := f.GetGoodbye(); bye != nil {
			fail("the gateway said goodbye with %s: %s", bye.GetCode(), bye.GetMessage())
		}
	}
}

// hello opens the session, as changed, and waits for welcome.
func (c *client) hello(change func(*linkv1.Hello)) *client {
	h := &linkv1.Hello{Sdk: "berth-conformance/1", Nonce: c.nonce}
	if change != nil {
		change(h)
	}
	c.send(&linkv1.Frame{Kind: &linkv1.Frame_Hello{Hello: h}})
	c.welcome = until(c, func(f *linkv1.Frame) (*linkv1.Welcome, bool) { return f.GetWelcome(), f.GetWelcome() != nil })
	return c
}

// request returns a request under the next number.
func (c *client) request(method string, payload proto.Message) *linkv1.Request {
	c.id++
	b, err := proto.Marshal(payload)
	if err != nil {
		fail("%v", err)
	}
	return &linkv1.Request{
		Id: c.id, Auth: &linkv1.Credentials{Game: c.welcome.GetGameHandle(), Social: c.welcome.GetSocialHandle()}, InstanceId: c.doc.Instance, LinkEpoch: c.epoch,
		Method: method, Payload: b,
	}
}

func (c *client) ask(r *linkv1.Request) {
	c.send(&linkv1.Frame{Kind: &linkv1.Frame_Request{Request: r}})
}

// answer sends a request and waits for its response.
func (c *client) answer(r *linkv1.Request) *linkv1.Response {
	c.ask(r)
	return until(c, func(f *linkv1.Frame) (*linkv1.Response, bool) {
		return f.GetResponse(), f.GetResponse().GetId() == r.GetId()
	})
}

// refused sends a request that must be answered with a reason, over a connection that stays.
func (c *client) refused(r *linkv1.Request, reason string) {
	if got := c.answer(r).GetError().GetReason(); got != reason {
		fail("%s was answered %q, not %s", r.GetMethod(), got, reason)
	}
	c.answer(c.request("AreYouThere", &gameserverv1.LinkRequest{})) // whatever the answer is
}

// call sends a request that must succeed, and puts its result into out.
func (c *client) call(r *linkv1.Request, out proto.Message) {
	resp := c.answer(r)
	if e := resp.GetError(); e != nil {
		fail("%s failed with %s: %s", r.GetMethod(), e.GetReason(), e.GetMessage())
	}
	if err := proto.Unmarshal(resp.GetResult(), out); err != nil {
		fail("the result of %s cannot be read: %v", r.GetMethod(), err)
	}
}

// link links the instance and takes its start data.
func (c *client) link() *gameserverv1.LinkResponse {
	r := c.request("Link", &gameserverv1.LinkRequest{ServerVersion: "conformance"})
	r.LinkEpoch = 0
	out := new(gameserverv1.LinkResponse)
	c.call(r, out)
	c.epoch, c.offset = out.GetLinkEpoch(), out.GetOffset()
	return out
}

// closed waits for the end of the connection, which must come with a code, and with goodbye before it that says the same.
func (c *client) closed(code linkv1.CloseCode) {
	again := code == linkv1.CloseCode_CLOSE_CODE_GOING_AWAY || code == linkv1.CloseCode_CLOSE_CODE_SLOW_CONSUMER ||
		code == linkv1.CloseCode_CLOSE_CODE_UNAVAILABLE || code == linkv1.CloseCode_CLOSE_CODE_HELLO_TIMEOUT
	var bye *linkv1.Goodbye
	for {
		typ, raw, err := c.ws.Read(c.ctx)
		if err != nil {
			if got := websocket.CloseStatus(err); got != websocket.StatusCode(code) {
				fail("the connection ended with %v; want the code %d", err, code)
			}
			break
		}
		if f, err := c.codec.Decode(typ, raw); err == nil && f.GetGoodbye() != nil {
			bye = f.GetGoodbye()
		}
	}
	switch {
	case bye == nil: // the close frame says it all
	case bye.GetCode() != code:
		fail("goodbye said %s, and the close frame %d", bye.GetCode(), code)
	case bye.GetReconnect() != again:
		fail("goodbye with %s says reconnect %t", code, bye.GetReconnect())
	}
}

// reasonOf reads the reason of a refused upgrade.
func reasonOf(resp *http.Response) string {
	var body struct{ Reason string }
	if resp == nil || resp.Body == nil {
		return ""
	}
	raw, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	_ = json.Unmarshal(raw, &body)
	return body.Reason
}
