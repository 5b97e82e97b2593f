package redisstore_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/ids"
	"github.com/berth-dev/berth/services/gameinstance/internal/redisstore"
	"github.com/berth-dev/berth/services/gameinstance/internal/registry"
	"github.com/berth-dev/berth/services/gameinstance/internal/session"
)

// nobody has a socket to give up.
type nobody struct{}

func (nobody) Yield(context.Context, string) error { return nil }

func pools(s registry.PoolStore, g registry.Gateways) *registry.Pools {
	return registry.NewPools(s, g, nobody{}, slog.New(slog.DiscardHandler))
}

const poolName = "metal"

// member returns what a server says that joins.
func member(name string, capacity int, change ...func(*registry.Server)) registry.Server {
	id := ids.Server(ids.Member("default", poolName, name))
	server := registry.Server{Namespace: "default", ID: id, Capacity: capacity, Pool: poolName, Name: name, Builds: []string{"b"}}
	for _, c := range change {
		c(&server)
	}
	return server
}

// joined is a server that joined and is connected.
func joined(t *testing.T, s *redisstore.Store, server registry.Server) registry.Server {
	t.Helper()
	kept, err := s.JoinPool(t.Context(), server, registry.MaxPoolServers)
	if err != nil {
		t.Fatal(err)
	}
	connect(t, s, server.ID, true)
	return kept
}

// connect says that a server has a socket, through a gateway that stands, or none.
func connect(t *testing.T, s *redisstore.Store, serverID string, connected bool) {
	t.Helper()
	if _, err := s.RenewGateway(t.Context(), "gw", time.Hour); err != nil {
		t.Fatal(err)
	}
	was, now, err := s.LoadSession(t.Context(), serverID)
	if err != nil {
		t.Fatal(err)
	}
	next := session.Session{ServerID: serverID, Namespace: "default", ID: "s", GatewayID: "gw", Connected: connected, ChangeTime: now, Epoch: max(was.Epoch+1, now.UnixMicro())}
	if saved, err := s.SaveSession(t.Context(), next, was.Epoch); err != nil || !saved {
		t.Fatalf("session of %s: %v, %v", serverID, saved, err)
	}
}

func want() registry.Want {
	id := uuid.NewString()
	return registry.Want{Pool: poolName, Namespace: "default", InstanceID: id, AttemptID: ids.Attempt(id, 1), Build: "b"}
}

func take(t *testing.T, p *registry.Pools, w registry.Want) string {
	t.Helper()
	room, err := p.Take(t.Context(), w)
	if err != nil {
		t.Fatalf("take: %v", err)
	}
	return room.Server.Name
}

func TestRoomInAPoolIsPackedOrSpread(t *testing.T) {
	for _, spread := range []bool{false, true} {
		each(t, func(t *testing.T, s *redisstore.Store) {
			for name, capacity := range map[string]int{"big": 3, "small": 2} {
				joined(t, s, member(name, capacity))
			}
			p, got := pools(s, s), []string(nil)
			for range 5 {
				w := want()
				w.Spread = spread
				got = append(got, take(t, p, w))
			}
			counts := map[string]int{}
			for _, name := range got[:2] {
				counts[name]++
			}
			if !spread && counts["small"] != 2 || spread && (counts["small"] != 1 || counts["big"] != 1) {
				t.Errorf("spread %v: %v", spread, got)
			}
			if _, err := p.Take(t.Context(), want()); !errs.Is(err, errs.GameServerFull) {
				t.Errorf("a full pool: %v", err)
			}
		})
	}
}

func TestRoomIsOnlyWhereItSuits(t *testing.T) {
	each(t, func(t *testing.T, s *redisstore.Store) {
		joined(t, s, member("eu", 9, func(v *registry.Server) { v.Region = "eu"; v.Labels = map[string]string{"gpu": "no"} }))
		joined(t, s, member("anywhere", 1, func(v *registry.Server) { v.Builds = []string{"b", "c"}; v.Labels = map[string]string{"gpu": "yes"} }))
		if _, err := s.JoinPool(t.Context(), member("away", 9), registry.MaxPoolServers); err != nil {
			t.Fatal(err)
		}
		connect(t, s, joined(t, s, member("lost", 9)).ID, false)
		p := pools(s, s)
		for _, c := range []struct {
			change func(*registry.Want)
			server string
		}{
			{func(w *registry.Want) { w.Region = "us"; w.Build = "x" }, ""},
			{func(w *registry.Want) { w.Labels = map[string]string{"gpu": "maybe"} }, ""},
			{func(w *registry.Want) { w.Namespace = "other" }, ""},
			{func(w *registry.Want) { w.Pool = "other" }, ""},
			{func(w *registry.Want) { w.Region, w.Labels = "eu", map[string]string{"gpu": "no"} }, "eu"},
			{func(w *registry.Want) { w.Region = "us" }, "anywhere"},
			{func(w *registry.Want) { w.Build = "c" }, ""}, // it is full now
			{func(*registry.Want) {}, "eu"},
		} {
			w := want()
			c.change(&w)
			room, err := p.Take(t.Context(), w)
			if room.Server.Name != c.server || (err != nil) != (c.server == "") {
				t.Errorf("%+v: %q, %v; want %q", w, room.Server.Name, err, c.server)
			}
		}
	})
}

