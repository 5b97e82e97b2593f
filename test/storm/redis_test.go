package storm

import (
	"strings"
	"testing"
	"time"

	"github.com/berth-dev/berth/pkg/freeport"
	"github.com/berth-dev/berth/pkg/redisx/redistest"
	"github.com/berth-dev/berth/test/stack"
)

// durable starts a store that has written to disk what it has acknowledged: what Berth promises is about Berth, and not about how much a disk loses.
func durable(t *testing.T) *redistest.Process {
	t.Helper()
	return redistest.Start(t, t.TempDir(), freeport.Addr(t), "--appendfsync", "always")
}

// everybody is who cannot serve without a store.
var everybody = []string{stack.GameInstance, stack.TokenIssuer, stack.Allocation, stack.GatewayA, stack.GatewayB}

// Redis is stopped and started again. Sockets stay, what is asked waits, and nothing is lost.
func TestRedisIsStopped(t *testing.T) {
	redis := durable(t)
	w := newWorld(t, redis.Addr)
	redis.Stop(t)
	w.unready(t, everybody...)
	w.blow(t)
	redis.Restart(t)
	w.conclude(t, false)
}

// Redis does not answer, and goes on where it was.
func TestRedisIsPaused(t *testing.T) {
	redis := durable(t)
	w := newWorld(t, redis.Addr)
	redis.Pause(t)
	w.unready(t, everybody...)
	w.blow(t)
	redis.Resume(t)
	w.conclude(t, false)
}

// What comes from Redis is late, and connections to it break at random, some of them with an answer under way.
func TestRedisIsFarAwayAndItsConnectionsBreak(t *testing.T) {
	redis := durable(t)
	line := newLine(t, redis.Addr)
	// A lease has to be longer than some tries to renew it over such a line. In the short form each server writes four times as often.
	size := scaled()
	size.lease = 10 * time.Second
	if !long() {
		size.servers = 12
	}
	w := newWorldOf(t, size, line.addr)
	line.worsen(t)
	w.blow(t)
	w.flows(t)
	if line.mend() == 0 {
		t.Error("no connection was cut: the test shows nothing")
	}
	w.conclude(t, false)
}

// Masters of a Redis Cluster are failed over while everybody writes: one in good order, and one dies.
func TestAClusterFailsOver(t *testing.T) {
	cluster := redistest.NewCluster(t)
	w := newWorld(t, strings.Join(cluster.Addrs(), ","), "BERTH_REDIS_DURABILITY=replicated")
	cluster.Failover(t, 1)
	w.flows(t)
	dead := cluster.MasterOf(t, 5)
	dead.Kill(t)
	cluster.Failover(t, 5)
	dead.Restart(t)
	w.conclude(t, false)
}
