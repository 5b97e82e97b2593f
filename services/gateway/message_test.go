package gateway_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/coder/websocket"
	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/freeport"
	eventv1 "github.com/berth-dev/berth/pkg/gen/berth/event/v1"
	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/pkg/redisx/redistest"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"

	"github.com/berth-dev/berth/services/gateway"
	"github.com/berth-dev/berth/services/gateway/internal/door"
	"github.com/berth-dev/berth/services/gateway/internal/limit"
)

const messagesLost = "berth_gateway_messages_lost_total"

func bytesOf(text string) *typev1.Data {
	return &typev1.Data{Kind: &typev1.Data_Binary{Binary: []byte(text)}}
}

// says sends a message over a link of epoch 1, after change.
func (s *socket) says(instance string, sequence int64, change func(*linkv1.Message)) {
	s.tb.Helper()
	m := &linkv1.Message{
		InstanceId: instance, Auth: &linkv1.Credentials{Game: s.welcome.GetGameHandle(), Social: s.welcome.GetSocialHandle()}, LinkEpoch: 1, Sequence: sequence,
		Topic: "chat:1/x_y.Z-0", Data: bytesOf(fmt.Sprint(sequence)),
	}
	if change != nil {
		change(m)
	}
	s.send(&linkv1.Frame{Kind: &linkv1.Frame_Message{Message: m}})
}

// hears subscribes as game-instance does, and returns what is published of servers' messages.
func (w *world) hears() <-chan *eventv1.ServerMessages {
	w.tb.Helper()
	out := make(chan *eventv1.ServerMessages, 10_000)
	for _, channel := range redisx.MessageChannels() {
		sub := w.store.SubscribeTo(context.Background(), channel)
		if _, err := sub.Receive(context.Background()); err != nil {
			w.tb.Fatal(err)
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for {
				m, err := sub.ReceiveMessage(context.Background())
				if err != nil {
					return
				}
				in := new(eventv1.ServerMessages)
				if err := proto.Unmarshal([]byte(m.Payload), in); err != nil || m.Channel != channel {
					w.tb.Errorf("%s: %v", m.Channel, err)
				}
				for _, one := range in.GetMessages() {
					if want := redisx.MessageChannel(w.store.Partition(one.GetInstanceId())); want != channel {
						w.tb.Errorf("a message about an instance of %s came over %s", want, channel)
					}
				}
				out <- in
			}
		}()
		w.tb.Cleanup(func() { _ = sub.Close(); <-ended })
	}
	return out
}

func TestMessagesOfServersArePublishedInOrder(t *testing.T) {
	redistest.Each(t, func(t *testing.T, store *redisx.Store) {
		w := startOn(t, store, newSessions(), nil)
		heard := w.hears()
		const n = 300
		last := make(map[string]int64)
		var all []*socket
		var ids []string
		c := w.backend.issuer.pair(t)
		for i := range 8 {
			ids = append(ids, uuid.NewString())
			if i > 0 {
				c = w.backend.issuer.pair(t)
			}
			all = append(all, w.linked(c, ids[i]))
		}
		for sequence := int64(1); sequence <= n; sequence++ {
			for i, s := range all {
				s.says(ids[i], sequence, nil)
			}
		}
		for got := 0; got < n*len(all); {
			batch := next(t, "a batch", heard)
			if batch.GetGatewayId() != w.backend.sessions.gateway() {
				t.Fatalf("it comes from gateway %q", batch.GetGatewayId())
			}
			for _, m := range batch.GetMessages() {
				var data typev1.Data
				if err := proto.Unmarshal(m.GetData(), &data); err != nil || string(data.GetBinary()) != fmt.Sprint(m.GetSequence()) || m.GetTopic() != "chat:1/x_y.Z-0" || m.GetNamespace() != "default" || m.GetServerId() == "" {
					t.Fatalf("%v, %v", m, err)
				}
				if m.GetSequence() != last[m.GetInstanceId()]+1 {
					t.Fatalf("%d came after %d", m.GetSequence(), last[m.GetInstanceId()])
				}
				last[m.GetInstanceId()]++
				got++
			}
		}
		if len(last) != len(all) {
			t.Errorf("of %d instances", len(last))
		}
	})
}

