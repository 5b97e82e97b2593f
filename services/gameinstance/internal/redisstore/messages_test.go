package redisstore_test

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/services/gameinstance/internal/instance"
	"github.com/berth-dev/berth/services/gameinstance/internal/redisstore"
)

func text(s string) instance.Data {
	return instance.Data{Set: true, Binary: []byte(s), Size: len(s)}
}

// tell gives the server a message whose id and data are the text.
func tell(t *testing.T, s *redisstore.Store, id, what string) instance.Committed {
	t.Helper()
	_, done := must(t, s, id, instance.MessageServer{Message: instance.Message{ID: what, Topic: "t", Data: text(what)}})
	return done
}

func notify(t *testing.T, s *redisstore.Store, id, what string) instance.Committed {
	t.Helper()
	_, done := must(t, s, id, instance.UpdateGameData{Data: instance.Update{Data: text(what)}})
	return done
}

// anyEpoch is that of a link that is newer than all.
const anyEpoch = 1 << 52

// mail returns what a mailbox has: m:ID, d:DATA, resync or last.
func mail(t *testing.T, s *redisstore.Store, id string) (all []instance.Delivery, kinds []string) {
	t.Helper()
	all, _, err := s.Pull(context.Background(), id, anyEpoch, 0, 2000)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range all {
		switch e := d.Event; {
		case e.Message != nil:
			kinds = append(kinds, "m:"+e.Message.ID)
		case e.GameDataUpdated != nil:
			kinds = append(kinds, "d:"+string(e.GameDataUpdated.Binary))
		case e.Resync != nil:
			kinds = append(kinds, "resync")
		default:
			kinds = append(kinds, "last")
		}
	}
	return all, kinds
}

func holds(t *testing.T, s *redisstore.Store, id string, want ...string) []instance.Delivery {
	t.Helper()
	all, got := mail(t, s, id)
	if !slices.Equal(got, want) {
		t.Errorf("the mailbox has %q, want %q", got, want)
	}
	return all
}

func linkAgain(t *testing.T, s *redisstore.Store, id string, epoch int64) *instance.Change {
	t.Helper()
	c, _ := must(t, s, id, instance.LinkServer{Server: instance.Caller{ServerID: load(t, s, id).Attempt().ServerID}, SessionEpoch: epoch, GatewayID: "gw"})
	return c
}

func TestAMessageWaitsForALinkAndOutlivesIt(t *testing.T) {
	each(t, func(t *testing.T, s *redisstore.Store) {
		id := created(t, s)
		tell(t, s, id, "before any server")
		before := load(t, s, id).LastOffset
		c := linkAgain(t, s, id, 1)
		if c.After.LastOffset != before || c.After.Link.Floor != before {
			t.Errorf("the start data is at %d with a floor of %d, was at %d", c.After.LastOffset, c.After.Link.Floor, before)
		}
		if all := holds(t, s, id, "m:before any server"); all[0].Offset <= before || all[0].Previous != before || all[0].Event.Message.Topic != "t" {
			t.Errorf("above %d there is %+v", before, all[0])
		}
		notify(t, s, id, "x")
		tell(t, s, id, "second")
		floor := load(t, s, id).LastOffset
		linkAgain(t, s, id, 2) // another socket
		all := holds(t, s, id, "m:before any server", "m:second")
		if all[0].Previous != floor || all[1].Previous != all[0].Offset {
			t.Errorf("above %d they do not follow one another: %+v", floor, all)
		}
		got := load(t, s, id)
		if got.LastOffset != all[1].Offset || got.MailCount != 2 {
			t.Errorf("%d entries up to %d, want 2 up to %d", got.MailCount, got.LastOffset, all[1].Offset)
		}
		if err := s.Ack(context.Background(), id, anyEpoch, all[1].Offset); err != nil {
			t.Fatal(err)
		}
		if got := load(t, s, id); got.MailCount != 0 || got.MailBytes != 0 {
			t.Errorf("after all was acknowledged: %d entries, %d bytes", got.MailCount, got.MailBytes)
		}
	})
}

