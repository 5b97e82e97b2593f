package codec

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	"github.com/berth-dev/berth/pkg/errs"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
)

// frames are one of each kind and more, with payloads and results in JSON.
func frames() []*linkv1.Frame {
	return []*linkv1.Frame{
		{},
		{Kind: &linkv1.Frame_Hello{Hello: &linkv1.Hello{ResumeKey: "k", Instances: []*linkv1.HelloInstance{{InstanceId: "i", LastOffset: -1}}}}},
		{Kind: &linkv1.Frame_Welcome{Welcome: &linkv1.Welcome{SessionId: "s", Limits: &linkv1.Limits{MaxFrameBytes: 1 << 20, MaxInFlight: 64}, Heartbeat: durationpb.New(10 * time.Second)}}},
		{Kind: &linkv1.Frame_Request{Request: &linkv1.Request{Id: 1, Auth: &linkv1.Credentials{Game: "g", Social: "s"}, Method: "Link", Payload: []byte(`{"a":[1,"<x>"]}`)}}},
		{Kind: &linkv1.Frame_Response{Response: &linkv1.Response{Id: 1, Outcome: &linkv1.Response_Result{Result: []byte("{}")}}}},
		{Kind: &linkv1.Frame_Response{Response: &linkv1.Response{Id: 1, Outcome: &linkv1.Response_Error{Error: &linkv1.Error{Code: 14, RetryAfter: durationpb.New(time.Second / 4)}}}}},
		{Kind: &linkv1.Frame_Notification{Notification: &linkv1.Notification{InstanceId: "i", Offset: math.MaxInt64, Event: &gameserverv1.InstanceEvent{
			Event: &gameserverv1.InstanceEvent_Terminated{Terminated: &gameserverv1.Terminated{Reason: 9999, Message: "é\u2028\x00"}},
		}}}},
		{Kind: &linkv1.Frame_Ack{Ack: &linkv1.Ack{InstanceId: "i", Offset: 1 << 62}}},
		{Kind: &linkv1.Frame_Move{Move: &linkv1.Move{NotBefore: durationpb.New(0)}}},
		{Kind: &linkv1.Frame_Goodbye{Goodbye: &linkv1.Goodbye{Code: linkv1.CloseCode_CLOSE_CODE_GOING_AWAY, Reconnect: true}}},
		{Kind: &linkv1.Frame_Assignment{Assignment: &linkv1.Assignment{}}},
		{Kind: &linkv1.Frame_Message{Message: &linkv1.Message{InstanceId: "i", Sequence: 7, Topic: "t", Data: &typev1.Data{Kind: &typev1.Data_Binary{Binary: []byte{0, 255}}}}}},
	}
}

// Whatever comes is a frame or an error, a frame shares nothing with the buffer that it was read from, and written again it is the same.
func FuzzProto(f *testing.F) {
	fuzz(f, Proto, "\xff\xff\xff\xff", "{\"hello\":{}}")
}

func FuzzJSON(f *testing.F) {
	fuzz(f, JSON, `{"hello":null}`, `{"request":{"id":"1","payload":null}}`, `{"request":{"payload":{},"payload":{}}}`, `{"ack":{"offset":1e3}}`, `{"later":[[[]]]}`,
		`{"hello":{},"ack":{}}`, `{}{}`, `[`, "\"\xff\"", `{"message":{"data":{"json":{"a":[1,-0.5,null,{"b":"c"}]}}}}`, `{"response":{"result":1,"error":{}}}`)
}

func fuzz(f *testing.F, c Codec, more ...string) {
	for _, frame := range frames() {
		raw, err := c.Encode(frame)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	for _, raw := range more {
		f.Add([]byte(raw))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		buf := bytes.Clone(raw)
		frame, err := c.Decode(buf)
		if err != nil {
			return
		}
		clear(buf) // it is used again for the next frame
		if want, err := c.Decode(raw); err != nil || !proto.Equal(frame, want) {
			t.Fatalf("the frame changes with the buffer: %v, %v, %v", frame, want, err)
		}
		if r := frame.GetRequest(); r != nil {
			_, _ = c.Payload(r.GetMethod(), r.GetPayload())
		}
		again, err := c.Encode(frame)
		if err != nil { // a time that no message can have
			return
		}
		if second, err := c.Decode(again); err != nil || !proto.Equal(second, frame) {
			t.Fatalf("%v became %v, %v", frame, second, err)
		}
	})
}

func TestAFrameIsTheSameAfterBothCodecs(t *testing.T) {
	for _, c := range []Codec{Proto, JSON} {
		for _, frame := range frames() {
			raw, err := c.Encode(frame)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := c.Decode(raw); err != nil || !proto.Equal(got, frame) {
				t.Errorf("%s: %v became %s and %v, %v", c.Subprotocol(), frame, raw, got, err)
			}
		}
	}
}

