package instance

import (
	"testing"
	"time"
)

// Commands that are committed together keep their messages, whatever the others drop.
func TestABatchKeepsItsMessages(t *testing.T) {
	id := "5f0c1e52-8f0d-4c53-9a3e-0d9f6f3f7b11"
	c, err := Decide(nil, Create{Namespace: "n", ID: id, Placement: Placement{Build: "b"}}, "test", time.Unix(1, 0))
	if err != nil {
		t.Fatal(err)
	}
	inst := c.After
	server := Caller{ServerID: inst.Attempts[0].ServerID}
	message := func(id string) Command { return MessageServer{Message: Message{ID: id}} }
	say := MessageBackends{Server: server}
	batch := func(cmds ...Command) *decisions {
		var requests []*request
		for _, cmd := range cmds {
			requests = append(requests, &request{cmd: cmd})
		}
		d := decideAll(id, Loaded{Instance: inst, Now: time.Unix(2, 0)}, requests)
		for n, o := range d.outcomes {
			if o.err != nil {
				t.Fatalf("%d: %v", n, o.err)
			}
		}
		return d
	}
	d := batch(message("a"), LinkServer{Server: server, SessionEpoch: 1}, say, UpdateGameData{}, message("b"), say, Replace{})
	var got []string
	for _, e := range d.change.Events {
		switch {
		case e.Message != nil:
			got = append(got, e.Message.ID)
		case e.last():
			got = append(got, "last")
		default:
			got = append(got, "other")
		}
	}
	if len(got) != 3 || got[0] != "a" || got[1] != "b" || got[2] != "last" || len(d.change.Said) != 2 || !d.change.ClearMailbox {
		t.Errorf("events %v, %d messages to backends", got, len(d.change.Said))
	}
	d.settle(Committed{Revision: 5, FirstSaid: 100})
	if first, second := d.outcomes[2].inst.LastSaid, d.outcomes[5].inst.LastSaid; first != 100 || second != 101 {
		t.Errorf("the messages to backends are at %d and %d, want 100 and 101", first, second)
	}
}

type nobody struct{}

func (nobody) Deliver(string, []Delivery) {}
func (nobody) Kick(string)                {}

// The start data of a Link ends before the messages that are committed together with it: else they would count as in there, and never be sent.
func TestMessagesOfABatchComeBehindTheStartDataOfItsLink(t *testing.T) {
	id := "5f0c1e52-8f0d-4c53-9a3e-0d9f6f3f7b11"
	c, err := Decide(nil, Create{Namespace: "n", ID: id, Placement: Placement{Build: "b"}}, "test", time.Unix(1, 0))
	if err != nil {
		t.Fatal(err)
	}
	inst := c.After
	inst.LastOffset = 10
	d := decideAll(id, Loaded{Instance: inst, Now: time.Unix(2, 0)}, []*request{
		{cmd: MessageServer{Message: Message{ID: "a"}}},
		{cmd: LinkServer{Server: Caller{ServerID: inst.Attempts[0].ServerID}, SessionEpoch: 1, GatewayID: "gw"}},
	})
	s := &Service{cfg: Config{Courier: nobody{}}, driver: nobody{}}
	s.committed(d.change, Committed{Revision: 5, FirstOffset: 11, Previous: 10})
	link := d.outcomes[1]
	if link.err != nil || len(d.change.Events) != 1 {
		t.Fatalf("%v; %d events", link.err, len(d.change.Events))
	}
	if got := link.inst; got.LastOffset != 10 || got.Link.Floor != 10 {
		t.Errorf("the start data is at %d with a floor of %d; the message at 11 comes behind 10", got.LastOffset, got.Link.Floor)
	}
}
