package main

// ingress measures what a message of a backend costs game-instance over a stream, beside a call for each.
func ingress(o options) error {
	rounds, total := 7, 32_000
	if o.short {
		rounds, total = 1, 3_200
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
	if _, err := ordered(l, s.opening("links", atOnce)); err != nil {
		return err
	}
	fire := func(what string) *work {
		return &work{name: what, of: map[string]*child{"game-instance": s.instance}, do: func() (int, error) {
			r, err := ordered(l, order{Do: "fire", Set: "links", Work: what, Conns: atOnce, InFlight: 4, Total: total})
			return r.Done, err
		}}
	}
	unary, stream := fire(workUnary), fire(workStream)
	if err := compare(rounds, unary, stream); err != nil {
		return err
	}
	figure("ingress_unary_cpu", unary.cost(), "us", "-")
	figure("ingress_stream_cpu", stream.cost(), "us", "-")
	figure("ingress_stream_to_unary", stream.to(unary), "ratio", "<=0.3")
	return nil
}
