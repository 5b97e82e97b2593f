package gameserver_test

import (
	"context"
	"slices"
	"testing"

	"github.com/berth-dev/berth/sdk/go/gameserver"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
)

func TestEventsComeInOrderAndAreAcknowledgedWhenTaken(t *testing.T) {
	g := newGateway(t)
	s, p := g.connect([]string{"ann"})
	p.notify(1001, 1000, playersAdded("bob"))
	p.notify(1005, 1001, &gameserverv1.InstanceEvent{Event: &gameserverv1.InstanceEvent_PlayersRemoved{
		PlayersRemoved: &gameserverv1.PlayersRemoved{PlayerIds: []string{"ann"}},
	}})
	p.notify(1006, 1005, new(gameserverv1.InstanceEvent)) // a kind that is not known
	p.notify(1009, 1006, &gameserverv1.InstanceEvent{Event: &gameserverv1.InstanceEvent_GameDataUpdated{
		GameDataUpdated: &gameserverv1.GameDataUpdated{GameData: data(t, map[string]any{"map": "dust"})},
	}})

	// Nothing was taken yet: a new connection must say so, and gets everything again.
	call := async(func() error { return s.ConnectPlayers(t.Context()) })
	p.reply(p.request("ConnectPlayers"), new(gameserverv1.ConnectPlayersResponse)) // proof that there was no ack before
	if err := receive(t, call, "the answer"); err != nil {
		t.Fatal(err)
	}
	p.cut()
	p = g.accept()
	if at := p.hello().GetInstances()[0].GetLastOffset(); at != 1000 {
		t.Errorf("resumes after %d, want 1000", at)
	}
	p.welcome("2", resumed(100))
	p.notify(1001, 1000, playersAdded("bob")) // seen, so not given to the game twice

	if e, ok := receive(t, s.Events(), "an event").(gameserver.PlayersAdded); !ok || e.Players[0].GetId() != "bob" {
		t.Errorf("first event: %v", e)
	}
	p.wantAck(1001)
	if e, ok := receive(t, s.Events(), "an event").(gameserver.PlayersRemoved); !ok || e.PlayerIDs[0] != "ann" {
		t.Errorf("second event: %v", e)
	}
	if e, ok := receive(t, s.Events(), "an event").(gameserver.GameDataUpdated); !ok || e.GameData.GetJson() == nil {
		t.Errorf("third event: %v", e)
	}
	for last := int64(0); last != 1009; { // acks may be folded
		last = p.next().GetAck().GetOffset()
	}
	if in := s.Instance(); len(in.GetPlayers()) != 1 || in.GetPlayers()[0].GetId() != "bob" || in.GetGameData().GetJson() == nil {
		t.Errorf("the instance is %v", in)
	}

	// What was taken and comes again is acknowledged again, or Berth would send it for ever.
	p.notify(1009, 1006, new(gameserverv1.InstanceEvent))
	p.wantAck(1009)
	p.cut()
	p = g.accept()
	if at := p.hello().GetInstances()[0].GetLastOffset(); at != 1009 {
		t.Errorf("resumes after %d, want 1009", at)
	}
}

func TestAllEndsWithItsContextOrTheLink(t *testing.T) {
	g := newGateway(t)
	s, p := g.connect(nil)
	p.notify(1001, 1000, playersAdded("ann"))
	p.notify(1002, 1001, playersAdded("bob"))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var got []string
	for e := range s.All(ctx) {
		got = append(got, e.(gameserver.PlayersAdded).Players[0].GetId())
		cancel()
	}
	for e := range s.All(t.Context()) {
		got = append(got, e.(gameserver.PlayersAdded).Players[0].GetId())
		break
	}
	p.bye(linkv1.CloseCode_CLOSE_CODE_SUPERSEDED, true)
	for e := range s.All(t.Context()) {
		t.Errorf("got %v after the end", e)
	}
	if !slices.Equal(got, []string{"ann", "bob"}) {
		t.Errorf("got %v", got)
	}
}

func TestMissedEventIsFetchedByResuming(t *testing.T) {
	g := newGateway(t)
	s, p := g.connect(nil)
	p.notify(1002, 1001, playersAdded("bob")) // 1001 was lost
	p = g.accept()
	if at := p.hello().GetInstances()[0].GetLastOffset(); at != 1000 {
		t.Errorf("resumes after %d, want 1000", at)
	}
	p.welcome("2", resumed(100))
	p.notify(1001, 1000, playersAdded("ann"))
	p.notify(1002, 1001, playersAdded("bob"))
	for _, want := range []string{"ann", "bob"} {
		if e, ok := receive(t, s.Events(), "an event").(gameserver.PlayersAdded); !ok || e.Players[0].GetId() != want {
			t.Errorf("got %v, want %s added", e, want)
		}
	}
}

// A game that does not read its events loses none: what does not fit waits in Berth.
func TestOverflowingEventsAreFetchedLater(t *testing.T) {
	const room, all = 1024, 1100
	g := newGateway(t)
	s, p := g.connect(nil)
	for i := int64(1); i <= all; i++ {
		p.notify(1000+i, 1000+i-1, playersAdded("x"))
	}
	// The link goes on while nobody reads events.
	call := async(func() error { return s.ConnectPlayers(t.Context()) })
	p.reply(p.request("ConnectPlayers"), new(gameserverv1.ConnectPlayersResponse))
	if err := receive(t, call, "the answer"); err != nil {
		t.Fatal(err)
	}
	for range room {
		receive(t, s.Events(), "an event")
	}
	p = g.accept()
	at := p.hello().GetInstances()[0].GetLastOffset()
	if at != 1000+room {
		t.Fatalf("resumes after %d, want %d", at, 1000+room)
	}
	p.welcome("2", resumed(100))
	for i := at + 1; i <= 1000+all; i++ {
		p.notify(i, i-1, playersAdded("x"))
	}
	for range all - room {
		receive(t, s.Events(), "an event")
	}
}

func TestTerminatedIsDeliveredEvenAfterTheLinkIsOver(t *testing.T) {
	g := newGateway(t)
	s, p := g.connect(nil)
	p.notify(1001, 1000, &gameserverv1.InstanceEvent{Event: &gameserverv1.InstanceEvent_Terminated{Terminated: &gameserverv1.Terminated{
		Reason: instancev1.GameInstance_REASON_REQUESTED, Message: "enough",
	}}})
	p.bye(linkv1.CloseCode_CLOSE_CODE_SUPERSEDED, true)
	closedSoon(t, s.Done(), "the link's end")
	if s.Err() != nil {
		t.Errorf("Err is %v", s.Err())
	}
	e, ok := receive(t, s.Events(), "an event").(gameserver.Terminated)
	if !ok || e.Reason != instancev1.GameInstance_REASON_REQUESTED || e.Message != "enough" {
		t.Errorf("got %v", e)
	}
	closedSoon(t, s.Events(), "the end of events")
}
