package kit

import (
	"bytes"
	"net/http"
	"strings"

	"github.com/coder/websocket"

	"github.com/berth-dev/berth/sdk/go/gameserver/gameservertest/wire"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
)

var connecting = []gatewayCheck{
	{"connecting: without a social token it is refused with 401 CREDENTIALS_MISSING", 1, func(g *gatewayRun) {
		g.refusedUpgrade(401, "CREDENTIALS_MISSING", g.Subprotocol, func(_ *string, h http.Header) { h.Del("Berth-Social-Token") })
	}},
	{"connecting: swapped tokens are refused with 401 CREDENTIALS_SWAPPED", 1, func(g *gatewayRun) {
		g.refusedUpgrade(401, "CREDENTIALS_SWAPPED", g.Subprotocol, func(_ *string, h http.Header) {
			game, social := strings.TrimPrefix(h.Get("Authorization"), "Bearer "), h.Get("Berth-Social-Token")
			h.Set("Authorization", "Bearer "+social)
			h.Set("Berth-Social-Token", game)
		})
	}},
	{"connecting: tokens of two pairs are refused with 401 CREDENTIALS_MISMATCHED", 1, func(g *gatewayRun) {
		other := g.document()
		g.refusedUpgrade(401, "CREDENTIALS_MISMATCHED", g.Subprotocol, func(_ *string, h http.Header) { h.Set("Berth-Social-Token", other.Social.Reveal()) })
	}},
	{"connecting: what is no token is refused with 401 CREDENTIALS_INVALID", 1, func(g *gatewayRun) {
		g.refusedUpgrade(401, "CREDENTIALS_INVALID", g.Subprotocol, func(_ *string, h http.Header) { h.Set("Authorization", "Bearer x") })
	}},
	{"connecting: a query is refused with 400 MALFORMED", 1, func(g *gatewayRun) {
		g.refusedUpgrade(400, "MALFORMED", g.Subprotocol, func(path *string, _ http.Header) { *path += "?a=b" })
	}},
	{"connecting: no sub-protocol of the link is refused with 400 MALFORMED", 1, func(g *gatewayRun) {
		g.refusedUpgrade(400, "MALFORMED", "chat", nil)
	}},
	{"connecting: an Origin is refused with 403 ROLE_REQUIRED", 1, func(g *gatewayRun) {
		g.refusedUpgrade(403, "ROLE_REQUIRED", g.Subprotocol, func(_ *string, h http.Header) { h.Set("Origin", "https://example.com") })
	}},
}

var framing = []gatewayCheck{
	{"frames: a message of the other type is closed with MALFORMED_FRAME", 1, func(g *gatewayRun) {
		c := g.fresh()
		typ := websocket.MessageText
		if c.codec.Type() == typ {
			typ = websocket.MessageBinary
		}
		c.write(typ, []byte("{}"))
		c.closed(linkv1.CloseCode_CLOSE_CODE_MALFORMED_FRAME)
	}},
	{"frames: what is no frame is closed with MALFORMED_FRAME", 1, func(g *gatewayRun) {
		c := g.fresh().hello(nil)
		c.raw([]byte{0x7b, 0xff, 0xff})
		c.closed(linkv1.CloseCode_CLOSE_CODE_MALFORMED_FRAME)
	}},
	{"frames: one above max_frame_bytes is closed with FRAME_TOO_LARGE", 1, func(g *gatewayRun) {
		c := g.fresh().hello(nil)
		c.raw(bytes.Repeat([]byte{' '}, int(c.welcome.GetLimits().GetMaxFrameBytes())+1))
		c.closed(linkv1.CloseCode_CLOSE_CODE_FRAME_TOO_LARGE)
	}},
	{"frames: one of an unknown kind is ignored", 1, func(g *gatewayRun) {
		c := g.fresh().hello(nil)
		c.raw(c.codec.Unknown())
		c.link()
	}},
	{"frames: unknown fields are ignored", 1, func(g *gatewayRun) {
		c := g.fresh()
		if g.Subprotocol == wire.JSON {
			c.raw([]byte(`{"hello":{"sdk":"conformance","nonce":"` + c.nonce + `","ofALaterVersion":1}}`))
		} else {
			c.raw(append([]byte{0x0a, byte(2 + len(c.nonce) + 3), 0x22, byte(len(c.nonce))}, append([]byte(c.nonce), 0xf8, 0x3f, 1)...))
		}
		until(c, func(f *linkv1.Frame) (*linkv1.Welcome, bool) { return f.GetWelcome(), f.GetWelcome() != nil })
	}},
}

