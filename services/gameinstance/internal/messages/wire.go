package messages

import "google.golang.org/protobuf/encoding/protowire"

// The fields of berth.event.v1.ServerMessages, ServerMessage, Envelope and BackendMessage. They are read and written by hand: a message passes through here for
// every step of a game, and what nobody wants is not looked at further.
const (
	envelopeGateway  = 1 // of ServerMessages
	envelopeMessages = 2

	fieldNamespace = 1 // of ServerMessage
	fieldInstance  = 2
	fieldServer    = 3
	fieldSequence  = 4
	fieldTopic     = 5
	fieldData      = 6

	fieldBackendMessages = 4 // of Envelope

	backendInstance = 1 // of BackendMessage
	backendTopic    = 2
	backendData     = 3

	tagSize = 1 // of every tag above
)

// each calls f with every field of a message that is a string, bytes, a message or an integer. A value of bytes is valid as long as raw is.
func each(raw []byte, f func(number protowire.Number, value []byte, integer uint64) error) error {
	for len(raw) > 0 {
		number, typ, n := protowire.ConsumeTag(raw)
		if n < 0 {
			return protowire.ParseError(n)
		}
		raw = raw[n:]
		size := protowire.ConsumeFieldValue(number, typ, raw)
		if size < 0 {
			return protowire.ParseError(size)
		}
		var value []byte
		var integer uint64
		switch typ {
		case protowire.BytesType:
			value, _ = protowire.ConsumeBytes(raw)
		case protowire.VarintType:
			integer, _ = protowire.ConsumeVarint(raw)
		default:
			raw = raw[size:]
			continue
		}
		if err := f(number, value, integer); err != nil {
			return err
		}
		raw = raw[size:]
	}
	return nil
}

// gatewayOf returns the gateway of a ServerMessages. Its field may stand behind the messages.
func gatewayOf(raw []byte) (gateway []byte, err error) {
	err = each(raw, func(number protowire.Number, value []byte, _ uint64) error {
		if number == envelopeGateway {
			gateway = value
		}
		return nil
	})
	return gateway, err
}

// readMessage reads a ServerMessage.
func readMessage(raw []byte) (m Message, err error) {
	err = each(raw, func(number protowire.Number, value []byte, integer uint64) error {
		switch number {
		case fieldNamespace:
			m.Namespace = value
		case fieldInstance:
			m.Instance = value
		case fieldServer:
			m.Server = value
		case fieldSequence:
			m.Sequence = int64(integer) //nolint:gosec // as protobuf encodes an int64
		case fieldTopic:
			m.Topic = value
		case fieldData:
			m.Data = value
		}
		return nil
	})
	return m, err
}

// sizeOf returns the size of a BackendMessage as a field of its envelope.
func sizeOf(instance, topic string, data []byte) int {
	return tagSize + protowire.SizeBytes(innerSize(instance, topic, data))
}

func innerSize(instance, topic string, data []byte) int {
	n := 0
	for _, length := range [...]int{len(instance), len(topic), len(data)} {
		n += tagSize + protowire.SizeBytes(length)
	}
	return n
}

// appendMessage appends a BackendMessage as a field of its envelope.
func appendMessage(b []byte, instance, topic string, data []byte) []byte {
	b = protowire.AppendTag(b, fieldBackendMessages, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(innerSize(instance, topic, data))) //nolint:gosec // a size
	b = protowire.AppendString(protowire.AppendTag(b, backendInstance, protowire.BytesType), instance)
	b = protowire.AppendString(protowire.AppendTag(b, backendTopic, protowire.BytesType), topic)
	return protowire.AppendBytes(protowire.AppendTag(b, backendData, protowire.BytesType), data)
}
