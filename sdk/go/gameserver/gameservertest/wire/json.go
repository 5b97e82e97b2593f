package wire

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// encodeJSON writes a frame as one object with one member. 64-bit numbers are numbers, which protojson does not do, and payload and result stand in
// their places as objects.
func (c *Codec) encodeJSON(f *linkv1.Frame) ([]byte, error) {
	out, err := object(f.ProtoReflect())
	if err != nil {
		return nil, err
	}
	switch k := f.GetKind().(type) {
	case *linkv1.Frame_Request:
		err = inline(out["request"], "payload", NewRequest(k.Request.GetMethod()), k.Request.GetPayload())
	case *linkv1.Frame_Response:
		if k.Response.GetError() == nil {
			err = inline(out["response"], "result", NewResponse(c.method(k.Response.GetId())), k.Response.GetResult())
		}
	}
	if err != nil {
		return nil, err
	}
	return json.Marshal(out)
}

// inline puts an encoded message into an object as an object.
func inline(into any, name string, m proto.Message, b []byte) error {
	target, ok := into.(map[string]any)
	if !ok {
		return errors.New("the frame has no content")
	}
	delete(target, name)
	if m == nil {
		return nil
	}
	if err := proto.Unmarshal(b, m); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	value, err := object(m.ProtoReflect())
	if err != nil {
		return err
	}
	target[name] = value
	return nil
}

// object returns a message as encoding/json writes it.
func object(m protoreflect.Message) (map[string]any, error) {
	out := make(map[string]any)
	var failed error
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		var value any
		switch {
		case fd.IsList():
			list := make([]any, v.List().Len())
			for i := range list {
				if list[i], failed = scalar(fd, v.List().Get(i)); failed != nil {
					return false
				}
			}
			value = list
		case fd.IsMap():
			entries := make(map[string]any)
			v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
				entries[k.String()], failed = scalar(fd.MapValue(), v)
				return failed == nil
			})
			value = entries
		default:
			value, failed = scalar(fd, v)
		}
		out[fd.JSONName()] = value
		return failed == nil
	})
	return out, failed
}

func scalar(fd protoreflect.FieldDescriptor, v protoreflect.Value) (any, error) {
	switch fd.Kind() {
	case protoreflect.MessageKind, protoreflect.GroupKind:
		if strings.HasPrefix(string(fd.Message().FullName()), "google.protobuf.") { // those have forms of their own
			b, err := protojson.Marshal(v.Message().Interface())
			return json.RawMessage(b), err
		}
		return object(v.Message())
	case protoreflect.EnumKind:
		if value := fd.Enum().Values().ByNumber(v.Enum()); value != nil {
			return string(value.Name()), nil
		}
		return int32(v.Enum()), nil
	case protoreflect.BytesKind:
		return base64.StdEncoding.EncodeToString(v.Bytes()), nil
	default:
		return v.Interface(), nil
	}
}

// lenient takes what is not known, as every receiver must.
var lenient = protojson.UnmarshalOptions{DiscardUnknown: true}

// unreadable is no message of any kind: what stands for a payload that could not be read.
var unreadable = []byte{0xff}

func (c *Codec) decodeJSON(b []byte) (*linkv1.Frame, error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(b, &members); err != nil {
		return nil, errors.New("the message is no JSON object")
	}
	if len(members) != 1 {
		return nil, fmt.Errorf("the object has %d members; a frame has one, whose name is its kind", len(members))
	}
	f := new(linkv1.Frame)
	for kind, content := range members {
		fd := f.ProtoReflect().Descriptor().Fields().ByJSONName(kind)
		if fd == nil {
			return f, nil // of a later version
		}
		field, err := cut(kind, &content)
		if err != nil {
			return nil, err
		}
		if err := lenient.Unmarshal(content, f.ProtoReflect().Mutable(fd).Message().Interface()); err != nil {
			return nil, fmt.Errorf("%s: %w", kind, err)
		}
		c.fill(f, field)
	}
	return f, nil
}

// cut takes the inlined message out of a request or a response, and returns it; nil if there is none.
func cut(kind string, content *json.RawMessage) (json.RawMessage, error) {
	name := map[string]string{"request": "payload", "response": "result"}[kind]
	if name == "" {
		return nil, nil
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(*content, &members); err != nil {
		return nil, fmt.Errorf("%s is no JSON object", kind)
	}
	inlined := members[name]
	delete(members, name)
	rest, err := json.Marshal(members)
	*content = rest
	return inlined, err
}

// fill puts an inlined message into its frame, encoded.
func (c *Codec) fill(f *linkv1.Frame, inlined json.RawMessage) {
	encode := func(m proto.Message) []byte {
		if m == nil || len(inlined) == 0 || string(inlined) == "null" {
			return nil
		}
		if lenient.Unmarshal(inlined, m) != nil {
			return unreadable
		}
		b, err := proto.Marshal(m)
		if err != nil {
			return unreadable
		}
		return b
	}
	if r := f.GetRequest(); r != nil {
		r.Payload = encode(NewRequest(r.GetMethod()))
	}
	if r := f.GetResponse(); r != nil && r.GetError() == nil {
		r.Outcome = &linkv1.Response_Result{Result: encode(NewResponse(c.method(r.GetId())))}
	}
}
