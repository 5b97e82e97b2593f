package storm

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/berth-dev/berth/pkg/redisx/redistest"
	"github.com/berth-dev/berth/sdk/go/bootstrap"
	"github.com/berth-dev/berth/sdk/go/gameserver"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	"github.com/berth-dev/berth/test/stack"
)

// Redis comes back with an empty disk: nobody knows the instances any more. Their servers are told so, each soon and once, and then there is calm: nobody asks or
// connects again and again for what will never be. Berth itself needs no restart to play new matches, nor does a server of a warm pool: it joins again.
func TestRedisComesBackEmpty(t *testing.T) {
	redis := durable(t)
	w := newWorld(t, redis.Addr)
	w.pools(t)
	before := w.requests(t)
	redis.Kill(t)
	w.unready(t, stack.GameInstance)
	redistest.Start(t, t.TempDir(), redis.Addr)
	w.ready(t)
	for _, m := range w.fleet.members {
		select {
		case <-m.server.Done():
		case <-time.After(w.size.patience):
			t.Fatalf("%s has not been told that its instance is gone", m.ledger.Name)
		}
		var orphaned *gameserver.OrphanedError
		if err := m.server.Err(); !errors.As(err, &orphaned) {
			t.Errorf("%s was told %v", m.ledger.Name, err)
		}
		stack.Eventually(t, m.ledger.Name+"'s game is told", func() error {
			if !m.orphaned.Load() {
				return errors.New("there was no such event")
			}
			return nil
		})
	}
	w.pooled(t)
	told := w.requests(t)
	unknown := told["INSTANCE_UNKNOWN"] - before["INSTANCE_UNKNOWN"]
	if most := float64(3 * w.size.servers); unknown > most {
		t.Errorf("%v requests were answered INSTANCE_UNKNOWN: more than 3 a server", unknown)
	}
	connections, cpu := w.balancer.opened.Load(), w.cpu(t)
	w.blow(t)
	again, spent := w.balancer.opened.Load()-connections, w.cpu(t)-cpu
	if now := w.requests(t); fmt.Sprint(now) != fmt.Sprint(told) || again > 0 {
		t.Errorf("there is no calm: %d connections more, and requests (by outcome) went from %v to %v", again, told, now)
	}
	t.Logf("%v requests of %d servers were answered INSTANCE_UNKNOWN, and %d connections made anew; in %v of calm the services used %.2f s of CPU",
		unknown, w.size.servers, connections-w.linked, w.size.storm, spent)

	few := w.size
	few.servers = 3
	next := newFleet(t, w.API, "http://"+w.balancer.addr, few)
	next.flows(t, w.size.patience)
	next.quiet(w.size.patience)
	if _, faults := next.settle(context.Background()); len(faults) > 0 {
		t.Error(strings.Join(faults, "\n"))
	}
}

// pools starts a server of a warm pool, and waits until it is in it.
func (w *world) pools(t *testing.T) {
	t.Helper()
	doc := &bootstrap.Document{
		Version: bootstrap.Version, Namespace: "default", Gateway: w.fleet.gateway,
		Pool: &bootstrap.Pool{Name: "metal", Server: "rack-7", Key: poolKey, Builds: []string{"pooled"}, Capacity: 1},
	}
	host, err := gameserver.Open(t.Context(), gameserver.WithBootstrap(doc), gameserver.WithLogger(w.fleet.log.With("server", "rack-7")))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = host.Close(context.Background()) })
	w.pooled(t)
}

// pooled waits until the pool has its server, and that is connected.
func (w *world) pooled(t *testing.T) {
	t.Helper()
	stack.EventuallyIn(t, w.size.patience, "the pool has its server", func() error {
		out, err := w.fleet.registry.ListGameServers(t.Context(), &gameserverv1.ListGameServersRequest{})
		if err != nil {
			return err
		}
		for _, server := range out.GetServers() {
			if server.GetPool() == "metal" && server.GetConnected() {
				return nil
			}
		}
		return fmt.Errorf("it is none of %d connected servers", len(out.GetServers()))
	})
}

// requests returns how many requests the gateways have answered, by the reason of their failure.
func (w *world) requests(t testing.TB) map[string]float64 {
	t.Helper()
	all := map[string]float64{}
	for _, name := range []string{stack.GatewayA, stack.GatewayB} {
		for reason, n := range metric(t, w.Procs[name], "berth_gateway_requests_total") {
			all[reason] += n
		}
	}
	return all
}

// cpu returns how many seconds of a processor all processes have used.
func (w *world) cpu(t testing.TB) (seconds float64) {
	t.Helper()
	for _, p := range w.Procs {
		seconds += metric(t, p, "process_cpu_seconds_total")[""]
	}
	return seconds
}