// A gateway that did not hear that its server was replaced neither reads nor drops what is for the next one, and one whose link was only resumed does both.
func TestTheMailboxIsNotForLinksFromBeforeTheLastFreshOne(t *testing.T) {
	each(t, func(t *testing.T, s *redisstore.Store) {
		ctx := context.Background()
		id := linked(t, s)
		old := load(t, s, id).Link
		must(t, s, id, instance.AttachSession{ServerID: old.ServerID, SessionEpoch: 2, GatewayID: "other", LinkEpoch: old.Epoch})
		m := tell(t, s, id, "m")
		if all, _, err := s.Pull(ctx, id, old.Epoch, 0, 10); err != nil || len(all) != 1 {
			t.Errorf("over a link that was resumed since: %v, %v", all, err)
		}
		must(t, s, id, instance.Replace{Message: "m", ServerID: "00000000-0000-0000-0000-000000000001"})
		must(t, s, id, instance.ReportAllocated{AttemptID: load(t, s, id).Attempt().ID})
		linkAgain(t, s, id, 1)
		if all, _, err := s.Pull(ctx, id, old.Epoch, 0, 10); !errs.Is(err, errs.StaleLinkEpoch) {
			t.Errorf("the server before reads %v, %v", all, err)
		}
		if err := s.Ack(ctx, id, old.Epoch, m.FirstOffset+1e12); err != nil {
			t.Fatal(err)
		}
		all := holds(t, s, id, "m:m")
		if err := s.Ack(ctx, id, load(t, s, id).Link.Epoch, all[0].Offset); err != nil {
			t.Fatal(err)
		}
		holds(t, s, id)
	})
}

func TestLinkingAgainOverTheSameSocketLosesNoMessage(t *testing.T) {
	each(t, func(t *testing.T, s *redisstore.Store) {
		id := linked(t, s)
		epoch := load(t, s, id).Link.Epoch
		notify(t, s, id, "x")
		tell(t, s, id, "m")
		c := linkAgain(t, s, id, 1)
		if c.After.Link.Epoch != epoch {
			t.Errorf("the link's epoch is %d, was %d", c.After.Link.Epoch, epoch)
		}
		if all := holds(t, s, id, "m:m"); all[0].Previous != c.After.LastOffset {
			t.Errorf("%+v does not follow the start data at %d", all[0], c.After.LastOffset)
		}
	})
}

func TestMessagesOutliveTheServerThatTheyWereFor(t *testing.T) {
	each(t, func(t *testing.T, s *redisstore.Store) {
		id := linked(t, s)
		first := notify(t, s, id, "x")
		m := tell(t, s, id, "m")
		must(t, s, id, instance.Replace{Message: "m", ServerID: "00000000-0000-0000-0000-000000000001"})
		all := holds(t, s, id, "m:m", "last")
		if all[0].Offset != m.FirstOffset || all[0].Previous >= first.FirstOffset || all[1].Previous != m.FirstOffset {
			t.Errorf("a server that has seen %d finds a gap, or one twice: %+v", m.FirstOffset, all)
		}
		must(t, s, id, instance.ReportAllocated{AttemptID: load(t, s, id).Attempt().ID})
		linkAgain(t, s, id, 1)
		holds(t, s, id, "m:m")
	})
}

func TestNotificationsThatDoNotFitBecomeOne(t *testing.T) {
	each(t, func(t *testing.T, s *redisstore.Store) {
		id := linked(t, s)
		first := notify(t, s, id, "first")
		m := tell(t, s, id, "m")
		var last instance.Committed
		for n := range instance.MaxMail - 2 {
			last = notify(t, s, id, fmt.Sprint(n))
		}
		if _, _, err := commit(t, s, id, instance.Envelope{}, instance.MessageServer{}); !errs.Is(err, errs.MailboxFull) {
			t.Errorf("a message to a full mailbox: %v", err)
		}
		done := notify(t, s, id, "one more")
		all := holds(t, s, id, "m:m", "resync")
		if all[0].Offset != m.FirstOffset || all[0].Previous >= first.FirstOffset || all[1].Previous != m.FirstOffset || all[1].Offset <= last.FirstOffset {
			t.Errorf("who has seen any of those that were dropped finds a gap, or one twice: %+v", all)
		}
		if done.FirstOffset != all[1].Offset || done.Previous != all[1].Previous || all[1].Event.Resync.Revision == 0 {
			t.Errorf("published as %+v, and kept as %+v", done, all[1])
		}
		if got := load(t, s, id); string(got.GameData.Binary) != "one more" || got.MailCount != 2 {
			t.Errorf("then the instance has %q, and %d entries wait", got.GameData.Binary, got.MailCount)
		}
		notify(t, s, id, "after it")
		must(t, s, id, instance.Terminate{})
		holds(t, s, id, "m:m", "resync", "d:after it", "last")
	})
}

