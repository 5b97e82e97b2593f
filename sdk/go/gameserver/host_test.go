package gameserver_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/berth-dev/berth/sdk/go/gameserver"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"github.com/berth-dev/berth/sdk/go/token"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

// open opens a host of a registered server: its document names no instance.
func (g *gateway) open(change ...func(*linkv1.Welcome)) (*gameserver.Host, *peer) {
	g.t.Helper()
	doc := g.bootstrap()
	doc.Instance = ""
	return g.openWith([]gameserver.Option{gameserver.WithBootstrap(doc)}, change...)
}

func (g *gateway) openWith(opts []gameserver.Option, change ...func(*linkv1.Welcome)) (*gameserver.Host, *peer) {
	g.t.Helper()
	var h *gameserver.Host
	open := async(func() (err error) {
		ctx, cancel := context.WithTimeout(g.t.Context(), patience)
		defer cancel()
		h, err = gameserver.Open(ctx, opts...)
		return err
	})
	p := g.accept()
	if hello := p.hello(); len(hello.GetInstances()) != 0 {
		g.t.Errorf("the first Hello is %v", hello)
	}
	p.welcome("1", change...)
	if err := receive(g.t, open, "Open"); err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := h.Close(ctx); err != nil {
			g.t.Errorf("close: %v", err)
		}
	})
	return h, p
}

// again waits for the next connection, and for its Hello to be about these instances.
func (g *gateway) again(instances ...string) (*peer, map[string]*linkv1.HelloInstance) {
	g.t.Helper()
	p := g.accept()
	said := make(map[string]*linkv1.HelloInstance)
	var ids []string
	for _, in := range p.hello().GetInstances() {
		said[in.GetInstanceId()] = in
		ids = append(ids, in.GetInstanceId())
	}
	slices.Sort(ids)
	if !slices.Equal(ids, instances) {
		g.t.Fatalf("Hello is about %v, want %v", ids, instances)
	}
	return p, said
}

// assigned and goesOn are changes of Welcome.
func assigned(instances ...string) func(*linkv1.Welcome) {
	return func(w *linkv1.Welcome) { w.AssignedInstanceIds = append(w.AssignedInstanceIds, instances...) }
}

func goesOn(instance string, epoch int64) func(*linkv1.Welcome) {
	return func(w *linkv1.Welcome) {
		w.Instances = append(w.Instances, &linkv1.ResumedInstance{InstanceId: instance, LinkEpoch: epoch})
	}
}

func (p *peer) assign(instance string) {
	p.t.Helper()
	p.send(&linkv1.Frame{Kind: &linkv1.Frame_Assignment{Assignment: &linkv1.Assignment{InstanceId: instance}}})
}

// startOf is the answer to a Link; revision, offset and epoch are made of one number.
func startOf(instance string, epoch int64) *gameserverv1.LinkResponse {
	in := &instancev1.GameInstance{Id: instance, Namespace: "default", State: instancev1.GameInstance_STATE_LINKED, Revision: epoch}
	return &gameserverv1.LinkResponse{Instance: in, LinkEpoch: epoch, Offset: epoch * 10}
}

func created(instance string, epoch int64) *gameserverv1.CreateAndLinkResponse {
	start := startOf(instance, epoch)
	return &gameserverv1.CreateAndLinkResponse{Instance: start.GetInstance(), LinkEpoch: epoch, Offset: start.GetOffset()}
}

