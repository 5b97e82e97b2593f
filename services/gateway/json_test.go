package gateway_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/coder/websocket"
	"google.golang.org/protobuf/proto"

	"github.com/berth-dev/berth/pkg/errs"
	eventv1 "github.com/berth-dev/berth/pkg/gen/berth/event/v1"
	sessionv1 "github.com/berth-dev/berth/pkg/gen/berth/session/v1"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"

	"github.com/berth-dev/berth/services/gateway/internal/codec"
)

// object is a JSON object.
type object = map[string]any

// jsonSocket is a game server's end of a link with the sub-protocol berth.v1.json.
type jsonSocket struct {
	*socket
	game, social any
}

func (w *world) dialJSON(c credentials) *jsonSocket {
	w.tb.Helper()
	s, _, err := w.dial(c, func(h http.Header) { h["Sec-Websocket-Protocol"] = []string{"berth.v1.json"} })
	if err != nil {
		w.tb.Fatal(err)
	}
	if got := s.ws.Subprotocol(); got != "berth.v1.json" {
		w.tb.Fatalf("the sub-protocol is %q", got)
	}
	return &jsonSocket{socket: s}
}

func (w *world) openJSON(c credentials) *jsonSocket {
	w.tb.Helper()
	s := w.dialJSON(c)
	s.say(`{"hello":{"sdk":"test"}}`)
	welcome := s.hear("welcome")
	s.game, s.social = welcome["gameHandle"], welcome["socialHandle"]
	return s
}

func (s *jsonSocket) say(frame string) {
	s.tb.Helper()
	s.sendRaw(websocket.MessageText, []byte(frame))
}

// hear reads a frame, which must be of a kind.
func (s *jsonSocket) hear(kind string) object {
	s.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	typ, raw, err := s.ws.Read(ctx)
	if err != nil || typ != websocket.MessageText {
		s.tb.Fatalf("read: %v message, %v", typ, err)
	}
	var frame map[string]object
	if err := json.Unmarshal(raw, &frame); err != nil || len(frame) != 1 || frame[kind] == nil {
		s.tb.Fatalf("got %s (%v), want a %s", raw, err, kind)
	}
	return frame[kind]
}

// ask sends a request and returns its answer.
func (s *jsonSocket) ask(method, instance, payload string) object {
	s.tb.Helper()
	s.lastID++
	raw, err := json.Marshal(object{"request": object{
		"id": s.lastID, "auth": object{"game": s.game, "social": s.social}, "instanceId": instance, "method": method, "payload": json.RawMessage(payload),
	}})
	if err != nil {
		s.tb.Fatal(err)
	}
	s.say(string(raw))
	answer := s.hear("response")
	if answer["id"] != float64(s.lastID) {
		s.tb.Fatalf("%v is no answer to %d", answer, s.lastID)
	}
	return answer
}

// gone reads goodbye and the close, and returns the code.
func (s *jsonSocket) gone() linkv1.CloseCode {
	s.tb.Helper()
	goodbye := s.hear("goodbye")
	_, err := s.read()
	code := linkv1.CloseCode(websocket.CloseStatus(err))
	if goodbye["code"] != code.String() {
		s.tb.Fatalf("goodbye says %v, and the close %v (%v)", goodbye, code, err)
	}
	return code
}

// links answers Link with start data, and everything else as the service's own messages say.
func links(req *sessionv1.RelayRequest) (*sessionv1.RelayResponse, error) {
	resp, err := echo(req)
	var result proto.Message
	switch req.GetRequest().GetMethod() {
	case "Link":
		result = &gameserverv1.LinkResponse{Instance: &instancev1.GameInstance{Id: knownInstance, Revision: 1 << 52}, LinkEpoch: 1}
	case "UpdateGameData":
		var in gameserverv1.UpdateGameDataRequest
		if err := proto.Unmarshal(req.GetRequest().GetPayload(), &in); err != nil {
			return nil, err
		}
		result = &gameserverv1.UpdateGameDataResponse{Revision: in.GetExpectedRevision() + int64(len(in.GetGameData().GetBinary()))}
	default:
		return resp, err
	}
	raw, err := proto.Marshal(result)
	resp.Response.Outcome = &linkv1.Response_Result{Result: raw}
	return resp, err
}

func TestAMatchInJSON(t *testing.T) {
	w := start(t, nil)
	w.backend.sessions.set(func(s *sessions) { s.relays = links })
	s := w.openJSON(w.backend.issuer.pair(t))
	started, _ := s.ask("Link", knownInstance, `{"serverVersion":"1"}`)["result"].(object)
	if inst, _ := started["instance"].(object); inst["id"] != knownInstance || inst["revision"] != float64(1<<52) || started["linkEpoch"] != 1.0 {
		t.Fatalf("started with %v", started)
	}
	data := base64.StdEncoding.EncodeToString([]byte{0, 1, 2})
	for _, payload := range []string{
		`{"gameData":{"binary":"` + data + `"},"expectedRevision":40}`, `{"gameData":{"binary":"` + data + `"},"expectedRevision":"40","later":{"x":[]}}`,
	} {
		if answer, _ := s.ask("UpdateGameData", knownInstance, payload)["result"].(object); answer["revision"] != 43.0 {
			t.Errorf("%s: %v", payload, answer)
		}
	}
	w.deliver(delivery(knownInstance, 5, 0))
	n := s.hear("notification")
	if event, _ := n["event"].(object); n["offset"] != 5.0 || event["playersRemoved"] == nil {
		t.Errorf("%v", n)
	}
	s.say(`{"ack":{"instanceId":"` + knownInstance + `","offset":5}}`)
	if got := next(t, "the ack", w.backend.sessions.acked); got.GetOffset() != 5 || got.GetLinkEpoch() != 1 {
		t.Errorf("%v", got)
	}
}

