package redisx_test

import (
	"context"
	"errors"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/freeport"
	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/pkg/redisx/redistest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	// add counts its runs, and answers with the count. A repeat shows in it.
	add = redis.NewScript(`return redis.call('INCRBY', KEYS[1], ARGV[1])`)
	// once sets a key and answers the same way when that was done before, as scripts do which know the command.
	once = redis.NewScript(`redis.call('SETNX', KEYS[1], ARGV[1]) return 'done'`)
	// get reads, and says which time it is where the key is.
	get = redis.NewScript(`return {redis.call('TIME')[1], redis.call('GET', KEYS[1])}`)
	// none answers nothing.
	none = redis.NewScript(`redis.call('INCR', KEYS[1]) return nil`)
)

var key = redisx.Key(1, "x")

// soon gives up on what should have an outcome by then, whatever it is.
func soon(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// write runs add with 1.
func write(t *testing.T, s *redisx.Store) (int, error) {
	t.Helper()
	return s.Write(soon(t), add, []string{key}, 1).Int()
}

// unavailable fails the test unless the error tells a caller to repeat.
func unavailable(t *testing.T, err error) {
	t.Helper()
	var e *errs.Error
	if !errors.As(err, &e) || e.Reason != errs.StoreUnavailable || e.RetryAfter <= 0 || !strings.Contains(e.Message, "repeating with the same request id is safe") {
		t.Errorf("got %v, want STORE_UNAVAILABLE with a time to repeat", err)
	}
}

// eventually waits for an error to go.
func eventually(t *testing.T, what string, try func() error) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
	}
}

func TestScripts(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redisx.Store) {
		for want := 1; want <= 3; want++ {
			if n, err := write(t, s); err != nil || n != want {
				t.Errorf("%d, %v, want %d", n, err, want)
			}
		}
		if err := s.Write(soon(t), none, []string{key}).Err(); !errors.Is(err, redis.Nil) {
			t.Errorf("a nil: %v", err)
		}
		read, err := s.Read(soon(t), get, []string{key}).Slice()
		if err != nil || len(read) != 2 || read[1] != "4" {
			t.Errorf("read %v, %v", read, err)
		}
		cancelled, cancel := context.WithCancel(t.Context())
		cancel()
		if err := s.Write(cancelled, add, []string{key}, 1).Err(); !errs.Is(err, errs.Cancelled) {
			t.Errorf("cancelled: %v", err)
		}
	})
}

// A server that was restarted, or a replica that took over, does not know the scripts.
func TestScriptsThatTheServerForgotRunOnce(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redisx.Store) {
		for want := 1; want <= 2; want++ {
			if err := s.ScriptFlush(t.Context()).Err(); err != nil {
				t.Fatal(err)
			}
			if n, err := write(t, s); err != nil || n != want {
				t.Errorf("%d, %v, want %d", n, err, want)
			}
			for _, r := range s.ReadEach(soon(t), get, [][]string{{key}, {key}}) {
				if v, err := r.Slice(); err != nil || len(v) != 2 {
					t.Errorf("%v, %v", v, err)
				}
			}
		}
	})
}

func TestReadEachKeepsTheOrder(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redisx.Store) {
		var keys [][]string
		for p := range s.Partitions() {
			keys = append(keys, []string{redisx.Key(p, "x")})
			if err := s.Write(soon(t), add, keys[p], p+1).Err(); err != nil {
				t.Fatal(err)
			}
		}
		for p, r := range s.ReadEach(soon(t), get, keys) {
			if v, err := r.Slice(); err != nil || v[1] != string(rune('1'+p)) {
				t.Errorf("partition %d: %v, %v", p, v, err)
			}
		}
	})
}

