package main

// atOnce is how many instances have a command under way at once in what is durable: one each, so that nothing is folded into one commit.
const atOnce = 64

// durable measures what a durable request over the link costs and a durable notification, beside a commit of game-instance's alone.
func durable(o options) error {
	rounds, total := 7, 6400
	if o.short {
		rounds, total = 1, 640
	}
	s, err := startStack(o, "yes")
	if err != nil {
		return err
	}
	defer s.stop()
	l, err := part(nil, "load")
	if err != nil {
		return err
	}
	defer l.stop()
	alone, err := s.inside(o, "commit")
	if err != nil {
		return err
	}
	defer alone.stop()
	if _, err := ordered(l, s.opening("links", atOnce)); err != nil {
		return err
	}
	fire := func(work string, inFlight int) func() (int, error) {
		return func() (int, error) {
			r, err := ordered(l, order{Do: "fire", Set: "links", Work: work, Conns: atOnce, InFlight: inFlight, Total: total})
			return r.Done, err
		}
	}
	of := map[string]*child{"gateway": s.gateway, "game-instance": s.instance, "redis": s.redis}
	commit := &work{name: "commit alone", of: map[string]*child{"service": alone, "redis": s.redis}, do: func() (int, error) {
		r, err := ordered(alone, order{Conns: atOnce, Total: total})
		return r.Done, err
	}}
	request := &work{name: "request", of: of, do: fire(workRequest, 1)}
	crowded := &work{name: "requests, 8 in flight", of: of, do: fire(workRequest, 8)}
	notification := &work{name: "notification", of: of, do: fire(workNotify, 1)}
	if err := compare(rounds, commit, request, crowded, notification); err != nil {
		return err
	}
	figure("durable_commit_alone_cpu", commit.cost(), "us", "-")
	for _, f := range []struct {
		name, target string
		of           *work
	}{{"durable_request", "-", request}, {"durable_request_8_in_flight", "-", crowded}, {"durable_notification", "<=3", notification}} {
		figure(f.name+"_cpu", f.of.cost(), "us", "-")
		for _, process := range []string{"gateway", "game-instance", "redis"} {
			figure(f.name+"_"+process+"_cpu", f.of.cost(process), "us", "-")
		}
		figure(f.name+"_to_commit_alone", f.of.to(commit), "ratio", f.target)
	}
	return tracedRequests(o, l, rounds, total)
}

// tracedRequest is a durable request in a Berth that does nothing else, with or without tracing: beside one that has other work too, the difference would
// be that work's.
type tracedRequest struct {
	*traced
	name  string
	ratio string  // tracing.sample_ratio; "" leaves the default
	sent  float64 // which part of the traces that is; 0: there is no tracing
	work  *work
}

// tracedRequests compares a durable request with tracing off, with the default sampling, and with all traces sent.
func tracedRequests(o options, l *child, rounds, total int) (err error) {
	all := []*tracedRequest{{name: "durable_request_tracing_off"}, {name: "durable_request_tracing_on", sent: 0.01}, {name: "durable_request_tracing_all", ratio: everything, sent: 1}}
	var works []*work
	for _, t := range all {
		if err := t.start(o, l, total); err != nil {
			return err
		}
		defer t.stop()
		works = append(works, t.work)
	}
	if err := compare(rounds, works...); err != nil {
		return err
	}
	for _, t := range all {
		if err := t.report(all[0].work, (rounds+1)*total); err != nil {
			return err
		}
	}
	return nil
}

func (t *tracedRequest) start(o options, l *child, total int) (err error) {
	if t.sent > 0 {
		t.traced, err = startTraced(o, "yes", t.ratio)
	} else {
		t.traced = &traced{}
		t.stack, err = startStack(o, "yes")
	}
	if err != nil {
		return err
	}
	if _, err := ordered(l, t.opening(t.name, atOnce)); err != nil {
		t.stop()
		return err
	}
	of := map[string]*child{"gateway": t.gateway, "game-instance": t.instance, "redis": t.redis}
	t.work = &work{name: t.name, of: of, do: func() (int, error) {
		r, err := ordered(l, order{Do: "fire", Set: t.name, Work: workRequest, Conns: atOnce, InFlight: 1, Total: total})
		return r.Done, err
	}}
	return nil
}

// report prints the figures if the collector got what it should. Half of it is enough: what is sent is drawn, and dropped where the exporter does not keep up.
func (t *tracedRequest) report(off *work, requests int) error {
	figure(t.name+"_cpu", t.work.cost(), "us", "-")
	if t.sent == 0 {
		return nil
	}
	expected := t.sent * float64(requests)
	spans, err := t.got("berth-gateway", int(expected/2))
	if err != nil {
		return err
	}
	progress("%s: %d spans of the gateway, of %.0f", t.name, spans, expected)
	figure(t.name+"_to_off", t.work.to(off), "ratio", "-")
	return nil
}