// A server whose gateway was killed is connected in its record for as long as nobody has said otherwise.
func TestAServerWhoseGatewayIsGoneGetsNothing(t *testing.T) {
	each(t, func(t *testing.T, s *redisstore.Store) {
		joined(t, s, member("a", 1))
		p := pools(s, s)
		if _, err := s.RenewGateway(t.Context(), "gw", 0); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Take(t.Context(), want()); !errs.Is(err, errs.GameServerFull) {
			t.Errorf("room on a server without a gateway: %v", err)
		}
	})
}

func TestAnAttemptHasOneRoomUntilItGivesItBack(t *testing.T) {
	each(t, func(t *testing.T, s *redisstore.Store) {
		server := joined(t, s, member("a", 1))
		p, ctx, w := pools(s, s), t.Context(), want()
		if _, err := p.Get(ctx, w.AttemptID); !errs.Is(err, errs.GameServerUnknown) {
			t.Errorf("before it was asked for: %v", err)
		}
		take(t, p, w)
		connect(t, s, server.ID, false)
		if take(t, p, w) != "a" {
			t.Error("a repeat has other room")
		}
		room, err := p.Get(ctx, w.AttemptID)
		if err != nil || room.Server.ID != server.ID || room.InstanceID != w.InstanceID || room.Server.Connected {
			t.Errorf("the room: %+v, %v", room, err)
		}
		if rooms, err := p.List(ctx, poolName); err != nil || len(rooms) != 1 || rooms[0].AttemptID != w.AttemptID {
			t.Errorf("the rooms: %+v, %v", rooms, err)
		}
		for range 2 {
			if err := p.GiveBack(ctx, w.AttemptID); err != nil {
				t.Fatal(err)
			}
		}
		if rooms, err := p.List(ctx, poolName); err != nil || len(rooms) != 0 || len(holders(t, s, server.ID)) != 0 {
			t.Errorf("after it was given back: %+v, %v", rooms, err)
		}
		connect(t, s, server.ID, true)
		if _, err := p.Take(ctx, w); !errs.Is(err, errs.StateNotAllowed) { // a call that comes late must not take what nobody would give back
			t.Errorf("after it was given back: %v", err)
		}
		if take(t, pools(s, s), want()) != "a" {
			t.Error("the room is not to be had")
		}
	})
}

// Many take and give back at once, through two replicas and with repeats of the same call: never more than fits, never two rooms for an attempt.
func TestNobodyHasTwoRoomsInAPool(t *testing.T) {
	each(t, func(t *testing.T, s *redisstore.Store) {
		capacity, sum := map[string]int{}, 0
		for n := range 6 {
			server := joined(t, s, member(fmt.Sprint("server-", n), 1+n%3))
			capacity[server.ID] = server.Capacity
			sum += server.Capacity
		}
		replicas := []*registry.Pools{pools(s, s), pools(s, s)}
		var mu sync.Mutex
		had := map[string]string{} // who holds room at the end
		var callers sync.WaitGroup
		for n := range 2 * sum {
			callers.Go(func() {
				w := want()
				w.Spread = n%2 == 0
				var repeats sync.WaitGroup
				var got [2]registry.Room
				var failed [2]error
				for r := range got {
					repeats.Go(func() { got[r], failed[r] = replicas[(n+r)%2].Take(t.Context(), w) })
				}
				repeats.Wait()
				for _, err := range failed {
					if err != nil && !errs.Is(err, errs.GameServerFull) {
						t.Errorf("take: %v", err)
					}
				}
				if failed[0] == nil && failed[1] == nil && got[0].Server.ID != got[1].Server.ID {
					t.Errorf("attempt %s was told of two rooms", w.AttemptID)
				}
				if rand.N(3) == 0 {
					if err := replicas[n%2].GiveBack(t.Context(), w.AttemptID); err != nil {
						t.Error(err)
					}
					return
				}
				for r, room := range got {
					if failed[r] == nil {
						mu.Lock()
						had[w.AttemptID] = room.Server.ID
						mu.Unlock()
					}
				}
			})
		}
		callers.Wait()
		stored := map[string]string{}
		for id, most := range capacity {
			attempts := holders(t, s, id)
			if len(attempts) > most {
				t.Errorf("server %s has %d of %d", id, len(attempts), most)
			}
			for _, a := range attempts {
				if other, twice := stored[a]; twice {
					t.Errorf("attempt %s has room on %s and %s", a, other, id)
				}
				stored[a] = id
			}
		}
		for a, id := range had {
			if stored[a] != id {
				t.Errorf("attempt %s was told of room on %s, and has %q", a, id, stored[a])
			}
		}
		for a := range stored {
			if had[a] == "" {
				t.Errorf("room is kept for attempt %s, which was told of none", a)
			}
		}
	})
}

