package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/rpc"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
)

// pair is the tokens of a game server that the test plays itself: its process never links.
type pair struct{ instance, game, social string }

func (s *berth) silentServer(t *testing.T) pair {
	t.Helper()
	id := s.create(t, "never-link", "ann").GetId()
	s.becomes(t, id, instancev1.GameInstance_STATE_ALLOCATED)
	tokens := serverSecrets(t, id)
	return pair{id, tokens[0], tokens[1]}
}

// door is one way to GameServerService. Each answers with a gRPC code and a reason; both are empty when the call succeeds.
type door func(t *testing.T, game, social, instance, method string, payload []byte) (code int32, reason string)

// overLink sends raw frames over a socket of its own, which is opened with good tokens.
func (s *berth) overLink(t *testing.T, p pair) door {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	header := http.Header{"Authorization": {"Bearer " + p.game}, "Berth-Social-Token": {p.social}}
	conn, resp, err := websocket.Dial(ctx, strings.Replace(s.edges[0], "http", "ws", 1)+"/v1/link", &websocket.DialOptions{HTTPHeader: header, Subprotocols: []string{"berth.v1.proto"}})
	if err != nil {
		t.Fatalf("upgrade: %v %v", err, resp)
	}
	t.Cleanup(func() { _ = conn.CloseNow() })
	conn.SetReadLimit(8 << 20)
	send := func(f *linkv1.Frame) *linkv1.Frame {
		t.Helper()
		raw, err := proto.Marshal(f)
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.Write(ctx, websocket.MessageBinary, raw); err != nil {
			t.Fatal(err)
		}
		_, answer, err := conn.Read(ctx)
		if err != nil {
			t.Fatal(err)
		}
		var out linkv1.Frame
		if err := proto.Unmarshal(answer, &out); err != nil {
			t.Fatal(err)
		}
		return &out
	}
	if welcome := send(&linkv1.Frame{Kind: &linkv1.Frame_Hello{Hello: &linkv1.Hello{}}}).GetWelcome(); welcome.GetResumeKey() == "" {
		t.Fatal("no welcome")
	}
	id := int64(0)
	return func(t *testing.T, game, social, instance, method string, payload []byte) (int32, string) {
		t.Helper()
		id++
		out := send(&linkv1.Frame{Kind: &linkv1.Frame_Request{Request: &linkv1.Request{
			Id: id, Auth: &linkv1.Credentials{Game: game, Social: social}, InstanceId: instance, Method: method, Payload: payload,
		}}}).GetResponse()
		if out.GetId() != id {
			t.Fatalf("answer to %d: %v", id, out)
		}
		if e := out.GetError(); e != nil && e.GetMessage() == "" {
			t.Error("an error without a message")
		}
		return out.GetError().GetCode(), out.GetError().GetReason()
	}
}

// overGRPC calls the edge's gRPC.
func (s *berth) overGRPC(t *testing.T) door {
	t.Helper()
	conn, err := grpc.NewClient(strings.TrimPrefix(s.edges[0], "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return func(t *testing.T, game, social, instance, method string, payload []byte) (int32, string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if game != "" {
			ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+game)
		}
		if social != "" {
			ctx = metadata.AppendToOutgoingContext(ctx, "berth-social-token", social)
		}
		named, err := proto.Marshal(&gameserverv1.RequestBackfillRequest{InstanceId: instance}) // instance_id is field 1 of all requests
		if err != nil {
			t.Fatal(err)
		}
		err = rpc.FromStatus(conn.Invoke(ctx, "/berth.gameserver.v1.GameServerService/"+method, append(named, payload...), &[]byte{}, grpc.ForceCodec(rawCodec{})))
		if err == nil {
			return 0, ""
		}
		return int32(errs.ReasonOf(err).Kind()), string(errs.ReasonOf(err))
	}
}

// overREST calls the edge's REST with the JSON form of the same payloads.
func (s *berth) overREST(t *testing.T) door {
	t.Helper()
	bodies := map[string]string{"": "{}", string(garbage): `{"players":`, string(tooDeep): `{"gameData":{"json":{"a":` + strings.Repeat("[", levels) + strings.Repeat("]", levels) + `}}}`}
	return func(t *testing.T, game, social, instance, method string, payload []byte) (int32, string) {
		t.Helper()
		body, ok := bodies[string(payload)]
		if !ok {
			t.Fatalf("no JSON form of %q", payload)
		}
		var header []string
		if game != "" {
			header = append(header, "Authorization", "Bearer "+game)
		}
		if social != "" {
			header = append(header, "Berth-Social-Token", social)
		}
		verb := strings.TrimSuffix(strings.ToLower(method[:1])+method[1:], "GameInstance")
		status, raw := do(t, "POST", fmt.Sprintf("%s/v1/game-server/instances/%s:%s", s.edges[0], instance, verb), body, header...)
		if status == http.StatusOK {
			return 0, ""
		}
		var e struct{ Code int32 }
		if err := json.Unmarshal(raw, &e); err != nil {
			t.Fatalf("%s: %v", raw, err)
		}
		reason, _ := errorOf(t, raw)
		return e.Code, reason
	}
}

// rawCodec sends bytes as they are.
type rawCodec struct{}

