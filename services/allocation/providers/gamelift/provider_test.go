package gamelift_test

import (
	"context"
	"maps"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/smithy-go/encoding/cbor"
	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/providers/gamelift"
	gamelifthost "github.com/berth-dev/berth/test/hosts/gamelift"
)

const (
	running  = providerv1.ServerState_SERVER_STATE_RUNNING
	stopping = providerv1.ServerState_SERVER_STATE_STOPPING
	exited   = providerv1.ServerState_SERVER_STATE_EXITED
)

func allocate(t *testing.T, p *gamelift.Provider, req *providerv1.AllocateRequest) *providerv1.Server {
	t.Helper()
	resp, err := p.Allocate(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetServer()
}

func get(t *testing.T, p *gamelift.Provider, attempt, external string) *providerv1.Server {
	t.Helper()
	resp, err := p.Get(t.Context(), &providerv1.GetRequest{AttemptId: attempt, ExternalId: external, Deployment: deployment})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetServer()
}

func release(t *testing.T, p *gamelift.Provider, attempt, external string) providerv1.ServerState {
	t.Helper()
	resp, err := p.Release(t.Context(), &providerv1.ReleaseRequest{AttemptId: attempt, ExternalId: external, Deployment: deployment})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetState()
}

// until asks until the server is in that state.
func until(t *testing.T, state providerv1.ServerState, ask func() providerv1.ServerState) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	last := ask()
	for ; last != state; last = ask() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waited in vain for %v: it is %v", state, last)
		}
	}
}

// runs allocates a server and waits until it runs.
func runs(t *testing.T, p *gamelift.Provider, req *providerv1.AllocateRequest) *providerv1.Server {
	t.Helper()
	allocate(t, p, req)
	until(t, running, func() providerv1.ServerState { return get(t, p, req.GetAttemptId(), "").GetState() })
	return get(t, p, req.GetAttemptId(), "")
}

func single(t *testing.T, build gamelift.Build, region gamelift.Region) (*gamelifthost.Host, gamelift.Config) {
	t.Helper()
	host, cfg := start(t)
	cfg.Builds, cfg.Regions = map[string]gamelift.Build{"shooter": build}, map[string]gamelift.Region{"eu": region}
	return host, cfg
}

// Players of a fleet with TLS go to its DNS name, as its certificate is for that; others to the address.
func TestEndpoints(t *testing.T) {
	for name, c := range map[string]struct {
		build  gamelift.Build
		region string
		host   string
	}{
		"TLS, by a queue":     {gamelift.Build{Queue: "plain"}, "eu-central-1", ".eu-central-1.amazongamelift.com"},
		"TLS, directly":       {gamelift.Build{Alias: alias}, "eu-central-1", ".eu-central-1.amazongamelift.com"},
		"without, by a queue": {gamelift.Build{Queue: "american"}, "eu-central-1", "203.0.113."},
		"without, directly":   {gamelift.Build{Fleet: american}, "us-east-1", "203.0.113."},
	} {
		t.Run(name, func(t *testing.T) {
			_, cfg := single(t, c.build, gamelift.Region{Region: c.region})
			s := runs(t, open(t, cfg), order())
			if e := s.GetEndpoints(); len(e) != 1 || !strings.Contains(e[0].GetHost(), c.host) || e[0].GetName() != "game" || e[0].GetPort() < 20_000 || s.GetRegion() != "eu" {
				t.Errorf("%v", s)
			}
		})
	}
}

