package broker

import (
	"fmt"
	"testing"

	"google.golang.org/protobuf/proto"

	eventv1 "github.com/berth-dev/berth/pkg/gen/berth/event/v1"
)

func TestAnEnvelopeIsReadInItsParts(t *testing.T) {
	part := func(e *eventv1.Envelope) []byte {
		raw, err := proto.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	said := func(n int) *eventv1.Envelope {
		return &eventv1.Envelope{Messages: []*eventv1.BackendMessage{{InstanceId: fmt.Sprint("i", n), Topic: "t", Data: []byte("d")}}}
	}
	// As protobuf allows: the fields in any order.
	var raw []byte
	for _, e := range []*eventv1.Envelope{
		said(1), {Deliveries: []*eventv1.Delivery{{InstanceId: "a"}}}, said(2), said(3),
		{Deliveries: []*eventv1.Delivery{{InstanceId: "b"}}, Replaced: []*eventv1.SessionReplaced{{ServerId: "s"}}}, said(4),
		{Assignments: []*eventv1.ServerAssignment{{ServerId: "s"}}},
	} {
		raw = append(raw, part(e)...)
	}
	raw = append(raw, 0xf8, 0x07, 0x01) // field 127 of a later version
	var got []string
	rest, err := readEnvelope(raw, func(m Message) { got = append(got, fmt.Sprintf("%s %s %s", m.Instance, m.Topic, m.Data)) })
	if err != nil || fmt.Sprint(got) != "[i1 t d i2 t d i3 t d i4 t d]" {
		t.Errorf("%v, %v", got, err)
	}
	if len(rest.GetDeliveries()) != 2 || rest.GetDeliveries()[1].GetInstanceId() != "b" || len(rest.GetReplaced()) != 1 || len(rest.GetAssignments()) != 1 || len(rest.GetMessages()) != 0 {
		t.Errorf("%v", rest)
	}
	if rest, err := readEnvelope(part(said(1)), func(Message) {}); rest != nil || err != nil {
		t.Errorf("%v, %v", rest, err)
	}
	for cut := 1; cut < len(raw); cut++ {
		_, _ = readEnvelope(raw[:cut], func(Message) {})
	}
	if _, err := readEnvelope(raw[:len(raw)-1], func(Message) {}); err == nil {
		t.Error("an envelope that is cut off is taken")
	}
	one := part(said(1))
	if n := testing.AllocsPerRun(100, func() { _, _ = readEnvelope(one, func(Message) {}) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
