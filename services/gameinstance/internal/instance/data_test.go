package instance_test

import (
	"encoding/json"
	"reflect"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/berth-dev/berth/pkg/errs"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	. "github.com/berth-dev/berth/services/gameinstance/internal/instance"
)

func jsonData(s string) Data { return Data{Set: true, JSON: []byte(s), Size: len(s)} }

func merging(s string) UpdateGameData {
	return UpdateGameData{Data: Update{Data: jsonData(s), Merge: true}}
}

// The examples are those of RFC 7396's appendix whose both sides are objects, and a few on its edges.
func TestMergePatches(t *testing.T) {
	for _, c := range []struct{ old, patch, want string }{
		{`{"a":"b"}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"b"}`, `{"b":"c"}`, `{"a":"b","b":"c"}`},
		{`{"a":"b"}`, `{"a":null}`, `{}`},
		{`{"a":"b","b":"c"}`, `{"a":null}`, `{"b":"c"}`},
		{`{"a":["b"]}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"c"}`, `{"a":["b"]}`, `{"a":["b"]}`},
		{`{"a":{"b":"c"}}`, `{"a":{"b":"d","c":null}}`, `{"a":{"b":"d"}}`},
		{`{"a":[{"b":"c"}]}`, `{"a":[1]}`, `{"a":[1]}`},
		{`{"e":null}`, `{"a":1}`, `{"a":1,"e":null}`},
		{`{}`, `{"a":{"bb":{"ccc":null}}}`, `{"a":{"bb":{}}}`},
		{`{"a":1}`, `{}`, `{"a":1}`},
	} {
		l := begin(t).do(UpdateGameData{Data: Update{Data: jsonData(c.old)}}, merging(c.patch))
		var got, want any
		if err := json.Unmarshal(l.inst.GameData.JSON, &got); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(c.want), &want); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s merged into %s gives %s, want %s", c.patch, c.old, l.inst.GameData.JSON, c.want)
		}
	}
}

func TestWhatCannotBeMerged(t *testing.T) {
	l := begin(t).do(UpdateGameData{Data: Update{Data: Data{Set: true, Binary: []byte{1}, Size: 3}}})
	l.refuses(errs.ValidationFailed, merging(`{"a":1}`))
	l = begin(t).do(merging(`{"a":1}`)) // into nothing
	if got := string(l.inst.GameData.JSON); got != `{"a":1}` {
		t.Errorf("merged into nothing: %s", got)
	}
	half := make([]byte, MaxData*2/3)
	for i := range half {
		half[i] = 'x'
	}
	l = begin(t).do(merging(`{"a":"` + string(half) + `"}`))
	l.refuses(errs.LimitExceeded, merging(`{"b":"`+string(half)+`"}`))
}

func TestAMergeKeepsVisibilityUnlessItSaysSo(t *testing.T) {
	hidden := jsonData(`{"a":1}`)
	hidden.Visibility = VisibleToServer
	l := begin(t).do(UpdateGameData{Data: Update{Data: hidden}}, merging(`{"b":2}`))
	if got := l.inst.GameData.Visibility; got != VisibleToServer {
		t.Errorf("visibility after a merge: %d", got)
	}
	open := merging(`{"c":3}`)
	open.Data.Visibility = VisibleToPlayers
	if got := l.do(open).inst.GameData.Visibility; got != VisibleToPlayers {
		t.Errorf("visibility after a merge that sets it: %d", got)
	}
}

// What counts against the limits is the public message, whichever way the data came to be.
func TestTheSizeOfAStructIsThatOfItsMessage(t *testing.T) {
	long := make([]byte, 300)
	for i := range long {
		long[i] = 'y'
	}
	for _, object := range []string{
		`{}`, `{"a":1}`, `{"a":null,"b":true,"c":false,"d":-1.5e300}`, `{"s":"","t":"é日本"}`, `{"l":[],"m":[1,2,[3,{"n":null}]],"o":{}}`,
		`{"` + string(long) + `":{"` + string(long) + `":["` + string(long) + `"]}}`,
	} {
		var s structpb.Struct
		if err := protojson.Unmarshal([]byte(object), &s); err != nil {
			t.Fatal(err)
		}
		want := proto.Size(&typev1.Data{Kind: &typev1.Data_Json{Json: &s}})
		if got, err := StructSize([]byte(object)); err != nil || got != want {
			t.Errorf("size of %.60s: %d, %v; want %d", object, got, err, want)
		}
	}
}

func TestAnUpdateUponAnotherRevisionIsRefused(t *testing.T) {
	l := begin(t)
	l.inst.Revision = 7
	l.refuses(errs.RevisionMismatch, UpdateGameData{Data: Update{Data: jsonData(`{}`)}, Expected: 6})
	l.refuses(errs.RevisionMismatch, UpdatePlayers{Updates: []PlayerUpdate{{ID: "ann", Data: Update{Data: jsonData(`{}`)}}}, Expected: 8})
	l.do(UpdateGameData{Data: Update{Data: jsonData(`{}`)}, Expected: 7})
}

func TestCountsFollowWhatChanges(t *testing.T) {
	l := begin(t)
	check := func(count, playersBytes, gameBytes int) {
		t.Helper()
		if i := l.inst; i.PlayerCount != count || i.PlayersBytes != playersBytes || i.GameDataBytes != gameBytes {
			t.Errorf("%d players with %d bytes, %d bytes of game data; want %d, %d, %d", i.PlayerCount, i.PlayersBytes, i.GameDataBytes, count, playersBytes, gameBytes)
		}
	}
	check(2, 0, 0)
	l.do(AddPlayers{Players: []Player{{ID: "eve", Data: jsonData(`{"a":1}`)}}}, UpdateGameData{Data: Update{Data: jsonData(`{}`)}})
	check(3, 7, 2)
	l.do(UpdatePlayers{Updates: []PlayerUpdate{{ID: "eve", Data: Update{Data: jsonData(`{"a":12}`)}}, {ID: "ann", Presence: Present}}})
	check(3, 8, 2)
	l.do(RemovePlayers{IDs: []string{"eve", "bob"}})
	check(1, 0, 2)
}
