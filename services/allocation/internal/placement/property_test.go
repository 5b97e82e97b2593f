package placement_test

import (
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/berth-dev/berth/services/allocation/internal/placement"
)

var (
	someRegions    = []string{"eu", "us", "asia"}
	someBuilds     = []string{"demo", "old"}
	someNamespaces = []string{"n1", "n2"}
	someProviders  = []string{"a", "b", "c", "d"}
)

// some draws a part of names, in any order.
func some(t *rapid.T, label string, from []string) []string {
	all := rapid.Permutation(from).Draw(t, label)
	return all[:rapid.IntRange(0, len(all)).Draw(t, "how many "+label)]
}

func maybe[T any](t *rapid.T, label string, g *rapid.Generator[T]) *T {
	if !rapid.Bool().Draw(t, "has "+label) {
		return nil
	}
	v := g.Draw(t, label)
	return &v
}

func drawLabels(t *rapid.T) map[string]string {
	out := make(map[string]string)
	for _, key := range some(t, "labels", []string{"mode", "map"}) {
		out[key] = rapid.SampledFrom([]string{"x", "y"}).Draw(t, key)
	}
	return out
}

func drawProviders(t *rapid.T) []placement.Provider {
	var out []placement.Provider
	for _, name := range someProviders {
		out = append(out, placement.Provider{
			Name: name, Regions: some(t, "regions", someRegions), Builds: some(t, "builds", someBuilds),
			Weight: maybe(t, "weight", rapid.IntRange(0, 3)), Draining: rapid.IntRange(0, 4).Draw(t, "drained") == 0,
		})
	}
	return out
}

func drawRule(t *rapid.T) placement.RuleConfig {
	r := placement.RuleConfig{
		Name: rapid.SampledFrom([]string{"r1", "r2", "r3", "r4", "r5"}).Draw(t, "name"), Namespaces: some(t, "namespaces", someNamespaces), Builds: some(t, "builds", someBuilds),
		Prefer:     rapid.SampledFrom([]string{"", placement.PreferRegion, placement.PreferProvider}).Draw(t, "prefer"),
		MaxLatency: rapid.SampledFrom([]time.Duration{0, 50 * ms}).Draw(t, "max_latency"),
	}
	for range rapid.IntRange(1, 5).Draw(t, "entries") {
		r.Candidates = append(r.Candidates, placement.CandidateConfig{
			Provider: rapid.SampledFrom(someProviders).Draw(t, "provider"), Regions: some(t, "regions", someRegions), Labels: drawLabels(t),
			Weight: maybe(t, "weight", rapid.IntRange(0, 3)), Rank: maybe(t, "rank", rapid.IntRange(1, 5)),
		})
	}
	return r
}

// drawConfig draws rules, and leaves out those that are refused, so that what is left is a policy.
func drawConfig(t *rapid.T) placement.Config {
	var cfg placement.Config
	for range rapid.IntRange(0, 4).Draw(t, "rules") {
		longer := placement.Config{Rules: append(slices.Clone(cfg.Rules), drawRule(t))}
		if longer.Validate(someProviders) == nil {
			cfg = longer
		}
	}
	return cfg
}

func drawRequest(t *rapid.T) placement.Request {
	req := placement.Request{
		ID: rapid.StringN(0, 8, -1).Draw(t, "id"), Namespace: rapid.SampledFrom(append(someNamespaces, "n3")).Draw(t, "namespace"), Build: rapid.SampledFrom(append(someBuilds, "new")).Draw(t, "build"),
		Regions: some(t, "wanted regions", someRegions), Labels: drawLabels(t), Latencies: make(map[string]time.Duration),
	}
	for _, region := range some(t, "measured regions", someRegions) {
		req.Latencies[region] = rapid.SampledFrom([]time.Duration{20 * ms, 50 * ms, 51 * ms}).Draw(t, region)
	}
	return req
}

// ruleOf is the rule that should apply.
func ruleOf(cfg placement.Config, req placement.Request) (placement.RuleConfig, bool) {
	in := func(list []string, s string) bool { return len(list) == 0 || slices.Contains(list, s) }
	for _, r := range cfg.Rules {
		if in(r.Namespaces, req.Namespace) && in(r.Builds, req.Build) {
			return r, true
		}
	}
	return placement.RuleConfig{}, false
}

// takes says of an entry whether it is for a candidate, by the words of the documentation.
func takes(entry placement.CandidateConfig, req placement.Request, provider, region string) bool {
	for key, want := range entry.Labels {
		if have, ok := req.Labels[key]; !ok || have != want {
			return false
		}
	}
	return entry.Provider == provider && (len(entry.Regions) == 0 || slices.Contains(entry.Regions, region))
}

// mayBeTried says the same as the policy of one candidate, in other words.
func mayBeTried(cfg placement.Config, req placement.Request, p placement.Provider, region string) bool {
	weight := 100
	if r, ok := ruleOf(cfg, req); ok {
		i := slices.IndexFunc(r.Candidates, func(e placement.CandidateConfig) bool { return takes(e, req, p.Name, region) })
		if away := req.Latencies[region]; i < 0 || (r.MaxLatency > 0 && away > r.MaxLatency) {
			return false
		}
		if w := r.Candidates[i].Weight; w != nil {
			weight = *w
		}
	}
	if p.Weight != nil {
		weight = *p.Weight
	}
	return weight > 0 && !p.Draining && slices.Contains(p.Builds, req.Build) && (len(req.Regions) == 0 || slices.Contains(req.Regions, region))
}

