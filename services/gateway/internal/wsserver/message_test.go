package wsserver

import (
	"bytes"
	"testing"

	"google.golang.org/protobuf/proto"

	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"github.com/berth-dev/berth/services/gateway/internal/codec"
)

func aMessage(tb testing.TB) (frame *linkv1.Frame, raw []byte) {
	tb.Helper()
	frame = &linkv1.Frame{Kind: &linkv1.Frame_Message{Message: &linkv1.Message{
		InstanceId: "i", Auth: &linkv1.Credentials{Game: "g", Social: "s"}, LinkEpoch: 7, Sequence: 1 << 50, Topic: "t",
		Data: &typev1.Data{Kind: &typev1.Data_Binary{Binary: []byte("data")}},
	}}}
	raw, err := proto.Marshal(frame)
	if err != nil {
		tb.Fatal(err)
	}
	return frame, raw
}

func same(a, b message) bool {
	return bytes.Equal(a.instance, b.instance) && bytes.Equal(a.game, b.game) && bytes.Equal(a.social, b.social) && bytes.Equal(a.topic, b.topic) &&
		bytes.Equal(a.data, b.data) && a.epoch == b.epoch && a.sequence == b.sequence
}

func TestAMessageIsReadWithoutAllocations(t *testing.T) {
	frame, raw := aMessage(t)
	want, err := messageOf(frame.GetMessage())
	if got, ok := decodeMessage(raw); !ok || err != nil || !same(got, want) {
		t.Errorf("%v %+v, want %+v, %v", ok, got, want, err)
	}
	if n := testing.AllocsPerRun(100, func() { decodeMessage(raw) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestAMessageIsWrittenInOneAllocation(t *testing.T) {
	data, err := proto.Marshal(&typev1.Data{Kind: &typev1.Data_Binary{Binary: bytes.Repeat([]byte("x"), 200)}})
	if err != nil {
		t.Fatal(err)
	}
	instance, topic := []byte("i"), []byte("t")
	raw := encodeMessage(instance, topic, data)
	f, err := codec.Proto.Decode(raw)
	if m := f.GetMessage(); err != nil || m.GetInstanceId() != "i" || m.GetTopic() != "t" || len(m.GetData().GetBinary()) != 200 || len(raw) != cap(raw) {
		t.Errorf("%v, %v", f, err)
	}
	if n := testing.AllocsPerRun(100, func() { encodeMessage(instance, topic, data) }); n != 1 {
		t.Errorf("%v allocations", n)
	}
}

// What the quick way reads is what the slow one would: nobody gets a frame past one of them that the other takes for something else.
func FuzzMessage(f *testing.F) {
	_, raw := aMessage(f)
	f.Add(raw)
	f.Add(append(bytes.Clone(raw), raw...))
	f.Add([]byte{0x52, 0x00})
	f.Add([]byte{0x52, 0x03, 0x0a, 0x01, 0xff})
	f.Fuzz(func(t *testing.T, raw []byte) {
		got, ok := decodeMessage(raw)
		if !ok {
			return
		}
		frame, err := codec.Proto.Decode(raw)
		if err != nil {
			t.Fatalf("%x: %v", raw, err)
		}
		want, err := messageOf(frame.GetMessage())
		if err != nil {
			t.Fatal(err)
		}
		got.data, want.data = nil, nil
		if frame.GetMessage() == nil || !same(got, want) {
			t.Fatalf("%x: %+v, want %+v", raw, got, want)
		}
	})
}