func TestMessagesOfBackendsArriveInOrder(t *testing.T) {
	redistest.Each(t, func(t *testing.T, store *redisx.Store) {
		w := startOn(t, store, newSessions(), nil)
		id := uuid.NewString()
		s := w.linked(w.backend.issuer.pair(t), id)
		const n = 200
		for i := range n {
			raw, err := proto.Marshal(bytesOf(fmt.Sprint(i)))
			if err != nil {
				t.Fatal(err)
			}
			e := &eventv1.Envelope{Messages: []*eventv1.BackendMessage{{InstanceId: uuid.NewString(), Topic: "t"}, {InstanceId: id, Topic: "t", Data: raw}}}
			if i == n/2 { // among everything else
				e.Deliveries = []*eventv1.Delivery{delivery(id, 1, 0)}
			}
			w.publish(e)
		}
		notified := false
		for i := 0; i < n; {
			f := s.receive()
			if f.GetNotification() != nil {
				notified = true
				continue
			}
			if m := f.GetMessage(); string(m.GetData().GetBinary()) != fmt.Sprint(i) || m.GetInstanceId() != id || m.GetTopic() != "t" || m.GetAuth() != nil || m.GetSequence() != 0 || m.GetLinkEpoch() != 0 {
				t.Fatalf("%v, want message %d", f, i)
			}
			i++
		}
		if !notified {
			t.Error("the notification that was published with them is missing")
		}
		if lost := w.count(messagesLost, "NOT_CONNECTED"); lost != n {
			t.Errorf("%v messages for nobody are counted", lost)
		}
	})
}

// A message that is not in order is not passed on, and its sender hears why; the connection goes on.
func TestMessagesThatAreNotPassedOn(t *testing.T) {
	w := start(t, nil)
	heard := w.hears()
	other := w.open(w.backend.issuer.pair(t), &linkv1.Hello{})
	revoked := w.backend.issuer.pair(t)
	for name, c := range map[string]struct {
		change func(*linkv1.Message)
		reason errs.Reason
	}{
		"without credentials":            {func(m *linkv1.Message) { m.Auth = nil }, errs.CredentialsMissing},
		"with one credential":            {func(m *linkv1.Message) { m.Auth.Social = "" }, errs.CredentialsMissing},
		"with handles swapped":           {func(m *linkv1.Message) { m.Auth.Game, m.Auth.Social = m.GetAuth().GetSocial(), m.GetAuth().GetGame() }, errs.CredentialsSwapped},
		"with another connection's":      {func(m *linkv1.Message) { m.Auth.Game = other.welcome.GetGameHandle() }, errs.CredentialsInvalid},
		"with another pair's tokens":     {func(m *linkv1.Message) { m.Auth.Game, m.Auth.Social = revoked.game, revoked.social }, errs.CredentialsMismatch},
		"about an instance of others":    {func(m *linkv1.Message) { m.InstanceId = uuid.NewString() }, errs.StaleLinkEpoch},
		"under an older link":            {func(m *linkv1.Message) { m.LinkEpoch = 0 }, errs.StaleLinkEpoch},
		"without a number":               {func(m *linkv1.Message) { m.Sequence = 0 }, errs.ValidationFailed},
		"about a topic that is too long": {func(m *linkv1.Message) { m.Topic = strings.Repeat("x", 65) }, errs.ValidationFailed},
		"about a topic with odd letters": {func(m *linkv1.Message) { m.Topic = "a b" }, errs.ValidationFailed},
		"that is nested too deep":        {func(m *linkv1.Message) { m.Data = nested(65) }, errs.ValidationFailed},
		"with a number that is none":     {func(m *linkv1.Message) { m.Data = withA(structpb.NewNumberValue(math.NaN())) }, errs.ValidationFailed},
		"with a value that is none":      {func(m *linkv1.Message) { m.Data = withA(new(structpb.Value)) }, errs.ValidationFailed},
		"that is too large":              {func(m *linkv1.Message) { m.Data = bytesOf(strings.Repeat("x", 16<<10)) }, errs.ValidationFailed},
	} {
		t.Run(name, func(t *testing.T) {
			id := uuid.NewString()
			s := w.linked(w.backend.issuer.pair(t), id)
			s.says(id, 1, c.change)
			if r := s.answer(0); errs.Reason(r.GetError().GetReason()) != c.reason || r.GetError().GetMessage() == "" {
				t.Errorf("%v", r)
			}
			s.says(id, 2, nil)
			if m := next(t, "the next message", heard).GetMessages(); len(m) != 1 || m[0].GetInstanceId() != id || m[0].GetSequence() != 2 {
				t.Errorf("published: %v", m)
			}
			if w.count(messagesLost, string(c.reason)) == 0 {
				t.Error("it is not counted")
			}
		})
	}
}