func TestAReplicatedWriteWaitsForItsReplica(t *testing.T) {
	master, replica := redistest.Replicated(t)
	s := redistest.OpenWith(t, redisx.Config{Addrs: []string{master.Addr}, Durability: redisx.Replicated})
	many := func(check func(error)) { // over many connections: each has to be asked for its own writes
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() {
				_, err := write(t, s)
				check(err)
			})
		}
		all.Wait()
	}
	many(func(err error) {
		if err != nil {
			t.Error(err)
		}
	})
	replica.Pause(t)
	many(func(err error) { unavailable(t, err) })
	unavailable(t, s.Write(soon(t), once, []string{redisx.Key(1, "y")}, "a").Err())
	// Whoever repeats it, on whichever connection, is answered from what the master has: that is no promise either.
	unavailable(t, s.Write(soon(t), once, []string{redisx.Key(1, "y")}, "a").Err())
	unavailable(t, s.Confirm(soon(t), redisx.Key(1, "y")))
	again := redistest.OpenWith(t, redisx.Config{Addrs: []string{master.Addr}})
	if v, err := again.Get(t.Context(), redisx.Key(1, "y")).Result(); err != nil || v != "a" {
		t.Errorf("the master has %q, %v: the repeat found nothing done", v, err)
	}
	if err := again.Confirm(soon(t), redisx.Key(1, "y")); err != nil {
		t.Errorf("fast has nothing to wait for: %v", err)
	}

	replica.Resume(t)
	eventually(t, "what was there is confirmed", func() error { return s.Confirm(soon(t), redisx.Key(1, "y")) })
	eventually(t, "it is confirmed again", func() error { return s.Write(soon(t), once, []string{redisx.Key(1, "y")}, "a").Err() })
}

// The wait ends before the caller's own deadline, so that the caller learns how it stands.
func TestTheWaitLeavesTimeForTheAnswer(t *testing.T) {
	master, replica := redistest.Replicated(t)
	s := redistest.OpenWith(t, redisx.Config{Addrs: []string{master.Addr}, Durability: redisx.Replicated})
	replica.Pause(t)
	ctx, cancel := context.WithTimeout(t.Context(), 600*time.Millisecond)
	defer cancel()
	unavailable(t, s.Write(ctx, add, []string{key}, 1).Err())
	if ctx.Err() != nil {
		t.Error("the deadline has passed")
	}
}

func TestAFastWriteWaitsForNobody(t *testing.T) {
	master, replica := redistest.Replicated(t)
	s := redistest.OpenWith(t, redisx.Config{Addrs: []string{master.Addr}, Durability: redisx.Fast})
	replica.Pause(t)
	begin := time.Now()
	if _, err := write(t, s); err != nil {
		t.Error(err)
	}
	if took := time.Since(begin); took >= time.Second {
		t.Errorf("it took %v, as long as a wait", took)
	}
}