// ahead is a store whose clock is ahead by Absence.
type ahead struct{ *redisstore.Store }

func (s ahead) PoolMembers(ctx context.Context, pool string) ([]registry.Member, time.Time, error) {
	members, now, err := s.Store.PoolMembers(ctx, pool)
	return members, now.Add(registry.Absence), err
}

func TestWhoIsAwayForLongLeavesThePool(t *testing.T) {
	each(t, func(t *testing.T, s *redisstore.Store) {
		there, away, busy := joined(t, s, member("there", 1)), joined(t, s, member("away", 1)), joined(t, s, member("busy", 2))
		w := want()
		w.Spread = true // two of three get one
		busyRoom := registry.Assignment{InstanceID: w.InstanceID, AttemptID: w.AttemptID}
		if _, err := s.Assign(t.Context(), "default", busy.ID, busyRoom); err != nil {
			t.Fatal(err)
		}
		connect(t, s, away.ID, false)
		connect(t, s, busy.ID, false)
		sweep := func(store registry.PoolStore, forget bool) (left []string) {
			t.Helper()
			if err := pools(store, s).Sweep(t.Context(), forget); err != nil {
				t.Fatal(err)
			}
			members, _, err := s.PoolMembers(t.Context(), poolName)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range members {
				server, err := s.LoadServer(t.Context(), m.ServerID)
				if err != nil || server == nil {
					t.Fatalf("member %s: %v, %v", m.ServerID, server, err)
				}
				left = append(left, server.Name)
			}
			slices.Sort(left)
			return left
		}
		for _, c := range []struct {
			store  registry.PoolStore
			forget bool
			want   []string
		}{
			{s, true, []string{"away", "busy", "there"}},         // not for long
			{ahead{s}, false, []string{"away", "busy", "there"}}, // nobody watched for long
			{ahead{s}, true, []string{"busy", "there"}},          // one has an instance
			{ahead{s}, true, []string{"busy", "there"}},
		} {
			if left := sweep(c.store, c.forget); !slices.Equal(left, c.want) {
				t.Errorf("forget %v: %v, want %v", c.forget, left, c.want)
			}
		}
		if server, err := s.LoadServer(t.Context(), away.ID); server != nil || err != nil {
			t.Errorf("who left is still registered: %+v, %v", server, err)
		}
		wantLeft := func(left bool) {
			t.Helper()
			if got, _, err := s.LoadSession(t.Context(), away.ID); err != nil || got.Left != left {
				t.Errorf("who left: %+v, %v, want %v", got, err, left)
			}
		}
		wantLeft(true)
		if err := s.Unassign(t.Context(), "default", busy.ID, busyRoom); err != nil {
			t.Fatal(err)
		}
		if left := sweep(ahead{s}, true); !slices.Equal(left, []string{"there"}) {
			t.Errorf("after its last instance: %v", left)
		}
		connect(t, s, there.ID, false)
		if left := sweep(ahead{s}, true); len(left) != 0 {
			t.Errorf("in the end: %v", left)
		}
		if names, err := s.Pools(t.Context()); len(names) != 0 || err != nil {
			t.Errorf("an empty pool is kept: %v, %v", names, err)
		}
		joined(t, s, member("away", 1))
		wantLeft(false)
		if take(t, pools(s, s), want()) != "away" {
			t.Error("who joins again gets nothing")
		}
	})
}

