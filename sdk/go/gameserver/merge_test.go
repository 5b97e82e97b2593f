package gameserver

import (
	"testing"

	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

func value(t *testing.T, text string) *structpb.Value {
	t.Helper()
	v := new(structpb.Value)
	if err := protojson.Unmarshal([]byte(text), v); err != nil {
		t.Fatal(err)
	}
	return v
}

// The examples of RFC 7396, appendix A.
func TestMergeFollowsTheRFC(t *testing.T) {
	for _, c := range []struct{ target, patch, want string }{
		{`{"a":"b"}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"b"}`, `{"b":"c"}`, `{"a":"b","b":"c"}`},
		{`{"a":"b"}`, `{"a":null}`, `{}`},
		{`{"a":"b","b":"c"}`, `{"a":null}`, `{"b":"c"}`},
		{`{"a":["b"]}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"c"}`, `{"a":["b"]}`, `{"a":["b"]}`},
		{`{"a":{"b":"c"}}`, `{"a":{"b":"d","c":null}}`, `{"a":{"b":"d"}}`},
		{`{"a":[{"b":"c"}]}`, `{"a":[1]}`, `{"a":[1]}`},
		{`["a","b"]`, `["c","d"]`, `["c","d"]`},
		{`{"a":"b"}`, `["c"]`, `["c"]`},
		{`{"a":"foo"}`, `null`, `null`},
		{`{"a":"foo"}`, `"bar"`, `"bar"`},
		{`{"e":null}`, `{"a":1}`, `{"e":null,"a":1}`},
		{`[1,2]`, `{"a":"b","c":null}`, `{"a":"b"}`},
		{`{}`, `{"a":{"bb":{"ccc":null}}}`, `{"a":{"bb":{}}}`},
	} {
		target, patch := value(t, c.target), value(t, c.patch)
		if got := mergeValue(target, patch); !proto.Equal(got, value(t, c.want)) {
			t.Errorf("%s into %s is %v, want %s", c.patch, c.target, got, c.want)
		}
		if !proto.Equal(target, value(t, c.target)) || !proto.Equal(patch, value(t, c.patch)) {
			t.Errorf("merging %s into %s changed them", c.patch, c.target)
		}
	}
}

func TestMergeOfData(t *testing.T) {
	const server, players = typev1.Data_VISIBILITY_SERVER, typev1.Data_VISIBILITY_PLAYERS
	object := func(text string, v typev1.Data_Visibility) *typev1.Data {
		return &typev1.Data{Kind: &typev1.Data_Json{Json: value(t, text).GetStructValue()}, Visibility: v}
	}
	bytes := &typev1.Data{Kind: &typev1.Data_Binary{Binary: []byte("x")}}
	for name, c := range map[string]struct{ data, patch, want *typev1.Data }{
		"no data is an empty object":       {nil, object(`{"a":1,"b":null}`, 0), object(`{"a":1}`, 0)},
		"no visibility leaves it":          {object(`{"a":1}`, server), object(`{"a":2}`, 0), object(`{"a":2}`, server)},
		"a visibility takes its place":     {object(`{"a":1}`, server), object(`{}`, players), object(`{"a":1}`, players)},
		"bytes take no patch, and stay":    {bytes, object(`{"a":1}`, 0), bytes},
		"bytes are no patch, and are left": {object(`{"a":1}`, 0), bytes, object(`{"a":1}`, 0)},
	} {
		if got := mergeData(c.data, c.patch); !proto.Equal(got, c.want) {
			t.Errorf("%s: got %v", name, got)
		}
	}
}
