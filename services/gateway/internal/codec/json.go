package codec

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/berth-dev/berth/pkg/errs"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
)

// JSON is berth.v1.json.
//
// A frame is an object with one member, whose name is the kind. Inside, names and values are those of the REST API, but for 64-bit integers, which are numbers:
// all of the protocol are below 2^53. Payloads and results are objects in their places.
var JSON Codec = jsonCodec{}

type jsonCodec struct{}

// maxDepth is how many messages deep a frame may be nested. The 64 levels of a game's data take two each, and what is around them has room.
const maxDepth = 256

// reader reads JSON. Members that are not known are of a later version.
var reader = protojson.UnmarshalOptions{DiscardUnknown: true, RecursionLimit: maxDepth}

func (jsonCodec) Subprotocol() string { return "berth.v1.json" }

func (jsonCodec) Text() bool { return true }

func (jsonCodec) Decode(raw []byte) (*linkv1.Frame, error) {
	if !utf8.Valid(raw) {
		return nil, errors.New("it is not UTF-8")
	}
	f := new(linkv1.Frame)
	kinds := f.ProtoReflect().Descriptor().Fields()
	err := members(raw, func(name string, value json.RawMessage) error {
		kind := kinds.ByJSONName(name)
		switch {
		case kind == nil:
			return nil
		case f.GetKind() != nil:
			return errors.New("it has more than one kind")
		}
		return decodeKind(value, f.ProtoReflect().Mutable(kind).Message().Interface())
	})
	if err != nil {
		return nil, err
	}
	return f, nil
}

// decodeKind reads what stands under a frame's kind. Payload and result are left as they are.
func decodeKind(raw json.RawMessage, into proto.Message) error {
	switch m := into.(type) {
	case *linkv1.Request:
		rest, payload, err := cut(raw, "payload")
		if err != nil {
			return err
		}
		err = reader.Unmarshal(rest, m)
		m.Payload = payload
		return err
	case *linkv1.Response:
		rest, result, err := cut(raw, "result")
		if err != nil {
			return err
		}
		err = reader.Unmarshal(rest, m)
		switch {
		case result == nil:
		case m.GetOutcome() != nil:
			return errors.New("response: it has an error and a result")
		default:
			m.Outcome = &linkv1.Response_Result{Result: result}
		}
		return err
	default:
		return reader.Unmarshal(raw, m)
	}
}

// members calls found for each member of an object.
func members(raw []byte, found func(name string, value json.RawMessage) error) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return errors.New("it is not a JSON object")
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return err
		}
		var value json.RawMessage // anew each time: it is kept
		if err := d.Decode(&value); err != nil {
			return err
		}
		if err := found(fmt.Sprint(name), value); err != nil {
			return err
		}
	}
	if _, err := d.Token(); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is more than one JSON object")
	}
	return nil
}

// cut takes one member out of an object; nil when it is not there.
func cut(raw json.RawMessage, member string) (rest, value json.RawMessage, err error) {
	rest = append(make(json.RawMessage, 0, len(raw)), '{')
	seen := false
	err = members(raw, func(name string, v json.RawMessage) error {
		if name == member {
			if seen {
				return fmt.Errorf("it has %s twice", member)
			}
			seen = true
			if string(v) != "null" {
				value = v
			}
			return nil
		}
		quoted, err := json.Marshal(name)
		if len(rest) > 1 {
			rest = append(rest, ',')
		}
		rest = append(append(append(rest, quoted...), ':'), v...)
		return err
	})
	return append(rest, '}'), value, err
}

func (jsonCodec) Encode(f *linkv1.Frame) ([]byte, error) { return appendMessage(nil, f.ProtoReflect()) }

// Payload leaves a method that is not known to game-instance, which says so.
func (jsonCodec) Payload(method string, payload []byte) ([]byte, error) {
	rpc := methodOf(method)
	if rpc == nil || len(payload) == 0 {
		return nil, nil
	}
	m, err := newMessage(rpc.Input())
	if err != nil {
		return nil, err
	}
	if err := reader.Unmarshal(payload, m); err != nil {
		return nil, errs.New(errs.Malformed, "payload: %s", plainText(err))
	}
	return proto.Marshal(m)
}

func (jsonCodec) Result(method string, result []byte) ([]byte, error) {
	rpc := methodOf(method)
	if rpc == nil {
		return nil, fmt.Errorf("there is no method %q", method)
	}
	m, err := newMessage(rpc.Output())
	if err != nil {
		return nil, err
	}
	if err := proto.Unmarshal(result, m); err != nil {
		return nil, err
	}
	return appendMessage(nil, m.ProtoReflect())
}

func methodOf(name string) protoreflect.MethodDescriptor {
	service := gameserverv1.File_berth_gameserver_v1_game_server_service_proto.Services().ByName("GameServerService")
	return service.Methods().ByName(protoreflect.Name(name))
}

func newMessage(d protoreflect.MessageDescriptor) (proto.Message, error) {
	typ, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		return nil, err
	}
	return typ.New().Interface(), nil
}

// maxDetail is how much of a parser's message is passed on; it quotes from the payload.
const maxDetail = 300

// plainText makes a message of the protobuf module stable: it begins with "proto:" and, at random, one or another kind of space.
func plainText(err error) string {
	msg := strings.ReplaceAll(err.Error(), "\u00a0", " ")
	msg = strings.TrimSpace(strings.TrimPrefix(msg, "proto:"))
	if len(msg) > maxDetail {
		msg = strings.ToValidUTF8(msg[:maxDetail], "") + "…"
	}
	return msg
}
