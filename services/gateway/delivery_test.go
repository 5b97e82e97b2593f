package gateway_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/google/uuid"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/freeport"
	eventv1 "github.com/berth-dev/berth/pkg/gen/berth/event/v1"
	sessionv1 "github.com/berth-dev/berth/pkg/gen/berth/session/v1"
	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/pkg/redisx/redistest"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"

	"github.com/berth-dev/berth/services/gateway"
)

func TestPublishedNotificationsArriveInOrder(t *testing.T) {
	redistest.Each(t, func(t *testing.T, store *redisx.Store) {
		w := startOn(t, store, newSessions(), nil)
		a, b := uuid.NewString(), uuid.NewString()
		sa, sb := w.linked(w.backend.issuer.pair(t), a), w.linked(w.backend.issuer.pair(t), b)
		const n = 200
		for i := int64(1); i <= n; i++ {
			w.deliver(delivery(a, i*10, (i-1)*10), delivery(b, i, i-1))
		}
		for i := int64(1); i <= n; i++ {
			if got := sa.notified(); got != i*10 {
				t.Fatalf("%d, want %d", got, i*10)
			}
			if got := sb.notified(); got != i {
				t.Fatalf("%d, want %d", got, i)
			}
		}
	})
}

// What was published before the gateway knew of the link is in the mailbox only.
func TestALinkBeginsWithWhatTheMailboxHolds(t *testing.T) {
	w := start(t, nil)
	id := uuid.NewString()
	w.commit(delivery(id, 1, 0), delivery(id, 2, 1))
	s := w.linked(w.backend.issuer.pair(t), id)
	for want := int64(1); want <= 2; want++ {
		if got := s.notified(); got != want {
			t.Fatalf("%d, want %d", got, want)
		}
	}
}

func TestANotificationSaysWhatHappened(t *testing.T) {
	w := start(t, nil)
	id := uuid.NewString()
	s := w.linked(w.backend.issuer.pair(t), id)
	w.deliver(delivery(id, 5, 0))
	n := s.receive().GetNotification()
	if n.GetInstanceId() != id || n.GetOffset() != 5 || n.GetPrevious() != 0 || n.GetEvent().GetPlayersRemoved().GetPlayerIds()[0] != "p" {
		t.Errorf("%v", n)
	}
}

func TestDuplicatesAndStrangersNotificationsAreDropped(t *testing.T) {
	w := start(t, nil)
	id := uuid.NewString()
	s := w.linked(w.backend.issuer.pair(t), id)
	one, two, three := delivery(id, 1, 0), delivery(id, 2, 1), delivery(id, 3, 2)
	w.commit(one, two, three)
	w.publish(&eventv1.Envelope{Deliveries: []*eventv1.Delivery{one, one, delivery(uuid.NewString(), 2, 1), two, one, three, two}})
	for want := int64(1); want <= 3; want++ {
		if got := s.notified(); got != want {
			t.Fatalf("%d, want %d", got, want)
		}
	}
	if r := s.call("Echo", "", nil); r == nil { // and nothing after them
		t.Error("no answer")
	}
}

func TestAGapIsFilledFromTheMailbox(t *testing.T) {
	w := start(t, nil)
	id := uuid.NewString()
	s := w.linked(w.backend.issuer.pair(t), id)
	w.deliver(delivery(id, 1, 0))
	if got := s.notified(); got != 1 {
		t.Fatalf("%d, want 1", got)
	}
	w.commit(delivery(id, 2, 1), delivery(id, 3, 2)) // published, and lost on the way
	w.deliver(delivery(id, 4, 3))
	for want := int64(2); want <= 4; want++ {
		if got := s.notified(); got != want {
			t.Fatalf("%d, want %d", got, want)
		}
	}
	for {
		req := next(t, "the pull after the gap", w.backend.sessions.pulled)
		if req.GetInstanceId() != id || req.GetLinkEpoch() != 1 {
			t.Errorf("%v", req)
		}
		if req.GetAfterOffset() == 1 {
			break
		}
	}
	w.deliver(delivery(id, 5, 4))
	if got := s.notified(); got != 5 {
		t.Errorf("%d after the gap", got)
	}
}