func accept(t *testing.T, h *gameserver.Host) *gameserver.Server {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	s, err := h.Accept(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// host opens a host with instances, which are linked with the epochs 1, 2 and so on.
func (g *gateway) host(instances ...string) (*gameserver.Host, *peer, []*gameserver.Server) {
	g.t.Helper()
	h, p := g.open()
	var servers []*gameserver.Server
	for n, in := range instances {
		p.assign(in)
		p.reply(p.requestFor(in, 0, "Link"), startOf(in, int64(n+1)))
		s := accept(g.t, h)
		if s.Instance().GetId() != in {
			g.t.Fatalf("accepted %v, want %s", s.Instance(), in)
		}
		servers = append(servers, s)
	}
	return h, p, servers
}

// works has a call of the server answered.
func (p *peer) works(s *gameserver.Server, epoch, revision int64) *linkv1.Request {
	p.t.Helper()
	call := async(func() error { return s.ConnectPlayers(p.t.Context()) })
	r := p.requestFor(s.Instance().GetId(), epoch, "ConnectPlayers")
	p.reply(r, &gameserverv1.ConnectPlayersResponse{Revision: revision})
	if err := receive(p.t, call, "the answer"); err != nil {
		p.t.Error(err)
	}
	return r
}

func wantNoOffer(t *testing.T, h *gameserver.Host) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if s, err := h.Accept(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Accept returned %v, %v", s, err)
	}
}

func TestTwoInstancesOverOneSocket(t *testing.T) {
	g := newGateway(t)
	h, p := g.open(assigned("a"))
	if h.ID() != "server-1" {
		t.Errorf("the host is %s", h.ID())
	}
	wantNoOffer(t, h)
	linkA := p.requestFor("a", 0, "Link")
	p.assign("b") // the first Link is not answered yet
	linkB := p.requestFor("b", 0, "Link")
	p.reply(linkB, startOf("b", 2))
	b := accept(t, h)
	p.reply(linkA, startOf("a", 1))
	a := accept(t, h)
	if a.Instance().GetId() != "a" || b.Instance().GetId() != "b" || a.ID() != "server-1" {
		t.Fatalf("accepted %v and %v", a.Instance(), b.Instance())
	}

	// Each call carries the epoch of its own link, and the last request of its own instance; the numbers are the host's.
	callA := async(func() error { return a.UpdateGameData(t.Context(), data(t, map[string]any{"of": "a"})) })
	firstA := p.requestFor("a", 1, "UpdateGameData")
	callB := async(func() error { return b.UpdateGameData(t.Context(), data(t, map[string]any{"of": "b"})) })
	firstB := p.requestFor("b", 2, "UpdateGameData")
	if firstA.GetId() != 3 || firstB.GetId() != 4 || firstA.GetLastRequest() != 0 || firstB.GetLastRequest() != 0 {
		t.Errorf("the first calls are %v and %v", firstA, firstB)
	}
	p.reply(firstB, &gameserverv1.UpdateGameDataResponse{Revision: 20})
	if err := receive(t, callB, "the answer"); err != nil {
		t.Error(err)
	}
	p.reply(firstA, &gameserverv1.UpdateGameDataResponse{Revision: 10})
	if err := receive(t, callA, "the answer"); err != nil {
		t.Error(err)
	}
	if r := p.works(a, 1, 11); r.GetLastRequest() != 3 {
		t.Errorf("the second call of a is %v, want last request 3", r)
	}
	if r := p.works(b, 2, 21); r.GetLastRequest() != 4 {
		t.Errorf("the second call of b is %v, want last request 4", r)
	}
	for of, s := range map[string]*gameserver.Server{"a": a, "b": b} {
		in := s.Instance()
		if !proto.Equal(in.GetGameData(), data(t, map[string]any{"of": of})) || in.GetRevision() != map[string]int64{"a": 11, "b": 21}[of] {
			t.Errorf("%s is %v", of, in)
		}
	}

	// So do events.
	p.notifyOf("a", 11, 10, playersAdded("ann"))
	p.notifyOf("b", 21, 20, playersAdded("bob"))
	if e, ok := receive(t, b.Events(), "an event").(gameserver.PlayersAdded); !ok || e.Players[0].GetId() != "bob" {
		t.Errorf("event of b: %v", e)
	}
	p.wantAckOf("b", 21)
	if e, ok := receive(t, a.Events(), "an event").(gameserver.PlayersAdded); !ok || e.Players[0].GetId() != "ann" {
		t.Errorf("event of a: %v", e)
	}
	p.wantAckOf("a", 11)

	// And tickets.
	ticket := g.ticket("ann", func(c *token.Claims) { c.Instance = "a" })
	wantRefusal(t, b, ticket, gameserver.ErrTicketElsewhere)
	if _, err := a.VerifyTicket(t.Context(), ticket); err != nil {
		t.Error(err)
	}
}

func TestReconnectWithSeveralInstances(t *testing.T) {
	g := newGateway(t)
	h, p, s := g.host("a", "b", "c")
	a, b, c := s[0], s[1], s[2]
	p.works(a, 1, 100)
	p.notifyOf("a", 11, 10, playersAdded("ann"))
	receive(t, a.Events(), "an event")
	p.wantAckOf("a", 11)
	var calls []<-chan error
	sent := make(map[string]*linkv1.Request)
	for n, s := range s {
		calls = append(calls, async(func() error { return s.ConnectPlayers(t.Context()) }))
		in := s.Instance().GetId()
		sent[in] = p.requestFor(in, int64(n+1), "ConnectPlayers")
	}
	p.cut()

	// a goes on, b is linked again, c has another server. d is new.
	p, said := g.again("a", "b", "c")
	if want := (&linkv1.HelloInstance{InstanceId: "a", LastOffset: 11, LinkEpoch: 1, Revision: 100, LastRequest: 4}); !proto.Equal(said["a"], want) {
		t.Errorf("Hello says %v of a, want %v", said["a"], want)
	}
	if want := (&linkv1.HelloInstance{InstanceId: "b", LastOffset: 20, LinkEpoch: 2, Revision: 2}); !proto.Equal(said["b"], want) {
		t.Errorf("Hello says %v of b, want %v", said["b"], want)
	}
	p.welcome("2", goesOn("a", 31), assigned("b", "d"))
	open := make(map[string]*linkv1.Request)
	for range 4 {
		r := p.next().GetRequest()
		open[r.GetInstanceId()] = r
	}
	if r := open["a"]; r.GetId() != sent["a"].GetId() || r.GetLinkEpoch() != 31 || !bytes.Equal(r.GetPayload(), sent["a"].GetPayload()) {
		t.Errorf("sent %v, then %v", sent["a"], r)
	}
	for _, in := range []string{"b", "c", "d"} {
		if r := open[in]; r.GetMethod() != "Link" || r.GetLinkEpoch() != 0 || r.GetId() <= sent["c"].GetId() {
			t.Errorf("for %s came %v, want a new Link", in, r)
		}
	}
	p.fail(open["c"], &linkv1.Error{Code: int32(codes.FailedPrecondition), Reason: "SUPERSEDED", Message: "moved"})
	wantSuperseded(t, g, c)
	if err := receive(t, calls[2], "the call's end"); !errors.Is(err, gameserver.ErrClosed) {
		t.Errorf("the call of c ended with %v", err)
	}
	p.cut() // before the others are answered

	// Their Links, and a's call, are repeated under their numbers.
	p, _ = g.again("a", "b")
	p.welcome("3", goesOn("a", 32))
	for range 3 {
		r := p.next().GetRequest()
		if first := open[r.GetInstanceId()]; r.GetMethod() != first.GetMethod() || r.GetId() != first.GetId() {
			t.Errorf("sent %v, then %v", first, r)
		}
		open[r.GetInstanceId()] = r
	}
	p.reply(open["b"], startOf("b", 200))
	again := p.requestFor("b", 200, "ConnectPlayers")
	if again.GetId() != sent["b"].GetId() {
		t.Errorf("sent %v, then %v", sent["b"], again)
	}
	p.reply(open["a"], &gameserverv1.ConnectPlayersResponse{Revision: 101})
	p.reply(again, &gameserverv1.ConnectPlayersResponse{Revision: 201})
	for _, call := range calls[:2] {
		if err := receive(t, call, "the call's end"); err != nil {
			t.Error(err)
		}
	}
	if e, ok := receive(t, b.Events(), "an event").(gameserver.Relinked); !ok || e.LostWrites {
		t.Errorf("b got %v, want Relinked", e)
	}
	p.reply(open["d"], startOf("d", 4))
	d := accept(t, h)
	p.works(d, 4, 10)
	p.works(a, 32, 102)
	if len(a.Events()) != 0 || h.Err() != nil {
		t.Errorf("a has events, or the host has ended: %v", h.Err())
	}
}

// What the store has lost of one instance is made again there, and holds up nobody else.
func TestLostWritesOfOneInstance(t *testing.T) {
	g := newGateway(t)
	_, p, s := g.host("a", "b")
	lost := p.works(s[0], 1, 10)
	p.works(s[1], 2, 20)
	p.notifyOf("a", 60, 10, playersAdded("ann"))
	receive(t, s[0].Events(), "an event")
	p.wantAckOf("a", 60)
	p.cut()
	p, _ = g.again("a", "b")
	p.welcome("2", goesOn("b", 2), func(w *linkv1.Welcome) { w.RolledBackInstanceIds = []string{"a"} })
	p.reply(p.requestFor("a", 0, "Link"), startOf("a", 5))
	again := p.requestFor("a", 5, "ConnectPlayers")
	if again.GetId() != lost.GetId() {
		t.Errorf("sent %v, then %v", lost, again)
	}
	newer := async(func() error { return s[0].ConnectPlayers(t.Context()) })
	p.works(s[1], 2, 21) // while the repair, and what waits for it, is not answered
	p.reply(again, &gameserverv1.ConnectPlayersResponse{Revision: 11})
	r := p.requestFor("a", 5, "ConnectPlayers")
	if r.GetLastRequest() != lost.GetId() {
		t.Errorf("after the repair came %v", r)
	}
	p.reply(r, &gameserverv1.ConnectPlayersResponse{Revision: 12})
	if err := receive(t, newer, "the answer"); err != nil {
		t.Error(err)
	}
	wantRelinked(t, s[0], true)
	p.notifyOf("a", 55, 50, playersAdded("bob")) // the sequence goes on where the store is, not where the server was
	receive(t, s[0].Events(), "an event")
	p.wantAckOf("a", 55)
}

func TestAnAssignmentThatIsKnownIsIgnored(t *testing.T) {
	g := newGateway(t)
	h, p := g.open(assigned("a"))
	link := p.requestFor("a", 0, "Link")
	p.assign("a")
	p.reply(link, startOf("a", 1))
	p.assign("a")
	a := accept(t, h)
	p.assign("a")
	p.works(a, 1, 10) // the next request is no Link
	wantNoOffer(t, h)
}

// The gateway closes on a server that has too many requests open, those that link included.
func TestLinksWaitForTheWindow(t *testing.T) {
	g := newGateway(t)
	h, p := g.open(func(w *linkv1.Welcome) { w.Limits.MaxInFlight = 1 }, assigned("a", "b"))
	first := p.requestFor("a", 0, "Link")
	create := async(func() error { _, err := h.Create(t.Context(), nil); return err })
	if len(p.frames) > 0 {
		t.Fatal("a second request came while one was open")
	}
	p.reply(first, startOf("a", 1))
	p.reply(p.requestFor("b", 0, "Link"), startOf("b", 2))
	r := p.requestFor("", 0, "CreateAndLink")
	p.reply(r, created("c", 3))
	if err := receive(t, create, "the answer"); err != nil {
		t.Error(err)
	}
}

func TestARefusedInstanceIsNotAccepted(t *testing.T) {
	for _, reason := range []string{"SUPERSEDED", "NOT_ASSIGNED", "INSTANCE_UNKNOWN", "STATE_NOT_ALLOWED"} {
		t.Run(reason, func(t *testing.T) {
			g := newGateway(t)
			h, p := g.open(assigned("a", "b"))
			p.fail(p.requestFor("a", 0, "Link"), &linkv1.Error{Code: int32(codes.FailedPrecondition), Reason: reason})
			p.reply(p.requestFor("b", 0, "Link"), startOf("b", 2))
			if s := accept(t, h); s.Instance().GetId() != "b" {
				t.Errorf("accepted %v", s.Instance())
			}
			p.assign("a") // Berth has thought better of it
			p.reply(p.requestFor("a", 0, "Link"), startOf("a", 1))
			p.works(accept(t, h), 1, 10)
		})
	}
}

// A Link that Berth cannot answer now is repeated under its number, and the others go on meanwhile.
func TestALinkIsRepeatedWhileBerthIsAway(t *testing.T) {
	for _, code := range []codes.Code{codes.Unavailable, codes.Internal, codes.ResourceExhausted} {
		g := newGateway(t)
		h, p, s := g.host("a")
		p.assign("b")
		link := p.requestFor("b", 0, "Link")
		p.fail(link, &linkv1.Error{Code: int32(code), Reason: "STORE_UNAVAILABLE"})
		again := p.requestFor("b", 0, "Link")
		if again.GetId() != link.GetId() {
			t.Errorf("Link has number %d now and had %d", again.GetId(), link.GetId())
		}
		p.works(s[0], 1, 10)
		p.reply(again, startOf("b", 2))
		p.works(accept(t, h), 2, 10)
	}
}

// A Link for which Berth does not know the connection is made anew on another one, since its number stands for that answer.
func TestALinkForWhichTheConnectionIsNotKnown(t *testing.T) {
	g := newGateway(t)
	h, p, s := g.host("a")
	p.assign("b")
	link := p.requestFor("b", 0, "Link")
	p.fail(link, &linkv1.Error{Code: int32(codes.FailedPrecondition), Reason: "NOT_CONNECTED"})
	p, _ = g.again("a")
	p.welcome("2", goesOn("a", 1), assigned("b"))
	anew := p.requestFor("b", 0, "Link")
	if anew.GetId() <= link.GetId() {
		t.Errorf("Link has number %d, which is not new", anew.GetId())
	}
	p.reply(anew, startOf("b", 2))
	p.works(accept(t, h), 2, 10)
	p.works(s[0], 1, 10)
}

// What the gateway tells of an instance before it answers Link is in the start data, or comes again.
func TestANotificationBeforeTheLink(t *testing.T) {
	g := newGateway(t)
	h, p := g.open(assigned("a"))
	link := p.requestFor("a", 0, "Link")
	p.notifyOf("a", 9, 8, playersAdded("ann"))
	p.reply(link, startOf("a", 1))
	a := accept(t, h)
	p.works(a, 1, 10) // on this connection: nothing is missing
	p.notifyOf("a", 11, 10, playersAdded("bob"))
	if e, ok := receive(t, a.Events(), "an event").(gameserver.PlayersAdded); !ok || e.Players[0].GetId() != "bob" {
		t.Errorf("got %v", e)
	}
}

// An instance that was taken away before anybody accepted it is not accepted.
func TestAnInstanceThatIsOverBeforeAccept(t *testing.T) {
	g := newGateway(t)
	h, p := g.open(assigned("a"))
	p.reply(p.requestFor("a", 0, "Link"), startOf("a", 1))
	p.notifyOf("a", 11, 10, superseded("moved"))
	p.assign("b")
	p.reply(p.requestFor("b", 0, "Link"), startOf("b", 2))
	if s := accept(t, h); s.Instance().GetId() != "b" {
		t.Errorf("accepted %v", s.Instance())
	}
}

// One of several instances is over: that is no end for the others, nor for the connection.
func TestTheEndOfOneInstance(t *testing.T) {
	terminated := &gameserverv1.InstanceEvent{Event: &gameserverv1.InstanceEvent_Terminated{Terminated: &gameserverv1.Terminated{Message: "enough"}}}
	for name, tc := range map[string]struct {
		end       func(p *peer, a *gameserver.Server)
		wantError string
		wantEvent any
	}{
		"superseded": {
			func(p *peer, _ *gameserver.Server) { p.notifyOf("a", 11, 10, superseded("moved")) },
			"SUPERSEDED", gameserver.Superseded{Message: "moved"},
		},
		"superseded as an answer": {
			func(p *peer, a *gameserver.Server) {
				async(func() error { return a.ConnectPlayers(t.Context()) })
				p.fail(p.requestFor("a", 1, "ConnectPlayers"), &linkv1.Error{Code: int32(codes.FailedPrecondition), Reason: "SUPERSEDED"})
			},
			"SUPERSEDED", nil,
		},
		"terminated": {
			func(p *peer, _ *gameserver.Server) { p.notifyOf("a", 11, 10, terminated) }, "", gameserver.Terminated{Message: "enough"},
		},
		"unlinked": {
			func(p *peer, a *gameserver.Server) {
				async(func() error { return a.Unlink(t.Context(), "too hot") })
				p.reply(p.requestFor("a", 1, "UnlinkGameInstance"), &gameserverv1.UnlinkGameInstanceResponse{Revision: 10})
			},
			"", nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGateway(t)
			h, p, s := g.host("a", "b")
			a, b := s[0], s[1]
			tc.end(p, a)
			closedSoon(t, a.Done(), "the end of a")
			var refused *gameserver.Error
			if errors.As(a.Err(), &refused); refused != nil && refused.Reason != tc.wantError || (a.Err() == nil) != (tc.wantError == "") {
				t.Errorf("Err is %v", a.Err())
			}
			if err := a.ConnectPlayers(t.Context()); !errors.Is(err, gameserver.ErrClosed) {
				t.Errorf("a call fails with %v, want ErrClosed", err)
			}
			if tc.wantEvent != nil {
				if e := receive(t, a.Events(), "an event"); e != tc.wantEvent {
					t.Errorf("got %v", e)
				}
			}
			closedSoon(t, a.Events(), "the end of events")
			if name == "terminated" {
				p.wantAckOf("a", 11)
			}
			p.works(b, 2, 10)

			// It can come back, as an instance that is linked anew.
			p.assign("a")
			p.reply(p.requestFor("a", 0, "Link"), startOf("a", 9))
			anew := accept(t, h)
			if anew == a {
				t.Error("accepted the server that is over")
			}
			p.works(anew, 9, 100)
			p.cut()
			g.again("a", "b")
			if h.Err() != nil {
				t.Errorf("the host is over: %v", h.Err())
			}
		})
	}
}

