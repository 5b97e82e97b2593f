package kit

import (
	"google.golang.org/protobuf/types/known/structpb"

	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
)

func object(name string, value any) *typev1.Data {
	v, err := structpb.NewStruct(map[string]any{name: value})
	if err != nil {
		fail("%v", err)
	}
	return &typev1.Data{Kind: &typev1.Data_Json{Json: v}}
}

func addPlayer(id string) *gameserverv1.AddPlayersRequest {
	return &gameserverv1.AddPlayersRequest{Players: []*instancev1.Player{{Id: id}}}
}

// added sends an AddPlayers that must succeed, and returns the revision that it made.
func (c *client) added(r *linkv1.Request) int64 {
	out := new(gameserverv1.AddPlayersResponse)
	c.call(r, out)
	return out.GetRevision()
}

var requesting = []gatewayCheck{
	{"requests: Link gives the instance, an epoch and an offset", 1, func(g *gatewayRun) {
		c := g.fresh().hello(nil)
		start := c.link()
		if start.GetInstance().GetId() != c.doc.Instance || start.GetLinkEpoch() <= 0 || start.GetInstance().GetRevision() <= 0 {
			fail("the start data is of instance %q, revision %d, with epoch %d", start.GetInstance().GetId(), start.GetInstance().GetRevision(), start.GetLinkEpoch())
		}
	}},
	{"requests: a number below 1 is closed with PROTOCOL_VIOLATION", 1, func(g *gatewayRun) {
		c := g.fresh().hello(nil)
		r := c.request("Link", &gameserverv1.LinkRequest{})
		r.Id = 0
		c.ask(r)
		c.closed(linkv1.CloseCode_CLOSE_CODE_PROTOCOL_VIOLATION)
	}},
	{"credentials: none are answered CREDENTIALS_MISSING, and the connection stays", 1, func(g *gatewayRun) {
		c := g.fresh().hello(nil)
		r := c.request("Link", &gameserverv1.LinkRequest{})
		r.Auth = nil
		c.refused(r, "CREDENTIALS_MISSING")
	}},
	{"credentials: swapped handles are answered CREDENTIALS_SWAPPED, and the connection stays", 1, func(g *gatewayRun) {
		c := g.fresh().hello(nil)
		r := c.request("Link", &gameserverv1.LinkRequest{})
		r.Auth = &linkv1.Credentials{Game: c.welcome.GetSocialHandle(), Social: c.welcome.GetGameHandle()}
		c.refused(r, "CREDENTIALS_SWAPPED")
	}},
	{"credentials: handles of another connection are answered CREDENTIALS_INVALID, and the connection stays", 1, func(g *gatewayRun) {
		other, c := g.fresh().hello(nil), g.fresh().hello(nil)
		r := c.request("Link", &gameserverv1.LinkRequest{})
		r.Auth = &linkv1.Credentials{Game: other.welcome.GetGameHandle(), Social: other.welcome.GetSocialHandle()}
		c.refused(r, "CREDENTIALS_INVALID")
	}},
	{"credentials: tokens of another pair are answered CREDENTIALS_MISMATCHED, and the connection stays", 1, func(g *gatewayRun) {
		other, c := g.document(), g.fresh().hello(nil)
		r := c.request("Link", &gameserverv1.LinkRequest{})
		r.Auth = &linkv1.Credentials{Game: other.Game.Reveal(), Social: other.Social.Reveal()}
		c.refused(r, "CREDENTIALS_MISMATCHED")
	}},
	{"credentials: the tokens themselves will do in place of the handles", 1, func(g *gatewayRun) {
		c := g.fresh().hello(nil)
		r := c.request("Link", &gameserverv1.LinkRequest{})
		r.Auth = &linkv1.Credentials{Game: c.doc.Game.Reveal(), Social: c.doc.Social.Reveal()}
		c.call(r, new(gameserverv1.LinkResponse))
	}},
	{"requests: an unknown method is answered METHOD_UNKNOWN, and the connection stays", 1, func(g *gatewayRun) {
		c := g.linked()
		c.refused(c.request("WinGame", &gameserverv1.LinkRequest{}), "METHOD_UNKNOWN")
	}},
	{"requests: an old link epoch is answered STALE_LINK_EPOCH, and the connection stays", 1, func(g *gatewayRun) {
		c := g.linked()
		r := c.request("AddPlayers", addPlayer("ann"))
		r.LinkEpoch = 1
		c.refused(r, "STALE_LINK_EPOCH")
	}},
	{"once in effect: a request that arrives twice takes effect once, and both are answered alike", 1, func(g *gatewayRun) {
		c := g.linked()
		r := c.request("AddPlayers", addPlayer("conformance-1"))
		if first, second := c.added(r), c.added(r); first != second {
			fail("the answers tell revision %d and %d", first, second)
		}
	}},
	{"once in effect: also over another connection", 1, func(g *gatewayRun) {
		c := g.linked()
		r := c.request("AddPlayers", addPlayer("conformance-2"))
		first := c.added(r)
		_ = c.ws.CloseNow()
		next := g.again(c).hello(func(h *linkv1.Hello) { resume(h, c) })
		if len(next.welcome.GetInstances()) != 1 {
			fail("the instance does not go on")
		}
		r.LinkEpoch = next.welcome.GetInstances()[0].GetLinkEpoch()
		r.Auth = &linkv1.Credentials{Game: next.welcome.GetGameHandle(), Social: next.welcome.GetSocialHandle()}
		if second := next.added(r); first != second {
			fail("the answers tell revision %d and %d", first, second)
		}
	}},
	{"once in effect: another request under a number that was used is answered REQUEST_ID_REUSED", 2, func(g *gatewayRun) {
		c := g.linked()
		r := c.request("AddPlayers", addPlayer("conformance-3"))
		c.added(r)
		other := c.request("AddPlayers", addPlayer("conformance-4"))
		other.Id = r.GetId()
		c.refused(other, "REQUEST_ID_REUSED")
	}},
	{"requests: more than max_in_flight without an answer are closed with TOO_MANY_REQUESTS", 2, tooManyRequests},
	{"fresh tokens: RefreshTokens gives a pair, and the handles stay", 1, func(g *gatewayRun) {
		c := g.linked()
		r := c.request("RefreshTokens", &gameserverv1.RefreshTokensRequest{})
		r.InstanceId, r.LinkEpoch = "", 0
		out := new(gameserverv1.RefreshTokensResponse)
		c.call(r, out)
		if out.GetGameToken() == "" || out.GetSocialToken() == "" || out.GetExpireTime() == nil || out.GetRefreshTime() == nil {
			fail("something is missing in the answer")
		}
		c.added(c.request("AddPlayers", addPlayer("conformance-5")))
	}},
	{"links: EndGameInstance stores the result once, and the instance is over", 1, func(g *gatewayRun) {
		c := g.linked()
		out := new(gameserverv1.EndGameInstanceResponse)
		c.call(c.request("EndGameInstance", &gameserverv1.EndGameInstanceRequest{Result: object("winner", "ann")}), out)
		c.call(c.request("EndGameInstance", &gameserverv1.EndGameInstanceRequest{Result: object("winner", "bob")}), out)
		if got := out.GetResult().GetJson().GetFields()["winner"].GetStringValue(); got != "ann" {
			fail("the second EndGameInstance tells the winner %q", got)
		}
		c.refused(c.request("AddPlayers", addPlayer("conformance-6")), "STATE_NOT_ALLOWED")
	}},
}

