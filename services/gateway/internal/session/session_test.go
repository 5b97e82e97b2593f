package session_test

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/berth-dev/berth/services/gateway/internal/session"
)

func TestFramesComeInTurn(t *testing.T) {
	s := session.New(2)
	if b := s.Request(1); b == nil || b.Rule != session.Order {
		t.Errorf("a request before Hello: %v", b)
	}
	if b := s.Hello(0); b != nil {
		t.Fatal(b)
	}
	if b := s.Request(1); b == nil || b.Rule != session.Order {
		t.Errorf("a request before Welcome: %v", b)
	}
	if b := s.Hello(0); b == nil || b.Rule != session.Order {
		t.Errorf("a second Hello: %v", b)
	}
	s.Open(nil)
	if b := s.Request(0); b == nil || b.Rule != session.Order {
		t.Errorf("request 0: %v", b)
	}
	for id := int64(1); id <= 2; id++ {
		if b := s.Request(id); b != nil {
			t.Errorf("request %d: %v", id, b)
		}
	}
	if b := s.Request(3); b == nil || b.Rule != session.InFlight {
		t.Errorf("a third request: %v", b)
	}
	s.Answered()
	if b := s.Request(3); b != nil {
		t.Errorf("after an answer: %v", b)
	}
}

func TestHelloNamesNoMoreInstancesThanAServerCanHave(t *testing.T) {
	if b := session.New(1).Hello(session.MaxInstances); b != nil {
		t.Errorf("as many as possible: %v", b)
	}
	if b := session.New(1).Hello(session.MaxInstances + 1); b == nil || b.Rule != session.Instances {
		t.Errorf("one more: %v", b)
	}
}

func opened(links ...session.Link) *session.Session {
	s := session.New(1)
	s.Hello(0)
	s.Open(links)
	return s
}

