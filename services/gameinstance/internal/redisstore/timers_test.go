package redisstore_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/redis/go-redis/v9"

	"github.com/berth-dev/berth/pkg/freeport"
	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/pkg/redisx/redistest"
	"github.com/berth-dev/berth/services/gameinstance/internal/instance"
	"github.com/berth-dev/berth/services/gameinstance/internal/redisstore"
	"github.com/berth-dev/berth/services/gameinstance/internal/timer"
)

// A replica of the version before this one changes an instance without a word in idx about what it wrote into the timers. The next commit that asks
// for a deadline must not take it for written.
func TestWhatAnotherVersionWroteIntoTheTimersIsNotTakenForKnown(t *testing.T) {
	redistest.Each(t, func(t *testing.T, r *redisx.Store) {
		s, ctx := redisstore.New(r), context.Background()
		id := linked(t, s)
		p := r.Partition(id)
		timers, key := redisx.Key(p, "timers"), redisx.Key(p, "i:"+id)
		i := load(t, s, id)
		due := i.NextDue().UnixMicro()
		if err := r.HSet(ctx, key, "rev", i.Revision+1).Err(); err != nil {
			t.Fatal(err)
		}
		if err := r.ZAdd(ctx, timers, redis.Z{Score: float64(due + 1e9), Member: id}).Err(); err != nil {
			t.Fatal(err)
		}
		must(t, s, id, instance.UpdateGameData{})
		if got, err := r.ZScore(ctx, timers, id).Result(); err != nil || int64(got) != due {
			t.Errorf("the timer is set to %.0f (%v), and the instance is due at %d", got, err, due)
		}
	})
}