// tooManyRequests sends requests faster than they can be answered, which may take more than one try.
func tooManyRequests(g *gatewayRun) {
	c := g.linked()
	most := int(c.welcome.GetLimits().GetMaxInFlight())
	for range 20 * most {
		raw, err := c.codec.Encode(&linkv1.Frame{Kind: &linkv1.Frame_Request{Request: c.request("UpdateGameData", &gameserverv1.UpdateGameDataRequest{GameData: object("n", c.id)})}})
		if err != nil {
			fail("%v", err)
		}
		if c.ws.Write(c.ctx, c.codec.Type(), raw) != nil {
			break // closed already
		}
	}
	c.closed(linkv1.CloseCode_CLOSE_CODE_TOO_MANY_REQUESTS)
}

// notified has a backend change the instance, and waits for the notification.
func (g *gatewayRun) notified(c *client) *linkv1.Notification {
	g.change(c)
	return c.notification()
}

func (g *gatewayRun) change(c *client) {
	if g.Notify == nil {
		panic(skip{"there is no way to act as a backend (Notify, or --notify-command)"})
	}
	if err := g.Notify(g.ctx, c.doc.Instance); err != nil {
		fail("notify: %v", err)
	}
}

func (c *client) notification() *linkv1.Notification {
	return until(c, func(f *linkv1.Frame) (*linkv1.Notification, bool) {
		return f.GetNotification(), f.GetNotification() != nil
	})
}

var notifying = []gatewayCheck{
	{"notifications: arrive in order, each naming the one before", 1, func(g *gatewayRun) {
		c := g.linked()
		first := g.notified(c)
		second := g.notified(c)
		if first.GetOffset() <= c.offset || second.GetOffset() <= first.GetOffset() || second.GetPrevious() != first.GetOffset() || first.GetEvent().GetGameDataUpdated() == nil {
			fail("after offset %d came %v and %v", c.offset, first, second)
		}
	}},
	{"notifications: what is not acknowledged is sent again after last_offset on the next connection", 1, func(g *gatewayRun) {
		c := g.linked()
		first, second := g.notified(c), g.notified(c)
		_ = c.ws.CloseNow()
		c.offset = first.GetOffset()
		next := g.again(c).hello(func(h *linkv1.Hello) { resume(h, c) })
		if got := next.notification(); got.GetOffset() != second.GetOffset() {
			fail("after %d came %d; want %d", first.GetOffset(), got.GetOffset(), second.GetOffset())
		}
	}},
	{"notifications: what happened while the server was away follows welcome", 1, func(g *gatewayRun) {
		c := g.linked()
		_ = c.ws.CloseNow()
		g.change(c)
		next := g.again(c).hello(func(h *linkv1.Hello) { resume(h, c) })
		if got := next.notification(); got.GetOffset() <= c.offset {
			fail("offset %d came after %d", got.GetOffset(), c.offset)
		}
	}},
	{"notifications: what was acknowledged does not come again", 1, func(g *gatewayRun) {
		c := g.linked()
		first := g.notified(c)
		c.send(&linkv1.Frame{Kind: &linkv1.Frame_Ack{Ack: &linkv1.Ack{InstanceId: c.doc.Instance, Offset: first.GetOffset()}}})
		c.added(c.request("AddPlayers", addPlayer("conformance-7"))) // answered after the ack was read
		_ = c.ws.CloseNow()
		c.offset = first.GetOffset()
		next := g.again(c).hello(func(h *linkv1.Hello) { resume(h, c) })
		if second := g.notified(next); second.GetOffset() <= first.GetOffset() {
			fail("offset %d came again", second.GetOffset())
		}
	}},
}
