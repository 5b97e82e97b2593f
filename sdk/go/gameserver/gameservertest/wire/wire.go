// Package wire writes and reads the link's frames in both of its sub-protocols (docs/link-protocol.md), for tests and for tools that stand at either end
// of a link. It shares no code with Berth's gateway, so that each can be checked against the other.
package wire

import (
	"errors"
	"fmt"
	"sync"

	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	"github.com/coder/websocket"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// The sub-protocols.
const (
	// Proto has binary messages: frames in protobuf's encoding.
	Proto = "berth.v1.proto"
	// JSON has text messages: one object with one member, whose name is the kind of the frame.
	JSON = "berth.v1.json"
)

// maxMethods bounds the numbers of requests whose method a codec remembers. A peer has far fewer without an answer.
const maxMethods = 4096

// ErrMessageType means that a message is text where binary was agreed, or the reverse.
var ErrMessageType = errors.New("the message is of the other type: the sub-protocol has only text messages, or only binary ones")

// Codec writes and reads the frames of one connection. It is safe for concurrent use.
type Codec struct {
	json bool

	mu      sync.Mutex
	methods map[int64]string // of requests that went by, for their answers: in JSON those do not say what they are
}

// New returns the codec of a new connection on which this sub-protocol is in force.
func New(subprotocol string) (*Codec, error) {
	switch subprotocol {
	case Proto, JSON:
		return &Codec{json: subprotocol == JSON, methods: make(map[int64]string)}, nil
	default:
		return nil, fmt.Errorf("%q is no sub-protocol of the link: %s or %s", subprotocol, Proto, JSON)
	}
}

// Type returns the type of the connection's WebSocket messages.
func (c *Codec) Type() websocket.MessageType {
	if c.json {
		return websocket.MessageText
	}
	return websocket.MessageBinary
}

// Encode returns the message of a frame.
func (c *Codec) Encode(f *linkv1.Frame) ([]byte, error) {
	c.note(f)
	if c.json {
		return c.encodeJSON(f)
	}
	return proto.Marshal(f)
}

// Decode returns the frame of a message; one of a kind that is not known has no kind. A request whose payload cannot be read keeps a payload that
// cannot be read, because that is no error of the frame.
func (c *Codec) Decode(typ websocket.MessageType, b []byte) (*linkv1.Frame, error) {
	if typ != c.Type() {
		return nil, ErrMessageType
	}
	var f *linkv1.Frame
	var err error
	if c.json {
		f, err = c.decodeJSON(b)
	} else {
		f = new(linkv1.Frame)
		err = proto.Unmarshal(b, f)
	}
	if err != nil {
		return nil, err
	}
	c.note(f)
	return f, nil
}

// Unknown returns the message of a frame of a kind that no version has.
func (c *Codec) Unknown() []byte {
	if c.json {
		return []byte(`{"ofALaterVersion":{"a":1}}`)
	}
	return []byte{0xfa, 0x3f, 2, 8, 1} // the field 1023, a message
}

// note remembers the method of a request.
func (c *Codec) note(f *linkv1.Frame) {
	r := f.GetRequest()
	if r == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.methods) >= maxMethods {
		clear(c.methods)
	}
	c.methods[r.GetId()] = r.GetMethod()
}

func (c *Codec) method(id int64) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.methods[id]
}

// NewRequest returns an empty request message of a method of GameServerService, and NewResponse its answer; nil if there is no such method.
func NewRequest(method string) proto.Message {
	return newMessage(method, protoreflect.MethodDescriptor.Input)
}

// NewResponse returns an empty response message of a method of GameServerService; nil if there is no such method.
func NewResponse(method string) proto.Message {
	return newMessage(method, protoreflect.MethodDescriptor.Output)
}

func newMessage(method string, which func(protoreflect.MethodDescriptor) protoreflect.MessageDescriptor) proto.Message {
	service := gameserverv1.File_berth_gameserver_v1_game_server_service_proto.Services().ByName("GameServerService")
	m := service.Methods().ByName(protoreflect.Name(method))
	if m == nil {
		return nil
	}
	typ, err := protoregistry.GlobalTypes.FindMessageByName(which(m).FullName())
	if err != nil {
		return nil
	}
	return typ.New().Interface()
}
