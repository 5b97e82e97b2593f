package redisstore_test

import (
	"context"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/pkg/redisx/redistest"
	"github.com/berth-dev/berth/services/gameinstance/internal/instance"
	"github.com/berth-dev/berth/services/gameinstance/internal/redisstore"
)

// lost returns the index of lost links.
func lost(t *testing.T, r *redisx.Store) map[string]int64 {
	t.Helper()
	out := map[string]int64{}
	for p := range r.Partitions() {
		entries, err := r.ZRangeByScoreWithScores(context.Background(), redisx.Key(p, "lost"), &redis.ZRangeBy{Min: "-inf", Max: "+inf"}).Result()
		if err != nil {
			t.Fatal(err)
		}
		for _, z := range entries {
			out[z.Member.(string)] = int64(z.Score)
		}
	}
	return out
}

func TestALostLinkIsIndexedUntilItIsBackOrOver(t *testing.T) {
	redistest.Each(t, func(t *testing.T, r *redisx.Store) {
		s := redisstore.New(r)
		for name, ending := range map[string]func(id, server string) instance.Command{
			"attached": func(id, server string) instance.Command {
				return instance.AttachSession{ServerID: server, SessionEpoch: 2, GatewayID: "gw", LinkEpoch: load(t, s, id).Link.Epoch}
			},
			"terminated": func(string, string) instance.Command { return instance.Terminate{} },
		} {
			id := linked(t, s)
			server := load(t, s, id).Attempt().ServerID
			if got := lost(t, r); len(got) != 0 {
				t.Fatalf("%s: lost before the loss: %v", name, got)
			}
			must(t, s, id, instance.LoseSession{ServerID: server, SessionEpoch: 1})
			at := load(t, s, id).Link.ChangeTime.UnixMicro()
			must(t, s, id, instance.UpdateGameData{}) // what happens meanwhile changes nothing
			if got := lost(t, r); len(got) != 1 || got[id] != at {
				t.Errorf("%s: lost %v, want %s at %d", name, got, id, at)
			}
			must(t, s, id, ending(id, server))
			if got := lost(t, r); len(got) != 0 {
				t.Errorf("%s: still lost: %v", name, got)
			}
		}
	})
}
