package wsserver

import (
	"bytes"
	"fmt"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
)

func jsonData(tb testing.TB, text string) []byte {
	tb.Helper()
	d := new(typev1.Data)
	if err := protojson.Unmarshal([]byte(`{"json":`+text+`}`), d); err != nil {
		tb.Fatal(err)
	}
	raw, err := proto.Marshal(d)
	if err != nil {
		tb.Fatal(err)
	}
	return raw
}

// nested is an object with objects and arrays in it, so many deep in all.
func nested(tb testing.TB, depth int) []byte {
	tb.Helper()
	v := structpb.NewNumberValue(1)
	for i := range depth - 1 {
		if i%2 == 0 {
			v = structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{v}})
		} else {
			v = structpb.NewStructValue(&structpb.Struct{Fields: map[string]*structpb.Value{"a": v}})
		}
	}
	raw, err := proto.Marshal(&typev1.Data{Kind: &typev1.Data_Json{Json: &structpb.Struct{Fields: map[string]*structpb.Value{"a": v}}}})
	if err != nil {
		tb.Fatal(err)
	}
	return raw
}

const step = `{"tick":81234,"pos":[12.5,3.25,-7],"aim":0.75,"fire":true,"name":"ann"}`

func TestDataIsLookedAtWithoutAllocations(t *testing.T) {
	for _, raw := range [][]byte{nil, jsonData(t, step), jsonData(t, `{"a":null,"b":[[],{"c":""}]}`), nested(t, quickDepth)} {
		if !data.holds(raw, quickDepth) {
			t.Errorf("%x is refused", raw)
		}
		if n := testing.AllocsPerRun(100, func() { data.holds(raw, quickDepth) }); n != 0 {
			t.Errorf("%v allocations", n)
		}
	}
}

// depthOf is how deep objects and arrays are nested.
func depthOf(v *structpb.Value) (depth int) {
	switch k := v.GetKind().(type) {
	case *structpb.Value_StructValue:
		for _, inner := range k.StructValue.GetFields() {
			depth = max(depth, depthOf(inner))
		}
	case *structpb.Value_ListValue:
		for _, inner := range k.ListValue.GetValues() {
			depth = max(depth, depthOf(inner))
		}
	default:
		return 0
	}
	return depth + 1
}

// What is taken for data can be decoded as such and is not too deep; and what we encode ourselves is refused only when it is.
func FuzzData(f *testing.F) {
	for _, raw := range [][]byte{nil, jsonData(f, step), nested(f, quickDepth), nested(f, quickDepth+1), {0x12, 2, 'h', 'i'}, {0xa0, 6, 1}, {0x0a, 1, 0xff}, {0x0a, 2, 0x0a, 0}, {0x0a, 4, 0x0a, 2, 0x12, 0},
		{0x0a, 13, 0x0a, 11, 0x12, 9, 0x11, 0, 0, 0, 0, 0, 0, 0xf8, 0x7f}} {
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		d := new(typev1.Data)
		err := proto.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(raw, d)
		depth := 0
		if _, ok := d.GetKind().(*typev1.Data_Json); ok {
			depth = depthOf(structpb.NewStructValue(d.GetJson()))
		}
		if data.holds(raw, quickDepth) && (err != nil || depth > quickDepth) {
			t.Fatalf("%x: %v, %d deep", raw, err, depth)
		}
		if _, unread := protojson.Marshal(d); err == nil && data.holds(raw, quickDepth) && unread != nil {
			t.Fatalf("%x: %v", raw, unread)
		}
		if err != nil {
			return
		}
		if got := deeper(structpb.NewStructValue(d.GetJson()), quickDepth); got != (depth > quickDepth) {
			t.Fatalf("%x, %d deep: %v", raw, depth, got)
		}
		again, err := proto.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		if ok := data.holds(again, quickDepth); ok != (depth <= quickDepth && plain(structpb.NewStructValue(d.GetJson()))) {
			t.Fatalf("%x, %d deep: %v", again, depth, ok)
		}
	})
}

func BenchmarkData(b *testing.B) {
	binary, err := proto.Marshal(&typev1.Data{Kind: &typev1.Data_Binary{Binary: bytes.Repeat([]byte("x"), 125)}})
	if err != nil {
		b.Fatal(err)
	}
	for name, raw := range map[string][]byte{"binary": binary, "json": jsonData(b, step), "text": jsonData(b, fmt.Sprintf(`{"text":%q}`, bytes.Repeat([]byte("x"), 112)))} {
		b.Run(fmt.Sprintf("%s-%d-bytes", name, len(raw)), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if !data.holds(raw, quickDepth) {
					b.Fatal("refused")
				}
			}
		})
	}
}
