package instance_test

import (
	"testing"

	"github.com/berth-dev/berth/pkg/errs"
	. "github.com/berth-dev/berth/services/gameinstance/internal/instance"
)

func sized(n int) Data { return Data{Set: true, Binary: []byte{1}, Size: n} }

func TestBackendsMayMessageAServerUntilTheInstanceIsOver(t *testing.T) {
	l := begin(t)
	say := MessageServer{Message: Message{ID: "m", Topic: "t", Data: sized(MaxMessage)}}
	l.do(say) // nobody is linked
	if e := l.last.Events; len(e) != 1 || e[0].Message == nil || e[0].Message.ID != "m" || l.inst.MailCount != 1 {
		t.Errorf("events %+v, %d in the mailbox", e, l.inst.MailCount)
	}
	if h := l.last.History; len(h) != 1 || h[0].Event != "backend_message" || !h[0].Fold || h[0].Detail != "" {
		t.Errorf("history %+v", h)
	}
	l.refuses(errs.LimitExceeded, MessageServer{Message: Message{Data: sized(MaxMessage + 1)}})
	l.do(link, say, Terminate{})
	l.refuses(errs.StateNotAllowed, say)
}

func TestOnlyALinkedServerMayMessageBackends(t *testing.T) {
	l := begin(t)
	say := MessageBackends{Server: me, Topic: "t", Data: sized(MaxMessage)}
	l.refuses(errs.StateNotAllowed, say)
	l.do(link, say)
	if s := l.last.Said; len(s) != 1 || s[0].ServerID != server1 || s[0].Topic != "t" || len(l.last.Events) != 0 {
		t.Errorf("said %+v", s)
	}
	l.refuses(errs.LimitExceeded, MessageBackends{Server: me, Data: sized(MaxMessage + 1)})
	l.refuses(errs.NotAssigned, MessageBackends{Server: Caller{ServerID: "another"}})
	for range 14 {
		l.do(say)
	}
	l.refuses(errs.MailboxFull, say) // 1 MiB
	l.inst.SaidCount, l.inst.SaidBytes = MaxSaid-1, 0
	l.do(say)
	l.refuses(errs.MailboxFull, MessageBackends{Server: me})
	l.do(End{Server: me})
	l.refuses(errs.StateNotAllowed, say)
}

func TestAMessageThatFindsNoRoomIsRefusedAndANotificationIsNot(t *testing.T) {
	l := begin(t).do(link)
	l.inst.MailCount = MaxMail
	l.inst.Revision = 7
	l.refuses(errs.MailboxFull, MessageServer{})
	l.do(UpdateGameData{Data: Update{Data: sized(10)}})
	if e := l.last.Events; len(e) != 1 || e[0].Resync == nil || e[0].Resync.Revision != 7 || !l.last.DropNotifications || l.inst.MailCount != 1 {
		t.Errorf("events %+v, %d in the mailbox", e, l.inst.MailCount)
	}
}

func TestOnlyALinkGivesMessagesNewOffsets(t *testing.T) {
	l := begin(t).do(link, MessageServer{}, Replace{})
	if !l.last.DropNotifications || l.last.ClearMailbox {
		t.Error("messages of a server that was replaced do not keep their places")
	}
	l = begin(t).do(link, link)
	if !l.last.Empty() {
		t.Error("linking again with nothing waiting is a change")
	}
	l.do(MessageServer{}, link)
	if l.last.Empty() || !l.last.ClearMailbox || l.last.DropNotifications || l.inst.Link.Floor != l.inst.LastOffset {
		t.Error("linking again loses the messages that wait")
	}
}