var sessions = []gatewayCheck{
	{"hello: none in time is closed with HELLO_TIMEOUT", 1, func(g *gatewayRun) { g.fresh().closed(linkv1.CloseCode_CLOSE_CODE_HELLO_TIMEOUT) }},
	{"hello: a request before welcome is closed with PROTOCOL_VIOLATION", 1, func(g *gatewayRun) {
		c := g.fresh()
		c.ask(c.request("Link", &gameserverv1.LinkRequest{}))
		c.closed(linkv1.CloseCode_CLOSE_CODE_PROTOCOL_VIOLATION)
	}},
	{"hello: a second one is closed with PROTOCOL_VIOLATION", 1, func(g *gatewayRun) {
		c := g.fresh().hello(nil)
		c.send(&linkv1.Frame{Kind: &linkv1.Frame_Hello{Hello: &linkv1.Hello{Nonce: c.nonce}}})
		c.closed(linkv1.CloseCode_CLOSE_CODE_PROTOCOL_VIOLATION)
	}},
	{"hello: more than 1,000 instances are closed with PROTOCOL_VIOLATION", 2, func(g *gatewayRun) {
		c := g.fresh()
		h := &linkv1.Hello{Nonce: c.nonce}
		for range 1001 {
			h.Instances = append(h.Instances, &linkv1.HelloInstance{InstanceId: c.doc.Instance, LinkEpoch: 1})
		}
		c.send(&linkv1.Frame{Kind: &linkv1.Frame_Hello{Hello: h}})
		c.closed(linkv1.CloseCode_CLOSE_CODE_PROTOCOL_VIOLATION)
	}},
	{"frames: a kind that only the gateway sends is closed with PROTOCOL_VIOLATION", 1, func(g *gatewayRun) {
		c := g.fresh().hello(nil)
		c.send(&linkv1.Frame{Kind: &linkv1.Frame_Goodbye{Goodbye: &linkv1.Goodbye{Code: linkv1.CloseCode_CLOSE_CODE_GOING_AWAY}}})
		c.closed(linkv1.CloseCode_CLOSE_CODE_PROTOCOL_VIOLATION)
	}},
	{"welcome: has a session id, a resume key, two handles, limits and a heartbeat", 1, func(g *gatewayRun) {
		w := g.fresh().hello(nil).welcome
		if w.GetSessionId() == "" || w.GetResumeKey() == "" || w.GetGameHandle() == "" || w.GetSocialHandle() == "" || w.GetGameHandle() == w.GetSocialHandle() ||
			w.GetLimits().GetMaxFrameBytes() <= 0 || w.GetLimits().GetMaxInFlight() <= 0 || w.GetHeartbeat().AsDuration() <= 0 {
			fail("something is missing in welcome (session %q, limits %v, heartbeat %v)", w.GetSessionId(), w.GetLimits(), w.GetHeartbeat())
		}
	}},
	{"one connection for a pair: a second one without resume key and nonce is closed with CREDENTIALS_IN_USE, and the first goes on", 1, func(g *gatewayRun) {
		first := g.fresh().hello(nil)
		second := g.connect(first.doc)
		second.send(&linkv1.Frame{Kind: &linkv1.Frame_Hello{Hello: &linkv1.Hello{Nonce: second.nonce}}})
		second.closed(linkv1.CloseCode_CLOSE_CODE_CREDENTIALS_IN_USE)
		first.link()
	}},
	{"one connection for a pair: with the nonce the session moves, and the old connection is closed with REPLACED", 1, func(g *gatewayRun) {
		first := g.fresh().hello(nil)
		g.again(first).hello(nil).link()
		first.closed(linkv1.CloseCode_CLOSE_CODE_REPLACED)
	}},
	{"heartbeat: the gateway pings", 1, func(g *gatewayRun) {
		c := g.linked() // so that nothing else comes
		along := c.reading()
		select {
		case <-c.pings:
		case <-along.Done():
			fail("no ping came, and then the connection ended")
		}
	}},
	{"heartbeat: a ping of the server's is answered", 1, func(g *gatewayRun) {
		c := g.linked()
		if err := c.ws.Ping(c.reading()); err != nil {
			fail("no pong: %v", err)
		}
	}},
	{"connecting again: with resume key and place the instance goes on, under a new epoch, in the same session", 1, func(g *gatewayRun) {
		first := g.linked()
		_ = first.ws.CloseNow()
		second := g.again(first).hello(func(h *linkv1.Hello) { resume(h, first) })
		switch w := second.welcome; {
		case len(w.GetInstances()) != 1 || w.GetInstances()[0].GetInstanceId() != first.doc.Instance:
			fail("welcome names %v; want the instance", w.GetInstances())
		case w.GetInstances()[0].GetLinkEpoch() <= first.epoch:
			fail("the epoch is %d after %d", w.GetInstances()[0].GetLinkEpoch(), first.epoch)
		case w.GetSessionId() != first.welcome.GetSessionId():
			fail("it is another session")
		}
	}},
	{"connecting again: what the server does not name is not in welcome, and can be linked again", 1, func(g *gatewayRun) {
		first := g.linked()
		_ = first.ws.CloseNow()
		second := g.again(first).hello(func(h *linkv1.Hello) { h.ResumeKey = first.welcome.GetResumeKey() })
		if got := second.welcome.GetInstances(); len(got) != 0 {
			fail("welcome names %v", got)
		}
		second.link()
	}},
}

// resume names what a client was linked to.
func resume(h *linkv1.Hello, old *client) {
	h.ResumeKey = old.welcome.GetResumeKey()
	h.Instances = []*linkv1.HelloInstance{{InstanceId: old.doc.Instance, LastOffset: old.offset, LinkEpoch: old.epoch}}
}