func TestOffer(t *testing.T) {
	for name, c := range map[string]struct {
		instance         string
		offset, previous int64
		want             session.Verdict
	}{
		"the next":                  {"i", 11, 10, session.Send},
		"the first after the start": {"i", 15, 8, session.Send},
		"with something missing":    {"i", 12, 11, session.Pull},
		"the last again":            {"i", 10, 9, session.Drop},
		"an old one":                {"i", 3, 2, session.Drop},
		"of another instance":       {"j", 11, 10, session.Drop},
	} {
		s := opened(session.Link{Instance: "i", Epoch: 1, Offset: 10})
		if got := s.Offer(c.instance, c.offset, c.previous); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestOneMailboxIsReadOnceAtATime(t *testing.T) {
	s := opened(session.Link{Instance: "i", Epoch: 1, Offset: 10})
	at, ok := s.StartPull("i")
	if !ok || at != (session.Position{Instance: "i", Epoch: 1, Offset: 10}) {
		t.Fatalf("%v, %v", at, ok)
	}
	if _, ok := s.StartPull("i"); ok {
		t.Error("a second read began")
	}
	if got := s.Offer("i", 13, 12); got != session.Drop {
		t.Errorf("during the read: %v", got)
	}
	for offset, want := range map[int64]bool{10: false, 11: true} {
		if got := s.Accept(at, offset); got != want {
			t.Errorf("Accept(%d) = %v", offset, got)
		}
	}
	if !s.EndPull(at) {
		t.Error("13 would be lost")
	}
	at, _ = s.StartPull("i")
	s.Accept(at, 12)
	s.Accept(at, 13)
	if s.EndPull(at) {
		t.Error("there is nothing more to read")
	}
	if got := s.Offer("i", 14, 13); got != session.Send {
		t.Errorf("after the read: %v", got)
	}
}

func TestAPausedReadGoesOnWhereItStopped(t *testing.T) {
	s := opened(session.Link{Instance: "i", Epoch: 1})
	at, _ := s.StartPull("i")
	s.Accept(at, 1)
	s.PausePull(at)
	if _, ok := s.StartPull("i"); ok {
		t.Error("a paused read began again")
	}
	if got := s.Offer("i", 2, 1); got != session.Drop {
		t.Errorf("while paused: %v", got)
	}
	if got := s.ResumePull(0); len(got) != 0 {
		t.Errorf("resumed %v, more than asked for", got)
	}
	if got := s.ResumePull(9); !slices.Equal(got, []string{"i"}) {
		t.Errorf("resumed %v", got)
	}
	if at, ok := s.StartPull("i"); !ok || at.Offset != 1 {
		t.Errorf("%v, %v", at, ok)
	}
}

func TestANewerLinkTakesOverAndAnOlderOneDoesNot(t *testing.T) {
	s := opened(session.Link{Instance: "i", Epoch: 5, Offset: 10})
	old, _ := s.StartPull("i")
	s.Linked(session.Link{Instance: "i", Epoch: 4, Offset: 99})
	s.Linked(session.Link{Instance: "i", Epoch: 5, Offset: 12}) // the same link, told again
	if s.Offer("i", 12, 11); s.Accept(old, 12) {
		t.Error("12 is in the link's start data")
	}
	s.Linked(session.Link{Instance: "i", Epoch: 6, Offset: 20})
	if s.Accept(old, 30) || s.EndPull(old) {
		t.Error("a read for the link before counts for this one")
	}
	if s.Unlinked("i", 5) {
		t.Error("the end of the link before ended this one")
	}
	if got := s.Offer("i", 21, 20); got != session.Send {
		t.Errorf("%v", got)
	}
	if !s.Unlinked("i", 6) || s.Offer("i", 22, 21) != session.Drop || len(s.Instances()) != 0 {
		t.Error("the link goes on after its end")
	}
}

// A notification that happened after the start data, and came before it, would be taken for older than it is, and acknowledged though it is not in there.
func TestNothingOvertakesTheStartDataOfALinkThatBeginsAnew(t *testing.T) {
	s := opened(session.Link{Instance: "i", Epoch: 5, Offset: 10})
	read, _ := s.StartPull("i") // began before
	epoch := s.Hold("i")
	if got := s.Offer("i", 21, 20); got != session.Drop {
		t.Errorf("published: %v", got)
	}
	if s.Accept(read, 21) {
		t.Error("read from the mailbox: it is sent")
	}
	s.Linked(session.Link{Instance: "i", Epoch: 5, Offset: 20})
	s.Release("i", epoch)
	if !s.EndPull(read) {
		t.Error("what was held back is not read when the read before has ended")
	}
	if at, ok := s.StartPull("i"); !ok || at.Offset != 20 || !s.Accept(at, 21) {
		t.Errorf("read from %v, %v", at, ok)
	}
}

func TestALinkIsHeldUntilAllItsRequestsAreAnswered(t *testing.T) {
	s := opened(session.Link{Instance: "i", Epoch: 5, Offset: 10})
	if s.Hold("j") != 0 {
		t.Error("an instance that is not linked here is held")
	}
	first, second := s.Hold("i"), s.Hold("i")
	s.Release("i", first-1)
	s.Release("i", first)
	if _, ok := s.StartPull("i"); ok || s.Offer("i", 11, 10) != session.Drop {
		t.Error("it goes on before the second answer")
	}
	s.Release("i", second)
	if _, ok := s.StartPull("i"); !ok {
		t.Error("it does not go on")
	}
}

// Messages that wait get new places behind the start data, which nobody publishes. A read from before does not bring them.
func TestAReadThatBeganBeforeALinkIsFollowedByAnother(t *testing.T) {
	s := opened(session.Link{Instance: "i", Epoch: 5, Offset: 10})
	read, _ := s.StartPull("i")
	epoch := s.Hold("i")
	s.Linked(session.Link{Instance: "i", Epoch: 5, Offset: 20})
	s.Release("i", epoch)
	if !s.EndPull(read) {
		t.Error("no other read follows")
	}
	if at, _ := s.StartPull("i"); s.EndPull(at) {
		t.Error("and then another one")
	}
}

// Links of instances that are over are dropped when there are many, but none whose server still has something to acknowledge.
func TestLinksThatAreOverAreDroppedWhenTheyAreSettled(t *testing.T) {
	s := opened(session.Link{Instance: "live", Epoch: 1})
	end := func(id string, prepare func()) []string {
		s.Linked(session.Link{Instance: id, Epoch: 2, Offset: 10})
		if prepare != nil {
			prepare()
		}
		if s.Over(id, 1) != nil || !s.Live(id) {
			t.Errorf("%s: the end of an older link counts", id)
		}
		dropped := s.Over(id, 2)
		if s.Live(id) {
			t.Errorf("%s is live", id)
		}
		return dropped
	}
	var dropped []string
	dropped = append(dropped, end("unacknowledged", func() {
		s.Offer("unacknowledged", 11, 10)
		s.Offer("unacknowledged", 12, 11)
		s.Ack("unacknowledged", 11)
	})...)
	dropped = append(dropped, end("acknowledged", func() { s.Offer("acknowledged", 11, 10); s.Ack("acknowledged", 11) })...)
	dropped = append(dropped, end("being read", func() { s.StartPull("being read") })...)
	dropped = append(dropped, end("again", nil)...)
	if s.Linked(session.Link{Instance: "again", Epoch: 3, Offset: 10}); !s.Live("again") {
		t.Error("an instance that is linked again is over")
	}
	for n := 0; len(dropped) == 0; n++ {
		if n > 1000 {
			t.Fatal("links are gathered")
		}
		dropped = end(fmt.Sprint("match ", n), nil)
	}
	if !slices.Contains(dropped, "acknowledged") || !slices.Contains(dropped, "match 0") {
		t.Errorf("dropped %v", dropped)
	}
	if got := s.Instances(); !slices.Equal(got, []string{"again", "being read", "live", "unacknowledged"}) {
		t.Errorf("%v are left", got)
	}
	if _, ok := s.Ack("unacknowledged", 12); !ok {
		t.Error("its last notification cannot be acknowledged")
	}
}

func TestLinksAreBounded(t *testing.T) {
	s := opened()
	n := 0
	for ; !s.Full(fmt.Sprint(n)); n++ {
		s.Linked(session.Link{Instance: fmt.Sprint(n), Epoch: 1})
	}
	if n < session.MaxInstances || n > 3*session.MaxInstances {
		t.Errorf("there is room for %d", n)
	}
	if s.Full("0") {
		t.Error("one that is linked has no place")
	}
	if s.Unlinked("0", 1); s.Full("0") {
		t.Error("there is no room where there was some")
	}
}

func TestAcks(t *testing.T) {
	s := opened(session.Link{Instance: "i", Epoch: 3, Offset: 10})
	if _, ok := s.Acked("i"); ok {
		t.Error("nothing was acknowledged yet")
	}
	if _, ok := s.Ack("j", 1); ok {
		t.Error("an unlinked instance was acknowledged")
	}
	if at, ok := s.Ack("i", 12); !ok || at != (session.Position{Instance: "i", Epoch: 3, Offset: 10}) {
		t.Errorf("of what was not sent: %v, %v", at, ok)
	}
	s.Offer("i", 12, 10)
	if at, ok := s.Acked("i"); !ok || at != (session.Position{Instance: "i", Epoch: 3, Offset: 12}) {
		t.Errorf("once it was sent: %v, %v", at, ok)
	}
	if at, _ := s.Ack("i", 11); at.Offset != 12 {
		t.Errorf("an acknowledgement went back to %d", at.Offset)
	}
	if at, ok := s.Acked("i"); !ok || at.Offset != 12 {
		t.Errorf("%v, %v", at, ok)
	}
}

// Whatever is published, lost, repeated or late, and however reads of the mailbox fall in between: each entry is sent once, in order, and once nothing
// is published any more, a reminder brings what is missing.
func TestDeliveryInOrderOnceAndWhole(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := opened(session.Link{Instance: "i", Epoch: 1})
		n := rapid.Int64Range(1, 12).Draw(t, "entries")
		committed := int64(0)
		var sent []int64
		var from *session.Position // of the read that is under way
		var read []int64           // what it read
		begin := func() {
			if at, ok := s.StartPull("i"); ok {
				from, read = &at, nil
				for o := at.Offset + 1; o <= committed; o++ {
					read = append(read, o)
				}
			}
		}
		finish := func() {
			if from == nil {
				return
			}
			at := *from
			from = nil
			for _, o := range read {
				if s.Accept(at, o) {
					sent = append(sent, o)
				}
			}
			if s.EndPull(at) {
				begin()
			}
		}
		publish := func(o int64) {
			switch s.Offer("i", o, o-1) {
			case session.Send:
				sent = append(sent, o)
			case session.Pull:
				begin()
			case session.Drop:
			}
		}
		for steps := rapid.IntRange(1, 60).Draw(t, "steps"); steps > 0; steps-- {
			switch rapid.IntRange(0, 4).Draw(t, "step") {
			case 0, 1:
				if committed < n {
					committed++
					if rapid.Bool().Draw(t, "arrives") {
						publish(committed)
					}
				}
			case 2:
				if committed > 0 {
					publish(rapid.Int64Range(1, committed).Draw(t, "late"))
				}
			case 3:
				finish()
			case 4:
				begin()
			}
		}
		for range 3 { // reminders
			finish()
			begin()
		}
		finish()
		var want []int64
		for o := int64(1); o <= committed; o++ {
			want = append(want, o)
		}
		if !slices.Equal(sent, want) {
			t.Fatalf("sent %v of %d", sent, committed)
		}
	})
}
