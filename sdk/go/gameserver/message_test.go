package gameserver_test

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/berth-dev/berth/sdk/go/gameserver"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

func message(id, topic string) *gameserverv1.InstanceEvent {
	return &gameserverv1.InstanceEvent{Event: &gameserverv1.InstanceEvent_Message{Message: &gameserverv1.MessageReceived{MessageId: id, Topic: topic}}}
}

func resync() *gameserverv1.InstanceEvent {
	return &gameserverv1.InstanceEvent{Event: &gameserverv1.InstanceEvent_Resync{Resync: new(gameserverv1.Resync)}}
}

// say sends an ephemeral message to the server.
func (p *peer) say(topic string) {
	p.t.Helper()
	p.send(&linkv1.Frame{Kind: &linkv1.Frame_Message{Message: &linkv1.Message{InstanceId: instanceID, Topic: topic}}})
}

// said waits for an ephemeral message and checks what holds for every one.
func (p *peer) said() *linkv1.Message {
	p.t.Helper()
	f := p.next()
	m := f.GetMessage()
	if m == nil {
		p.t.Fatalf("got %v, want a message", f)
	}
	if m.GetAuth().GetGame() != p.game || m.GetAuth().GetSocial() != p.social || m.GetLinkEpoch() != p.epoch || m.GetInstanceId() != instanceID {
		p.t.Errorf("the message is %v", m)
	}
	return m
}

// pastAcks is request that may come after acks, with an epoch that the test names.
func (p *peer) pastAcks(epoch int64, method string) *linkv1.Request {
	p.t.Helper()
	for {
		f := p.next()
		if f.GetAck() != nil {
			continue
		}
		if r := f.GetRequest(); r.GetMethod() == method && r.GetLinkEpoch() == epoch {
			return r
		}
		p.t.Fatalf("got %v, want a request %s", f, method)
	}
}

func wantMessage(t *testing.T, s *gameserver.Server, id, topic string) {
	t.Helper()
	if e, ok := receive(t, s.Events(), "an event").(gameserver.MessageReceived); !ok || e.ID != id || e.Topic != topic {
		t.Fatalf("got %v, want message %q about %q", e, id, topic)
	}
}

func TestSendMessage(t *testing.T) {
	g := newGateway(t)
	s, p := g.connect(nil)
	call := async(func() error { return s.SendMessage(t.Context(), "score", data(t, map[string]any{"ann": 1})) })
	sent := p.request("SendMessage")
	p.cut() // unanswered
	p = g.accept()
	p.hello()
	p.welcome("2", resumed(100))
	again := p.request("SendMessage")
	req := new(gameserverv1.SendMessageRequest)
	if err := proto.Unmarshal(again.GetPayload(), req); err != nil {
		t.Fatal(err)
	}
	if again.GetId() != sent.GetId() || req.GetTopic() != "score" || req.GetData().GetJson().GetFields()["ann"].GetNumberValue() != 1 {
		t.Errorf("sent %v under number %d, before under %d", req, again.GetId(), sent.GetId())
	}
	p.reply(again, &gameserverv1.SendMessageResponse{Offset: 1})
	if err := receive(t, call, "the answer"); err != nil {
		t.Error(err)
	}
}

