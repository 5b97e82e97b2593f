package main

import (
	"fmt"
	"maps"
	"slices"
)

const (
	routedConns    = 256
	routedInFlight = 8
	latencyConns   = 64
)

// routed measures what an ephemeral message costs from a game server through gateway and store to a backend and back, beside what has to be paid in any
// case: a WebSocket echo and two PUBLISH.
func routed(o options) error {
	b, err := newBench(o)
	if err != nil {
		return err
	}
	defer b.stop()
	if err := compare(b.rounds, b.echo, b.publish, b.naive, b.routed, b.routedTraced, b.streamed); err != nil {
		return err
	}
	if err := compare(b.rounds, b.echoLate, b.routedLate); err != nil {
		return err
	}
	if _, err := b.traced.got("berth-gateway", routedConns); err != nil { // each link's opening is a call at least
		return err
	}
	b.report()
	return b.profile(o)
}

// bench is all that is compared there.
type bench struct {
	rounds  int
	many    int // operations in a round, of what is cheap
	stack   *stack
	second  *stack // whose backend comes over gRPC
	traced  *traced
	all     []*child
	load    *child
	mallocs []float64 // a value a round
	late    map[string][]report

	mallocsTraced []float64

	echo, publish, naive, routed, streamed *work
	echoLate, routedLate, routedTraced     *work
}

func newBench(o options) (*bench, error) {
	b := &bench{rounds: 9, many: 100_000, late: make(map[string][]report)}
	if o.short {
		b.rounds, b.many = 1, 10_240
	}
	if err := b.prepare(o); err != nil {
		b.stop()
		return nil, err
	}
	return b, nil
}

func (b *bench) stop() {
	for _, c := range b.all {
		c.stop()
	}
	for _, s := range []*stack{b.stack, b.second} {
		if s != nil {
			s.stop()
		}
	}
	if b.traced != nil {
		b.traced.stop()
	}
}

// keep notes a process that is to be stopped at the end.
func (b *bench) keep(c *child, err error) (*child, error) {
	if err == nil {
		b.all = append(b.all, c)
	}
	return c, err
}

func (b *bench) prepare(o options) (err error) {
	if b.load, err = b.keep(part(nil, "load")); err != nil {
		return err
	}
	if err := b.floors(o); err != nil {
		return err
	}
	if b.stack, err = startStack(o, "no"); err != nil {
		return err
	}
	backend, err := b.keep(b.stack.inside(o, "messages"))
	if err != nil {
		return err
	}
	if b.routed, err = b.path("routed", "links", b.stack, map[string]*child{"backend": backend}); err != nil {
		return err
	}
	b.routed.do = b.counted(b.stack, &b.mallocs, b.routed.do)
	b.routedLate = &work{name: "routed, one in flight", do: b.fireLate("links", workMessage)}
	b.echoLate = &work{name: "echo, one in flight", do: b.fireLate("echo", workEcho)}
	if err := b.withTracing(o); err != nil {
		return err
	}
	return b.overGRPC(o)
}

// withTracing is the same in a second Berth that sends all spans. Messages have none; what is measured is whether they pay for it all the same.
func (b *bench) withTracing(o options) (err error) {
	if b.traced, err = startTraced(o, "no", everything); err != nil {
		return err
	}
	backend, err := b.keep(b.traced.inside(o, "messages"))
	if err != nil {
		return err
	}
	if b.routedTraced, err = b.path("routed_tracing_on", "links with tracing", b.traced.stack, map[string]*child{"backend": backend}); err != nil {
		return err
	}
	b.routedTraced.do = b.counted(b.traced.stack, &b.mallocsTraced, b.routedTraced.do)
	return nil
}

// overGRPC is the same with a backend that is a client of StreamMessages. Everybody who watches gets all messages, so it has a Berth of its own.
func (b *bench) overGRPC(o options) (err error) {
	if b.second, err = startStack(o, "no"); err != nil {
		return err
	}
	backend, err := b.keep(part([]string{keyVariable + "=" + b.second.key}, "backend", b.second.instance.addr))
	if err != nil {
		return err
	}
	b.streamed, err = b.path("routed_grpc", "links of the second", b.second, map[string]*child{"game-instance": b.second.instance, "backend": backend})
	return err
}

// path is the way of a message through a stack and back. of are the processes in it beside gateway and store.
func (b *bench) path(name, set string, s *stack, of map[string]*child) (*work, error) {
	if _, err := ordered(b.load, s.opening(set, routedConns)); err != nil {
		return nil, err
	}
	of["gateway"], of["redis"] = s.gateway, s.redis
	return &work{name: name, of: of, do: b.fire(set, workMessage, b.many)}, nil
}

