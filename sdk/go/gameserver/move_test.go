package gameserver_test

import (
	"bytes"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-dev/berth/sdk/go/gameserver"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	"github.com/coder/websocket"
	"google.golang.org/protobuf/types/known/durationpb"
)

// move asks the server to open its next connection.
func (p *peer) move(notBefore, deadline time.Duration) {
	p.t.Helper()
	p.send(&linkv1.Frame{Kind: &linkv1.Frame_Move{Move: &linkv1.Move{
		NotBefore: durationpb.New(notBefore), Deadline: durationpb.New(deadline),
	}}})
}

// stillWorks makes a call that this connection has to carry.
func stillWorks(t *testing.T, s *gameserver.Server, p *peer) {
	t.Helper()
	call := async(func() error { return s.ConnectPlayers(t.Context()) })
	p.reply(p.request("ConnectPlayers"), new(gameserverv1.ConnectPlayersResponse))
	if err := receive(t, call, "the answer"); err != nil {
		t.Fatal(err)
	}
}

func wantAdded(t *testing.T, s *gameserver.Server, player string) {
	t.Helper()
	if e, ok := receive(t, s.Events(), "an event").(gameserver.PlayersAdded); !ok || e.Players[0].GetId() != player {
		t.Fatalf("got %v, want that %s was added", e, player)
	}
}

// The next connection is opened and resumed while the old one is in use; nothing is lost by it, and nothing is there twice.
func TestMoveLosesAndDoublesNothing(t *testing.T) {
	g := newGateway(t)
	s, old := g.connect([]string{"ann"})
	first := async(func() error { return s.ConnectPlayers(t.Context()) })
	sent := []*linkv1.Request{old.request("ConnectPlayers")}
	old.notify(1001, 1000, playersAdded("bob"))
	wantAdded(t, s, "bob")
	old.wantAck(1001)

	old.move(0, time.Second)
	p := g.accept()
	hello := p.hello()
	if hello.GetResumeKey() != "RESUME-KEY" || hello.GetInstances()[0].GetLastOffset() != 1001 {
		t.Errorf("Hello is %v", hello)
	}
	// Until Welcome the old one goes on.
	old.notify(1002, 1001, playersAdded("cid"))
	wantAdded(t, s, "cid")
	old.wantAck(1002)
	old.deaf.Store(true) // so that it stays open when the server closes it
	second := async(func() error { return s.RemovePlayers(t.Context(), "ann") })
	sent = append(sent, old.request("RemovePlayers"))

	p.welcome("2", resumed(101))
	if f := p.next(); f.GetAck().GetOffset() != 1002 { // Hello has not said so
		t.Errorf("got %v, want an ack of 1002", f)
	}
	var again []*linkv1.Request
	for _, r := range sent {
		a := p.request(r.GetMethod())
		if a.GetId() != r.GetId() || !bytes.Equal(a.GetPayload(), r.GetPayload()) {
			t.Errorf("%v is repeated as %v", r, a)
		}
		again = append(again, a)
	}
	// An answer that comes over the old one counts; a refusal does not, for the next gateway was asked.
	old.fail(sent[1], &linkv1.Error{Code: 9, Reason: "STALE_LINK_EPOCH"})
	old.reply(sent[0], new(gameserverv1.ConnectPlayersResponse))
	if err := receive(t, first, "the first answer"); err != nil {
		t.Error(err)
	}
	p.reply(again[0], new(gameserverv1.ConnectPlayersResponse)) // too late
	p.reply(again[1], new(gameserverv1.RemovePlayersResponse))
	if err := receive(t, second, "the second answer"); err != nil {
		t.Error(err)
	}
	// Berth sends again what Hello did not acknowledge.
	p.notify(1002, 1001, playersAdded("cid"))
	p.wantAck(1002)
	p.notify(1003, 1002, playersAdded("dan"))
	wantAdded(t, s, "dan")
	p.wantAck(1003)
	stillWorks(t, s, p)
}

func TestMoveClosesTheOldConnection(t *testing.T) {
	g := newGateway(t)
	s, old := g.connect(nil)
	old.move(0, 0)
	p := g.accept()
	p.hello()
	stillWorks(t, s, old)
	p.welcome("2", resumed(100))
	closedSoon(t, old.closed, "the old connection's end")
	if old.status != websocket.StatusNormalClosure {
		t.Errorf("the old connection was closed with %d, want 1000", old.status)
	}
	stillWorks(t, s, p)

	p.move(0, 0) // and so on
	last := g.accept()
	if key := last.hello().GetResumeKey(); key != "RESUME-KEY" {
		t.Errorf("resumes with %q", key)
	}
	last.welcome("3", resumed(100))
	stillWorks(t, s, last)
}

