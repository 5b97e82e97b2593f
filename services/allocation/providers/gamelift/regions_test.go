package gamelift_test

import (
	"maps"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/services/allocation/providers/gamelift"
	gamelifthost "github.com/berth-dev/berth/test/hosts/gamelift"
)

// breaks makes calls that ask for a server break off while it is on, before GameLift has them.
type breaks struct{ atomic.Bool }

// before starts a stand-in that such calls may not come to, with Regions beside those of its fleets that are closed to Berth: one that is asked before, and one after.
func (b *breaks) before(t *testing.T, build gamelift.Build) (*gamelifthost.Host, gamelift.Config) {
	t.Helper()
	var host *gamelifthost.Host
	host, cfg := startBehind(t, func(string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if b.Load() && (strings.HasSuffix(r.URL.Path, "/CreateGameSession") || strings.HasSuffix(r.URL.Path, "/StartGameSessionPlacement")) {
				panic(http.ErrAbortHandler)
			}
			host.ServeHTTP(w, r)
		}
	})
	cfg.Builds = map[string]gamelift.Build{"shooter": build}
	cfg.Regions = map[string]gamelift.Region{"ap": {Region: "ap-southeast-9"}, "eu": {Region: "eu-central-1"}, "us": {Region: "us-west-9"}}
	return host, cfg
}

// builds make servers directly and by a queue.
func builds() map[string]gamelift.Build {
	return map[string]gamelift.Build{"queue": {Queue: "plain"}, "fleet": {Fleet: fleet}, "alias": {Alias: alias}}
}

// What became of a call without an answer is found out in the Region that it was made to, whatever is wrong with another one.
func TestAClosedRegionKeepsNoAttemptOpen(t *testing.T) {
	for name, build := range builds() {
		for _, first := range []string{"Get", "Release"} {
			t.Run(first+", "+name, func(t *testing.T) {
				var broken breaks
				host, cfg := broken.before(t, build)
				cfg.Builds["puzzle"], cfg.Builds["racer"] = gamelift.Build{Queue: "shooter"}, gamelift.Build{Alias: alias}
				p, req := open(t, cfg), order()
				broken.Store(true)
				_, err := p.Allocate(t.Context(), req)
				failsWith(t, err, "AMBIGUOUS", "")
				broken.Store(false)
				if first == "Release" {
					if got := release(t, p, req.GetAttemptId(), ""); got != exited {
						t.Errorf("%v", got)
					}
					return
				}
				_, err = p.Get(t.Context(), &providerv1.GetRequest{AttemptId: req.GetAttemptId(), Deployment: deployment})
				failsWith(t, err, "NOT_FOUND", "")
				runs(t, p, req)
				if n := host.Count().Started; n != 1 {
					t.Errorf("%d servers", n)
				}
			})
		}
	}
}

// A server is found and given back whatever is wrong with another Region, also by a process that does not know where it is.
func TestAClosedRegionHidesNoServer(t *testing.T) {
	for name, build := range builds() {
		t.Run(name, func(t *testing.T) {
			var broken breaks
			host, cfg := broken.before(t, build)
			req := order()
			runs(t, open(t, cfg), req)
			if s := get(t, open(t, cfg), req.GetAttemptId(), ""); s.GetState() != running {
				t.Errorf("%v", s)
			}
			p := open(t, cfg)
			until(t, exited, func() providerv1.ServerState { return release(t, p, req.GetAttemptId(), "") })
			if n := host.Count(); n.Running != 0 {
				t.Errorf("%+v", n)
			}
			_, err := open(t, cfg).Get(t.Context(), &providerv1.GetRequest{AttemptId: order().GetAttemptId(), Deployment: deployment})
			failsWith(t, err, "UNAUTHENTICATED", "") // nobody knows what is there
		})
	}
}