// An Unlink whose answer was lost succeeds when Berth refuses the server.
func TestUnlinkOfOneInstanceWhoseAnswerWasLost(t *testing.T) {
	for _, reason := range []string{"SUPERSEDED", "NOT_ASSIGNED"} {
		g := newGateway(t)
		_, p, s := g.host("a", "b")
		call := async(func() error { return s[0].Unlink(t.Context(), "") })
		p.requestFor("a", 1, "UnlinkGameInstance")
		p.cut()
		p, _ = g.again("a", "b")
		p.welcome("2", goesOn("b", 2))
		p.fail(p.requestFor("a", 0, "Link"), &linkv1.Error{Code: int32(codes.PermissionDenied), Reason: reason})
		if err := receive(t, call, "the call's end"); err != nil {
			t.Errorf("Unlink: %v", err)
		}
		if s[0].Err() != nil {
			t.Errorf("Err is %v", s[0].Err())
		}
		p.works(s[1], 2, 10)
	}
}

// A game that does not read the events of one instance has the others go on, and loses none.
func TestUnreadEventsHoldUpNobodyElse(t *testing.T) {
	const room, all = 1024, 1100
	g := newGateway(t)
	_, p, s := g.host("a", "b")
	for i := int64(1); i <= all; i++ {
		p.notifyOf("a", 10+i, 10+i-1, playersAdded("x"))
	}
	p.works(s[1], 2, 10)
	p.notifyOf("b", 21, 20, playersAdded("bob"))
	receive(t, s[1].Events(), "an event")
	p.wantAckOf("b", 21)
	p.works(s[0], 1, 10) // a's own calls go on, too
	for range room {
		receive(t, s[0].Events(), "an event")
	}
	p, said := g.again("a", "b")
	if at := said["a"].GetLastOffset(); at != 10+room {
		t.Fatalf("resumes after %d, want %d", at, 10+room)
	}
	p.welcome("2", goesOn("a", 1), goesOn("b", 2))
	for i := int64(10 + room + 1); i <= 10+all; i++ {
		p.notifyOf("a", i, i-1, playersAdded("x"))
	}
	for range all - room {
		receive(t, s[0].Events(), "an event")
	}
}

