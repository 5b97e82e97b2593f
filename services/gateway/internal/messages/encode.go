package messages

import "google.golang.org/protobuf/encoding/protowire"

// The fields of berth.event.v1.ServerMessages and ServerMessage. They are encoded by hand: a message passes through here for every step of a game, and
// costs no allocation this way.
const (
	envelopeGateway  = 1
	envelopeMessages = 2

	fieldNamespace = 1
	fieldInstance  = 2
	fieldServer    = 3
	fieldSequence  = 4
	fieldTopic     = 5
	fieldData      = 6

	tagSize = 1 // of every tag above
)

// sizeOf returns the size of a message as a field of its envelope.
func sizeOf(m Message) int { return tagSize + protowire.SizeBytes(innerSize(m)) }

func innerSize(m Message) int {
	n := tagSize + protowire.SizeVarint(uint64(m.Sequence)) //nolint:gosec // as protobuf encodes an int64
	for _, length := range [...]int{len(m.Namespace), len(m.Instance), len(m.Server), len(m.Topic), len(m.Data)} {
		n += tagSize + protowire.SizeBytes(length)
	}
	return n
}

// appendMessage appends a message as a field of its envelope.
func appendMessage(b []byte, m Message) []byte {
	b = protowire.AppendTag(b, envelopeMessages, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(innerSize(m))) //nolint:gosec // a size
	b = protowire.AppendString(protowire.AppendTag(b, fieldNamespace, protowire.BytesType), m.Namespace)
	b = protowire.AppendString(protowire.AppendTag(b, fieldInstance, protowire.BytesType), m.Instance)
	b = protowire.AppendString(protowire.AppendTag(b, fieldServer, protowire.BytesType), m.Server)
	b = protowire.AppendVarint(protowire.AppendTag(b, fieldSequence, protowire.VarintType), uint64(m.Sequence)) //nolint:gosec // as protobuf encodes an int64
	b = protowire.AppendBytes(protowire.AppendTag(b, fieldTopic, protowire.BytesType), m.Topic)
	return protowire.AppendBytes(protowire.AppendTag(b, fieldData, protowire.BytesType), m.Data)
}