// A session whose ARN names no Region that is asked is not taken for gone while its queue does not say which fleets it has.
func TestAQueueThatDoesNotSay(t *testing.T) {
	var mute atomic.Bool
	all := account()
	all.OlderARNs = true
	var host *gamelifthost.Host
	host, cfg := startWith(t, all, func(string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if mute.Load() && strings.HasSuffix(r.URL.Path, "/DescribeGameSessionQueues") {
				gamelifthost.Refuse("ThrottlingException", "Rate exceeded")(w, r)
				return
			}
			host.ServeHTTP(w, r)
		}
	})
	cfg.Builds = map[string]gamelift.Build{"shooter": {Queue: "american"}}
	cfg.Regions = map[string]gamelift.Region{"eu": {Region: "eu-central-1", Location: "sa-east-1"}}
	req := order()
	runs(t, open(t, cfg), req)
	mute.Store(true)
	_, err := open(t, cfg).Get(t.Context(), &providerv1.GetRequest{AttemptId: req.GetAttemptId(), ExternalId: host.Session(req.GetAttemptId()), Deployment: deployment})
	failsWith(t, err, "RATE_LIMITED", "")
}

// A list has what can be had, and an entry that says what is not in it.
func TestAListWithAClosedRegion(t *testing.T) {
	for name, build := range builds() {
		t.Run(name, func(t *testing.T) {
			var broken breaks
			_, cfg := broken.before(t, build)
			p, req := open(t, cfg), order()
			runs(t, p, req)
			until(t, running, func() providerv1.ServerState { return listed(t, p)[req.GetAttemptId()] })
			all, said := listed(t, p), make(map[string]int)
			for token, more := "", true; more; more = token != "" {
				page, err := p.List(t.Context(), &providerv1.ListRequest{Deployment: deployment, PageToken: token})
				if err != nil {
					t.Fatal(err)
				}
				for _, s := range page.GetServers() {
					if s.GetAttemptId() == "" && s.GetState() == 0 {
						region, _, _ := strings.Cut(s.GetMessage(), " cannot be listed: GameLift refuses")
						said[region]++
					}
				}
				token = page.GetNextPageToken()
			}
			if want := map[string]int{"the game sessions in ap-southeast-9": 1, "the game sessions in us-west-9": 1}; len(all) != 2 || !maps.Equal(said, want) {
				t.Errorf("%v, and these entries say why: %v", all, said)
			}
		})
	}
}

// A Region that gives no answer is not waited for again for the same page of a list, however many builds there are.
func TestARegionThatIsAwayIsWaitedForOnce(t *testing.T) {
	var calls atomic.Int32
	_, cfg := startBehind(t, func(region string) http.HandlerFunc {
		if region != "us-east-1" {
			return nil
		}
		return func(http.ResponseWriter, *http.Request) {
			calls.Add(1)
			panic(http.ErrAbortHandler)
		}
	})
	cfg.Builds = map[string]gamelift.Build{"shooter": {Alias: alias}, "racer": {Alias: retired}, "puzzle": {Queue: "plain"}}
	cfg.Regions = map[string]gamelift.Region{"eu": {Region: "eu-central-1"}, "us": {Region: "us-east-1"}}
	if all := listed(t, open(t, cfg)); len(all) != 1 || calls.Load() != 1 {
		t.Errorf("%v, %d calls", all, calls.Load())
	}
}

// A list that no Region has answered for fails, as does one that can be had in a moment: neither is taken for one without servers.
func TestAListThatFails(t *testing.T) {
	for name, build := range map[string]gamelift.Build{"queue": {Queue: "shooter"}, "fleets": {Fleet: fleet, AlsoFleets: []string{american, next}}} {
		for _, c := range []struct{ code, onlyIn, reason string }{{"AccessDeniedException", "", "UNAUTHENTICATED"}, {"ThrottlingException", "us-east-1", "RATE_LIMITED"}} {
			t.Run(name+", "+c.reason, func(t *testing.T) {
				_, cfg := startBehind(t, func(region string) http.HandlerFunc {
					if c.onlyIn != "" && c.onlyIn != region {
						return nil
					}
					return gamelifthost.Refuse(c.code, "not now")
				})
				cfg.Builds = map[string]gamelift.Build{"shooter": build}
				cfg.Regions = map[string]gamelift.Region{"eu": {Region: "eu-central-1"}, "us": {Region: "us-east-1"}}
				p, token := open(t, cfg), ""
				for {
					page, err := p.List(t.Context(), &providerv1.ListRequest{Deployment: deployment, PageToken: token})
					if err != nil {
						failsWith(t, err, c.reason, "")
						return
					}
					if token = page.GetNextPageToken(); token == "" {
						t.Fatal("there is a list")
					}
				}
			})
		}
	}
}