func TestMessagesInJSON(t *testing.T) {
	w := start(t, nil)
	w.backend.sessions.set(func(s *sessions) {
		s.relays = func(req *sessionv1.RelayRequest) (*sessionv1.RelayResponse, error) {
			resp, err := links(req)
			resp.Link = &sessionv1.LinkState{InstanceId: knownInstance, LinkEpoch: 1}
			return resp, err
		}
	})
	heard := w.hears()
	s := w.openJSON(w.backend.issuer.pair(t))
	s.ask("Link", knownInstance, `{}`)
	raw, err := json.Marshal(object{"message": object{
		"instanceId": knownInstance, "auth": object{"game": s.game, "social": s.social}, "linkEpoch": 1, "sequence": 7, "topic": "score", "data": object{"json": object{"ann": 3}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	s.say(string(raw))
	got := next(t, "the message", heard).GetMessages()[0]
	var data typev1.Data
	if err := proto.Unmarshal(got.GetData(), &data); err != nil || data.GetJson().GetFields()["ann"].GetNumberValue() != 3 || got.GetSequence() != 7 || got.GetTopic() != "score" {
		t.Errorf("published as %v, %v", got, err)
	}
	w.publish(&eventv1.Envelope{Messages: []*eventv1.BackendMessage{{InstanceId: knownInstance, Topic: "back", Data: got.GetData()}}})
	back := s.hear("message")
	said, _ := back["data"].(object)
	if in, _ := said["json"].(object); in["ann"] != 3.0 || back["topic"] != "back" || back["instanceId"] != knownInstance || len(back) != 3 {
		t.Errorf("arrives as %v", back)
	}
	s.say(`{"message":{"instanceId":"` + knownInstance + `","linkEpoch":1,"sequence":8}}`)
	if why := s.hear("response"); why["id"] != nil && why["id"] != 0.0 || why["error"] == nil {
		t.Errorf("without credentials: %v", why)
	}
}

// A payload that nobody can read is answered, as over the other sub-protocol, and so is a method that there is not.
func TestABadPayloadIsAnsweredAndTheSocketStays(t *testing.T) {
	w := start(t, nil)
	w.backend.sessions.set(func(s *sessions) { s.relays = links })
	s := w.openJSON(w.backend.issuer.pair(t))
	for _, payload := range []string{`1`, `"x"`, `{"gameData":1}`} {
		e, _ := s.ask("UpdateGameData", knownInstance, payload)["error"].(object)
		if message, _ := e["message"].(string); e["reason"] != string(errs.Malformed) || e["code"] != 3.0 || !strings.HasPrefix(message, "payload: ") {
			t.Errorf("%s: %v", payload, e)
		}
	}
	s.say(`{"later":{"a":[1,2]}}`)
	if answer := s.ask("UpdateGameData", knownInstance, `{}`); answer["result"] == nil {
		t.Errorf("%v", answer)
	}
}

// Whoever offers both is given berth.v1.proto, in whatever order, and one that offers neither is told of both.
func TestTheSubprotocolIsAgreedAtTheUpgrade(t *testing.T) {
	w := start(t, nil)
	offer := func(names ...string) (*socket, *http.Response, error) {
		return w.dial(w.backend.issuer.pair(t), func(h http.Header) { h["Sec-Websocket-Protocol"] = names })
	}
	s, _, err := offer("berth.v2.proto", "berth.v1.json", "berth.v1.proto")
	if err != nil || s.ws.Subprotocol() != "berth.v1.proto" {
		t.Fatalf("%v, %v", s, err)
	}
	for _, names := range [][]string{{"berth.v2.proto"}, {"json", "graphql-ws"}, {"BERTH.V1.JSON"}} {
		_, resp, err := offer(names...)
		if err == nil {
			t.Fatalf("%v is taken", names)
		}
		if body := refusal(t, resp); resp.StatusCode != 400 || body.Reason != "MALFORMED" || !strings.Contains(body.Message, "berth.v1.proto or berth.v1.json") {
			t.Errorf("%v: %d %+v", names, resp.StatusCode, body)
		}
	}
}

// The last frame is in JSON as well, and says what the close frame says.
func TestGoodbyeIsInJSON(t *testing.T) {
	w := start(t, nil)
	s := w.openJSON(w.backend.issuer.pair(t))
	s.sendRaw(websocket.MessageBinary, []byte(`{}`))
	if code := s.gone(); code != linkv1.CloseCode_CLOSE_CODE_MALFORMED_FRAME {
		t.Errorf("closed with %v", code)
	}
}

// Text of a game's is written with no more bytes than JSON needs.
func TestTextIsNotMadeLarger(t *testing.T) {
	text := strings.Repeat("<&>", 100)
	raw, err := codec.JSON.Encode(&linkv1.Frame{Kind: &linkv1.Frame_Goodbye{Goodbye: &linkv1.Goodbye{Message: text}}})
	if err != nil || !strings.Contains(string(raw), text) {
		t.Errorf("%s, %v", raw, err)
	}
}
