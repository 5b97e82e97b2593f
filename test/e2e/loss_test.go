package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/berth-dev/berth/pkg/freeport"
	"github.com/berth-dev/berth/pkg/redisx/redistest"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
)

// A game server that is killed is replaced by another one, which gets players and data and plays the match to its end.
func TestALostServerIsReplaced(t *testing.T) {
	shapes(t, func(t *testing.T, s *berth) {
		var out instancev1.CreateGameInstanceResponse
		s.ok(t, 0, "POST", instances, `{"placement":{"build":"hold"},"players":[{"id":"ann"}],"onServerLoss":"ON_SERVER_LOSS_REPLACE"}`, &out)
		id := out.GetInstance().GetId()
		s.becomes(t, id, running)
		if err := syscall.Kill(serverPID(t, id), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		var second *instancev1.GameInstance
		eventually(t, "another server runs the match", func() error {
			second = s.get(t, id)
			if len(second.GetAttempts()) != 2 || second.GetState() != running {
				return fmt.Errorf("%s with %d attempts", second.GetState(), len(second.GetAttempts()))
			}
			return nil
		})
		if len(second.GetPlayers()) != 1 || second.GetLink().GetServerId() != second.GetAttempts()[1].GetServerId() {
			t.Errorf("after the replacement: %v", second)
		}
		s.ok(t, 0, "POST", instances+"/"+id+":replace", `{"message":"once more"}`, nil)
		eventually(t, "a third server runs the match", func() error {
			if third := s.get(t, id); len(third.GetAttempts()) != 3 || third.GetState() != running {
				return fmt.Errorf("%s with %d attempts", third.GetState(), len(third.GetAttempts()))
			}
			return nil
		})
		ann := s.join(t, id, "ann")
		ann.say(t, "END")
		s.becomes(t, id, ended)
		gone(t, id)
		if got := strings.Join(s.events(t, id), " "); !strings.Contains(got, "server_lost") || !strings.Contains(got, "server_replaced") {
			t.Errorf("history: %s", got)
		}
	})
}

// The store is put back to where it was before the last calls, as a failover to a replica that lagged would do: the server makes them again.
func TestWhatTheStoreHasLostIsMadeAgain(t *testing.T) {
	s := processes(t)
	id := s.create(t, "hold", "ann", "bob").GetId()
	s.becomes(t, id, running)
	restore := remember(t, s.redis, id)
	ann := s.join(t, id, "ann")
	present := func() error {
		for _, p := range s.get(t, id).GetPlayers() {
			if p.GetId() == "ann" && p.GetPresence() == instancev1.Player_PRESENCE_PRESENT {
				return nil
			}
		}
		return errors.New("ann is not in")
	}
	eventually(t, "the server says that ann is in", present)
	restore()
	if present() == nil {
		t.Fatal("nothing was lost: the test shows nothing")
	}
	s.join(t, id, "bob") // the server's next call shows that it knows of more than the store does
	eventually(t, "what was lost is made again", present)
	if events := s.events(t, id); !slices.Contains(events, "state_rolled_back") {
		t.Errorf("the history does not say so: %v", events)
	}
	ann.say(t, "END")
	s.becomes(t, id, ended)
	gone(t, id)
}

// remember returns a function that puts an instance back to what it is now in the store.
func remember(t *testing.T, addr, id string) (restore func()) {
	t.Helper()
	ctx := context.Background()
	c := client(t, addr)
	keys, err := c.Keys(ctx, "*:i:"+id+"*").Result()
	if err != nil || len(keys) == 0 {
		t.Fatalf("keys of the instance: %v, %v", keys, err)
	}
	was := map[string]string{}
	for _, key := range keys {
		if was[key], err = c.Dump(ctx, key).Result(); err != nil {
			t.Fatal(err)
		}
	}
	return func() {
		for key, dump := range was {
			if err := c.RestoreReplace(ctx, key, 0, dump).Err(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// A service that is frozen for longer than others would wait for it, and then goes on, has ended no match.
func TestAMatchSurvivesAFrozenService(t *testing.T) {
	s := processes(t)
	id := s.create(t, "hold", "ann").GetId()
	s.becomes(t, id, running)
	ann := s.join(t, id, "ann")
	frozen := s.procs["game-instance"]
	frozen.Pause(t)
	ctx, cancel := context.WithTimeout(context.Background(), 6*time.Second) // longer than leases and the gap that counts as an outage
	defer cancel()
	<-ctx.Done()
	ann.say(t, "END") // while nobody is there to hear it
	frozen.Resume(t)
	if got := s.becomes(t, id, ended); got.GetResult() == nil {
		t.Errorf("ended as %v", got)
	}
	gone(t, id)
}

// After a total loss of the store nobody is told lies: the instance is unknown, its server learns so and keeps its result, and new matches are played with
// the same services.
func TestAStoreThatHasLostEverything(t *testing.T) {
	for name, lose := range map[string]func(t *testing.T, redis *redistest.Process){
		"flushed": func(t *testing.T, redis *redistest.Process) {
			c := client(t, redis.Addr)
			if err := c.FlushAll(context.Background()).Err(); err != nil {
				t.Fatal(err)
			}
		},
		"restarted with an empty disk": func(t *testing.T, redis *redistest.Process) {
			redis.Kill(t)
			redistest.Start(t, t.TempDir(), redis.Addr)
		},
	} {
		t.Run(name, func(t *testing.T) {
			store := redistest.Start(t, t.TempDir(), freeport.Addr(t))
			s := processesOn(t, store.Addr, nil)
			id := s.create(t, "hold", "ann").GetId()
			s.becomes(t, id, running)
			ann := s.join(t, id, "ann")
			pid := serverPID(t, id)
			lose(t, store)
			eventually(t, "the instance is unknown", func() error {
				if status, body := s.rest(t, 1, "GET", instances+"/"+id, ""); status != 404 {
					return fmt.Errorf("%d %s", status, body)
				}
				return nil
			})
			ann.say(t, "END")
			eventually(t, "the server has learned that its instance is gone", func() error {
				if err := syscall.Kill(pid, 0); err == nil {
					return errors.New("it still runs")
				}
				return nil
			})
			for _, p := range s.procs {
				p.Ready(t)
			}
			next := s.create(t, "hold", "bob").GetId()
			s.becomes(t, next, running)
			bob := s.join(t, next, "bob")
			bob.say(t, "END")
			if got := s.becomes(t, next, ended); got.GetResult() == nil {
				t.Errorf("ended as %v", got)
			}
			gone(t, next)
		})
	}
}

// client returns a client of a redis-server.
func client(t *testing.T, addr string) *redis.Client {
	t.Helper()
	c := redis.NewClient(&redis.Options{Addr: addr})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// The four services play a match on a Redis Cluster, and one of its masters dies in the middle of it.
func TestAMatchOnAClusterThatLosesANode(t *testing.T) {
	cluster := redistest.NewCluster(t)
	s := processesOn(t, strings.Join(cluster.Addrs(), ","), nil)
	id := s.create(t, "hold", "ann").GetId()
	s.becomes(t, id, running)
	ann := s.join(t, id, "ann")
	lost := cluster.Nodes[0]
	lost.Kill(t)
	eventually(t, "players can be added after the failover", func() error {
		status, body := s.rest(t, 1, "POST", instances+"/"+id+":addPlayers", `{"requestId":"eve","players":[{"id":"eve"}]}`)
		if status != 200 {
			return fmt.Errorf("%d %s", status, body)
		}
		return nil
	})
	s.playerIsExpected(t, id, "eve")
	ann.say(t, "END")
	if got := s.becomes(t, id, ended); got.GetResult() == nil {
		t.Errorf("ended without a result: %v", got)
	}
	gone(t, id)
}
