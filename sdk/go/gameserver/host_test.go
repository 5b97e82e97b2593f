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