// nested is an object with arrays in it, so many deep in all.
func nested(depth int) *typev1.Data {
	v := structpb.NewNullValue()
	for range depth - 1 {
		v = structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{v}})
	}
	return withA(v)
}

func withA(a *structpb.Value) *typev1.Data {
	return &typev1.Data{Kind: &typev1.Data_Json{Json: &structpb.Struct{Fields: map[string]*structpb.Value{"a": a}}}}
}

// Tokens may stand in the places of their handles, data may be as deep as that of requests, and what is unusual in an encoding is still read.
func TestMessagesInUnusualForm(t *testing.T) {
	w := start(t, nil)
	heard := w.hears()
	c, id := w.backend.issuer.pair(t), uuid.NewString()
	s := w.linked(c, id)
	s.says(id, 1, func(m *linkv1.Message) { m.Auth = &linkv1.Credentials{Game: c.game, Social: c.social} })
	raw, err := proto.Marshal(&linkv1.Frame{Kind: &linkv1.Frame_Message{Message: &linkv1.Message{
		InstanceId: id, Auth: &linkv1.Credentials{Game: s.welcome.GetGameHandle(), Social: s.welcome.GetSocialHandle()}, LinkEpoch: 1, Sequence: 2, Data: bytesOf("x"),
	}}})
	if err != nil {
		t.Fatal(err)
	}
	s.sendRaw(websocket.MessageBinary, append(raw, 0xf8, 0x07, 0x01)) // field 127 of a later version
	s.says(id, 3, func(m *linkv1.Message) { m.Data = nested(64) })
	for want := int64(1); want <= 3; {
		for _, m := range next(t, "a message", heard).GetMessages() {
			if m.GetSequence() != want || len(m.GetData()) == 0 {
				t.Errorf("%v", m)
			}
			want++
		}
	}
}

func TestAMessageThatIsNoEncodingEndsTheConnection(t *testing.T) {
	w := start(t, nil)
	for name, raw := range map[string][]byte{
		"cut off":            {0x52, 0x05, 0x0a, 0x02, 'x'},
		"a field cut off":    {0x52, 0x03, 0x0a, 0x05, 'x'},
		"no UTF-8":           {0x52, 0x03, 0x0a, 0x01, 0xff},
		"data of no message": {0x52, 0x03, 0x32, 0x7f, 0x00},
		"data that is none":  {0x52, 0x05, 0x32, 0x03, 0x0a, 0x7f, 0x00},
	} {
		s := w.open(w.backend.issuer.pair(t), &linkv1.Hello{})
		s.sendRaw(websocket.MessageBinary, raw)
		if code := s.closed(); code != linkv1.CloseCode_CLOSE_CODE_MALFORMED_FRAME {
			t.Errorf("%s: closed with %v", name, code)
		}
	}
}

