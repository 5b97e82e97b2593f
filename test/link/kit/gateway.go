package kit

import (
	"cmp"
	"context"
	"net/http"
	"time"

	"github.com/berth-dev/berth/sdk/go/bootstrap"
	"github.com/berth-dev/berth/sdk/go/gameserver/gameservertest/wire"
)

// Gateway is a gateway to check.
type Gateway struct {
	// Bootstrap returns the document of a game server that nobody has linked yet, with its instance: another one each time. Required.
	Bootstrap func(context.Context) (*bootstrap.Document, error)
	// Notify changes an instance's custom data as a backend does, so that its server is notified. Nil: checks that need it are skipped.
	Notify func(ctx context.Context, instanceID string) error
	// Subprotocol is the one to speak; empty: berth.v1.proto.
	Subprotocol string
	// Level is up to which level to check: 1, or 2 for everything; 0 is 2.
	Level int
	// Patience bounds each check; 0: 30 s. It must be above the gateway's time for hello, and above twice its heartbeat.
	Patience time.Duration
}

// gatewayCheck is a statement about gateways.
type gatewayCheck struct {
	name  string
	level int
	check func(*gatewayRun)
}

// gatewayRun is one check that is being made.
type gatewayRun struct {
	Gateway
	ctx context.Context
}

// Check makes the checks and returns their results, in order.
func (g Gateway) Check(ctx context.Context) []Result {
	g.Subprotocol, g.Level, g.Patience = cmp.Or(g.Subprotocol, wire.Proto), cmp.Or(g.Level, 2), cmp.Or(g.Patience, 30*time.Second)
	var checks []gatewayCheck
	for _, list := range [][]gatewayCheck{connecting, framing, sessions, requesting, notifying} {
		for _, c := range list {
			if c.level <= g.Level {
				checks = append(checks, c)
			}
		}
	}
	return runAll(len(checks), func(i int) Result {
		return run(ctx, checks[i].name, g.Patience, func(ctx context.Context) {
			checks[i].check(&gatewayRun{Gateway: g, ctx: ctx})
		})
	})
}

// document returns a fresh server's bootstrap document.
func (g *gatewayRun) document() *bootstrap.Document {
	doc, err := g.Bootstrap(g.ctx)
	if err != nil {
		fail("no bootstrap document: %v", err)
	}
	return doc
}

// connect opens a connection with a document.
func (g *gatewayRun) connect(doc *bootstrap.Document) *client {
	c, _, err := dial(g.ctx, doc, g.Subprotocol, nil)
	if err != nil {
		fail("connect: %v", err)
	}
	return c
}

// fresh opens the connection of a fresh server.
func (g *gatewayRun) fresh() *client { return g.connect(g.document()) }

// linked is fresh with a session and its instance linked.
func (g *gatewayRun) linked() *client {
	c := g.fresh().hello(nil)
	c.link()
	return c
}

// again opens another connection of a client, over which its numbers go on.
func (g *gatewayRun) again(old *client) *client {
	c := g.connect(old.doc)
	c.nonce, c.id, c.epoch, c.offset = old.nonce, old.id, old.epoch, old.offset
	return c
}

// refusedUpgrade tries to connect, which must be refused so.
func (g *gatewayRun) refusedUpgrade(status int, reason, subprotocol string, change func(path *string, h http.Header)) {
	c, resp, err := dial(g.ctx, g.document(), subprotocol, change)
	switch {
	case err == nil:
		_ = c.ws.CloseNow()
		fail("the connection was taken")
	case resp == nil:
		fail("there was no HTTP answer: %v", err)
	}
	if got := reasonOf(resp); resp.StatusCode != status || got != reason {
		fail("it was refused with %d %s; want %d %s", resp.StatusCode, got, status, reason)
	}
}
