package broker

import (
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	eventv1 "github.com/berth-dev/berth/pkg/gen/berth/event/v1"
)

// The fields of berth.event.v1.Envelope.messages and BackendMessage, which are read by hand: a message passes through here for every step of a game, and costs
// no allocation this way.
const (
	fieldMessages = 4

	messageInstance = 1
	messageTopic    = 2
	messageData     = 3
)

// Message is what a backend says to the server of an instance. Its fields are valid during the call that hands it over.
type Message struct {
	// Instance and Topic say what it is about, and Data is the encoded berth.type.v1.Data.
	Instance, Topic, Data []byte
}

// readEnvelope hands over the messages of an envelope, in order, and returns the rest of it; nil where that is nothing.
func readEnvelope(raw []byte, message func(Message)) (*eventv1.Envelope, error) {
	var rest *eventv1.Envelope
	from := 0 // the start of a run of fields that are not messages
	flush := func(to int) error {
		if from == to {
			return nil
		}
		if rest == nil {
			rest = new(eventv1.Envelope)
		}
		return proto.UnmarshalOptions{Merge: true}.Unmarshal(raw[from:to], rest)
	}
	for at := 0; at < len(raw); {
		number, typ, n := protowire.ConsumeTag(raw[at:])
		if n < 0 {
			return nil, protowire.ParseError(n)
		}
		size := protowire.ConsumeFieldValue(number, typ, raw[at+n:])
		if size < 0 {
			return nil, protowire.ParseError(size)
		}
		end := at + n + size
		if number == fieldMessages && typ == protowire.BytesType {
			if err := flush(at); err != nil {
				return nil, err
			}
			from = end
			value, _ := protowire.ConsumeBytes(raw[at+n : end])
			m, err := readMessage(value)
			if err != nil {
				return nil, err
			}
			message(m)
		}
		at = end
	}
	err := flush(len(raw)) // before rest is looked at, which it sets
	return rest, err
}

func readMessage(raw []byte) (m Message, err error) {
	for len(raw) > 0 {
		number, typ, n := protowire.ConsumeTag(raw)
		if n < 0 {
			return m, protowire.ParseError(n)
		}
		raw = raw[n:]
		size := protowire.ConsumeFieldValue(number, typ, raw)
		if size < 0 {
			return m, protowire.ParseError(size)
		}
		if typ == protowire.BytesType {
			value, _ := protowire.ConsumeBytes(raw)
			switch number {
			case messageInstance:
				m.Instance = value
			case messageTopic:
				m.Topic = value
			case messageData:
				m.Data = value
			}
		}
		raw = raw[size:]
	}
	return m, nil
}