func TestMessagesToBackendsWaitUntilTheyAreAcknowledged(t *testing.T) {
	each(t, func(t *testing.T, s *redisstore.Store) {
		ctx := context.Background()
		id := linked(t, s)
		say := instance.MessageBackends{Server: instance.Caller{ServerID: load(t, s, id).Attempt().ServerID}, Topic: "t", Data: text("hi")}
		var offsets []int64
		for range instance.MaxSaid {
			_, done := must(t, s, id, say)
			offsets = append(offsets, done.FirstSaid)
		}
		if _, _, err := commit(t, s, id, instance.Envelope{}, say); !errs.Is(err, errs.MailboxFull) {
			t.Errorf("one more than fits: %v", err)
		}
		var read []int64
		for after := int64(0); ; after = read[len(read)-1] {
			page, err := s.Messages(ctx, id, after)
			if err != nil {
				t.Fatal(err)
			}
			if len(page) == 0 {
				break
			}
			for _, m := range page {
				read = append(read, m.Offset)
				if m.ServerID != say.Server.ServerID || m.Topic != "t" || string(m.Data.Binary) != "hi" {
					t.Fatalf("read %+v", m)
				}
			}
		}
		if !slices.Equal(read, offsets) || !slices.IsSorted(read) {
			t.Errorf("sent %v, read %v", offsets, read)
		}
		newest(t, s, id, offsets[len(offsets)-1])
		for range 2 { // the second time there is nothing
			if err := s.AckMessages(ctx, "default", id, offsets[len(offsets)-2]); err != nil {
				t.Fatal(err)
			}
		}
		if got := load(t, s, id); got.SaidCount != 1 || got.SaidBytes == 0 || got.SaidBytes > 300 || got.LastSaid != offsets[len(offsets)-1] {
			t.Errorf("one waits: %d messages, %d bytes, the newest at %d", got.SaidCount, got.SaidBytes, got.LastSaid)
		}
		must(t, s, id, say)
		if err := s.AckMessages(ctx, "default", id, 1<<52); err != nil {
			t.Fatal(err)
		}
		newest(t, s, id, 0)
		if got := load(t, s, id); got.SaidCount != 0 || got.SaidBytes != 0 {
			t.Errorf("none waits: %d messages, %d bytes", got.SaidCount, got.SaidBytes)
		}
		if _, done := must(t, s, id, say); done.FirstSaid <= offsets[len(offsets)-1] {
			t.Errorf("an offset of %d after %d", done.FirstSaid, offsets[len(offsets)-1])
		}
	})
}

// newest checks what the index says of an instance's messages to backends.
func newest(t *testing.T, s *redisstore.Store, id string, want int64) {
	t.Helper()
	ctx := context.Background()
	got, err := s.Newest(ctx, "default", []string{id, "other"})
	talking, err2 := s.Talking(ctx, "default", 0)
	if err != nil || err2 != nil || got[0] != want || got[1] != 0 || talking[id] != want {
		t.Errorf("newest of %s: %v and %v, %v, %v, want %d", id, got, talking, err, err2, want)
	}
	if elsewhere, err := s.Newest(ctx, "elsewhere", []string{id}); err != nil || elsewhere[0] != 0 {
		t.Errorf("in another namespace: %v, %v", elsewhere, err)
	}
}