// An attempt that was asked for in two places, without an answer from either, is looked for in both.
func TestAnAttemptInTwoPlaces(t *testing.T) {
	for _, there := range []string{"eu", "west"} {
		t.Run(there, func(t *testing.T) {
			var broken breaks
			host, cfg := broken.before(t, gamelift.Build{Fleet: fleet})
			cfg.Regions = map[string]gamelift.Region{"eu": {Region: "eu-central-1"}, "west": {Region: "eu-central-1", Location: "eu-west-1"}}
			p, req := open(t, cfg), order()
			if err := host.LoseReply(t.Context()); err != nil {
				t.Fatal(err)
			}
			for _, region := range []string{"eu", "west"} {
				broken.Store(region != there)
				req.Region = region
				_, err := p.Allocate(t.Context(), req)
				failsWith(t, err, "AMBIGUOUS", "")
			}
			if err := host.Heal(t.Context()); err != nil {
				t.Fatal(err)
			}
			if s := get(t, p, req.GetAttemptId(), ""); s.GetRegion() != there {
				t.Errorf("%v", s)
			}
		})
	}
}

// Of a server that was seen its Region says that it is gone, and nobody else is asked; so does the Region that the ARN of one in a location names.
func TestAServerThatIsGoneIsAskedForOnce(t *testing.T) {
	for name, c := range map[string]struct {
		location string
		restart  bool
	}{
		"seen": {"", false}, "in a location": {"eu-west-1", true},
	} {
		t.Run(name, func(t *testing.T) {
			var broken breaks
			host, cfg := broken.before(t, gamelift.Build{Fleet: fleet})
			cfg.Builds["puzzle"], cfg.Builds["racer"] = gamelift.Build{Queue: "shooter"}, gamelift.Build{Alias: alias}
			cfg.Regions["eu"] = gamelift.Region{Region: "eu-central-1", Location: c.location}
			p, req := open(t, cfg), order()
			arn := runs(t, p, req).GetExternalId()
			host.Forget(req.GetAttemptId())
			if c.restart {
				p = open(t, cfg)
			}
			gamelift.Hasten(p, 0, 0)
			count := func() (n int) {
				for _, operation := range []string{"DescribeGameSessions", "DescribeGameSessionPlacement", "DescribeGameSessionQueues", "ResolveAlias"} {
					n += host.Calls(operation)
				}
				return n
			}
			before := count()
			_, err := p.Get(t.Context(), &providerv1.GetRequest{AttemptId: req.GetAttemptId(), ExternalId: arn, Deployment: deployment})
			failsWith(t, err, "NOT_FOUND", "")
			if n := count() - before; n != 1 {
				t.Errorf("%d calls", n)
			}
		})
	}
}

// A server that belongs to nobody and does not end by itself stays in the list until it has ended, and so is ended by force, as nobody else asks for it.
func TestAnOrphanIsEndedByForce(t *testing.T) {
	host, cfg := single(t, gamelift.Build{Fleet: stubborn}, gamelift.Region{Region: "eu-central-1"})
	cfg.StopGrace = time.Nanosecond
	req := order()
	runs(t, open(t, cfg), req)
	p := open(t, cfg)
	until(t, running, func() providerv1.ServerState { return listed(t, p)[req.GetAttemptId()] })
	until(t, exited, func() providerv1.ServerState { // as the reaper does: what is not in the list it does not release
		all := listed(t, p)
		if _, there := all[req.GetAttemptId()]; !there {
			return exited
		}
		return release(t, p, req.GetAttemptId(), "")
	})
	if n := host.Count(); n.Running != 0 || host.Calls("TerminateGameSession") < 2 {
		t.Errorf("%+v, %d calls", n, host.Calls("TerminateGameSession"))
	}
}
