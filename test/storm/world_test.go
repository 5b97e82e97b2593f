package storm

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/berth-dev/berth/pkg/apikey"
	"github.com/berth-dev/berth/test/stack"
)

// poolKey lets servers join warm pools.
const poolKey = apikey.Prefix + "stormPoolKey"

// world is a running Berth with a fleet.
type world struct {
	*stack.Stack
	size     scale
	balancer *balancer
	watch    *watch
	fleet    *fleet
	linked   int64 // how many connections had been made when all were linked
}

// newWorld starts Berth on a store and links the fleet; both talk from then on. env is more for the services' environment.
func newWorld(t testing.TB, redis string, env ...string) *world {
	t.Helper()
	return newWorldOf(t, scaled(), redis, env...)
}

// newWorldOf is newWorld of another size.
func newWorldOf(t testing.TB, size scale, redis string, env ...string) *world {
	t.Helper()
	w := &world{size: size}
	w.Stack = stack.Start(t, stack.Config{Binaries: binaries, Redis: redis, File: handProvider, Env: func(binary string) []string {
		all := append([]string{"BERTH_LOG_LEVEL=info"}, env...)
		if binary == "berth-game-instance" { // a key that is not in the store
			all = append(all, "BERTH_CONFIG="+stack.WriteConfig(t, fmt.Sprintf("auth: {api_keys: [{name: pool, role: POOL, sha256: %s}]}", apikey.Hash(poolKey))))
		}
		if binary == "berth-gateway" {
			all = append(all, fmt.Sprint("BERTH_HEARTBEAT=", size.heartbeat), fmt.Sprint("BERTH_LEASE=", size.lease), fmt.Sprint("BERTH_LEASE_INTERVAL=", size.lease/5))
		}
		return all
	}})
	w.watch = newWatch(t, w.Stack)
	w.balancer = newBalancer(t, w.Stack)
	w.fleet = newFleet(t, w.API, "http://"+w.balancer.addr, size)
	w.linked = w.balancer.opened.Load()
	w.flows(t)
	return w
}

// flows waits until everything flows.
func (w *world) flows(t testing.TB) {
	t.Helper()
	w.fleet.flows(t, w.size.patience)
}

// blow lets the storm last.
func (w *world) blow(t testing.TB) {
	t.Helper()
	wait(t.Context(), nil, w.size.storm)
}

// ready waits until all processes say again that they are ready.
func (w *world) ready(t testing.TB) {
	t.Helper()
	for _, p := range w.Procs {
		stack.EventuallyIn(t, w.size.patience, p.Name+" is ready again", func() error { return readiness(p) })
	}
}

// unready waits until processes say that they are not ready.
func (w *world) unready(t testing.TB, names ...string) {
	t.Helper()
	for _, name := range names {
		stack.EventuallyIn(t, w.size.patience, name+" says that it cannot serve", func() error {
			if readiness(w.Procs[name]) == nil {
				return errors.New("it says that it is ready")
			}
			return nil
		})
	}
}

// readiness returns what the process lacks.
func readiness(p *stack.Process) error {
	status, body, err := p.Probe(context.Background(), "/readyz")
	if err == nil && status != http.StatusOK {
		err = errors.New(body)
	}
	return err
}

// conclude ends the talk and settles the accounts. Where reconnects is false, no connection may have ended. In no case may a gateway have closed sockets in its
// present life, but for the troubled one, which may have sent its servers elsewhere.
func (w *world) conclude(t testing.TB, reconnects bool, troubled ...string) {
	t.Helper()
	w.ready(t)
	w.flows(t)
	w.fleet.quiet(w.size.patience)
	again, ended := w.balancer.opened.Load()-w.linked, w.balancer.ended.Load()
	for _, name := range []string{stack.GatewayA, stack.GatewayB} {
		for code, n := range metric(t, w.Procs[name], "berth_gateway_sockets_closed_total") {
			elsewhere := slices.Contains(troubled, name) && slices.Contains([]string{"UNAVAILABLE", "REPLACED", "LOST"}, code)
			if n > 0 && !elsewhere {
				t.Errorf("%s closed %v sockets with %s", name, n, code)
			}
		}
	}
	if !reconnects && again+ended > 0 {
		t.Errorf("%d connections were dropped, and %d made anew", ended, again)
	}
	ctx, cancel := context.WithTimeout(context.Background(), w.size.patience)
	defer cancel()
	sum, faults := w.fleet.settle(ctx)
	const most = 40
	for n, f := range faults {
		if n == most {
			t.Errorf("and %d faults more", len(faults)-most)
			break
		}
		t.Error(f)
	}
	t.Logf("%d servers: %v; %d connections ended, %d made anew", len(w.fleet.members), &sum, ended, again)
	if lost := w.fleet.losses.String(); lost != "" {
		t.Logf("what the servers' logs say:%s", strings.TrimRight(lost, "\n"))
	}
}

// handProvider is the configuration of a provider that nobody asks for anything: the servers of a storm are registered.
const handProvider = "providers: [{name: hand, kind: attach, attach: {builds: [hand]}}]\n"
