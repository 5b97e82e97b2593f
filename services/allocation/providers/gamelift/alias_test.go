package gamelift_test

import (
	"net/http"
	"testing"

	"github.com/aws/smithy-go/encoding/cbor"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/providers/gamelift"
	gamelifthost "github.com/berth-dev/berth/test/hosts/gamelift"
)

// lost asks for a server whose answer gets lost; then a release moves the alias on to another fleet.
func lost(t *testing.T, host *gamelifthost.Host, p *gamelift.Provider) *providerv1.AllocateRequest {
	t.Helper()
	req := order()
	if err := host.LoseReply(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err := p.Allocate(t.Context(), req)
	failsWith(t, err, "AMBIGUOUS", "")
	if err := host.Heal(t.Context()); err != nil {
		t.Fatal(err)
	}
	host.MoveAlias(alias, next)
	return req
}

// staysOne makes sure that the attempt's server is found, is not doubled by a repeat, and is ended.
func staysOne(t *testing.T, host *gamelifthost.Host, p *gamelift.Provider, req *providerv1.AllocateRequest) {
	t.Helper()
	arn := host.Session(req.GetAttemptId())
	until(t, running, func() providerv1.ServerState { return get(t, p, req.GetAttemptId(), "").GetState() })
	if s := allocate(t, p, req); s.GetExternalId() != arn {
		t.Errorf("the repeat has %s, and the first one is %s", s.GetExternalId(), arn)
	}
	until(t, exited, func() providerv1.ServerState { return release(t, p, req.GetAttemptId(), "") })
	if c := host.Count(); c.Started != 1 || c.Running != 0 {
		t.Errorf("at the end: %+v", c)
	}
}

// A server that was asked for on a fleet is looked for there, wherever the alias points meanwhile.
func TestAnAliasMovesOn(t *testing.T) {
	host, cfg := single(t, gamelift.Build{Alias: alias}, gamelift.Region{Region: "eu-central-1"})
	p := open(t, cfg)
	staysOne(t, host, p, lost(t, host, p))
	req := order()
	if s := runs(t, p, req); lastPart(s.GetExternalId()) != next {
		t.Errorf("a new server is %s", s.GetExternalId())
	}
}

// lastPart is the fleet in a session's ARN.
func lastPart(arn string) string {
	return arn[len("arn:aws:gamelift:eu-central-1::gamesession/"):][:len(next)]
}

// So it is after a restart, if the configuration names the earlier fleet; a repeat without a look before finds it too.
func TestAnAliasMovesOnBeforeARestart(t *testing.T) {
	for name, earlier := range map[string]string{"by its id": fleet, "by its ARN": "arn:aws:gamelift:eu-central-1:123456789012:fleet/" + fleet} {
		for _, first := range []string{"Get", "Allocate", "Release", "List"} {
			t.Run(first+" "+name, func(t *testing.T) {
				host, cfg := single(t, gamelift.Build{Alias: alias}, gamelift.Region{Region: "eu-central-1"})
				req := lost(t, host, open(t, cfg))
				cfg.Builds["shooter"] = gamelift.Build{Alias: alias, AlsoFleets: []string{earlier}}
				p, attempt := open(t, cfg), req.GetAttemptId()
				switch first {
				case "Allocate":
					allocate(t, p, req)
				case "Release":
					until(t, exited, func() providerv1.ServerState { return release(t, p, attempt, "") })
					if c := host.Count(); c.Started != 1 || c.Running != 0 {
						t.Errorf("%+v", c)
					}
					return
				case "List":
					until(t, running, func() providerv1.ServerState { return listed(t, p)[attempt] })
				}
				staysOne(t, host, p, req)
			})
		}
	}
}

// listed are the states of the servers in a list.
func listed(t *testing.T, p *gamelift.Provider) map[string]providerv1.ServerState {
	t.Helper()
	all, token := make(map[string]providerv1.ServerState), ""
	for {
		page, err := p.List(t.Context(), &providerv1.ListRequest{Deployment: deployment, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range page.GetServers() {
			all[s.GetAttemptId()] = s.GetState()
		}
		if token = page.GetNextPageToken(); token == "" {
			return all
		}
	}
}

// A list has the sessions of earlier fleets, of a queue as well, and of an alias that points to nothing any more.
func TestListHasEarlierFleets(t *testing.T) {
	for name, build := range map[string]gamelift.Build{"queue": {Queue: "shooter"}, "alias": {Alias: alias}, "fleet": {Fleet: fleet}} {
		t.Run(name, func(t *testing.T) {
			host, cfg := single(t, build, gamelift.Region{Region: "eu-central-1"})
			p, old := open(t, cfg), order()
			runs(t, p, old)
			until(t, running, func() providerv1.ServerState { return listed(t, p)[old.GetAttemptId()] })
			host.MoveAlias(alias, next)
			after := build
			after.AlsoFleets = []string{fleet, "fleet-0"} // of one that is gone there is nothing
			if build.Fleet != "" {
				after.Fleet = next
			}
			cfg.Builds = map[string]gamelift.Build{"shooter": after}
			p = open(t, cfg)
			fresh := order()
			runs(t, p, fresh)
			until(t, running, func() providerv1.ServerState { return listed(t, p)[fresh.GetAttemptId()] })
			if all := listed(t, p); len(all) != 2 || all[old.GetAttemptId()] != running {
				t.Errorf("%v", all)
			}
		})
	}
}

// What is certainly not on a fleet is asked for where the alias points next.
func TestARefusedAttemptFollowsTheAlias(t *testing.T) {
	host, cfg := single(t, gamelift.Build{Alias: alias}, gamelift.Region{Region: "eu-central-1"})
	host.MoveAlias(alias, tiny)
	p, req := open(t, cfg), order()
	_, err := p.Allocate(t.Context(), req)
	failsWith(t, err, "NO_CAPACITY", "")
	_, err = p.Get(t.Context(), &providerv1.GetRequest{AttemptId: req.GetAttemptId(), Deployment: deployment})
	if provider.ReasonOf(err) != provider.NotFound {
		t.Errorf("%v", err)
	}
	host.MoveAlias(alias, next)
	runs(t, p, req)
}

// An alias that cannot be resolved starts nothing, and it is said for certain.
func TestAnAliasThatCannotBeResolved(t *testing.T) {
	for reason, answer := range map[string]http.HandlerFunc{
		"RATE_LIMITED":    gamelifthost.Refuse("ThrottlingException", "Rate exceeded"),
		"UNAUTHENTICATED": gamelifthost.Refuse("AccessDeniedException", "not authorized to perform: gamelift:ResolveAlias"),
		"UNAVAILABLE":     gamelifthost.Answer(cbor.Map{}),
	} {
		t.Run(reason, func(t *testing.T) {
			host, cfg := single(t, gamelift.Build{Alias: alias}, gamelift.Region{Region: "eu-central-1"})
			p := open(t, cfg)
			host.Answer(answer)
			_, err := p.Allocate(t.Context(), order())
			failsWith(t, err, reason, "alias")
		})
	}
}