func TestSendEphemeral(t *testing.T) {
	g := newGateway(t)
	s, p := g.connect(nil)
	before := time.Now().UnixMicro()
	last := before - 1
	for i := range 20 {
		if err := s.SendEphemeral("pos", data(t, map[string]any{"x": i})); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 20 {
		m := p.said()
		if m.GetSequence() <= last || m.GetTopic() != "pos" || m.GetData().GetJson().GetFields()["x"].GetNumberValue() != float64(i) {
			t.Errorf("message %d after %d: %v", i, last, m)
		}
		last = m.GetSequence()
	}

	// What is said while there is no connection is lost, and it is no error.
	g.refusal.Store(&refusal{status: http.StatusServiceUnavailable, retryAfter: "0"})
	p.cut()
	receive(t, g.refused, "a try")
	if err := s.SendEphemeral("lost", nil); err != nil {
		t.Error(err)
	}
	g.refusal.Store(nil)
	p = g.accept()
	p.hello()
	p.welcome("2", resumed(101))
	stillWorks(t, s, p)
	if err := s.SendEphemeral("back", nil); err != nil {
		t.Error(err)
	}
	if m := p.said(); m.GetTopic() != "back" || m.GetSequence() <= last {
		t.Errorf("got %v", m)
	}
}

func TestSendEphemeralRefuses(t *testing.T) {
	g := newGateway(t)
	s, _ := g.connect(nil)
	object := func(text string) *typev1.Data {
		return &typev1.Data{Kind: &typev1.Data_Json{Json: &structpb.Struct{Fields: map[string]*structpb.Value{"name": structpb.NewStringValue(text)}}}}
	}
	for name, c := range map[string]struct {
		err  error
		want string
	}{
		"a topic that is none":       {s.SendEphemeral("no spaces", nil), "VALIDATION_FAILED"},
		"text that is not UTF-8":     {s.SendEphemeral("x", object("\xff")), "VALIDATION_FAILED"}, // and not the end of the connection
		"data that is far too large": {s.SendEphemeral("x", &typev1.Data{Kind: &typev1.Data_Binary{Binary: make([]byte, 16<<10)}}), "LIMIT_EXCEEDED"},
	} {
		var refused *gameserver.Error
		if !errors.As(c.err, &refused) || refused.Reason != c.want {
			t.Errorf("%s: got %v, want %s", name, c.err, c.want)
		}
	}
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.SendEphemeral("x", nil); !errors.Is(err, gameserver.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// Berth gives again what was not acknowledged when a server links anew: the game has it once all the same.
func TestMessagesComeOnceThroughAFreshLink(t *testing.T) {
	g := newGateway(t)
	s, p := g.connect(nil)
	p.notify(1001, 1000, message("m1", "a"))
	p.notify(1002, 1001, message("m2", "b"))
	p.say("c") // keeps its place
	stillWorks(t, s, p)
	p.cut()
	p = g.accept()
	p.hello()
	p.welcome("2")
	p.reply(p.request("Link"), snapshot(0))
	p.notify(5001, 5000, message("m1", "a"))
	p.notify(5002, 5001, message("m2", "b"))
	p.notify(5003, 5002, message("m3", "d"))
	wantMessage(t, s, "m1", "a")
	wantMessage(t, s, "m2", "b")
	wantMessage(t, s, "", "c")
	if e, ok := receive(t, s.Events(), "an event").(gameserver.Relinked); !ok {
		t.Errorf("got %v, want Relinked", e)
	}
	wantMessage(t, s, "m3", "d")
	for last := int64(0); last != 5003; { // acks may be folded
		last = p.next().GetAck().GetOffset()
	}
}

// Ephemeral messages take no room from what must not be lost.
func TestEphemeralMessagesAreDroppedWhenNobodyReads(t *testing.T) {
	const room = 256
	g := newGateway(t)
	s, p := g.connect(nil)
	for i := range 2 * room {
		p.say(fmt.Sprint(i))
	}
	p.notify(1001, 1000, message("m1", "durable"))
	stillWorks(t, s, p)
	for i := range room {
		wantMessage(t, s, "", fmt.Sprint(i))
	}
	wantMessage(t, s, "m1", "durable")
}

func TestRefusalsOfEphemeralMessagesAreLogged(t *testing.T) {
	var out lockedBuffer
	g := newGateway(t)
	s, p := g.connect(nil, gameserver.WithLogger(slog.New(slog.NewTextHandler(&out, nil))))
	for range 50 {
		p.send(&linkv1.Frame{Kind: &linkv1.Frame_Response{Response: &linkv1.Response{
			Outcome: &linkv1.Response_Error{Error: &linkv1.Error{Code: 9, Reason: "STATE_NOT_ALLOWED", Message: "no"}},
		}}})
	}
	stillWorks(t, s, p)
	if n := strings.Count(out.String(), "STATE_NOT_ALLOWED"); n < 1 || n > 10 {
		t.Errorf("logged %d times:\n%s", n, out.String())
	}
}

// When more has changed than Berth keeps one by one, the server links again over the connection that it has, and calls go on.
func TestResyncLinksAgain(t *testing.T) {
	g := newGateway(t)
	s, p := g.connect([]string{"ann"})
	call := async(func() error { return s.ConnectPlayers(t.Context()) })
	early := p.request("ConnectPlayers")
	p.notify(1001, 1000, resync())
	link := p.pastAcks(0, "Link")
	if link.GetId() <= early.GetId() {
		t.Errorf("Link has number %d", link.GetId())
	}
	p.reply(link, snapshot(7, func(in *instancev1.GameInstance) { in.Players = append(in.Players, &instancev1.Player{Id: "bob"}) }))
	e, ok := receive(t, s.Events(), "an event").(gameserver.Relinked)
	if !ok || len(e.Instance.GetPlayers()) != 2 || e.LostWrites {
		t.Errorf("got %v, want Relinked with two players", e)
	}
	// What went out over the link before is made again over this one.
	p.fail(early, &linkv1.Error{Code: 9, Reason: "STALE_LINK_EPOCH"})
	again := p.pastAcks(200, "ConnectPlayers")
	if again.GetId() != early.GetId() {
		t.Errorf("ConnectPlayers has number %d now and had %d", again.GetId(), early.GetId())
	}
	p.reply(again, new(gameserverv1.ConnectPlayersResponse))
	if err := receive(t, call, "the answer"); err != nil {
		t.Error(err)
	}
	p.notify(5001, 5000, playersAdded("cid"))
	wantAdded(t, s, "cid")
}

// A resync that was not finished when the connection was lost is not forgotten, though the link goes on.
func TestResyncSurvivesTheConnection(t *testing.T) {
	g := newGateway(t)
	s, p := g.connect(nil)
	p.notify(1001, 1000, resync())
	p.pastAcks(0, "Link")
	p.cut()
	p = g.accept()
	p.hello()
	p.welcome("2", resumed(100))
	p.reply(p.pastAcks(0, "Link"), snapshot(0))
	if e, ok := receive(t, s.Events(), "an event").(gameserver.Relinked); !ok {
		t.Errorf("got %v, want Relinked", e)
	}
}

// A server that is asked to move while it links again lets the next gateway link: what the old connection answers late is not the start of what comes over the new one.
func TestResyncSurvivesAMove(t *testing.T) {
	g := newGateway(t)
	s, old := g.connect(nil)
	call := async(func() error { return s.ConnectPlayers(t.Context()) })
	early := old.request("ConnectPlayers")
	old.notify(1001, 1000, resync())
	late := old.pastAcks(0, "Link")
	old.deaf.Store(true) // so that it stays open when the server closes it
	old.move(0, 0)
	p := g.accept()
	p.hello()
	p.welcome("2", resumed(101))
	link := p.pastAcks(0, "Link")
	p.notify(1001, 1000, resync()) // sent before the Link came
	old.reply(late, snapshot(1, func(in *instancev1.GameInstance) { in.Players = nil }))
	old.reply(early, new(gameserverv1.ConnectPlayersResponse))
	if err := receive(t, call, "the answer that came behind the late one"); err != nil {
		t.Fatal(err)
	}
	p.reply(link, snapshot(1))
	if e, ok := receive(t, s.Events(), "an event").(gameserver.Relinked); !ok || len(e.Instance.GetPlayers()) != 1 {
		t.Errorf("got %v, want Relinked with the player of the new connection's answer", e)
	}
	p.notify(5001, 5000, playersAdded("cid"))
	wantAdded(t, s, "cid")
}