// A fresh link over the same gateway empties the mailbox, and nothing else about the instance changes in the shared sets: it must not be left among those
// whose mail waits.
func TestAFreshLinkOverTheSameGatewayLeavesNoMailWaiting(t *testing.T) {
	redistest.Each(t, func(t *testing.T, r *redisx.Store) {
		s, ctx := redisstore.New(r), context.Background()
		id := linked(t, s)
		waiting := func() int64 {
			t.Helper()
			n, err := r.ZCard(ctx, redisx.Key(r.Partition(id), "undelivered")).Result()
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		must(t, s, id, instance.AddPlayers{Players: []instance.Player{{ID: "eve"}}})
		if waiting() != 1 {
			t.Fatal("the notification does not wait")
		}
		must(t, s, id, instance.LinkServer{Server: instance.Caller{ServerID: load(t, s, id).Attempt().ServerID}, SessionEpoch: 2, GatewayID: "gw"})
		if waiting() != 0 {
			t.Error("an empty mailbox is waited for")
		}
	})
}

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

// look looks at all partitions.
func look(tb testing.TB, s *redisstore.Timers, gap, hold time.Duration, limit int) []timer.Swept {
	tb.Helper()
	l := timer.Look{Gap: gap, Hold: hold, Limit: limit}
	for p := range s.Partitions() {
		l.Partitions = append(l.Partitions, p)
	}
	swept, err := s.Sweep(context.Background(), l)
	if err != nil || len(swept) != len(l.Partitions) {
		tb.Fatalf("%d partitions swept, %v", len(swept), err)
	}
	return swept
}

// due returns what a look at all partitions finds.
func due(t *testing.T, s *redisstore.Timers) (ids []string) {
	t.Helper()
	for _, p := range look(t, s, time.Minute, time.Minute, 10) {
		ids = append(ids, p.Due...)
	}
	return ids
}

func TestDueInstancesAreFoundAndDeletedOnesLeaveNothing(t *testing.T) {
	redistest.Each(t, func(t *testing.T, r *redisx.Store) {
		s, timers := redisstore.New(r), redisstore.NewTimers(r)
		id := uuid.NewString()
		short := instance.Timeouts{Retention: time.Microsecond}
		must(t, s, id, instance.Create{Namespace: "default", ID: id, Placement: instance.Placement{Build: "b"}, Timeouts: short, SkipAllocation: true})
		if got := due(t, timers); len(got) != 0 {
			t.Errorf("due: %v", got)
		}
		must(t, s, id, instance.Terminate{})
		if got := due(t, timers); !slices.Equal(got, []string{id}) {
			t.Errorf("due: %v", got)
		}
		must(t, s, id, instance.Expire{})
		if got := load(t, s, id); got != nil {
			t.Errorf("deleted instance: %+v", got)
		}
		keys := slices.DeleteFunc(redistest.Keys(t, r), func(k string) bool { return strings.HasSuffix(k, ":swept") })
		slices.Sort(keys)
		if want := []string{"berth:meta", redisx.Key(r.Partition(id), "gone")}; !slices.Equal(keys, want) {
			t.Errorf("keys left: %v, want %v", keys, want)
		}
	})
}

// swept says when a partition was looked at last, long before now if ago is.
func swept(t *testing.T, r *redisx.Store, partition int, now time.Time, ago time.Duration) {
	t.Helper()
	if err := r.HSet(context.Background(), redisx.Key(partition, "swept"), "at", now.Add(-ago).UnixMicro()).Err(); err != nil {
		t.Fatal(err)
	}
}

func TestAPartitionIsHeldAfterAGap(t *testing.T) {
	redistest.Each(t, func(t *testing.T, r *redisx.Store) {
		const gap, hold = 10 * time.Second, time.Minute
		s := redisstore.NewTimers(r)
		first := look(t, s, gap, hold, 1)
		for p, got := range first { // an empty keyspace has missed nothing
			if !got.Hold.IsZero() || time.Since(got.Now).Abs() > 10*time.Second {
				t.Errorf("partition %d of a new keyspace: %+v", p, got)
			}
		}
		swept(t, r, 2, first[2].Now, gap-2*time.Second)
		swept(t, r, 3, first[3].Now, gap+time.Second)
		second := look(t, s, gap, hold, 1)
		for p, got := range second {
			want := time.Time{}
			if p == 3 {
				want = got.Now.Add(hold)
			}
			if !got.Hold.Equal(want) {
				t.Errorf("partition %d is held until %s, want %s", p, got.Hold, want)
			}
		}
		// The hold stands, whoever looks, and a further look does not make it longer.
		if got := look(t, redisstore.NewTimers(r), gap, hold, 1)[3].Hold; !got.Equal(second[3].Hold) {
			t.Errorf("held until %s, want %s", got, second[3].Hold)
		}
		// With a shorter hold it is over.
		if got := look(t, s, gap, 0, 1)[3].Hold; !got.IsZero() {
			t.Errorf("still held until %s", got)
		}
	})
}

func TestTimersThatNobodyEverLookedAtAreHeld(t *testing.T) {
	redistest.Each(t, func(t *testing.T, r *redisx.Store) {
		id := created(t, redisstore.New(r))
		for p, got := range look(t, redisstore.NewTimers(r), time.Minute, time.Minute, 1) {
			if held := !got.Hold.IsZero(); held != (p == r.Partition(id)) {
				t.Errorf("partition %d is held: %v", p, held)
			}
		}
	})
}

func TestAClockThatWasSetBackHidesNoGap(t *testing.T) {
	redistest.Each(t, func(t *testing.T, r *redisx.Store) {
		s := redisstore.NewTimers(r)
		now := look(t, s, time.Minute, time.Minute, 1)[0].Now
		swept(t, r, 0, now, -time.Hour) // looked at an hour from now
		if err := r.HSet(context.Background(), redisx.Key(1, "swept"), "hold", now.Add(time.Hour).UnixMicro()).Err(); err != nil {
			t.Fatal(err)
		}
		got := look(t, s, time.Minute, time.Minute, 1)
		if at, err := r.HGet(context.Background(), redisx.Key(0, "swept"), "at").Int64(); err != nil || at != got[0].Now.UnixMicro() {
			t.Errorf("looked at %d, %v; now is %d", at, err, got[0].Now.UnixMicro())
		}
		if !got[1].Hold.Equal(got[1].Now.Add(time.Minute)) {
			t.Errorf("held until %s, now is %s", got[1].Hold, got[1].Now)
		}
	})
}

// Looks come four times a second for each partition; what they write goes to disk and to replicas.
func TestALookRarelyWrites(t *testing.T) {
	redistest.Each(t, func(t *testing.T, r *redisx.Store) {
		s := redisstore.NewTimers(r)
		first := look(t, s, time.Minute, time.Minute, 1)
		swept(t, r, 0, first[0].Now, 10*time.Second)
		swept(t, r, 1, first[1].Now, 20*time.Second)
		second := look(t, s, time.Minute, time.Minute, 1)
		for p, want := range map[int]time.Time{0: first[0].Now.Add(-10 * time.Second), 1: second[1].Now} {
			if at, err := r.HGet(context.Background(), redisx.Key(p, "swept"), "at").Int64(); err != nil || at != want.UnixMicro() {
				t.Errorf("partition %d: %d, %v; want %d", p, at, err, want.UnixMicro())
			}
		}
	})
}

func TestALookReadsTheLongestOverdueFirstAndNotMoreThanItsLimit(t *testing.T) {
	redistest.Each(t, func(t *testing.T, r *redisx.Store) {
		s := redisstore.NewTimers(r)
		now := look(t, s, time.Minute, time.Minute, 1)[5].Now
		for n := range 5 {
			if err := r.ZAdd(context.Background(), redisx.Key(5, "timers"), redis.Z{Score: float64(now.Add(-time.Duration(n) * time.Second).UnixMicro()), Member: fmt.Sprint(n)}).Err(); err != nil {
				t.Fatal(err)
			}
		}
		for limit, want := range map[int][]string{0: {}, 2: {"4", "3"}, 9: {"4", "3", "2", "1", "0"}} {
			if got := look(t, s, time.Minute, time.Minute, limit)[5].Due; !slices.Equal(got, want) {
				t.Errorf("limit %d: %v, want %v", limit, got, want)
			}
		}
	})
}

func TestSweepsGoOnAfterTheStoreForgotItsScripts(t *testing.T) {
	redistest.Each(t, func(t *testing.T, r *redisx.Store) {
		s := redisstore.NewTimers(r)
		look(t, s, time.Minute, time.Minute, 1)
		if err := r.ScriptFlush(context.Background()).Err(); err != nil {
			t.Fatal(err)
		}
		look(t, s, time.Minute, time.Minute, 1)
	})
}

func TestReplicasKnowEachOtherWhileTheySayThatTheyLive(t *testing.T) {
	redistest.Each(t, func(t *testing.T, r *redisx.Store) {
		s, ctx, key := redisstore.NewTimers(r), context.Background(), "berth:{sweepers}:members"
		announce := func(replica string, want ...string) {
			t.Helper()
			live, err := s.Announce(ctx, replica, 5*time.Second)
			slices.Sort(live)
			if err != nil || !slices.Equal(live, want) {
				t.Errorf("%s lives among %v, %v; want %v", replica, live, err, want)
			}
		}
		announce("a", "a")
		announce("b", "a", "b")
		now, err := r.Time(ctx).Result()
		if err != nil {
			t.Fatal(err)
		}
		for replica, ago := range map[string]time.Duration{"dead": 6 * time.Second, "quiet": 4 * time.Second, "from a clock that was set back": -time.Hour} {
			if err := r.ZAdd(ctx, key, redis.Z{Score: float64(now.Add(-ago).UnixMicro()), Member: replica}).Err(); err != nil {
				t.Fatal(err)
			}
		}
		announce("a", "a", "b", "quiet")
		if n, err := r.ZCard(ctx, key).Result(); err != nil || n != 3 {
			t.Errorf("%d members are kept, %v", n, err)
		}
		if _, err := s.Announce(ctx, "b", 0); err != nil {
			t.Fatal(err)
		}
		announce("a", "a", "quiet")
	})
}

func TestLinksAreCountedOverAllPartitions(t *testing.T) {
	redistest.Each(t, func(t *testing.T, r *redisx.Store) {
		s, timers, ctx := redisstore.New(r), redisstore.NewTimers(r), context.Background()
		for n := range 9 {
			id := linked(t, s)
			if n < 4 {
				must(t, s, id, instance.LoseGateway{GatewayID: "gw"})
			}
		}
		created(t, s) // never had a link
		now, err := r.Time(ctx).Result()
		if err != nil {
			t.Fatal(err)
		}
		if err := r.ZAdd(ctx, redisx.Key(0, "lost"), redis.Z{Score: float64(now.Add(-time.Hour).UnixMicro()), Member: "long ago"}).Err(); err != nil {
			t.Fatal(err)
		}
		if got, err := timers.CountLinks(ctx, time.Minute); err != nil || got != (timer.Links{Connected: 5, Lost: 4}) {
			t.Errorf("counted %+v, %v", got, err)
		}
	})
}

// One look over 100,000 timers of which none is due.
func BenchmarkSweep(b *testing.B) {
	ctx := context.Background()
	r, err := redisx.Open(ctx, redisx.Config{Addrs: []string{redistest.Start(b, b.TempDir(), freeport.Addr(b)).Addr}, Partitions: 256})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = r.Close() })
	later := float64(time.Now().Add(time.Hour).UnixMicro())
	pipe := r.Pipeline()
	for range 100_000 {
		id := uuid.NewString()
		pipe.ZAdd(ctx, redisx.Key(r.Partition(id), "timers"), redis.Z{Score: later, Member: id})
	}
	if _, err := pipe.Exec(ctx); err != nil {
		b.Fatal(err)
	}
	s := redisstore.NewTimers(r)
	for b.Loop() {
		for _, p := range look(b, s, 5*time.Second, time.Minute, 64) {
			if len(p.Due) > 0 {
				b.Fatalf("due: %v", p.Due)
			}
		}
	}
}
