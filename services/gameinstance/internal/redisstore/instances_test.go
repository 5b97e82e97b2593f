package redisstore_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	recordv1 "github.com/berth-dev/berth/pkg/gen/berth/record/v1"
	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/pkg/redisx/redistest"
	"github.com/berth-dev/berth/services/gameinstance/internal/instance"
	"github.com/berth-dev/berth/services/gameinstance/internal/redisstore"
)

// What a command does not need is neither loaded nor touched.
func TestOnlyWhatIsNeededIsLoaded(t *testing.T) {
	each(t, func(t *testing.T, s *redisstore.Store) {
		id := created(t, s)
		part := func(n instance.Needs) *instance.Instance {
			t.Helper()
			l, err := s.Load(context.Background(), id, n, nil)
			if err != nil {
				t.Fatal(err)
			}
			return l.Instance
		}
		if i := part(instance.Needs{}); len(i.Players) != 0 || i.GameData.Set || i.PlayerCount != 2 || i.State != instance.Allocating {
			t.Errorf("nothing but the head: %+v", i)
		}
		if i := part(instance.Needs{Players: []string{"bob", "nobody"}, GameData: true}); len(i.Players) != 1 || i.Players["bob"].ID != "bob" || !i.GameData.Set {
			t.Errorf("a player and the data: %+v", i)
		}
		change, err := instance.Decide(part(instance.Needs{Players: []string{"bob"}}), instance.UpdatePlayers{Updates: []instance.PlayerUpdate{{ID: "bob", Presence: instance.Present}}}, "test", part(instance.Needs{}).CreateTime)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Commit(context.Background(), change, nil); err != nil {
			t.Fatal(err)
		}
		if i := load(t, s, id); len(i.Players) != 2 || i.Players["bob"].Presence != instance.Present || i.Players["ann"].TeamID != "red" || len(i.GameData.Binary) != 2 || i.Settings == nil {
			t.Errorf("an update of one player left %+v", i)
		}
	})
}

// unknown returns a field that no version knows yet.
func unknown(text string) []byte {
	return protowire.AppendString(protowire.AppendTag(nil, 5000, protowire.BytesType), text)
}

// A replica of the next version writes fields that this one does not know; whatever this one changes, they stay.
func TestAnOldCodecKeepsWhatANewerOneWrote(t *testing.T) {
	redistest.Each(t, func(t *testing.T, r *redisx.Store) {
		s, ctx := redisstore.New(r), context.Background()
		id := linked(t, s)
		key := redisx.Key(r.Partition(id), "i:"+id)
		var head recordv1.InstanceHead
		read := func(field string, into proto.Message) {
			t.Helper()
			b, err := r.HGet(ctx, key, field).Bytes()
			if err != nil {
				t.Fatal(err)
			}
			if err := proto.Unmarshal(b, into); err != nil {
				t.Fatal(err)
			}
		}
		write := func(field string, m proto.Message) {
			t.Helper()
			b, err := proto.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			if err := r.HSet(ctx, key, field, b).Err(); err != nil {
				t.Fatal(err)
			}
		}
		read("head", &head)
		var player recordv1.PlayerRecord
		read("p:ann", &player)
		for name, m := range map[string]proto.Message{
			"head": &head, "link": head.GetLink(), "attempt": head.GetAttempts()[0], "timeouts": head.GetTimeouts(), "placement": head.GetPlacement(), "deadline": head.GetDeadlines()[0],
			"player": &player, "player's data": player.GetData(),
		} {
			m.ProtoReflect().SetUnknown(protoreflect.RawFields(unknown(name)))
		}
		write("head", &head)
		write("p:ann", &player)

		must(t, s, id, instance.LoseSession{ServerID: load(t, s, id).Attempt().ServerID, SessionEpoch: 1})
		must(t, s, id, instance.UpdatePlayers{Updates: []instance.PlayerUpdate{{ID: "ann", Presence: instance.Present}, {ID: "bob", Presence: instance.Present}}})
		must(t, s, id, instance.UpdateGameData{})
		raw, err := r.HMGet(ctx, key, "head", "p:ann").Result()
		if err != nil {
			t.Fatal(err)
		}
		stored := fmt.Sprint(raw...)
		for _, name := range []string{"head", "link", "attempt", "timeouts", "placement", "deadline", "player"} {
			if !strings.Contains(stored, string(unknown(name))) {
				t.Errorf("what a newer version wrote into %s is gone", name)
			}
		}
		if got := load(t, s, id); got.Players["ann"].Presence != instance.Present || got.Link.Connected {
			t.Errorf("the older version's own changes: %+v", got)
		}
		// What was said of one server is not said of the next.
		must(t, s, id, instance.Replace{})
		must(t, s, id, instance.LinkServer{Server: instance.Caller{ServerID: load(t, s, id).Attempt().ServerID}, SessionEpoch: 1, GatewayID: "gw"})
		if raw, err := r.HGet(ctx, key, "head").Result(); err != nil || strings.Contains(raw, string(unknown("link"))) || !strings.Contains(raw, string(unknown("attempt"))) {
			t.Errorf("after another server linked: %q, %v", raw, err)
		}
	})
}