func TestTheFormOfJSON(t *testing.T) {
	frame := &linkv1.Frame{Kind: &linkv1.Frame_Notification{Notification: &linkv1.Notification{
		InstanceId: "i", Offset: 9007199254740991, Previous: 3,
		Event: &gameserverv1.InstanceEvent{Event: &gameserverv1.InstanceEvent_PlayersAdded{PlayersAdded: &gameserverv1.PlayersAdded{Players: []*instancev1.Player{{
			Id: "ann", AddTime: timestamppb.New(time.Unix(0, 0)),
			Data: &typev1.Data{
				Kind:       &typev1.Data_Json{Json: &structpb.Struct{Fields: map[string]*structpb.Value{"x": structpb.NewNumberValue(math.NaN()), "a": structpb.NewNumberValue(1e20)}}},
				Visibility: typev1.Data_VISIBILITY_PLAYERS,
			},
		}}}}},
	}}}
	got, err := JSON.Encode(frame)
	want := `{"notification":{"instanceId":"i","offset":9007199254740991,"previous":3,"event":{"playersAdded":{"players":[` +
		`{"id":"ann","data":{"json":{"a":100000000000000000000,"x":null},"visibility":"VISIBILITY_PLAYERS"},"addTime":"1970-01-01T00:00:00Z"}]}}}}`
	if err != nil || string(got) != want {
		t.Errorf("got  %s, %v\nwant %s", got, err, want)
	}
}

func TestWhatIsNoFrameIsRefused(t *testing.T) {
	deep := strings.Repeat(`{"a":`, 20_000) + "1" + strings.Repeat("}", 20_000)
	for name, raw := range map[string]string{
		"empty": ``, "a list": `[]`, "a word": `null`, "cut short": `{"hello":{`, "two objects": `{} {}`, "two kinds": `{"ack":{},"hello":{}}`, "the same twice": `{"ack":{},"ack":{}}`,
		"a kind that is a number": `{"hello":1}`, "a kind that is nothing": `{"hello":null}`, "a number that is a word": `{"ack":{"offset":"x"}}`, "a number with a fraction": `{"ack":{"offset":1.5}}`,
		"two payloads": `{"request":{"payload":{},"payload":{}}}`, "not UTF-8": "{\"later\":\"\xff\"}", "far too deep": `{"later":` + deep + `}`,
		"error and result": `{"response":{"error":{},"result":{}}}`, "data too deep": `{"message":{"data":{"json":` + deep[:maxDepth*6] + `}}}`,
	} {
		if f, err := JSON.Decode([]byte(raw)); err == nil {
			t.Errorf("%s: became %v", name, f)
		}
	}
}

func TestWhatIsOfALaterVersionIsIgnored(t *testing.T) {
	for raw, want := range map[string]*linkv1.Frame{
		`{"later":{"x":[1]}}`: {},
		`{}`:                  {},
		`{"later":1,"ack":{"offset":"12","later":{"x":[]}}}`: {Kind: &linkv1.Frame_Ack{Ack: &linkv1.Ack{Offset: 12}}},
	} {
		if f, err := JSON.Decode([]byte(raw)); err != nil || !proto.Equal(f, want) {
			t.Errorf("%s: %v, %v", raw, f, err)
		}
	}
	p, err := JSON.Payload("ConnectPlayers", []byte(`{"later":1,"playerIds":["ann"]}`))
	var m gameserverv1.ConnectPlayersRequest
	if err != nil || proto.Unmarshal(p, &m) != nil || len(m.GetPlayerIds()) != 1 {
		t.Errorf("%v, %v", &m, err)
	}
}

func TestAPayloadThatCannotBeReadIsTheMatterOfItsRequest(t *testing.T) {
	for _, payload := range []string{`1`, `[]`, `{"playerIds":"ann"}`, `{"gameData":{"json":[]}}`} {
		_, err := JSON.Payload("UpdateGameData", []byte(payload))
		if payload == `{"playerIds":"ann"}` {
			_, err = JSON.Payload("ConnectPlayers", []byte(payload))
		}
		if !errs.Is(err, errs.Malformed) || !strings.Contains(err.Error(), ": payload: ") {
			t.Errorf("%s: %v", payload, err)
		}
	}
	for _, method := range []string{"", "Nonsense", "berth.gameserver.v1.GameServerService.Link"} {
		if p, err := JSON.Payload(method, []byte(`{"instanceId":"i"}`)); err != nil || len(p) != 0 {
			t.Errorf("%q: %v, %v", method, p, err)
		}
	}
}