// A gateway that drains, too, takes nobody. The old connection goes on until another one can be opened.
func TestMoveIsTriedAgain(t *testing.T) {
	g := newGateway(t)
	s, old := g.connect(nil)
	g.refusal.Store(&refusal{status: http.StatusServiceUnavailable, retryAfter: "0"})
	old.move(0, time.Second)
	receive(t, g.refused, "a try")
	receive(t, g.refused, "another try")
	stillWorks(t, s, old)
	g.refusal.Store(nil)
	p := g.accept()
	p.hello()
	p.welcome("2", resumed(100))
	closedSoon(t, old.closed, "the old connection's end")
	stillWorks(t, s, p)
}

func TestMoveEndsWithTheOldConnection(t *testing.T) {
	g := newGateway(t)
	s, old := g.connect(nil)
	g.refusal.Store(&refusal{status: http.StatusServiceUnavailable, retryAfter: "0"})
	old.move(0, time.Second)
	receive(t, g.refused, "a try")
	old.bye(linkv1.CloseCode_CLOSE_CODE_GOING_AWAY, true) // the deadline is over
	g.refusal.Store(nil)
	p := g.accept() // as after every loss
	p.hello()
	p.welcome("2", resumed(100))
	stillWorks(t, s, p)
}

// A gateway sends away whoever has moved, and may do so before Welcome is here. If that is lost altogether, it is no other server that has
// replaced this one.
func TestMoveWhoseOldConnectionIsReplaced(t *testing.T) {
	for name, welcomed := range map[string]bool{"before Welcome": true, "and Welcome is lost": false} {
		t.Run(name, func(t *testing.T) {
			g := newGateway(t)
			s, old := g.connect(nil)
			old.move(0, 0)
			p := g.accept()
			p.hello()
			old.bye(linkv1.CloseCode_CLOSE_CODE_REPLACED, true)
			closedSoon(t, old.closed, "the old connection's end")
			if !welcomed {
				p.cut()
				p = g.accept()
				p.hello()
			}
			p.welcome("2", resumed(100))
			stillWorks(t, s, p)
		})
	}
}

// A Link that is under way moves, too: what the old gateway answers now would bind it to the connection that is left.
func TestMoveTakesALinkAlong(t *testing.T) {
	g := newGateway(t)
	h, old := g.open(assigned(instanceID))
	link := old.requestFor(instanceID, 0, "Link")
	old.move(0, 0)
	p := g.accept()
	p.hello()
	old.deaf.Store(true)
	old.notify(1, 0, playersAdded("nobody")) // anything: it is dropped
	p.welcome("2")
	again := p.requestFor(instanceID, 0, "Link")
	if again.GetId() != link.GetId() {
		t.Errorf("Link has number %d now and had %d", again.GetId(), link.GetId())
	}
	p.reply(again, startData())
	s, err := h.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	stillWorks(t, s, p)
}

// Whoever is told to move waits for the slot, and begins somewhere in its first half: others were told the same.
func TestMoveBeginsWithinItsSlot(t *testing.T) {
	const notBefore, deadline = 10 * time.Second, 30 * time.Second
	begins := make(map[time.Duration]bool)
	for range 5 {
		synctest.Test(t, func(t *testing.T) {
			g := newBubbleGateway(t)
			c := g.connecting()
			old := g.accept()
			old.hello()
			old.welcome("1", calm)
			old.reply(old.request("Link"), startData())
			s := c.server()
			told := time.Now()
			old.move(notBefore, deadline)
			old.move(0, 0) // it was told already
			p := <-g.peers
			after := time.Since(told)
			if after < notBefore || after > notBefore+(deadline-notBefore)/2 {
				t.Errorf("moved after %s", after)
			}
			begins[after] = true
			p.hello()
			p.welcome("2", resumed(100), calm)
			stillWorks(t, s, p)
		})
	}
	if len(begins) < 2 {
		t.Errorf("all moved after %v", begins)
	}
}

// Close in the middle of a move leaves nothing behind.
func TestCloseDuringAMove(t *testing.T) {
	g := newGateway(t)
	s, old := g.connect(nil)
	old.move(0, 0)
	p := g.accept()
	p.hello()
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	closedSoon(t, old.closed, "the old connection's end")
	closedSoon(t, p.closed, "the new connection's end")
}
