package main

import (
	"fmt"
	"time"
)

// idleLinks are how many links the gateway holds for its memory to be measured.
const idleLinks = 10_000

// memory measures what an idle link costs the gateway.
func memory(o options) error {
	n := idleLinks
	if o.short {
		n = 200
	}
	s, err := startStack(o, "no")
	if err != nil {
		return err
	}
	defer s.stop()
	l, err := part(nil, "load")
	if err != nil {
		return err
	}
	defer l.stop()
	collect := func() error { _, err := get(s.gatewayAdmin, "/debug/pprof/heap?gc=1"); return err }
	if err := collect(); err != nil {
		return err
	}
	before, err := s.gateway.rss()
	if err != nil {
		return err
	}
	progress("%d links", n)
	r, err := ordered(l, s.opening("idle", n))
	if err != nil {
		return err
	}
	progress("%d links in %.1f s", n, r.Seconds)
	each := func(name, target string) error {
		now, err := s.gateway.rss()
		if err == nil {
			figure(name, (now-before)/float64(n), "KiB", target)
		}
		return err
	}
	time.Sleep(settle)
	if err := each("memory_idle_link", "<=12"); err != nil {
		return err
	}
	if err := collect(); err != nil {
		return err
	}
	time.Sleep(settle)
	if err := each("memory_idle_link_after_gc", "<=9.5"); err != nil {
		return err
	}
	if err := o.profile(s.gatewayAdmin, "memory.heap", "heap"); err != nil {
		return err
	}
	if err := o.profile(s.gatewayAdmin, "memory.goroutines", "goroutine"); err != nil {
		return err
	}
	if err := o.profile(s.gatewayAdmin, "memory.metrics", "../../metrics"); err != nil {
		return err
	}
	have, err := metric(s.gatewayAdmin, "berth_gateway_sockets")
	if err == nil && int(have) != n {
		err = fmt.Errorf("of %d links %.0f are left", n, have)
	}
	return err
}

// settle is how long the runtime gets to give memory back, and every link to be pinged once.
const settle = 15 * time.Second

// opening is the order to open links.
func (s *stack) opening(set string, conns int) order {
	return order{Do: "open", Set: set, Gateway: s.gateway.addr, Instance: s.instance.addr, Key: s.key, Conns: conns}
}