func TestCloseOfOneInstance(t *testing.T) {
	g := newGateway(t)
	h, p, s := g.host("a", "b")
	a, b := s[0], s[1]
	call := async(func() error { return a.ConnectPlayers(t.Context()) })
	open := p.requestFor("a", 1, "ConnectPlayers")
	p.notifyOf("a", 11, 10, playersAdded("ann")) // nobody reads it
	p.works(b, 2, 9)                             // now it has come
	if err := a.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := receive(t, call, "the call's end"); !errors.Is(err, gameserver.ErrClosed) {
		t.Errorf("the call failed with %v, want ErrClosed", err)
	}
	closedSoon(t, a.Done(), "Done")
	closedSoon(t, a.Events(), "the end of events")
	if a.Err() != nil || a.Close(t.Context()) != nil {
		t.Errorf("Err is %v after Close", a.Err())
	}
	p.fail(open, &linkv1.Error{Code: int32(codes.FailedPrecondition), Reason: "STALE_LINK_EPOCH"}) // nobody cares
	p.notifyOf("a", 15, 14, playersAdded("bob"))                                                   // nor for the gap
	p.works(b, 2, 10)

	// Berth does not know that it was let go, and assigns it again when its link is lost.
	p.cut()
	p, _ = g.again("b")
	p.welcome("2", goesOn("b", 2), assigned("a"))
	p.reply(p.requestFor("a", 0, "Link"), startOf("a", 5))
	p.works(accept(t, h), 5, 10)
	p.works(b, 2, 11)
}