// Every write that was acknowledged is there after its master has died without a last word.
func TestReplicatedWritesSurviveTheirMaster(t *testing.T) {
	c := redistest.NewCluster(t)
	s := c.Open(t, redisx.Replicated)
	acknowledged := 0
	for range 50 {
		n, err := write(t, s)
		if err != nil {
			t.Fatal(err)
		}
		acknowledged = n
	}
	master, replica := c.MasterOf(t, 1), c.ReplicaOf(t, 1)
	replica.Pause(t)
	for range 32 { // more than fits between master and replica, so that what follows stays in the master
		if err := s.Set(t.Context(), redisx.Key(1, "filler"), make([]byte, 1<<20), 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := write(t, s); err == nil {
		acknowledged = n
	}
	master.Kill(t)
	replica.Resume(t)
	c.Failover(t, 1)
	v, err := s.Read(soon(t), get, []string{key}).Slice()
	if want := strconv.Itoa(acknowledged); err != nil || v[1] != want {
		t.Errorf("%s writes were acknowledged, %v are there, %v", want, v, err)
	}
	// It has nobody to confirm with until the killed one is back, with what it had replaced by what it missed.
	_, err = write(t, s)
	unavailable(t, err)
	master.Restart(t)
	eventually(t, "it is confirmed again", func() error { _, err := write(t, s); return err })
}

// A dead master says nothing of who has its keys now. The driver would ask it for a minute on.
func TestTheNewMasterIsFoundWhenTheOldOneIsDead(t *testing.T) {
	c := redistest.NewCluster(t)
	scripts, commands, pipelines := c.Open(t, redisx.Fast), c.Open(t, redisx.Fast), c.Open(t, redisx.Fast)
	c.MasterOf(t, 1).Kill(t)
	c.Failover(t, 1)
	if _, err := write(t, scripts); err != nil {
		t.Errorf("script: %v", err)
	}
	eventually(t, "command", func() error { return commands.Get(soon(t), key).Err() })
	eventually(t, "pipeline", func() error { return pipelines.ReadEach(soon(t), get, [][]string{{key}})[0].Err() })
}

// The old master says MOVED, and the scripts go where that points.
func TestWritesFollowTheirKeys(t *testing.T) {
	c := redistest.NewCluster(t)
	fast, replicated := c.Open(t, redisx.Fast), c.Open(t, redisx.Replicated)
	for _, s := range []*redisx.Store{fast, replicated} {
		if _, err := write(t, s); err != nil {
			t.Fatal(err)
		}
	}
	c.Failover(t, 1)
	var wrote sync.WaitGroup
	for range 20 { // all at once, with one layout to read
		wrote.Go(func() {
			if err := fast.Write(soon(t), add, []string{key}, 1).Err(); err != nil {
				t.Error(err)
			}
		})
	}
	wrote.Wait()
	if n, err := write(t, fast); err != nil || n != 23 {
		t.Errorf("%d, %v, want 23", n, err)
	}
	// The new replica has to catch up before it can confirm.
	eventually(t, "it is confirmed again", func() error { _, err := write(t, replicated); return err })
}

// While a slot is on its way to another node, keys that are not there yet are written on that one.
func TestWritesAskForKeysOnTheirWay(t *testing.T) {
	c := redistest.NewCluster(t)
	s := c.Open(t, redisx.Replicated)
	from, to := c.MasterOf(t, 1), c.Nodes[0]
	if to == from {
		to = c.Nodes[1]
	}
	slot := migrate(t, from.Addr, to.Addr)
	if n, err := write(t, s); err != nil || n != 1 {
		t.Errorf("%d, %v", n, err)
	}
	for addr, want := range map[string]int64{from.Addr: 0, to.Addr: 1} {
		if n, err := redistest.Node(t, addr).ClusterCountKeysInSlot(t.Context(), slot).Result(); err != nil || n != want {
			t.Errorf("%d keys on %s, %v, want %d", n, addr, err, want)
		}
	}
}

// migrate begins to move the slot of the key.
func migrate(t *testing.T, from, to string) int {
	t.Helper()
	slot, err := redistest.Node(t, from).ClusterKeySlot(t.Context(), key).Result()
	if err != nil {
		t.Fatal(err)
	}
	for addr, order := range map[string]string{from: "migrating", to: "importing"} {
		other := to
		if order == "importing" {
			other = from
		}
		id := redistest.Node(t, other).Do(t.Context(), "cluster", "myid").Val()
		if err := redistest.Node(t, addr).Do(t.Context(), "cluster", "setslot", slot, order, id).Err(); err != nil {
			t.Fatal(err)
		}
	}
	return int(slot)
}

// The change was made and the answer lost: only the caller, who has the request id, may repeat it.
func TestALostAnswerIsNotRepeated(t *testing.T) {
	t.Run("server", func(t *testing.T) {
		addr := redistest.Server(t)
		p := newProxy(t, addr)
		answersLost(t, redistest.Open(t, p.addr), redistest.Node(t, addr), p)
	})
	t.Run("cluster", func(t *testing.T) {
		addr := startNode(t)
		p := newProxy(t, addr)
		host, port, _ := net.SplitHostPort(p.addr)
		for _, command := range [][]any{
			{"config", "set", "cluster-announce-ip", host}, {"config", "set", "cluster-announce-port", port}, {"cluster", "addslotsrange", 0, 16383},
		} {
			if err := redistest.Node(t, addr).Do(t.Context(), command...).Err(); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, "it takes writes", func() error { return redistest.Node(t, addr).Set(t.Context(), "x", 1, 0).Err() })
		s := redistest.Open(t, p.addr)
		if _, ok := s.UniversalClient.(*redis.ClusterClient); !ok {
			t.Fatalf("the address of a Cluster's node was opened as %T", s.UniversalClient)
		}
		answersLost(t, s, redistest.Node(t, addr), p)
	})
}

// startNode starts a Cluster's only node, which has no slots yet.
func startNode(t *testing.T) string {
	t.Helper()
	_, bus, _ := net.SplitHostPort(freeport.Addr(t))
	return redistest.Start(t, t.TempDir(), freeport.Addr(t), "--cluster-enabled", "yes", "--cluster-port", bus).Addr
}

func answersLost(t *testing.T, s *redisx.Store, direct *redis.Client, p *proxy) {
	t.Helper()
	if n, err := write(t, s); err != nil || n != 1 {
		t.Fatalf("%d, %v", n, err)
	}
	for want := int64(2); want <= 4; want++ {
		p.dropAnswer()
		_, err := write(t, s)
		unavailable(t, err)
		if n, err := direct.Get(t.Context(), key).Int64(); err != nil || n != want {
			t.Errorf("it ran %d times, %v, want %d", n, err, want)
		}
	}
}