func (rawCodec) Name() string                  { return "proto" }
func (rawCodec) Marshal(v any) ([]byte, error) { b, _ := v.([]byte); return b, nil }
func (rawCodec) Unmarshal([]byte, any) error   { return nil }

// garbage is no encoding of anything.
var garbage = []byte{0x1a, 0x7f}

// levels is how deep arrays are nested in tooDeep. It could be stored, and then neither be read nor told to the server.
const levels = 3300

// tooDeep is the payload of an UpdateGameData.
var tooDeep = func() []byte {
	v := structpb.NewListValue(&structpb.ListValue{})
	for range levels - 1 {
		v = structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{v}})
	}
	data := &typev1.Data{Kind: &typev1.Data_Json{Json: &structpb.Struct{Fields: map[string]*structpb.Value{"a": v}}}}
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(&gameserverv1.UpdateGameDataRequest{GameData: data})
	if err != nil {
		panic(err)
	}
	return raw
}()

// Whatever is wrong with a call, it is answered with the same code and reason over each way, and changes nothing.
func TestEachDoorGivesTheSameAnswer(t *testing.T) {
	shapes(t, func(t *testing.T, s *berth) {
		p, other := s.silentServer(t), s.silentServer(t)
		nobody := "11111111-1111-4111-8111-111111111111"
		doors := map[string]door{"link": s.overLink(t, p), "gRPC": s.overGRPC(t), "REST": s.overREST(t)}
		before := s.get(t, p.instance).GetRevision()
		for name, c := range map[string]struct {
			game, social, instance, method string
			payload                        []byte
			want                           errs.Reason
		}{
			"no social token":      {p.game, "", p.instance, "EndGameInstance", nil, errs.CredentialsMissing},
			"no game token":        {"", p.social, p.instance, "EndGameInstance", nil, errs.CredentialsMissing},
			"no token":             {"", "", p.instance, "EndGameInstance", nil, errs.CredentialsMissing},
			"swapped":              {p.social, p.game, p.instance, "EndGameInstance", nil, errs.CredentialsSwapped},
			"game token twice":     {p.game, p.game, p.instance, "EndGameInstance", nil, errs.CredentialsSwapped},
			"halves of two pairs":  {p.game, other.social, p.instance, "EndGameInstance", nil, errs.CredentialsMismatch},
			"invented":             {"a.b.c", p.social, p.instance, "EndGameInstance", nil, errs.CredentialsInvalid},
			"another's instance":   {p.game, p.social, other.instance, "EndGameInstance", nil, errs.NotAssigned},
			"unknown instance":     {p.game, p.social, nobody, "EndGameInstance", nil, errs.InstanceUnknown},
			"no id":                {p.game, p.social, "x", "EndGameInstance", nil, errs.ValidationFailed},
			"rule broken":          {p.game, p.social, p.instance, "AddPlayers", nil, errs.ValidationFailed},
			"malformed":            {p.game, p.social, p.instance, "AddPlayers", garbage, errs.Malformed},
			"nested too deep":      {p.game, p.social, p.instance, "UpdateGameData", tooDeep, errs.ValidationFailed},
			"state does not allow": {p.game, p.social, p.instance, "ConnectPlayers", nil, errs.StateNotAllowed},
			"not implemented":      {p.game, p.social, p.instance, "RequestBackfill", nil, errs.NotImplemented},
		} {
			for way, call := range doors {
				t.Run(name+" over "+way, func(t *testing.T) {
					code, reason := call(t, c.game, c.social, c.instance, c.method, c.payload)
					if reason != string(c.want) || code != int32(c.want.Kind()) {
						t.Errorf("answered %d %s, want %d %s", code, reason, c.want.Kind(), c.want)
					}
				})
			}
		}
		if _, reason := doors["gRPC"](t, p.game, p.social, p.instance, "Link", nil); reason != string(errs.NotConnected) {
			t.Errorf("a link that is not over the link answered %s", reason)
		}
		if _, reason := doors["link"](t, p.game, p.social, other.instance, "Link", nil); reason != string(errs.NotAssigned) {
			t.Errorf("linking another's instance answered %s", reason)
		}
		for _, way := range []string{"link", "gRPC"} {
			if code, reason := doors[way](t, p.game, p.social, p.instance, "DropTables", nil); reason != string(errs.MethodUnknown) || code != int32(errs.KindUnimplemented) {
				t.Errorf("an unknown method over %s answered %d %s", way, code, reason)
			}
		}
		if after := s.get(t, p.instance).GetRevision(); after != before {
			t.Errorf("refused calls changed the instance from revision %d to %d", before, after)
		}
		// The same doors let the right one in.
		for _, step := range [][2]string{{"link", "Link"}, {"gRPC", "ConnectPlayers"}, {"REST", "EndGameInstance"}} {
			if code, reason := doors[step[0]](t, p.game, p.social, p.instance, step[1], nil); code != 0 {
				t.Errorf("%s over %s: %d %s", step[1], step[0], code, reason)
			}
		}
		s.becomes(t, p.instance, ended)
		s.ok(t, 0, "POST", instances+"/"+other.instance+":terminate", "{}", nil)
		gone(t, p.instance)
		gone(t, other.instance)
	})
}