// A server that connects between the look and what comes of it stays.
func TestWhoComesBackWhileItIsLookedAtStays(t *testing.T) {
	each(t, func(t *testing.T, s *redisstore.Store) {
		server := joined(t, s, member("a", 1))
		looked, err := s.LoadServer(t.Context(), server.ID)
		if err != nil {
			t.Fatal(err)
		}
		connect(t, s, server.ID, true)
		if left, err := s.ForgetServer(t.Context(), *looked); left || err != nil {
			t.Errorf("it is forgotten: %v, %v", left, err)
		}
		looked, _ = s.LoadServer(t.Context(), server.ID)
		joined(t, s, member("a", 1))
		if left, err := s.ForgetServer(t.Context(), *looked); left || err != nil {
			t.Errorf("it is forgotten although it joined: %v, %v", left, err)
		}
	})
}

func TestAPoolIsBounded(t *testing.T) {
	each(t, func(t *testing.T, s *redisstore.Store) {
		for _, c := range []struct {
			name string
			want errs.Reason
		}{{"a", ""}, {"b", ""}, {"c", errs.LimitExceeded}, {"a", ""}} {
			if _, err := s.JoinPool(t.Context(), member(c.name, 1), 2); errs.ReasonOf(err) != c.want {
				t.Errorf("%s: %v, want %q", c.name, err, c.want)
			}
		}
	})
}

// What a server says when it joins again is what counts.
func TestWhoJoinsAgainIsWhatItSaysNow(t *testing.T) {
	each(t, func(t *testing.T, s *redisstore.Store) {
		first := joined(t, s, member("a", 1))
		again := joined(t, s, member("a", 3, func(v *registry.Server) { v.Builds = []string{"n"}; v.Region = "eu" }))
		if again.ID != first.ID || again.Capacity != 3 || !slices.Equal(again.Builds, []string{"n"}) || again.Region != "eu" || !again.CreateTime.Equal(first.CreateTime) {
			t.Errorf("first %+v, then %+v", first, again)
		}
	})
}

// A server that was deregistered and joins again while instances of before still have room is one of the pool, and does not go with the last of them.
func TestWhoJoinsAgainStays(t *testing.T) {
	each(t, func(t *testing.T, s *redisstore.Store) {
		server, w := joined(t, s, member("a", 2)), want()
		take(t, pools(s, s), w)
		if left, err := s.DeregisterServer(t.Context(), "default", server.ID); err != nil || !left.Draining {
			t.Fatalf("%+v, %v", left, err)
		}
		if again := joined(t, s, member("a", 2)); again.Draining || len(again.Assignments) != 1 {
			t.Errorf("joined again: %+v", again)
		}
		if err := s.Unassign(t.Context(), "default", server.ID, registry.Assignment{InstanceID: w.InstanceID, AttemptID: w.AttemptID}); err != nil {
			t.Fatal(err)
		}
		if kept, err := s.LoadServer(t.Context(), server.ID); err != nil || kept == nil || len(kept.Assignments) != 0 {
			t.Fatalf("after its last instance: %+v, %v", kept, err)
		}
		if got := take(t, pools(s, s), want()); got != "a" {
			t.Errorf("the next instance is at %s", got)
		}
	})
}

// A crash between two steps may leave room for an attempt whose place is elsewhere.
func TestRoomBesideThePlaceIsTakenBack(t *testing.T) {
	each(t, func(t *testing.T, s *redisstore.Store) {
		a, b := joined(t, s, member("a", 1)), joined(t, s, member("b", 1))
		id := created(t, s)
		attempt := ids.Attempt(id, 1)
		for _, server := range []registry.Server{a, b} {
			if _, err := s.Assign(t.Context(), "default", server.ID, registry.Assignment{InstanceID: id, AttemptID: attempt}); err != nil {
				t.Fatal(err)
			}
		}
		if _, _, err := s.SetPlace(t.Context(), attempt, registry.Place{}, registry.Place{State: registry.Had, ServerID: b.ID}); err != nil {
			t.Fatal(err)
		}
		if err := registry.New(later{s}, s, nil, slog.New(slog.DiscardHandler)).Audit(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(holders(t, s, a.ID)) != 0 || len(holders(t, s, b.ID)) != 1 {
			t.Errorf("room on a: %v, on b: %v", holders(t, s, a.ID), holders(t, s, b.ID))
		}
	})
}