func TestEveryCandidateIsThereOnceAndTriedOnlyIfItMayBe(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg, providers, req := drawConfig(t), drawProviders(t), drawRequest(t)
		p, err := placement.New(cfg, someProviders)
		if err != nil {
			t.Fatal(err)
		}
		e := p.Explain(req, providers)
		if rule, _ := ruleOf(cfg, req); rule.Name != e.Rule {
			t.Fatalf("rule %q, want %q", e.Rule, rule.Name)
		}
		seen, anyTried, ended := make(map[string]placement.Candidate), false, false
		for _, c := range e.Candidates {
			key := c.Provider + "/" + c.Region
			if _, twice := seen[key]; twice {
				t.Fatalf("%s is there twice", key)
			}
			seen[key] = c
			is := c.Exclusion == placement.None
			if is && ended {
				t.Fatalf("%s is tried and comes after one that is not", key)
			}
			if is != (c.Message == "") {
				t.Fatalf("%s: exclusion %d says %q", key, c.Exclusion, c.Message)
			}
			anyTried, ended = anyTried || is, !is
		}
		if (e.Err() == nil) != anyTried {
			t.Fatalf("error %v of %+v", e.Err(), e.Candidates)
		}
		pairs := 0
		for _, provider := range providers {
			regions := provider.Regions
			if len(regions) == 0 {
				regions = []string{""}
			}
			for _, region := range regions {
				pairs++
				c, ok := seen[provider.Name+"/"+region]
				if want := mayBeTried(cfg, req, provider, region); !ok || want != (c.Exclusion == placement.None) {
					t.Fatalf("%s/%s: %+v, may be tried: %v", provider.Name, region, c, want)
				}
			}
		}
		if pairs != len(seen) {
			t.Fatalf("%d candidates of %d pairs", len(seen), pairs)
		}
	})
}

// keyOf is what decides before the weights: the latency, the place among the wanted regions, and the rank, in the order that the rule prefers.
func keyOf(c placement.Candidate, req placement.Request, prefer string) []int64 {
	away := int64(math.MaxInt64)
	if c.Known {
		away = int64(c.Latency)
	}
	want, rank := int64(slices.Index(req.Regions, c.Region)), int64(c.Rank)
	if prefer == placement.PreferProvider {
		return []int64{rank, away, want}
	}
	return []int64{away, want, rank}
}

// The order follows what is preferred, is the same for the same question, whoever is listed first, and does not change for the others when one goes.
func TestTheOrderIsTotalAndStable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg, providers, req := drawConfig(t), drawProviders(t), drawRequest(t)
		p, err := placement.New(cfg, someProviders)
		if err != nil {
			t.Fatal(err)
		}
		e := p.Explain(req, providers)
		if !reflect.DeepEqual(e, p.Explain(req, providers)) {
			t.Fatal("the same question has another answer")
		}
		rule, applies := ruleOf(cfg, req)
		list := strings.Fields(tried(e))
		for i := 1; i < len(list); i++ {
			a, b := e.Candidates[i-1], e.Candidates[i]
			if slices.Compare(keyOf(a, req, rule.Prefer), keyOf(b, req, rule.Prefer)) > 0 {
				t.Fatalf("%s before %s", list[i-1], list[i])
			}
		}
		if !applies {
			return // ranks are the positions of the providers
		}
		if req.ID != "" {
			shuffled := rapid.Permutation(providers).Draw(t, "shuffled")
			if got := strings.Fields(tried(p.Explain(req, shuffled))); !slices.Equal(got, list) {
				t.Fatalf("%v, and %v with the providers in another order", list, got)
			}
		}
		gone := rapid.IntRange(0, len(providers)-1).Draw(t, "gone")
		want := slices.DeleteFunc(slices.Clone(list), func(s string) bool { return strings.HasPrefix(s, providers[gone].Name+"/") })
		if got := strings.Fields(tried(p.Explain(req, slices.Delete(slices.Clone(providers), gone, gone+1)))); !slices.Equal(got, want) {
			t.Fatalf("%v without %s, want %v", got, providers[gone].Name, want)
		}
	})
}

// A rule is refused as one that can never apply exactly if there is no placement that it would apply to.
func TestARuleThatCanNeverApplyIsRefused(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg, last := drawConfig(t), drawRule(t)
		last.Name = "last"
		last.Candidates = []placement.CandidateConfig{{Provider: "a"}}
		cfg.Rules = append(cfg.Rules, last)
		reachable := false
		for _, ns := range append(someNamespaces, "another") {
			for _, build := range append(someBuilds, "another") {
				r, ok := ruleOf(cfg, placement.Request{Namespace: ns, Build: build})
				reachable = reachable || (ok && r.Name == "last")
			}
		}
		if err := cfg.Validate(someProviders); (err == nil) != reachable || (err != nil && !strings.Contains(err.Error(), `"last": can never apply`)) {
			t.Fatalf("reachable: %v, and %v", reachable, err)
		}
	})
}

// As long as providers have not answered, nothing is refused that could be served once they have, whatever they will say.
func TestWhatMayYetBeServedIsNotRefused(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg, later, req := drawConfig(t), drawProviders(t), drawRequest(t)
		p, err := placement.New(cfg, someProviders)
		if err != nil {
			t.Fatal(err)
		}
		now := slices.Clone(later)
		for i := range now {
			if rapid.Bool().Draw(t, "has not answered") {
				now[i].Regions, now[i].Builds, now[i].Unanswered = nil, nil, true
			}
		}
		if before, after := p.Explain(req, now).Err(), p.Explain(req, later).Err(); after == nil && before != nil {
			t.Fatalf("it could be served, and was refused before all had answered: %v", before)
		}
	})
}
