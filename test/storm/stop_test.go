package storm

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/berth-dev/berth/pkg/redisx/redistest"
	"github.com/berth-dev/berth/test/stack"
)

// Whoever is told to stop stops in good order and in its time, whatever has become of Redis, and however much is under way there.
func TestAllStopWhileRedisIsHurt(t *testing.T) {
	hurts := map[string]func(t *testing.T) (redis string, hurt func()){
		"stopped": func(t *testing.T) (string, func()) {
			redis := durable(t)
			return redis.Addr, func() { redis.Stop(t) }
		},
		"paused": func(t *testing.T) (string, func()) {
			redis := durable(t)
			return redis.Addr, func() { redis.Pause(t) }
		},
		"a master of a Cluster is dead": func(t *testing.T) (string, func()) {
			cluster := redistest.NewCluster(t)
			return strings.Join(cluster.Addrs(), ","), func() { cluster.MasterOf(t, 5).Kill(t) }
		},
		"a master of a Cluster is paused": func(t *testing.T) (string, func()) {
			cluster := redistest.NewCluster(t)
			return strings.Join(cluster.Addrs(), ","), func() { cluster.MasterOf(t, 5).Pause(t) }
		},
	}
	for name, store := range hurts {
		t.Run(name, func(t *testing.T) {
			redis, hurt := store(t)
			w := newWorld(t, redis)
			w.leaveAll()
			hurt()
			w.stopAll(t, everybody...)
		})
	}
}

// game-instance stops in its time also while it sees to the servers of gateways that are gone, one after the other, and no commit is confirmed.
func TestAllStopInTheMiddleOfALoss(t *testing.T) {
	master, replica := redistest.Replicated(t)
	// The first losses are enough to know that it is at it.
	w := newWorld(t, master.Addr, "BERTH_REDIS_DURABILITY=replicated", "BERTH_TIMER_MASS_LOSS_MIN=1", "BERTH_TIMER_MASS_LOSS_SHARE=0.01")
	w.leaveAll()
	replica.Pause(t)
	gateways := []string{stack.GatewayA, stack.GatewayB}
	for _, name := range gateways {
		w.Procs[name].Pause(t)
	}
	stack.EventuallyIn(t, w.size.patience, "links are lost", func() error {
		if metric(t, w.Procs[stack.GameInstance], "berth_mass_loss")[""] == 0 {
			return errors.New("none is lost yet")
		}
		return nil
	})
	w.stopAll(t, stack.GameInstance, stack.Allocation, stack.TokenIssuer)
	for _, name := range gateways {
		w.Procs[name].Resume(t)
	}
	w.stopAll(t, gateways...)
}

// leaveAll says that all processes may be away from now on.
func (w *world) leaveAll() {
	for name := range w.Procs {
		w.watch.leave(name)
	}
}

// stopAll stops processes at once, as whoever takes a whole deployment down does.
func (w *world) stopAll(t *testing.T, names ...string) {
	t.Helper()
	ended := make(chan error, len(names))
	for _, name := range names {
		p := w.Procs[name]
		go func() {
			err := p.Stop()
			if err != nil {
				err = fmt.Errorf("%w\n%s", err, p.Tail())
			}
			ended <- err
		}()
	}
	for range names {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}