func TestCloseOfTheHost(t *testing.T) {
	g := newGateway(t)
	h, p, s := g.host("a", "b")
	accepting := async(func() error { _, err := h.Accept(t.Context()); return err })
	call := async(func() error { return s[0].ConnectPlayers(t.Context()) })
	p.requestFor("a", 1, "ConnectPlayers")
	p.assign("c")
	p.reply(p.requestFor("c", 0, "Link"), startOf("c", 3)) // nobody has this one yet, or the waiting Accept
	create := async(func() error { _, err := h.Create(t.Context(), nil); return err })
	p.requestFor("", 0, "CreateAndLink")
	if err := h.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	closedSoon(t, p.closed, "the connection's end")
	closedSoon(t, h.Done(), "Done")
	for _, s := range s {
		closedSoon(t, s.Done(), "Done")
		closedSoon(t, s.Events(), "the end of events")
		if s.Err() != nil || s.Close(t.Context()) != nil {
			t.Errorf("Err is %v after Close", s.Err())
		}
	}
	for name, c := range map[string]<-chan error{"call": call, "Create": create} {
		if err := receive(t, c, "the call's end"); !errors.Is(err, gameserver.ErrClosed) {
			t.Errorf("%s failed with %v, want ErrClosed", name, err)
		}
	}
	if err := receive(t, accepting, "Accept's end"); err != nil && !errors.Is(err, gameserver.ErrClosed) {
		t.Errorf("Accept failed with %v", err)
	}
	if _, err := h.Accept(t.Context()); !errors.Is(err, gameserver.ErrClosed) {
		t.Errorf("Accept failed with %v, want ErrClosed", err)
	}
	if _, err := h.Create(t.Context(), nil); !errors.Is(err, gameserver.ErrClosed) {
		t.Errorf("Create failed with %v, want ErrClosed", err)
	}
	if h.Err() != nil || h.Close(t.Context()) != nil {
		t.Errorf("Err is %v after Close", h.Err())
	}
}