// What is published while the mailbox is being read is not lost between the two.
func TestNotificationsDuringAPullAreNotLost(t *testing.T) {
	w := start(t, nil)
	id, other := uuid.NewString(), uuid.NewString()
	s, witness := w.linked(w.backend.issuer.pair(t), id), w.linked(w.backend.issuer.pair(t), other)
	var once sync.Once
	reading, goOn := make(chan struct{}), make(chan struct{})
	one, two, three := delivery(id, 1, 0), delivery(id, 2, 1), delivery(id, 3, 2)
	w.backend.sessions.set(func(s *sessions) {
		s.pulls = func(req *sessionv1.PullNotificationsRequest) (*sessionv1.PullNotificationsResponse, error) {
			if req.GetInstanceId() != id {
				return &sessionv1.PullNotificationsResponse{}, nil
			}
			once.Do(func() { close(reading) })
			<-goOn
			return &sessionv1.PullNotificationsResponse{Deliveries: []*eventv1.Delivery{one, two}}, nil
		}
	})
	w.commit(one, two)
	w.publish(&eventv1.Envelope{Deliveries: []*eventv1.Delivery{two}})
	<-reading
	w.backend.sessions.set(func(s *sessions) { s.pulls = nil })
	w.deliver(three, delivery(other, 1, 0))
	witness.notified() // so the gateway has seen 3, too, in the middle of the pull
	close(goOn)
	for want := int64(1); want <= 3; want++ {
		if got := s.notified(); got != want {
			t.Fatalf("%d, want %d", got, want)
		}
	}
}

// The answer to a Link is the last word on what happened before: nothing that is not in it comes before it, however long it takes, and whether it is published
// or read from the mailbox. All comes behind it.
func TestNoNotificationOvertakesTheAnswerToALink(t *testing.T) {
	w := start(t, nil)
	id, other := uuid.NewString(), uuid.NewString()
	s, witness := w.linked(w.backend.issuer.pair(t), id), w.linked(w.backend.issuer.pair(t), other)
	w.deliver(delivery(id, 1, 0))
	if got := s.notified(); got != 1 {
		t.Fatalf("%d, want 1", got)
	}
	decided, goOn := make(chan struct{}), make(chan struct{})
	w.backend.sessions.set(func(ses *sessions) {
		ses.relays = func(r *sessionv1.RelayRequest) (*sessionv1.RelayResponse, error) {
			close(decided)
			<-goOn
			resp, err := echo(r)
			resp.Link.Offset = 1
			return resp, err
		}
	})
	asked := s.request("Link", id, nil)
	<-decided
	w.commit(delivery(id, 2, 1), delivery(id, 3, 2)) // 3 is not published
	w.publish(&eventv1.Envelope{Deliveries: []*eventv1.Delivery{delivery(id, 2, 1)}})
	w.deliver(delivery(id, 4, 3), delivery(other, 1, 0))
	witness.notified() // so the gateway has seen the others
	close(goOn)
	s.answer(asked)
	for want := int64(2); want <= 4; want++ {
		if got := s.notified(); got != want {
			t.Fatalf("%d, want %d", got, want)
		}
	}
}

// A Link that is refused changes nothing: what came meanwhile follows.
func TestWhatCameDuringALinkThatIsRefusedFollows(t *testing.T) {
	w := start(t, nil)
	id, other := uuid.NewString(), uuid.NewString()
	s, witness := w.linked(w.backend.issuer.pair(t), id), w.linked(w.backend.issuer.pair(t), other)
	decided, goOn := make(chan struct{}), make(chan struct{})
	w.backend.sessions.set(func(ses *sessions) {
		ses.relays = func(r *sessionv1.RelayRequest) (*sessionv1.RelayResponse, error) {
			close(decided)
			<-goOn
			return &sessionv1.RelayResponse{Id: r.GetId(), Response: &linkv1.Response{
				Outcome: &linkv1.Response_Error{Error: &linkv1.Error{Code: 14, Reason: string(errs.Contended)}},
			}}, nil
		}
	})
	asked := s.request("Link", id, nil)
	<-decided
	w.deliver(delivery(id, 1, 0), delivery(other, 1, 0))
	witness.notified()
	close(goOn)
	s.answer(asked)
	if got := s.notified(); got != 1 {
		t.Errorf("%d, want 1", got)
	}
}

