package gameinstance_test

import (
	"context"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/berth-dev/berth/pkg/apikey"
	"github.com/berth-dev/berth/pkg/auth"
	"github.com/berth-dev/berth/pkg/errs"
	eventv1 "github.com/berth-dev/berth/pkg/gen/berth/event/v1"
	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/pkg/rpc"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"github.com/berth-dev/berth/services/gameinstance"
)

type stream = grpc.BidiStreamingClient[instancev1.StreamMessagesRequest, instancev1.StreamMessagesResponse]

// talk opens a stream, and returns when what servers say arrives.
func (w *world) talk(ctx context.Context, want *instancev1.Subscribe) stream {
	w.t.Helper()
	s, err := w.messages.StreamMessages(ctx)
	if err == nil {
		err = s.Send(&instancev1.StreamMessagesRequest{Step: &instancev1.StreamMessagesRequest_Subscribe{Subscribe: want}})
	}
	if err == nil {
		_, err = s.Header()
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// serverSays publishes an ephemeral message as a gateway does.
func (w *world) serverSays(inst *instancev1.GameInstance, sequence int64, topic, text string) {
	w.t.Helper()
	data, err := proto.Marshal(binaryData(text))
	if err != nil {
		w.t.Fatal(err)
	}
	raw, err := proto.Marshal(&eventv1.ServerMessages{GatewayId: "gw", Messages: []*eventv1.ServerMessage{{
		Namespace: "default", InstanceId: inst.GetId(), ServerId: inst.GetLink().GetServerId(), Sequence: sequence, Topic: topic, Data: data,
	}}})
	if err == nil {
		err = w.store.PublishAll(context.Background(), map[string][]byte{redisx.MessageChannel(w.store.Partition(inst.GetId())): raw})
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

func binaryData(text string) *typev1.Data {
	return &typev1.Data{Kind: &typev1.Data_Binary{Binary: []byte(text)}}
}

func says(s stream, id, topic string, data *typev1.Data) error {
	return s.Send(&instancev1.StreamMessagesRequest{Step: &instancev1.StreamMessagesRequest_Message{Message: &instancev1.BackendMessage{InstanceId: id, Topic: topic, Data: data}}})
}

func TestBackendsAndServersTalkOverAStream(t *testing.T) {
	w := start(t, nil)
	inst := w.running()
	gateway := w.store.SubscribeTo(context.Background(), redisx.GatewayChannel("gw"))
	defer func() { _ = gateway.Close() }()
	if _, err := gateway.Receive(context.Background()); err != nil {
		t.Fatal(err)
	}
	s := w.talk(as(apiKey), &instancev1.Subscribe{Topics: []string{"score"}})
	w.serverSays(inst, 1, "chat", "not wanted")
	w.serverSays(inst, 2, "score", "3:1")
	got, err := s.Recv()
	if m := got.GetMessage(); err != nil || m.GetInstanceId() != inst.GetId() || m.GetServerId() != inst.GetLink().GetServerId() || m.GetTopic() != "score" || m.GetOffset() != 0 || string(m.GetData().GetBinary()) != "3:1" {
		t.Errorf("received %v, %v", got, err)
	}
	if err := says(s, inst.GetId(), "weather", binaryData("rain")); err != nil {
		t.Fatal(err)
	}
	var e eventv1.Envelope
	for len(e.GetMessages()) == 0 { // other news come the same way
		m, err := gateway.ReceiveMessage(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if err := proto.Unmarshal([]byte(m.Payload), &e); err != nil {
			t.Fatal(err)
		}
	}
	var data typev1.Data
	if m := e.GetMessages()[0]; m.GetInstanceId() != inst.GetId() || m.GetTopic() != "weather" || proto.Unmarshal(m.GetData(), &data) != nil || string(data.GetBinary()) != "rain" {
		t.Errorf("published %v", &e)
	}
}

// A message that cannot be sent is answered, and the stream goes on.
func TestAMessageThatIsRefusedLeavesTheStream(t *testing.T) {
	w := start(t, nil)
	inst, waiting := w.running(), w.create()
	s := w.talk(as(apiKey), &instancev1.Subscribe{Nothing: true})
	for name, c := range map[string]struct {
		id, topic string
		data      *typev1.Data
		want      errs.Reason
	}{
		"for nobody":         {"5f0e4a63-0b8f-4e52-9f0c-0e4d2a6f1c12", "t", nil, errs.InstanceUnknown},
		"for no instance":    {"", "t", nil, errs.ValidationFailed},
		"not connected":      {waiting.GetId(), "t", nil, errs.NotConnected},
		"with a wrong topic": {inst.GetId(), "a b", nil, errs.ValidationFailed},
		"too large":          {inst.GetId(), "t", binaryData(strings.Repeat("x", 16<<10)), errs.LimitExceeded},
	} {
		if err := says(s, c.id, c.topic, c.data); err != nil {
			t.Fatal(err)
		}
		got, err := s.Recv()
		if r := got.GetRefused(); err != nil || r.GetInstanceId() != c.id || r.GetReason() != string(c.want) || r.GetMessage() == "" {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Recv(); err == nil {
		t.Errorf("who only sends and has no more hears %v", got)
	}
}

func TestAStreamIsForThoseWhoMayUseTheNamespace(t *testing.T) {
	w := start(t, func(c *gameinstance.Config) {
		c.Auth.APIKeys = append(c.Auth.APIKeys, auth.APIKey{Name: "ops-eu", SHA256: apikey.Hash(euOperatorKey), Role: auth.RoleOperator, Namespaces: []string{"eu"}})
	})
	for name, c := range map[string]struct {
		key  string
		want errs.Reason
	}{
		"another namespace's": {euOperatorKey, errs.NamespaceDenied},
		"a viewer":            {viewerKey, errs.RoleRequired},
	} {
		s, err := w.messages.StreamMessages(as(c.key))
		if err != nil {
			t.Fatal(err)
		}
		_ = s.Send(&instancev1.StreamMessagesRequest{Step: &instancev1.StreamMessagesRequest_Subscribe{Subscribe: &instancev1.Subscribe{}}}) // Recv tells why not
		_, err = s.Recv()
		if err = rpc.FromStatus(err); !errs.Is(err, c.want) {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
}

// A backend that reads nothing is sent away, and holds no more than so much until then.
func TestABackendThatDoesNotReadIsSentAway(t *testing.T) {
	w := start(t, nil)
	inst := w.running()
	s := w.talk(as(apiKey), &instancev1.Subscribe{})
	large := strings.Repeat("x", 15<<10)
	for sequence := range int64(1000) { // 15 MB, of which the connection holds little
		w.serverSays(inst, sequence+1, "t", large)
	}
	read := 0
	var err error
	for ; err == nil; read++ {
		_, err = s.Recv()
	}
	if read >= 1000 {
		t.Error("all was kept for it")
	}
	reasonIs(t, err, errs.WatchTooSlow)
}