// What Berth says of the connection as a whole ends everything.
func TestAFinalEndOfTheHost(t *testing.T) {
	for name, end := range map[string]func(*gateway, *peer){
		"close code": func(_ *gateway, p *peer) { p.bye(linkv1.CloseCode_CLOSE_CODE_CREDENTIALS_IN_USE, true) },
		"refused upgrade": func(g *gateway, p *peer) {
			g.refusal.Store(&refusal{status: 401, body: `{"reason":"CREDENTIALS_EXPIRED","message":"too late"}`})
			p.cut()
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGateway(t)
			h, p, s := g.host("a", "b")
			accepting := async(func() error { _, err := h.Accept(t.Context()); return err })
			end(g, p)
			err := receive(t, accepting, "Accept's end")
			if !errors.Is(err, gameserver.ErrClosed) || !errors.Is(err, h.Err()) || h.Err() == nil {
				t.Errorf("Accept failed with %v, want ErrClosed because of %v", err, h.Err())
			}
			closedSoon(t, h.Done(), "Done")
			for _, s := range s {
				closedSoon(t, s.Done(), "Done")
				if !errors.Is(s.Err(), h.Err()) {
					t.Errorf("Err is %v, want %v", s.Err(), h.Err())
				}
			}
		})
	}
}

func TestCreate(t *testing.T) {
	g := newGateway(t)
	doc := g.bootstrap()
	doc.Instance = ""
	public := &typev1.Endpoint{Name: "game", Host: "198.51.100.7", Port: 9, Protocol: typev1.Protocol_PROTOCOL_UDP}
	h, p := g.openWith([]gameserver.Option{gameserver.WithBootstrap(doc), gameserver.WithEndpoints(public), gameserver.WithVersion("arena 1")})
	req := &gameserverv1.CreateAndLinkRequest{Players: []*instancev1.Player{{Id: "ann"}}, Labels: map[string]string{"mode": "duel"}}
	var s *gameserver.Server
	create := async(func() (err error) { s, err = h.Create(t.Context(), req); return err })
	r := p.requestFor("", 0, "CreateAndLink")
	sent := new(gameserverv1.CreateAndLinkRequest)
	if err := proto.Unmarshal(r.GetPayload(), sent); err != nil {
		t.Fatal(err)
	}
	want := proto.CloneOf(req)
	want.RequestId, want.Endpoints, want.ServerVersion = sent.GetRequestId(), []*typev1.Endpoint{public}, "arena 1"
	if r.GetLastRequest() != 0 || len(sent.GetRequestId()) < 16 || !proto.Equal(sent, want) {
		t.Errorf("Create sent %v with %v", r, sent)
	}
	if req.GetRequestId() != "" {
		t.Error("Create changed its caller's message")
	}
	p.reply(r, created("a", 7))
	p.notifyOf("a", 71, 70, playersAdded("bob")) // right behind the answer
	if err := receive(t, create, "the answer"); err != nil {
		t.Fatal(err)
	}
	if in := s.Instance(); in.GetId() != "a" || in.GetState() != instancev1.GameInstance_STATE_LINKED {
		t.Errorf("created %v", in)
	}
	receive(t, s.Events(), "an event")
	p.wantAckOf("a", 71)
	p.works(s, 7, 10)
	wantNoOffer(t, h)

	// The same request again is the same instance.
	var again *gameserver.Server
	create = async(func() (err error) { again, err = h.Create(t.Context(), sent); return err })
	p.reply(p.requestFor("", 0, "CreateAndLink"), created("a", 7))
	if err := receive(t, create, "the answer"); err != nil || again != s {
		t.Errorf("created %v, %v", again, err)
	}
	if r := p.works(s, 7, 11); r.GetLastRequest() == 0 {
		t.Errorf("the link was begun anew: %v", r)
	}
}

