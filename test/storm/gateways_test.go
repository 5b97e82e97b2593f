package storm

import (
	"testing"

	"github.com/berth-dev/berth/pkg/redisx/redistest"
	"github.com/berth-dev/berth/test/stack"
)

// Gateways are rolled one after the other, as in a deployment.
func TestGatewaysAreRolled(t *testing.T) {
	w := newWorld(t, redistest.Server(t))
	for _, name := range []string{stack.GatewayA, stack.GatewayB} {
		p := w.Procs[name]
		w.watch.leave(name)
		if err := p.Stop(); err != nil {
			t.Fatal(err)
		}
		w.flows(t) // over the other
		p.Start(t)
		p.Ready(t)
		w.watch.back(name)
	}
	w.conclude(t, true)
}

// A gateway dies, and is started again.
func TestAGatewayIsKilled(t *testing.T) {
	w := newWorld(t, redistest.Server(t))
	p := w.Procs[stack.GatewayA]
	w.watch.leave(p.Name)
	p.Kill(t)
	w.flows(t)
	p.Start(t)
	p.Ready(t)
	w.watch.back(p.Name)
	w.conclude(t, true)
}

// A gateway is stopped in the middle of what it does, for longer than its lease, and goes on as if nothing had happened.
func TestAGatewayIsPausedBeyondItsLease(t *testing.T) {
	w := newWorld(t, redistest.Server(t))
	p := w.Procs[stack.GatewayA]
	w.watch.leave(p.Name)
	p.Pause(t)
	w.flows(t) // over the other, for those that notice the silence
	w.blow(t)
	p.Resume(t)
	w.ready(t)
	w.watch.back(p.Name)
	w.conclude(t, true, p.Name)
}