// Pub/sub may lose everything: the renewal of the lease names the mailboxes that wait.
func TestLostPublishesAreHealedByTheRenewal(t *testing.T) {
	w := start(t, nil)
	id := uuid.NewString()
	s := w.linked(w.backend.issuer.pair(t), id)
	w.backend.sessions.set(func(s *sessions) {
		s.mailbox[id] = []*eventv1.Delivery{delivery(id, 1, 0), delivery(id, 2, 1)}
		s.undelivered = []string{id, uuid.NewString()}
	})
	for want := int64(1); want <= 2; want++ {
		if got := s.notified(); got != want {
			t.Fatalf("%d, want %d", got, want)
		}
	}
}

func TestAcknowledgementsArriveAndAreRepeatedWhenTheyWereLost(t *testing.T) {
	w := start(t, nil)
	id := uuid.NewString()
	s := w.linked(w.backend.issuer.pair(t), id)
	w.deliver(delivery(id, 7, 0))
	s.notified()
	s.send(&linkv1.Frame{Kind: &linkv1.Frame_Ack{Ack: &linkv1.Ack{InstanceId: id, Offset: 7}}})
	s.send(&linkv1.Frame{Kind: &linkv1.Frame_Ack{Ack: &linkv1.Ack{InstanceId: uuid.NewString(), Offset: 99}}}) // not linked here: dropped
	for range 2 {
		a := next(t, "the acknowledgement", w.backend.sessions.acked)
		if a.GetInstanceId() != id || a.GetOffset() != 7 || a.GetLinkEpoch() != 1 {
			t.Errorf("%v", a)
		}
		w.backend.sessions.set(func(s *sessions) { s.undelivered = []string{id} }) // it seems to have been lost
	}
}

func TestAResumedInstanceGoesOnAfterItsLastOffset(t *testing.T) {
	ses := newSessions()
	id := uuid.NewString()
	ses.mailbox[id] = []*eventv1.Delivery{delivery(id, 8, 5), delivery(id, 9, 8)}
	w := startOn(t, redistest.Embedded(t), ses, nil)
	s := w.open(w.backend.issuer.pair(t), &linkv1.Hello{ResumeKey: "k", Instances: []*linkv1.HelloInstance{{InstanceId: id, LastOffset: 5, LinkEpoch: 1}}})
	for _, want := range []int64{8, 9} {
		if got := s.notified(); got != want {
			t.Fatalf("%d, want %d", got, want)
		}
	}
}

func TestAMailboxThatOneReadDoesNotBringIsReadOn(t *testing.T) {
	ses := newSessions()
	id := uuid.NewString()
	for i := int64(1); i <= 2*pullLimit+1; i++ {
		ses.mailbox[id] = append(ses.mailbox[id], delivery(id, i, i-1))
	}
	w := startOn(t, redistest.Embedded(t), ses, func(c *gateway.Config) { c.Limits.Queue = 10 * pullLimit })
	s := w.open(w.backend.issuer.pair(t), &linkv1.Hello{ResumeKey: "k", Instances: []*linkv1.HelloInstance{{InstanceId: id}}})
	for want := int64(1); want <= 2*pullLimit+1; want++ {
		if got := s.notified(); got != want {
			t.Fatalf("%d, want %d", got, want)
		}
	}
}

