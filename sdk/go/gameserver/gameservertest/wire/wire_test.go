package wire_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/berth-dev/berth/sdk/go/gameserver/gameservertest/wire"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"github.com/coder/websocket"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func marshal(t *testing.T, m proto.Message) []byte {
	t.Helper()
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func frames(t *testing.T) []*linkv1.Frame {
	t.Helper()
	data := &typev1.Data{Kind: &typev1.Data_Json{Json: &structpb.Struct{Fields: map[string]*structpb.Value{"round": structpb.NewNumberValue(2)}}}}
	start := &gameserverv1.LinkResponse{
		Instance: &instancev1.GameInstance{
			Id: "i", Revision: 1<<53 - 1, State: instancev1.GameInstance_STATE_LINKED, Labels: map[string]string{"a": "b"}, CreateTime: timestamppb.New(timestamppb.Now().AsTime()),
			Players: []*instancev1.Player{{Id: "ann", Data: &typev1.Data{Kind: &typev1.Data_Binary{Binary: []byte{0, 1, 2}}}}},
		},
		LinkEpoch: 7, Offset: 9,
	}
	return []*linkv1.Frame{
		{Kind: &linkv1.Frame_Hello{Hello: &linkv1.Hello{Nonce: "n", Instances: []*linkv1.HelloInstance{{InstanceId: "i", LastOffset: 1 << 52}}}}},
		{Kind: &linkv1.Frame_Welcome{Welcome: &linkv1.Welcome{Heartbeat: durationpb.New(1500e6), Limits: &linkv1.Limits{MaxFrameBytes: 5, MaxInFlight: 3}}}},
		{Kind: &linkv1.Frame_Request{Request: &linkv1.Request{Id: 1, Method: "Link", Payload: marshal(t, &gameserverv1.LinkRequest{ServerVersion: "1"})}}},
		{Kind: &linkv1.Frame_Request{Request: &linkv1.Request{Id: 2, Method: "UpdateGameData", Payload: marshal(t, &gameserverv1.UpdateGameDataRequest{GameData: data})}}},
		{Kind: &linkv1.Frame_Response{Response: &linkv1.Response{Id: 1, Outcome: &linkv1.Response_Result{Result: marshal(t, start)}}}},
		{Kind: &linkv1.Frame_Response{Response: &linkv1.Response{Id: 2, Outcome: &linkv1.Response_Error{Error: &linkv1.Error{Code: 14, Reason: "STORE_UNAVAILABLE"}}}}},
		{Kind: &linkv1.Frame_Notification{Notification: &linkv1.Notification{InstanceId: "i", Offset: 8, Event: &gameserverv1.InstanceEvent{Event: &gameserverv1.InstanceEvent_GameDataUpdated{GameDataUpdated: &gameserverv1.GameDataUpdated{GameData: data}}}}}},
		{Kind: &linkv1.Frame_Goodbye{Goodbye: &linkv1.Goodbye{Code: linkv1.CloseCode_CLOSE_CODE_REPLACED}}},
	}
}

func TestEachSubprotocolReadsWhatItWrote(t *testing.T) {
	for _, subprotocol := range []string{wire.Proto, wire.JSON} {
		codec, err := wire.New(subprotocol)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range frames(t) {
			b, err := codec.Encode(f)
			if err != nil {
				t.Fatal(err)
			}
			got, err := codec.Decode(codec.Type(), b)
			if err != nil || !proto.Equal(got, f) {
				t.Errorf("%s: %s came back as %v (%v); want %v", subprotocol, b, got, err, f)
			}
		}
	}
}

func TestJSONHasNumbersAndPayloadsInTheirPlaces(t *testing.T) {
	codec, err := wire.New(wire.JSON)
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, f := range frames(t) {
		b, err := codec.Encode(f)
		if err != nil || !json.Valid(b) {
			t.Fatal(string(b), err)
		}
		all.Write(b)
	}
	for _, want := range []string{`"lastOffset":4503599627370496`, `"payload":{"serverVersion":"1"}`, `"result":{"instance":{`, `"revision":9007199254740991`, `"heartbeat":"1.500s"`, `"STATE_LINKED"`, `"AAEC"`} {
		if !strings.Contains(all.String(), want) {
			t.Errorf("%s is not in %s", want, all.String())
		}
	}
}

func TestWhatIsNoFrameIsRefused(t *testing.T) {
	codec, err := wire.New(wire.JSON)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", "[]", "{}", `{"hello":{},"ack":{}}`, `{"ack":{"offset":"x"}}`, `{"request":3}`} {
		if f, err := codec.Decode(websocket.MessageText, []byte(bad)); err == nil {
			t.Errorf("%s was read as %v", bad, f)
		}
	}
	if f, err := codec.Decode(websocket.MessageText, []byte(`{"later":{"a":1}}`)); err != nil || f.GetKind() != nil {
		t.Errorf("a kind of a later version: %v, %v", f, err)
	}
	if _, err := codec.Decode(websocket.MessageBinary, []byte("{}")); err == nil {
		t.Error("binary was taken where text was agreed")
	}
	f, err := codec.Decode(websocket.MessageText, []byte(`{"request":{"id":1,"method":"Link","payload":{"serverVersion":3}}}`))
	if err != nil || proto.Unmarshal(f.GetRequest().GetPayload(), new(gameserverv1.LinkRequest)) == nil {
		t.Errorf("a payload that cannot be read: %v, %v", f, err)
	}
}