func TestAMessageBeforeWelcomeEndsTheConnection(t *testing.T) {
	w := start(t, nil)
	s, _, err := w.dial(w.backend.issuer.pair(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	s.send(&linkv1.Frame{Kind: &linkv1.Frame_Message{Message: &linkv1.Message{InstanceId: uuid.NewString(), Sequence: 1}}})
	if code := s.closed(); code != linkv1.CloseCode_CLOSE_CODE_PROTOCOL_VIOLATION {
		t.Errorf("closed with %v", code)
	}
}

// Messages are counted with the requests of the pair, and why some are dropped is not said for each of them.
func TestMessagesThatComeTooFastAreDropped(t *testing.T) {
	w, _ := startLimited(t, door.Rates{Frames: limit.Rate{PerSecond: 1, Burst: 5}}) // on a clock that stands
	heard := w.hears()
	id := uuid.NewString()
	s := w.linked(w.backend.issuer.pair(t), id) // 1 of 5
	for i := int64(1); i <= 20; i++ {
		s.says(id, i, nil)
	}
	eventually(t, "the rest is counted", func() error {
		if n := w.count(messagesLost, string(errs.RateLimited)); n != 16 {
			return fmt.Errorf("%v are", n)
		}
		return nil
	})
	if r := s.answer(0); r.GetError().GetReason() != string(errs.RateLimited) || r.GetError().GetRetryAfter().AsDuration() <= 0 {
		t.Errorf("%v", r)
	}
	got := 0
	for got < 4 {
		got += len(next(t, "a batch", heard).GetMessages())
	}
	if got != 4 || len(heard) != 0 {
		t.Errorf("%d were published", got)
	}
}

// A server that does not read loses messages, and neither its connection nor a notification.
func TestMessagesThatAServerDoesNotReadAreDropped(t *testing.T) {
	w := start(t, func(c *gateway.Config) { c.Limits.Queue, c.Limits.QueueBytes = 32, 64<<10 })
	id, witness := uuid.NewString(), uuid.NewString()
	s, other := w.linked(w.backend.issuer.pair(t), id), w.linked(w.backend.issuer.pair(t), witness)
	big, err := proto.Marshal(bytesOf(string(bytes.Repeat([]byte("x"), 15<<10))))
	if err != nil {
		t.Fatal(err)
	}
	sent := 0
	eventually(t, "messages are dropped", func() error {
		e := new(eventv1.Envelope)
		for range 64 {
			e.Messages = append(e.Messages, &eventv1.BackendMessage{InstanceId: id, Topic: "t", Data: big})
		}
		w.publish(e)
		sent += 64
		if w.count(messagesLost, "SLOW_CONSUMER") == 0 {
			return fmt.Errorf("none of %d yet", sent)
		}
		return nil
	})
	w.publish(&eventv1.Envelope{Messages: []*eventv1.BackendMessage{{InstanceId: witness, Topic: "t"}}})
	if other.receive().GetMessage() == nil { // the reader is not held up
		t.Error("no message")
	}
	lost := int(w.count(messagesLost, "SLOW_CONSUMER"))
	for range sent - lost {
		if f := s.receive(); f.GetMessage() == nil {
			t.Fatalf("%v", f)
		}
	}
	w.deliver(delivery(id, 1, 0))
	if s.notified() != 1 {
		t.Error("the notification did not come")
	}
	if r := s.call("Echo", "", nil); r.GetError() != nil {
		t.Errorf("%v", r)
	}
}

// While the store is away messages are lost and their servers hear so; when it is back all is as before, over the same connection.
func TestMessagesWhileTheStoreIsAway(t *testing.T) {
	server := redistest.Start(t, t.TempDir(), freeport.Addr(t))
	w := startOn(t, redistest.Open(t, server.Addr), newSessions(), nil)
	id := uuid.NewString()
	s := w.linked(w.backend.issuer.pair(t), id)
	server.Kill(t)
	said := int64(0)
	say := func() { said++; s.says(id, said, nil) }
	eventually(t, "lost messages are counted", func() error {
		say()
		if w.count(messagesLost, string(errs.StoreUnavailable)) == 0 {
			return errors.New("none is")
		}
		return nil
	})
	say()
	if r := s.answer(0); r.GetError().GetReason() != string(errs.StoreUnavailable) {
		t.Errorf("%v", r)
	}
	server.Restart(t)
	heard := w.hears()
	eventually(t, "messages are published again", func() error {
		say()
		if len(heard) == 0 {
			return errors.New("none is")
		}
		return nil
	})
}