// A session that was never activated is a refusal after all, of a server that a queue did not place as well.
func TestASessionThatFails(t *testing.T) {
	host, cfg := single(t, gamelift.Build{Fleet: fleet}, gamelift.Region{Region: "eu-central-1"})
	p, req := open(t, cfg), order()
	s := allocate(t, p, req)
	gamelift.Hasten(p, 0, 0)
	host.Answer(gamelifthost.Answer(cbor.Map{"GameSessions": cbor.List{cbor.Map{"GameSessionId": cbor.String(s.GetExternalId()), "Status": cbor.String("ERROR")}}}))
	if s = get(t, p, req.GetAttemptId(), ""); s.GetState() != exited || s.GetFailure() != provider.Unavailable || !strings.Contains(s.GetMessage(), "did not activate") {
		t.Errorf("got %v", s)
	}
	if err := host.Heal(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// A queue is asked for the region's location, and no other.
func TestAQueueIsGivenTheLocation(t *testing.T) {
	host, cfg := single(t, gamelift.Build{Queue: "shooter"}, gamelift.Region{Region: "eu-central-1", Location: "eu-west-1"})
	p, req := open(t, cfg), order()
	runs(t, p, req)
	if arn := host.Session(req.GetAttemptId()); !strings.HasPrefix(arn, "arn:aws:gamelift:eu-central-1::gamesession/"+fleet+"/eu-west-1/") {
		t.Errorf("placed as %s", arn)
	}
}

// A service that was restarted finds what it made before, with another document too, and gives it back, wherever a queue has placed it.
func TestAfterARestart(t *testing.T) {
	for name, c := range map[string]struct {
		build  gamelift.Build
		region gamelift.Region
		older  bool // ARNs
	}{
		"queue":                       {gamelift.Build{Queue: "plain"}, gamelift.Region{Region: "eu-central-1"}, false},
		"queue of two Regions":        {gamelift.Build{Queue: "american"}, gamelift.Region{Region: "eu-central-1"}, false},
		"queue, far location":         {gamelift.Build{Queue: "american"}, gamelift.Region{Region: "eu-central-1", Location: "sa-east-1"}, false},
		"queue, far location, older":  {gamelift.Build{Queue: "american"}, gamelift.Region{Region: "eu-central-1", Location: "sa-east-1"}, true},
		"queue, near location, older": {gamelift.Build{Queue: "shooter"}, gamelift.Region{Region: "eu-central-1", Location: "eu-west-1"}, true},
		"fleet":                       {gamelift.Build{Fleet: fleet}, gamelift.Region{Region: "eu-central-1"}, false},
		"remote location":             {gamelift.Build{Fleet: fleet}, gamelift.Region{Region: "eu-central-1", Location: "eu-west-1"}, false},
		"remote location, older":      {gamelift.Build{Fleet: fleet}, gamelift.Region{Region: "eu-central-1", Location: "eu-west-1"}, true},
		"alias":                       {gamelift.Build{Alias: alias}, gamelift.Region{Region: "eu-central-1"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			host, cfg := startOlder(t, c.older)
			cfg.Builds, cfg.Regions = map[string]gamelift.Build{"shooter": c.build}, map[string]gamelift.Region{"eu": c.region}
			req := order()
			before := runs(t, open(t, cfg), req)
			req.Bootstrap = []byte(`{"v": 1}`)
			if s := allocate(t, open(t, cfg), req); s.GetExternalId() != before.GetExternalId() || s.GetState() != running {
				t.Errorf("the same attempt: %v, before: %v", s, before)
			}
			if s := get(t, open(t, cfg), req.GetAttemptId(), ""); s.GetExternalId() != before.GetExternalId() || s.GetState() != running {
				t.Errorf("without its id: %v, before: %v", s, before)
			}
			list, err := open(t, cfg).List(t.Context(), &providerv1.ListRequest{Deployment: deployment})
			if err != nil || len(list.GetServers()) != 1 {
				t.Fatalf("%v, %v", list, err)
			}
			if s := get(t, open(t, cfg), req.GetAttemptId(), list.GetServers()[0].GetExternalId()); s.GetState() != running {
				t.Errorf("by the id in the list: %v", s)
			}
			p := open(t, cfg)
			until(t, exited, func() providerv1.ServerState { return release(t, p, req.GetAttemptId(), "") })
			if n := host.Count(); n.Started != 1 || n.Running != 0 {
				t.Errorf("%+v", n)
			}
			if s := get(t, open(t, cfg), req.GetAttemptId(), list.GetServers()[0].GetExternalId()); s.GetState() != exited || s.GetMessage() == "" {
				t.Errorf("at the end: %v", s)
			}
		})
	}
}

// What runs on a fleet that has left its queue is found after a restart: in the Region of the ARN in also_fleets, or of the session. If that does not say, or is
// closed, nobody takes it for ended.
func TestAFleetThatLeftItsQueue(t *testing.T) {
	for name, c := range map[string]struct {
		location string
		also     []string
		older    bool // ARNs
	}{
		"also_fleets":           {"sa-east-1", []string{"arn:aws:gamelift:us-east-1:123456789012:fleet/" + american}, true},
		"its own Region":        {"", nil, false},
		"that of a location":    {"sa-east-1", nil, false},
		"its own Region, older": {"", nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			var answer atomic.Pointer[http.HandlerFunc]
			all := account()
			all.OlderARNs = c.older
			host, cfg := startWith(t, all, func(region string) http.HandlerFunc {
				if now := answer.Load(); now != nil && region == "us-east-1" {
					return *now
				}
				return nil
			})
			cfg.Builds, cfg.Regions = map[string]gamelift.Build{"shooter": {Queue: "american"}}, map[string]gamelift.Region{"eu": {Region: "eu-central-1", Location: c.location}}
			req := order()
			runs(t, open(t, cfg), req)
			arn := host.Session(req.GetAttemptId())
			cfg.Builds = map[string]gamelift.Build{"shooter": {Queue: "plain", AlsoFleets: c.also}}
			cfg.Regions = map[string]gamelift.Region{"eu": {Region: "eu-central-1"}}
			for reason, code := range map[string]string{"RATE_LIMITED": "ThrottlingException", "UNAUTHENTICATED": "AccessDeniedException"} {
				refusal := gamelifthost.Refuse(code, "not now")
				answer.Store(&refusal)
				_, err := open(t, cfg).Get(t.Context(), &providerv1.GetRequest{AttemptId: req.GetAttemptId(), ExternalId: arn, Deployment: deployment})
				failsWith(t, err, reason, "")
			}
			answer.Store(nil)
			p := open(t, cfg)
			if s := get(t, p, req.GetAttemptId(), arn); s.GetState() != running {
				t.Errorf("got %v", s)
			}
			until(t, exited, func() providerv1.ServerState { return release(t, p, req.GetAttemptId(), arn) })
			if n := host.Count(); n.Running != 0 {
				t.Errorf("%+v", n)
			}
		})
	}
}

// A Region that does not answer hides no server of another one, also from a process that has seen none of them.
func TestARegionThatIsAwayHidesNoOther(t *testing.T) {
	var away atomic.Bool
	_, cfg := startBehind(t, func(region string) http.HandlerFunc {
		if away.Load() && region == "eu-central-1" {
			return gamelifthost.Refuse("ServiceUnavailableException", "Try later")
		}
		return nil
	})
	cfg.Builds, cfg.Regions = map[string]gamelift.Build{"shooter": {Fleet: american}}, map[string]gamelift.Region{"eu": {Region: "eu-central-1"}, "us": {Region: "us-east-1"}}
	req := order()
	req.Region = "us"
	s := runs(t, open(t, cfg), req)
	away.Store(true)
	if s = get(t, open(t, cfg), req.GetAttemptId(), s.GetExternalId()); s.GetState() != running {
		t.Errorf("got %v", s)
	}
}

// A placement that found no room is over for ever: the attempt has ended, and the message says why. Another attempt has another placement.
func TestAPlacementThatTimesOut(t *testing.T) {
	host, cfg := single(t, gamelift.Build{Queue: "full"}, gamelift.Region{Region: "eu-central-1"})
	p, req := open(t, cfg), order()
	allocate(t, p, req)
	until(t, exited, func() providerv1.ServerState { return get(t, p, req.GetAttemptId(), "").GetState() })
	if s := get(t, p, req.GetAttemptId(), ""); s.GetFailure() != provider.NoCapacity || !strings.Contains(s.GetMessage(), "no room") {
		t.Errorf("%v", s)
	}
	if s := allocate(t, open(t, cfg), req); s.GetState() != exited || !strings.Contains(s.GetMessage(), "no room") {
		t.Errorf("the same attempt: %v", s)
	}
	for name, p := range map[string]*gamelift.Provider{"": p, " after a restart": open(t, cfg)} {
		if all := listed(t, p); len(all) != 0 {
			t.Errorf("it is in the list%s: %v", name, all)
		}
		if got := release(t, p, req.GetAttemptId(), ""); got != exited {
			t.Errorf("its release%s: %v", name, got)
		}
	}
	if n := host.Calls("TerminateGameSession"); n != 0 {
		t.Errorf("%d sessions were ended", n)
	}
}

// A placement that waits is stopped; nothing is started for it later.
func TestReleaseOfAPlacementThatWaits(t *testing.T) {
	host, cfg := single(t, gamelift.Build{Queue: "waiting"}, gamelift.Region{Region: "eu-central-1"})
	p, req := open(t, cfg), order()
	allocate(t, p, req)
	if got := release(t, p, req.GetAttemptId(), ""); got != exited {
		t.Errorf("%v", got)
	}
	if got := release(t, open(t, cfg), req.GetAttemptId(), ""); got != exited {
		t.Errorf("again, after a restart: %v", got)
	}
	if host.Calls("StopGameSessionPlacement") != 2 || host.Calls("TerminateGameSession") != 0 || host.Count().Started != 0 {
		t.Errorf("%d stopped, %+v", host.Calls("StopGameSessionPlacement"), host.Count())
	}
}

// A server that does not end by itself is ended by force after the grace, and not before. An Anywhere fleet does not do that: then it is stopping until it ends.
func TestReleaseByForce(t *testing.T) {
	for name, c := range map[string]struct {
		fleet, location string
		grace           time.Duration
		least, most     int // calls of TerminateGameSession
	}{
		"after the grace":  {stubborn, "", time.Nanosecond, 2, 100},
		"before the grace": {stubborn, "", time.Hour, 1, 1},
		"anywhere":         {anywhere, "custom-office", time.Nanosecond, 2, 2},
	} {
		t.Run(name, func(t *testing.T) {
			host, cfg := single(t, gamelift.Build{Fleet: c.fleet}, gamelift.Region{Region: "eu-central-1", Location: c.location})
			cfg.StopGrace = c.grace
			p, req := open(t, cfg), order()
			runs(t, p, req)
			gamelift.Hasten(p, 0, 0)
			for range 5 {
				if got := release(t, p, req.GetAttemptId(), ""); got != stopping && name != "after the grace" {
					t.Fatalf("%v", got)
				}
			}
			if name != "after the grace" {
				host.End(req.GetAttemptId())
			}
			until(t, exited, func() providerv1.ServerState { return release(t, p, req.GetAttemptId(), "") })
			if n := host.Calls("TerminateGameSession"); n < c.least || n > c.most || host.Count().Running != 0 {
				t.Errorf("%d calls, %+v", n, host.Count())
			}
		})
	}
}

// A server that ended by itself has ended.
func TestAServerThatEnds(t *testing.T) {
	for _, build := range []gamelift.Build{{Queue: "plain"}, {Fleet: fleet}} {
		host, cfg := single(t, build, gamelift.Region{Region: "eu-central-1"})
		p, req := open(t, cfg), order()
		runs(t, p, req)
		host.End(req.GetAttemptId())
		until(t, exited, func() providerv1.ServerState { return get(t, p, req.GetAttemptId(), "").GetState() })
		if got := release(t, p, req.GetAttemptId(), ""); got != exited {
			t.Errorf("%v", got)
		}
	}
}

// GameLift is asked about a server no more often than it wants, however often Berth asks.
func TestNobodyPolls(t *testing.T) {
	host, cfg := single(t, gamelift.Build{Queue: "plain"}, gamelift.Region{Region: "eu-central-1"})
	p, req := open(t, cfg), order()
	runs(t, p, req)
	gamelift.Hasten(p, time.Hour, time.Hour)
	before := host.Calls("DescribeGameSessionPlacement") + host.Calls("DescribeGameSessions")
	for range 100 {
		if s := get(t, p, req.GetAttemptId(), ""); s.GetState() != running {
			t.Fatal(s)
		}
	}
	if n := host.Calls("DescribeGameSessionPlacement") + host.Calls("DescribeGameSessions") - before; n != 0 {
		t.Errorf("%d calls", n)
	}
}

// List has the servers of the deployment on all fleets, each once, and nobody else's: neither another deployment's nor what carries no mark.
func TestListHasOurs(t *testing.T) {
	host, cfg := start(t)
	cfg.Builds = map[string]gamelift.Build{"shooter": {Queue: "shooter"}, "racer": {Alias: alias}, "puzzle": {Fleet: american}} // the queue has both others' fleets
	cfg.Regions["us"] = gamelift.Region{Region: "us-east-1"}
	p := open(t, cfg)
	want := make(map[string]bool)
	for n := range 7 {
		req := order()
		switch n % 3 {
		case 1:
			req.Build = "racer"
		case 2:
			req.Build, req.Region = "puzzle", "us"
		}
		want[req.GetAttemptId()] = true
		runs(t, p, req)
	}
	foreign := order()
	foreign.Deployment = "another"
	runs(t, p, foreign)
	host.Foreign(fleet)
	got, token := make(map[string]bool), ""
	for {
		page, err := p.List(t.Context(), &providerv1.ListRequest{Deployment: deployment, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range page.GetServers() {
			if got[s.GetAttemptId()] {
				t.Errorf("%s is there twice", s.GetAttemptId())
			}
			got[s.GetAttemptId()] = true
		}
		if token = page.GetNextPageToken(); token == "" {
			break
		}
	}
	if !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// A server that comes up while a list is read is in it, and once: it was on the first page among those that come up, and is on a later one among those that run.
func TestListWhileAServerComesUp(t *testing.T) {
	host, cfg := single(t, gamelift.Build{Fleet: fleet}, gamelift.Region{Region: "eu-central-1"})
	p, last := open(t, cfg), order()
	for range 3 {
		runs(t, p, order())
	}
	host.Hold(true)
	allocate(t, p, last)
	list := func(token string) *providerv1.ListResponse {
		resp, err := p.List(t.Context(), &providerv1.ListRequest{Deployment: deployment, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	first := list("")
	until(t, exited, func() providerv1.ServerState { // until it is in the list
		if first = list(""); len(first.GetServers()) == 3 {
			return exited
		}
		return running
	})
	host.Hold(false)
	until(t, running, func() providerv1.ServerState { return get(t, p, last.GetAttemptId(), "").GetState() })
	if first.GetNextPageToken() == "" {
		t.Fatal("there is one page only")
	}
	if rest := list(first.GetNextPageToken()); len(rest.GetServers()) != 1 || rest.GetServers()[0].GetAttemptId() == last.GetAttemptId() {
		t.Errorf("on the second page: %v", rest)
	}
}

// List fails if a page is missing, and does not take what it cannot see for nothing.
func TestListFails(t *testing.T) {
	host, cfg := single(t, gamelift.Build{Queue: "plain"}, gamelift.Region{Region: "eu-central-1"})
	p := open(t, cfg)
	host.Answer(gamelifthost.Refuse("AccessDeniedException", "not authorized to perform: gamelift:DescribeGameSessionQueues"))
	_, err := p.List(t.Context(), &providerv1.ListRequest{Deployment: deployment})
	failsWith(t, err, "UNAUTHENTICATED", "gamelift:DescribeGameSessionQueues")
	if err := host.Heal(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err = p.List(t.Context(), &providerv1.ListRequest{Deployment: deployment, PageToken: "x"})
	if provider.ReasonOf(err) != provider.Invalid {
		t.Errorf("a token that is none: %v", err)
	}
}
