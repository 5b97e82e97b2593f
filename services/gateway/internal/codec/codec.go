// Package codec turns the frames of the link into WebSocket messages and back. There is one codec for each sub-protocol of docs/link-protocol.md.
package codec

import (
	"google.golang.org/protobuf/proto"

	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
)

// Codec is how frames are written on one connection. It has no state, and is safe for concurrent use.
//
// The payload of a Request and the result of a Response are bytes in a Frame. Decode leaves a payload, and Encode takes a result, in the codec's own form;
// Payload and Result translate them from and to protobuf. They are steps of their own because a payload that cannot be read is the matter of its request, and
// a frame that cannot be read the end of the connection.
type Codec interface {
	// Subprotocol is the name under which it is agreed.
	Subprotocol() string
	// Text says whether frames are text messages; otherwise they are binary ones.
	Text() bool
	// Decode reads a frame and keeps nothing of raw. A kind that is not known leaves the frame without one.
	Decode(raw []byte) (*linkv1.Frame, error)
	// Encode writes a frame.
	Encode(f *linkv1.Frame) ([]byte, error)
	// Payload turns the payload of a request into the method's request message, encoded. It returns an *errs.Error when it cannot be read.
	Payload(method string, payload []byte) ([]byte, error)
	// Result turns the method's response message, encoded, into the result of a response.
	Result(method string, result []byte) ([]byte, error)
}

// Subprotocols are the names of all codecs. Of those that a server offers, the gateway takes the first.
func Subprotocols() []string { return []string{Proto.Subprotocol(), JSON.Subprotocol()} }

// Of returns the codec of a sub-protocol that was agreed.
func Of(subprotocol string) Codec {
	if subprotocol == JSON.Subprotocol() {
		return JSON
	}
	return Proto
}

// Proto is berth.v1.proto.
var Proto Codec = protoCodec{}

type protoCodec struct{}

func (protoCodec) Subprotocol() string { return "berth.v1.proto" }

func (protoCodec) Text() bool { return false }

func (protoCodec) Decode(raw []byte) (*linkv1.Frame, error) {
	f := new(linkv1.Frame)
	if err := proto.Unmarshal(raw, f); err != nil {
		return nil, err
	}
	return f, nil
}

// Encode does not fail for frames that the gateway makes: their strings come out of valid messages.
func (protoCodec) Encode(f *linkv1.Frame) ([]byte, error) { return proto.Marshal(f) }

func (protoCodec) Payload(_ string, payload []byte) ([]byte, error) { return payload, nil }

func (protoCodec) Result(_ string, result []byte) ([]byte, error) { return result, nil }