// A mailbox that is larger than the socket's queue reaches a server that reads it, however little fits at once.
func TestALargeMailboxIsNoSlowConsumer(t *testing.T) {
	ses := newSessions()
	id := uuid.NewString()
	const n = 500
	for i := int64(1); i <= n; i++ {
		ses.mailbox[id] = append(ses.mailbox[id], delivery(id, i, i-1))
	}
	w := startOn(t, redistest.Embedded(t), ses, func(c *gateway.Config) { c.Limits.Queue = 8 })
	s := w.open(w.backend.issuer.pair(t), &linkv1.Hello{Instances: []*linkv1.HelloInstance{{InstanceId: id}}})
	for want := int64(1); want <= n; want++ {
		if got := s.notified(); got != want {
			t.Fatalf("%d, want %d", got, want)
		}
	}
}

func TestALinkThatMovedAwayIsNotDeliveredTo(t *testing.T) {
	w := start(t, nil)
	id := uuid.NewString()
	s := w.linked(w.backend.issuer.pair(t), id)
	w.backend.sessions.set(func(s *sessions) {
		s.pulls = func(*sessionv1.PullNotificationsRequest) (*sessionv1.PullNotificationsResponse, error) {
			return nil, errs.New(errs.NotConnected, "it is linked elsewhere")
		}
	})
	w.publish(&eventv1.Envelope{Deliveries: []*eventv1.Delivery{delivery(id, 5, 4)}})
	next(t, "the pull", w.backend.sessions.pulled)
	eventually(t, "the link ends here", func() error {
		if len(w.backend.sessions.pulled) > 0 {
			<-w.backend.sessions.pulled
		}
		w.publish(&eventv1.Envelope{Deliveries: []*eventv1.Delivery{delivery(id, 6, 5)}})
		if r := s.call("Echo", "", nil); r == nil {
			return fmt.Errorf("no answer")
		}
		if len(w.backend.sessions.pulled) > 0 {
			return fmt.Errorf("it is still pulled")
		}
		return nil
	})
}

// The subscription comes back by itself when the store was away, and readiness tells both.
func TestTheSubscriptionComesBackAfterTheStoreWasAway(t *testing.T) {
	dir, addr := t.TempDir(), freeport.Addr(t)
	process := redistest.Start(t, dir, addr)
	store := redistest.Open(t, process.Addr)
	w := startOn(t, store, newSessions(), nil)
	id := uuid.NewString()
	s := w.linked(w.backend.issuer.pair(t), id)
	if err := process.Cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "readiness goes", func() error {
		if w.app.Ready(context.Background()) == nil {
			return fmt.Errorf("it is ready")
		}
		return nil
	})
	s.call("Echo", "", nil) // the socket stayed
	redistest.Start(t, dir, addr)
	eventually(t, "readiness comes back", func() error { return w.app.Ready(context.Background()) })
	w.deliver(delivery(id, 1, 0))
	if got := s.notified(); got != 1 {
		t.Errorf("%d", got)
	}
}

// A large notification behind a small one needs the queue for itself. It waits for it, and costs the connection nothing; the next one would have met the same.
func TestALargeNotificationWaitsForAnEmptyQueue(t *testing.T) {
	w := start(t, func(c *gateway.Config) { c.Limits.QueueBytes = 64 << 10 })
	id := uuid.NewString()
	s := w.linked(w.backend.issuer.pair(t), id)
	large := delivery(id, 2, 1)
	large.Event = &gameserverv1.InstanceEvent{Event: &gameserverv1.InstanceEvent_GameDataUpdated{GameDataUpdated: &gameserverv1.GameDataUpdated{
		GameData: &typev1.Data{Kind: &typev1.Data_Binary{Binary: make([]byte, 200<<10)}},
	}}}
	w.commit(delivery(id, 1, 0), large, delivery(id, 3, 2))
	w.backend.sessions.set(func(s *sessions) { s.undelivered = []string{id} })
	for want := int64(1); want <= 3; want++ {
		if got := s.notified(); got != want {
			t.Fatalf("%d, want %d", got, want)
		}
	}
}