// floors starts what Berth is compared with. It has a store of its own, in which nothing else goes on.
func (b *bench) floors(o options) error {
	redis, err := b.keep(redisServer(o.dir, "no"))
	if err != nil {
		return err
	}
	var cs []*child
	for _, p := range [][]string{{"echo"}, {"naive", redis.addr}, {"naive-backend", redis.addr}, {"publish", redis.addr}} {
		c, err := b.keep(part(nil, p[0], p[1:]...))
		if err != nil {
			return err
		}
		cs = append(cs, c)
	}
	echo, naive, backend, publisher := cs[0], cs[1], cs[2], cs[3]
	for set, addr := range map[string]string{"echo": echo.addr, "naive": naive.addr} {
		if _, err := ordered(b.load, order{Do: "open", Set: set, Bare: addr, Conns: routedConns}); err != nil {
			return err
		}
	}
	b.echo = &work{name: "echo", of: map[string]*child{"echo": echo}, do: b.fire("echo", workEcho, b.many)}
	b.naive = &work{name: "naive", of: map[string]*child{"gateway": naive, "backend": backend, "redis": redis}, do: b.fire("naive", workEcho, b.many/5)}
	b.publish = &work{name: "publish", of: map[string]*child{"redis": redis}, do: func() (int, error) {
		r, err := ordered(publisher, order{Total: b.many})
		return r.Done, err
	}}
	return nil
}

// fire has a set do its work at saturation.
func (b *bench) fire(set, what string, total int) func() (int, error) {
	return func() (int, error) {
		r, err := ordered(b.load, order{Do: "fire", Set: set, Work: what, Conns: routedConns, InFlight: routedInFlight, Total: total})
		progress("%s: %.0f/s", set, float64(r.Done)/r.Seconds)
		return r.Done, err
	}
}

// fireLate has some of a set do its work with one message under way each, for the sake of how long that takes.
func (b *bench) fireLate(set, what string) func() (int, error) {
	return func() (int, error) {
		r, err := ordered(b.load, order{Do: "fire", Set: set, Work: what, Conns: latencyConns, InFlight: 1, Total: b.many / 2})
		b.late[set] = append(b.late[set], r)
		return r.Done, err
	}
}

// counted counts the allocations of a stack's gateway in each round, less those of asking for them.
func (b *bench) counted(s *stack, mallocs *[]float64, do func() (int, error)) func() (int, error) {
	return func() (int, error) {
		var at [3]float64
		var n int
		for i := range at {
			var err error
			if i == 2 {
				if n, err = do(); err != nil {
					return n, err
				}
			}
			if at[i], err = metric(s.gatewayAdmin, "go_memstats_mallocs_total"); err != nil {
				return n, err
			}
		}
		*mallocs = append(*mallocs, (at[2]-at[1]-(at[1]-at[0]))/float64(n))
		return n, nil
	}
}

func (b *bench) report() {
	figure("floor_echo_cpu", b.echo.cost(), "us", "-")
	figure("floor_publish_redis_cpu", b.publish.cost(), "us", "-")
	for _, w := range []*work{b.naive, b.routed, b.streamed} {
		figure(w.name+"_cpu", w.cost(), "us", "-")
		for _, p := range slices.Sorted(maps.Keys(w.of)) {
			figure(fmt.Sprintf("%s_%s_cpu", w.name, p), w.cost(p), "us", "-")
		}
	}
	ratio := func(value func(n int) float64) float64 { return median(b.rounds, value) }
	routed, echo, publish, naive := b.routed.spent, b.echo.spent, b.publish.spent, b.naive.spent
	figure("routed_to_floor", ratio(func(n int) float64 { return routed[n].sum() / (echo[n].sum() + 2*publish[n].sum()) }), "ratio", "<=1.3")
	figure("routed_to_naive", b.routed.to(b.naive), "ratio", "<=0.15")
	figure("routed_grpc_to_routed", b.streamed.to(b.routed), "ratio", "-")
	figure("routed_tracing_on_to_off", b.routedTraced.to(b.routed), "ratio", "-")
	figure("naive_to_floor", ratio(func(n int) float64 { return naive[n].sum() / (echo[n].sum() + 2*publish[n].sum()) }), "ratio", "-")
	figure("routed_gateway_to_echo", ratio(func(n int) float64 { return routed[n].sum("gateway") / echo[n].sum() }), "ratio", "<=1.2")
	figure("routed_redis_to_two_publish", ratio(func(n int) float64 { return routed[n].sum("redis") / (2 * publish[n].sum()) }), "ratio", "<=0.5")
	figure("routed_gateway_mallocs", median(b.rounds, func(n int) float64 { return b.mallocs[n+1] }), "mallocs", "<=4")
	figure("routed_tracing_on_gateway_mallocs", median(b.rounds, func(n int) float64 { return b.mallocsTraced[n+1] }), "mallocs", "-")
	rtt, floor := b.late["links"][1:], b.late["echo"][1:]
	figure("echo_p99", median(b.rounds, func(n int) float64 { return floor[n].P99 }), "us", "-")
	figure("routed_p50", median(b.rounds, func(n int) float64 { return rtt[n].P50 }), "us", "-")
	figure("routed_p99", median(b.rounds, func(n int) float64 { return rtt[n].P99 }), "us", "-")
	figure("routed_p99_to_echo_p99", median(b.rounds, func(n int) float64 { return rtt[n].P99 / floor[n].P99 }), "ratio", "<=1.5")
}

// profile takes one of the gateway at work.
func (b *bench) profile(o options) error {
	if o.profiles == "" {
		return nil
	}
	taken := make(chan error, 1)
	go func() { taken <- o.profile(b.stack.gatewayAdmin, "routed.cpu", "profile?seconds=5") }()
	for {
		if _, err := b.routed.do(); err != nil {
			return err
		}
		select {
		case err := <-taken:
			return err
		default:
		}
	}
}
