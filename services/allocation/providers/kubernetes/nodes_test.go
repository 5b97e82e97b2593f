package kubernetes_test

import (
	"strings"
	"sync/atomic"
	"testing"

	"github.com/berth-dev/berth/sdk/go/provider"
)

// A name of the node, which certificates can have; and a node that has none.
func TestNodesWithoutAnAddress(t *testing.T) {
	_, cfg := start(t, cluster())
	p := open(t, cfg)
	req := order("shooter", "us")
	allocate(t, p, req)
	if s := settled(t, p, req); len(s.GetEndpoints()) != 2 || s.GetEndpoints()[0].GetHost() != "us-1.example.com" {
		t.Errorf("got %v", s)
	}
	eu := cfg.Regions["eu"]
	eu.Address = "ExternalDNS"
	cfg.Regions["eu"] = eu
	p = open(t, cfg)
	req = order("shooter", "eu")
	allocate(t, p, req)
	if s := settled(t, p, req); len(s.GetEndpoints()) != 0 || !strings.Contains(s.GetMessage(), "set kubernetes.regions.eu.address") {
		t.Errorf("got %v", s)
	}
}

// Without the right to look nodes up a server runs all the same. Nobody is told where, so its message says what is missing.
func TestNodesThatMayNotBeLookedUp(t *testing.T) {
	world := cluster()
	var all atomic.Bool
	world.Allow = func(verb, resource, namespace string) bool {
		return all.Load() || rights("get nodes")(verb, resource, namespace)
	}
	_, cfg := start(t, world)
	p := open(t, cfg)
	req := order("shooter", "eu")
	allocate(t, p, req)
	s := settled(t, p, req)
	if s.GetState() != running || len(s.GetEndpoints()) != 0 {
		t.Errorf("got %v", s)
	}
	for _, says := range []string{"the ExternalIP of node eu-", `cannot get resource "nodes"`, "set kubernetes.regions.eu.address"} {
		if !strings.Contains(s.GetMessage(), says) {
			t.Errorf("the message is %q; want %q in it", s.GetMessage(), says)
		}
	}
	all.Store(true)
	if s := settled(t, p, req); len(s.GetEndpoints()) != 2 || s.GetMessage() != "" {
		t.Errorf("with the right: %v", s)
	}
}

// A node rejects a Pod that was scheduled to it: that is no room, and no server that was lost.
func TestANodeThatRejectsThePod(t *testing.T) {
	world := cluster()
	for n := range world.Nodes {
		world.Nodes[n].Full = true
	}
	host, cfg := start(t, world)
	p := open(t, cfg)
	req := order("shooter", "eu")
	allocate(t, p, req)
	if s := settled(t, p, req); s.GetState() != exited || s.GetFailure() != provider.NoCapacity || !strings.Contains(s.GetMessage(), "OutOfpods: Pod was rejected") || host.Count().Started != 0 {
		t.Errorf("got %v, %+v", s, host.Count())
	}
	release(t, p, req)
}