// The answer to Create is lost, and Berth assigns the instance, which exists. It is for whoever called Create.
func TestCreateWhoseAnswerIsLost(t *testing.T) {
	g := newGateway(t)
	h, p := g.open()
	var s *gameserver.Server
	create := async(func() (err error) { s, err = h.Create(t.Context(), nil); return err })
	first := p.requestFor("", 0, "CreateAndLink")
	p.cut()
	p, _ = g.again()
	p.welcome("2", assigned("a", "b"))
	again := p.requestFor("", 0, "CreateAndLink")
	if again.GetId() != first.GetId() || !bytes.Equal(again.GetPayload(), first.GetPayload()) {
		t.Errorf("sent %v, then %v", first, again)
	}
	// Another Create, later than the assignments, does not hold them up.
	later := async(func() error { _, err := h.Create(t.Context(), nil); return err })
	laterOpen := p.requestFor("", 0, "CreateAndLink")
	p.fail(again, &linkv1.Error{Code: int32(codes.Unavailable), Reason: "STORE_UNAVAILABLE"}) // still open
	again = p.requestFor("", 0, "CreateAndLink")
	p.assign("a")
	p.reply(again, created("a", 1))
	if err := receive(t, create, "the answer"); err != nil || s.Instance().GetId() != "a" {
		t.Fatalf("created %v, %v", s, err)
	}
	p.reply(p.requestFor("b", 0, "Link"), startOf("b", 2)) // b is somebody else's, and a is not linked once more
	p.works(accept(t, h), 2, 10)
	p.works(s, 1, 10)
	p.reply(laterOpen, created("c", 3))
	if err := receive(t, later, "the answer"); err != nil {
		t.Error(err)
	}
	wantNoOffer(t, h)
}

