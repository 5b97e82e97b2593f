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
	return nil
}
