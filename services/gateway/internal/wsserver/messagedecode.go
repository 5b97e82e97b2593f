package wsserver

import (
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
)

// decodeMessage reads a frame that is a message and nothing else, as everybody writes them, without an allocation. Everything else, be it wrong or only
// unusual, is left to the codec, so that the two do not differ in what they make of a frame: data, too, that is none or nested deeper than most.
func decodeMessage(raw []byte) (m message, ok bool) {
	number, typ, n := protowire.ConsumeTag(raw)
	if n < 0 || number != frameMessage || typ != protowire.BytesType {
		return m, false
	}
	body, size := protowire.ConsumeBytes(raw[n:])
	if size < 0 || n+size != len(raw) {
		return m, false
	}
	last := protowire.Number(0)
	for len(body) > 0 {
		number, typ, n := protowire.ConsumeTag(body)
		if n < 0 || number <= last {
			return m, false
		}
		last, body = number, body[n:]
		size := protowire.ConsumeFieldValue(number, typ, body)
		if size < 0 || !m.take(number, typ, body[:size]) {
			return m, false
		}
		body = body[size:]
	}
	return m, true
}

// take takes a field in; false when it is none that is expected.
func (m *message) take(number protowire.Number, typ protowire.Type, value []byte) bool {
	if typ == protowire.VarintType {
		v, _ := protowire.ConsumeVarint(value)
		switch number {
		case messageEpoch:
			m.epoch = int64(v) //nolint:gosec // as protobuf decodes an int64
		case messageSequence:
			m.sequence = int64(v) //nolint:gosec // as above
		default:
			return false
		}
		return true
	}
	if typ != protowire.BytesType {
		return false
	}
	v, _ := protowire.ConsumeBytes(value)
	switch number {
	case messageInstance:
		m.instance = v
	case messageAuth:
		return m.takeAuth(v)
	case messageTopic:
		m.topic = v
	case messageData:
		m.data = v
		return data.holds(v, quickDepth)
	default:
		return false
	}
	return utf8.Valid(v)
}

func (m *message) takeAuth(raw []byte) bool {
	last := protowire.Number(0)
	for len(raw) > 0 {
		number, typ, n := protowire.ConsumeTag(raw)
		if n < 0 || typ != protowire.BytesType || number <= last {
			return false
		}
		last = number
		v, size := protowire.ConsumeBytes(raw[n:])
		if size < 0 || !utf8.Valid(v) {
			return false
		}
		switch number {
		case authGame:
			m.game = v
		case authSocial:
			m.social = v
		default:
			return false
		}
		raw = raw[n+size:]
	}
	return true
}

// messageOf is a message that was decoded as every other frame is.
func messageOf(in *linkv1.Message) (message, error) {
	raw, err := proto.Marshal(in.GetData())
	object := structpb.NewStructValue(in.GetData().GetJson())
	return message{
		instance: []byte(in.GetInstanceId()), game: []byte(in.GetAuth().GetGame()), social: []byte(in.GetAuth().GetSocial()),
		epoch: in.GetLinkEpoch(), sequence: in.GetSequence(), topic: []byte(in.GetTopic()), data: raw,
		deep: deeper(object, maxDepth), odd: !plain(object),
	}, err
}