// Whoever called Create has given up, but the instance was made: it must not be lost.
func TestAnAbandonedCreateIsAccepted(t *testing.T) {
	g := newGateway(t)
	h, p := g.open()
	ctx, cancel := context.WithCancel(t.Context())
	create := async(func() error { _, err := h.Create(ctx, nil); return err })
	r := p.requestFor("", 0, "CreateAndLink")
	cancel()
	if err := receive(t, create, "Create's end"); !errors.Is(err, context.Canceled) {
		t.Errorf("Create failed with %v", err)
	}
	p.reply(r, created("a", 1))
	p.works(accept(t, h), 1, 10)
}

func TestCreateIsRefused(t *testing.T) {
	g := newGateway(t)
	h, p := g.open()
	create := async(func() error { _, err := h.Create(t.Context(), nil); return err })
	p.fail(p.requestFor("", 0, "CreateAndLink"), &linkv1.Error{Code: int32(codes.ResourceExhausted), Reason: "GAME_SERVER_FULL"})
	var refused *gameserver.Error
	if err := receive(t, create, "the refusal"); !errors.As(err, &refused) || refused.Reason != "GAME_SERVER_FULL" {
		t.Errorf("got %v", err)
	}
	big := &gameserverv1.CreateAndLinkRequest{GameData: &typev1.Data{Kind: &typev1.Data_Binary{Binary: make([]byte, 2<<20)}}}
	if _, err := h.Create(t.Context(), big); !errors.As(err, &refused) || refused.Reason != "LIMIT_EXCEEDED" {
		t.Errorf("got %v", err)
	}
	create = async(func() error { _, err := h.Create(t.Context(), nil); return err })
	p.reply(p.requestFor("", 0, "CreateAndLink"), new(gameserverv1.CreateAndLinkResponse)) // an instance without an id
	if err := receive(t, create, "the failure"); !errors.As(err, &refused) || refused.Reason != "MALFORMED" {
		t.Errorf("got %v", err)
	}
	p.assign("a") // nothing is held up
	p.reply(p.requestFor("a", 0, "Link"), startOf("a", 1))
	p.works(accept(t, h), 1, 10)
}

func TestConnectNeedsAnInstance(t *testing.T) {
	doc := newGateway(t).bootstrap()
	doc.Instance = ""
	_, err := gameserver.Connect(t.Context(), gameserver.WithBootstrap(doc))
	if !errors.Is(err, gameserver.ErrNoInstance) || !strings.Contains(err.Error(), "Open") || !strings.Contains(err.Error(), "Accept") {
		t.Errorf("got %v, want an error that names Open and Accept", err)
	}
}

// Whoever called Connect has no Accept, so nothing else is linked.
func TestConnectTakesNoAssignments(t *testing.T) {
	g := newGateway(t)
	s, p := g.connect(nil)
	p.assign("b")
	p.wantNothingElse(s)
}

// A document that names an instance is as good for Open.
func TestOpenWithAnInstance(t *testing.T) {
	g := newGateway(t)
	h, p := g.openWith([]gameserver.Option{gameserver.WithBootstrap(g.bootstrap())})
	p.reply(p.request("Link"), startData())
	s := accept(t, h)
	p.works(s, 100, 10)

	// Where Berth does not want it linked, there is nothing else to wait for: Accept says so.
	h, p = g.openWith([]gameserver.Option{gameserver.WithBootstrap(g.bootstrap())})
	p.fail(p.request("Link"), &linkv1.Error{Code: int32(codes.PermissionDenied), Reason: "NOT_ASSIGNED"})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var refused *gameserver.Error
	if _, err := h.Accept(ctx); !errors.As(err, &refused) || refused.Reason != "NOT_ASSIGNED" || errors.Is(err, gameserver.ErrClosed) {
		t.Errorf("Accept failed with %v", err)
	}
	wantNoOffer(t, h)
}

func TestOpenFailsWhenRefused(t *testing.T) {
	g := newGateway(t)
	open := async(func() error {
		_, err := gameserver.Open(t.Context(), gameserver.WithBootstrap(g.bootstrap()))
		return err
	})
	p := g.accept()
	p.hello()
	p.bye(linkv1.CloseCode_CLOSE_CODE_CREDENTIALS_IN_USE, true)
	var closed *gameserver.CloseError
	if err := receive(t, open, "the failure"); !errors.As(err, &closed) || closed.Code != linkv1.CloseCode_CLOSE_CODE_CREDENTIALS_IN_USE {
		t.Errorf("got %v", err)
	}
}