func TestUpdatesInARowAreOneEntryOfTheHistory(t *testing.T) {
	each(t, func(t *testing.T, s *redisstore.Store) {
		id := linked(t, s)
		backend := instance.UpdateGameData{Data: instance.Update{Data: instance.Data{Set: true, Binary: []byte{1}}}}
		for range 3 {
			must(t, s, id, backend)
		}
		must(t, s, id, instance.UpdatePlayers{Updates: []instance.PlayerUpdate{{ID: "ann"}}})
		must(t, s, id, backend)
		must(t, s, id, instance.AddPlayers{Players: []instance.Player{{ID: "eve"}}})
		must(t, s, id, instance.AddPlayers{Players: []instance.Player{{ID: "adam"}}})
		_, last := must(t, s, id, backend)
		entries, err := s.History(context.Background(), id)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range entries {
			got = append(got, fmt.Sprint(e.Event, " ", e.Count))
			if e.FirstTime.After(e.Time) || e.Count == 1 && !e.FirstTime.Equal(e.Time) || e.Count > 1 && !e.FirstTime.Before(e.Time) {
				t.Errorf("%s: first at %s, last at %s", e.Event, e.FirstTime, e.Time)
			}
		}
		want := "created 1, allocating 1, linked 1, game_data_updated 3, players_updated 1, game_data_updated 1, players_added 1, players_added 1, game_data_updated 1"
		if strings.Join(got, ", ") != want {
			t.Errorf("history %v\nwant %v", strings.Join(got, ", "), want)
		}
		if e := entries[len(entries)-1]; e.Revision != last.Revision {
			t.Errorf("the last entry is of revision %d, want %d", e.Revision, last.Revision)
		}
	})
}

// Numbers that a server was told of are not used again by a store that has lost them, even where its clock is behind.
func TestNumbersThatWereLostAreNotUsedAgain(t *testing.T) {
	each(t, func(t *testing.T, s *redisstore.Store) {
		id := linked(t, s)
		const ahead = 1e12 // µs: far more than the clock moves in this test
		i := load(t, s, id)
		told := instance.AttachSession{ServerID: i.Attempt().ServerID, SessionEpoch: 2, GatewayID: "gw", Revision: i.Revision + ahead, LastOffset: i.LastOffset + ahead, LinkEpoch: i.LastLinkEpoch + ahead}
		_, done := must(t, s, id, told)
		if done.Revision <= told.Revision {
			t.Errorf("revision %d after one of %d", done.Revision, told.Revision)
		}
		must(t, s, id, instance.LinkServer{Server: instance.Caller{ServerID: told.ServerID}, SessionEpoch: 2, GatewayID: "gw"})
		_, done = must(t, s, id, instance.AddPlayers{Players: []instance.Player{{ID: "eve"}}})
		if i := load(t, s, id); done.FirstOffset <= told.LastOffset || i.Link.Epoch <= told.LinkEpoch || i.Link.Floor < told.LastOffset {
			t.Errorf("offset %d after %d, link epoch %d after %d, floor %d", done.FirstOffset, told.LastOffset, i.Link.Epoch, told.LinkEpoch, i.Link.Floor)
		}
	})
}

// Nothing is made again under the id of an instance that was deleted: the request that made it may come once more.
func TestADeletedInstanceLeavesATombstone(t *testing.T) {
	each(t, func(t *testing.T, s *redisstore.Store) {
		id := created(t, s)
		create := instance.Create{Namespace: "default", ID: id, Placement: instance.Placement{Build: "b"}, Timeouts: timeouts}
		must(t, s, id, instance.Terminate{})
		l, err := s.Load(context.Background(), id, instance.Needs{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		l.Instance.Outbox = nil
		change, err := instance.Decide(l.Instance, instance.Expire{}, "test", l.Now.Add(timeouts.Retention))
		if err != nil || !change.Delete {
			t.Fatalf("expire: %+v, %v", change, err)
		}
		if _, err := s.Commit(context.Background(), change, nil); err != nil {
			t.Fatal(err)
		}
		if l, err := s.Load(context.Background(), id, instance.Needs{}, nil); err != nil || !l.Gone {
			t.Errorf("load: %+v, %v", l, err)
		}
		if _, _, err := commit(t, s, id, instance.Envelope{}, create); err == nil {
			t.Error("an instance was created where one was deleted")
		}
	})
}