// As deep as a game's data may be, it comes through.
func TestDataOfSixtyFourLevelsComesThrough(t *testing.T) {
	data := strings.Repeat(`{"a":`, 64) + "1" + strings.Repeat("}", 64)
	p, err := JSON.Payload("UpdateGameData", []byte(`{"gameData":{"json":`+data+`}}`))
	if err != nil {
		t.Fatal(err)
	}
	got, err := JSON.Result("UpdateGameData", nil)
	if err != nil || string(got) != "{}" || len(p) < 64 {
		t.Errorf("%s, %v", got, err)
	}
}

// Every message of the service comes through both ways, whatever stands in it, and with 64-bit numbers as numbers.
func TestEveryPayloadAndResultComesThrough(t *testing.T) {
	methods := gameserverv1.File_berth_gameserver_v1_game_server_service_proto.Services().ByName("GameServerService").Methods()
	for i := range methods.Len() {
		method := methods.Get(i)
		t.Run(string(method.Name()), func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				for _, d := range []protoreflect.MessageDescriptor{method.Input(), method.Output()} {
					m, err := newMessage(d)
					if err != nil {
						t.Fatal(err)
					}
					fill(t, m.ProtoReflect(), 0)
					raw, err := appendMessage(nil, m.ProtoReflect())
					if err != nil {
						t.Fatal(err)
					}
					back := m.ProtoReflect().New().Interface()
					if err := reader.Unmarshal(raw, back); err != nil || !proto.Equal(m, back) {
						t.Fatalf("%v became %s and %v, %v", m, raw, back, err)
					}
				}
			})
		})
	}
}

// fill sets some of a message's fields.
func fill(t *rapid.T, m protoreflect.Message, depth int) {
	switch known := m.Interface().(type) {
	case *structpb.Struct:
		s, err := structpb.NewStruct(map[string]any{rapid.String().Draw(t, "name"): rapid.String().Draw(t, "text"), "n": rapid.Float64().Draw(t, "n"), "l": []any{nil, true, map[string]any{}}})
		if err == nil {
			proto.Merge(known, s)
		}
		return
	case *timestamppb.Timestamp:
		known.Seconds, known.Nanos = rapid.Int64Range(0, 1<<32).Draw(t, "s"), rapid.Int32Range(0, 999_999_999).Draw(t, "ns")
		return
	case *durationpb.Duration:
		known.Seconds = rapid.Int64Range(0, 1<<32).Draw(t, "s")
		return
	}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if depth > 4 || !rapid.Bool().Draw(t, "set") {
			continue
		}
		switch {
		case f.IsMap():
			if f.MapValue().Kind() == protoreflect.StringKind {
				m.Mutable(f).Map().Set(protoreflect.ValueOfString(rapid.String().Draw(t, "k")).MapKey(), protoreflect.ValueOfString(rapid.String().Draw(t, "v")))
			}
		case f.IsList() && f.Message() != nil:
			fill(t, m.Mutable(f).List().AppendMutable().Message(), depth+1)
		case f.IsList():
			m.Mutable(f).List().Append(single(t, f))
		case f.Message() != nil:
			fill(t, m.Mutable(f).Message(), depth+1)
		default:
			m.Set(f, single(t, f))
		}
	}
}

func single(t *rapid.T, f protoreflect.FieldDescriptor) protoreflect.Value {
	switch f.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(rapid.String().Draw(t, "s"))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes(rapid.SliceOf(rapid.Byte()).Draw(t, "b"))
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(rapid.Bool().Draw(t, "b"))
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(rapid.Int32Range(0, 9).Draw(t, "e")))
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(rapid.Int32().Draw(t, "n"))
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(rapid.Uint32().Draw(t, "n"))
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(rapid.Int64().Draw(t, "n"))
	default:
		panic(fmt.Sprint("a kind that no message had before: ", f.Kind()))
	}
}

// But for 64-bit numbers, a client of the REST API finds what it knows.
func TestNamesAndValuesAreThoseOfREST(t *testing.T) {
	m := &gameserverv1.LinkResponse{
		Instance: &instancev1.GameInstance{
			Id: "i", State: instancev1.GameInstance_STATE_LINKED, CreateTime: timestamppb.New(time.Unix(1, 500)), Labels: map[string]string{"mode": "duel"},
			Timeouts: &instancev1.Timeouts{DisconnectGrace: durationpb.New(90 * time.Second)}, GameData: &typev1.Data{Kind: &typev1.Data_Binary{Binary: []byte{0xfb, 0xff}}},
		},
	}
	raw, err := appendMessage(nil, m.ProtoReflect())
	if err != nil {
		t.Fatal(err)
	}
	rest, err := restForm(m)
	if err != nil {
		t.Fatal(err)
	}
	var got, want any
	if json.Unmarshal(raw, &got) != nil || json.Unmarshal(rest, &want) != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got  %s\nwant %s", raw, rest)
	}
}

func restForm(m proto.Message) ([]byte, error) { return protojson.MarshalOptions{}.Marshal(m) } // as services/gateway/internal/rest has it
