package gameinstance_test

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/berth-dev/berth/pkg/errs"
	eventv1 "github.com/berth-dev/berth/pkg/gen/berth/event/v1"
	sessionv1 "github.com/berth-dev/berth/pkg/gen/berth/session/v1"
	"github.com/berth-dev/berth/pkg/ids"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
)

func bytesOf(s string) *typev1.Data {
	return &typev1.Data{Kind: &typev1.Data_Binary{Binary: []byte(s)}}
}

// say sends a message of an instance's first server.
func (w *world) say(id, topic, what, requestID string) *gameserverv1.SendMessageResponse {
	w.t.Helper()
	out, err := w.servers.SendMessage(w.asServer(ids.Server(ids.Attempt(id, 1))), &gameserverv1.SendMessageRequest{InstanceId: id, Topic: topic, Data: bytesOf(what), RequestId: requestID})
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

func (w *world) ack(id string, offset int64) {
	w.t.Helper()
	if _, err := w.messages.AckMessages(as(apiKey), &instancev1.AckMessagesRequest{InstanceId: id, Offset: offset}); err != nil {
		w.t.Fatal(err)
	}
}

// pull reads the mailbox of an instance's server.
func (w *world) pull(id string, after int64) []*eventv1.Delivery {
	w.t.Helper()
	out, err := w.sessions.PullNotifications(internally(), &sessionv1.PullNotificationsRequest{InstanceId: id, AfterOffset: after})
	if err != nil {
		w.t.Fatal(err)
	}
	return out.GetDeliveries()
}

type heard struct {
	t      *testing.T
	stream grpc.ServerStreamingClient[instancev1.WatchMessagesResponse]
}

func (w *world) hear(req *instancev1.WatchMessagesRequest) heard {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(as(apiKey), 20*time.Second)
	w.t.Cleanup(cancel)
	stream, err := w.messages.WatchMessages(ctx, req)
	if err != nil {
		w.t.Fatal(err)
	}
	return heard{w.t, stream}
}

func (h heard) next(want string) *instancev1.ServerMessage {
	h.t.Helper()
	m, err := h.stream.Recv()
	if err != nil {
		h.t.Fatal(err)
	}
	if got := string(m.GetMessage().GetData().GetBinary()); got != want {
		h.t.Fatalf("heard %q, want %q", got, want)
	}
	return m.GetMessage()
}

func TestWhatAServerSaysIsKeptUntilABackendAcknowledgesIt(t *testing.T) {
	w := start(t, nil)
	id := w.running().GetId()
	first := w.say(id, "chat", "one", "r1")
	if again := w.say(id, "chat", "one", "r1"); again.GetRevision() != first.GetRevision() || again.GetOffset() != 0 {
		t.Errorf("a repeat: %v, the first: %v", again, first)
	}
	of, everywhere, about := w.hear(&instancev1.WatchMessagesRequest{InstanceId: id}), w.hear(&instancev1.WatchMessagesRequest{}), w.hear(&instancev1.WatchMessagesRequest{Topics: []string{"score"}})
	if m := of.next("one"); m.GetOffset() != first.GetOffset() || m.GetInstanceId() != id || m.GetServerId() != ids.Server(ids.Attempt(id, 1)) || m.GetTopic() != "chat" {
		t.Errorf("heard %v, sent at %d", m, first.GetOffset())
	}
	everywhere.next("one")
	w.ack(id, first.GetOffset())
	second := w.say(id, "score", "two", "")
	for _, h := range []heard{of, everywhere, about} {
		if m := h.next("two"); m.GetOffset() != second.GetOffset() || m.GetOffset() <= first.GetOffset() {
			t.Errorf("heard at %d, sent at %d, after %d", m.GetOffset(), second.GetOffset(), first.GetOffset())
		}
	}
	w.hear(&instancev1.WatchMessagesRequest{InstanceId: id}).next("two") // and not what is acknowledged
	if _, err := w.instances.TerminateGameInstance(as(apiKey), &instancev1.TerminateGameInstanceRequest{InstanceId: id}); err != nil {
		t.Fatal(err)
	}
	w.ack(id, second.GetOffset())
	if m, err := of.stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("after the end, and with nothing waiting: %v, %v", m, err)
	}
	_, err := w.servers.SendMessage(w.asServer(ids.Server(ids.Attempt(id, 1))), &gameserverv1.SendMessageRequest{InstanceId: id})
	reasonIs(t, err, errs.StateNotAllowed)
	third, err := w.hear(&instancev1.WatchMessagesRequest{InstanceId: ids.Server(id)}).stream.Recv()
	if reasonIs(t, err, errs.InstanceUnknown); third != nil {
		t.Errorf("of an instance that never was: %v", third)
	}
}

func TestAServersMessageOverTheLinkIsSentOnce(t *testing.T) {
	w := start(t, nil)
	inst := w.running()
	for range 2 { // the second time as a repeat
		out := new(gameserverv1.SendMessageResponse)
		if err := w.relay(&linkv1.Request{Id: 7, InstanceId: inst.GetId(), LinkEpoch: inst.GetLink().GetEpoch(), Method: "SendMessage"}, out); err != nil {
			t.Fatal(err)
		}
	}
	w.say(inst.GetId(), "", "next", "")
	h := w.hear(&instancev1.WatchMessagesRequest{InstanceId: inst.GetId()})
	h.next("")
	h.next("next")
}

func TestABackendsMessageWaitsForAServer(t *testing.T) {
	w := start(t, nil)
	id := w.create().GetId()
	send := &instancev1.SendMessageRequest{InstanceId: id, RequestId: "r", Topic: "orders", Data: bytesOf("go")}
	sent, err := w.messages.SendMessage(as(apiKey), send)
	if err != nil {
		t.Fatal(err)
	}
	again, err := w.messages.SendMessage(as(apiKey), send)
	if err != nil || again.GetMessageId() != sent.GetMessageId() {
		t.Fatalf("a repeat: %v, %v, want %v", again, err, sent)
	}
	opened := w.open(id, &linkv1.Hello{})
	link, err := w.link(id)
	if err != nil {
		t.Fatal(err)
	}
	pulled := w.pull(id, link.GetOffset())
	if len(pulled) != 1 || pulled[0].GetEvent().GetMessage().GetMessageId() != sent.GetMessageId() || pulled[0].GetEvent().GetMessage().GetTopic() != "orders" || string(pulled[0].GetEvent().GetMessage().GetData().GetBinary()) != "go" {
		t.Errorf("after the start data at %d: %v", link.GetOffset(), pulled)
	}
	w.open(id, &linkv1.Hello{ResumeKey: opened.GetResumeKey()}) // another socket
	if link, err = w.link(id); err != nil {
		t.Fatal(err)
	}
	if next := w.pull(id, link.GetOffset()); len(next) != 1 || next[0].GetOffset() <= pulled[0].GetOffset() || next[0].GetEvent().GetMessage().GetMessageId() != sent.GetMessageId() {
		t.Errorf("after another link: %v", next)
	}
}
