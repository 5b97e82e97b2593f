package placement_test

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/services/allocation/internal/placement"
)

// hosts are what most tests choose from.
func hosts() []placement.Provider {
	return []placement.Provider{
		{Name: "metal", Regions: []string{"eu", "us"}, Builds: []string{"demo", "old"}},
		{Name: "cloud", Regions: []string{"us", "eu", "asia"}, Builds: []string{"demo"}},
		{Name: "desk", Builds: []string{"demo"}},
	}
}

func names(providers []placement.Provider) []string {
	var out []string
	for _, p := range providers {
		out = append(out, p.Name)
	}
	return out
}

func policy(t *testing.T, providers []placement.Provider, rules ...placement.RuleConfig) placement.Policy {
	t.Helper()
	p, err := placement.New(placement.Config{Rules: rules}, names(providers))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// tried are the pairs that are tried, in order.
func tried(e placement.Explanation) string {
	var out []string
	for _, c := range e.Candidates {
		if c.Exclusion == placement.None {
			out = append(out, c.Provider+"/"+c.Region)
		}
	}
	return strings.Join(out, " ")
}

// others are the pairs that are not tried, with the reasons.
func others(e placement.Explanation) string {
	var out []string
	for _, c := range e.Candidates {
		if c.Exclusion != placement.None {
			out = append(out, fmt.Sprintf("%s/%s %d %s", c.Provider, c.Region, c.Exclusion, c.Message))
		}
	}
	return strings.Join(out, "; ")
}

const ms = time.Millisecond

func TestOrder(t *testing.T) {
	all := []placement.CandidateConfig{{Provider: "metal"}, {Provider: "cloud"}}
	byRegion, byProvider := placement.RuleConfig{Name: "r", Candidates: all}, placement.RuleConfig{Name: "r", Candidates: all, Prefer: placement.PreferProvider}
	limited := placement.RuleConfig{Name: "r", Candidates: []placement.CandidateConfig{{Provider: "cloud", Regions: []string{"eu", "us"}}, {Provider: "metal", Regions: []string{"us"}}}}
	away := map[string]time.Duration{"eu": 90 * ms, "us": 30 * ms}
	for name, test := range map[string]struct {
		rules []placement.RuleConfig
		req   placement.Request
		want  string
	}{
		"no rule":                                {nil, placement.Request{}, "metal/eu metal/us cloud/us cloud/eu cloud/asia desk/"},
		"no rule, a build of one":                {nil, placement.Request{Build: "old"}, "metal/eu metal/us"},
		"no rule, regions":                       {nil, placement.Request{Regions: []string{"us", "eu"}}, "metal/us cloud/us metal/eu cloud/eu"},
		"no rule, latencies":                     {nil, placement.Request{Latencies: away}, "metal/us cloud/us metal/eu cloud/eu cloud/asia desk/"},
		"latencies within regions":               {nil, placement.Request{Latencies: away, Regions: []string{"asia", "eu"}}, "metal/eu cloud/eu cloud/asia"},
		"regions as alike by latency":            {nil, placement.Request{Latencies: map[string]time.Duration{"eu": ms, "us": ms}, Regions: []string{"us", "eu"}}, "metal/us cloud/us metal/eu cloud/eu"},
		"region first":                           {[]placement.RuleConfig{byRegion}, placement.Request{Regions: []string{"asia", "eu", "us"}}, "cloud/asia metal/eu cloud/eu metal/us cloud/us"},
		"provider first":                         {[]placement.RuleConfig{byProvider}, placement.Request{Regions: []string{"asia", "eu", "us"}}, "metal/eu metal/us cloud/asia cloud/eu cloud/us"},
		"provider first, latencies":              {[]placement.RuleConfig{byProvider}, placement.Request{Latencies: away}, "metal/us metal/eu cloud/us cloud/eu cloud/asia"},
		"a rule's regions and their order":       {[]placement.RuleConfig{limited}, placement.Request{}, "cloud/eu cloud/us metal/us"},
		"the first rule that is for it":          {[]placement.RuleConfig{{Name: "old", Builds: []string{"old"}, Candidates: all[:1]}, {Name: "ns", Namespaces: []string{"ns"}, Candidates: all[1:]}, byRegion}, placement.Request{Namespace: "ns"}, "cloud/us cloud/eu cloud/asia"},
		"a rule for another build and namespace": {[]placement.RuleConfig{{Name: "x", Builds: []string{"demo"}, Namespaces: []string{"ns"}, Candidates: all[1:]}}, placement.Request{Build: "old", Namespace: "ns"}, "metal/eu metal/us"},
	} {
		test.req.ID = "any"
		if test.req.Build == "" {
			test.req.Build = "demo"
		}
		e := policy(t, hosts(), test.rules...).Explain(test.req, hosts())
		if got := tried(e); got != test.want || e.Err() != nil {
			t.Errorf("%s: %s, want %s; not %s", name, got, test.want, others(e))
		}
	}
}

func TestLabelsChooseTheEntry(t *testing.T) {
	rule := placement.RuleConfig{Name: "r", Candidates: []placement.CandidateConfig{
		{Provider: "cloud", Labels: map[string]string{"mode": "ranked"}}, {Provider: "metal"}, {Provider: "cloud", Weight: number(7)},
	}}
	p := policy(t, hosts(), rule)
	req := placement.Request{ID: "a", Build: "demo", Regions: []string{"eu"}}
	if got := tried(p.Explain(req, hosts())); got != "metal/eu cloud/eu" {
		t.Errorf("without the label: %s", got)
	}
	req.Labels = map[string]string{"mode": "ranked", "map": "desert"}
	e := p.Explain(req, hosts())
	if got := tried(e); got != "cloud/eu metal/eu" || e.Candidates[0].Weight != 100 || e.Candidates[0].Rank != 1 {
		t.Errorf("with it: %s, %+v", got, e.Candidates)
	}
}

// Each reason excludes, is said with its figures, and the most lasting one is said first.
func TestExclusions(t *testing.T) {
	zero, some := number(0), number(5)
	rule := placement.RuleConfig{Name: "near", MaxLatency: 80 * ms, Candidates: []placement.CandidateConfig{
		{Provider: "metal", Regions: []string{"eu"}}, {Provider: "cloud", Labels: map[string]string{"mode": "ranked"}}, {Provider: "desk", Weight: zero},
	}}
	ranked := map[string]string{"mode": "ranked"}
	for name, test := range map[string]struct {
		req    placement.Request
		change func([]placement.Provider)
		want   string
	}{
		"build":                {placement.Request{Build: "old"}, nil, `cloud/us 1 does not run "old"; it runs demo`},
		"region of placement":  {placement.Request{Regions: []string{"us", "asia"}}, nil, `metal/eu 2 the placement wants asia, us`},
		"no region":            {placement.Request{Regions: []string{"us"}}, nil, `desk/ 2 names no region, and the placement wants us`},
		"region of rule":       {placement.Request{}, nil, `metal/us 2 rule "near" takes it in eu only`},
		"labels, none":         {placement.Request{}, nil, `cloud/us 3 rule "near" takes it for placements with mode=ranked; this one has no such label`},
		"labels, another":      {placement.Request{Labels: map[string]string{"mode": "duel", "x": "y"}}, nil, `rule "near" takes it for placements with mode=ranked; this one has mode=duel`},
		"latency":              {placement.Request{Latencies: map[string]time.Duration{"eu": 81 * ms}}, nil, `metal/eu 4 81ms away; rule "near" allows 80ms`},
		"rule":                 {placement.Request{}, func(p []placement.Provider) { p[2].Name = "more" }, `more/ 5 rule "near" does not name it`},
		"weight of rule":       {placement.Request{}, nil, `desk/ 6 rule "near" gives it weight 0`},
		"weight of operator":   {placement.Request{}, func(p []placement.Provider) { p[0].Weight = zero }, `metal/eu 6 its weight was set to 0`},
		"drained":              {placement.Request{}, func(p []placement.Provider) { p[0].Draining = true }, `metal/eu 7 it is drained`},
		"the operator's other": {placement.Request{}, func(p []placement.Provider) { p[2].Weight, p[2].Draining = some, true }, `desk/ 7 it is drained`},
	} {
		providers := hosts()
		p := policy(t, providers, rule)
		if test.change != nil {
			test.change(providers)
		}
		if test.req.Build == "" {
			test.req.Build = "demo"
		}
		if got := others(p.Explain(test.req, providers)); !strings.Contains(got, test.want) {
			t.Errorf("%s: %s\nwant %s", name, got, test.want)
		}
	}
	p := policy(t, hosts(), rule)
	if got := tried(p.Explain(placement.Request{Build: "demo", Latencies: map[string]time.Duration{"eu": 80 * ms}}, hosts())); got != "metal/eu" {
		t.Errorf("at the very limit: %s", got)
	}
	if got := tried(p.Explain(placement.Request{Build: "demo", Labels: ranked, Latencies: map[string]time.Duration{"us": 80 * ms, "asia": 300 * ms}}, hosts())); got != "cloud/us metal/eu cloud/eu" {
		t.Errorf("regions without a measurement come last: %s", got)
	}
}

func TestErrSaysWhatToChange(t *testing.T) {
	drained := hosts()
	for i := range drained {
		drained[i].Draining = true
	}
	eu := placement.RuleConfig{Name: "eu", Candidates: []placement.CandidateConfig{{Provider: "metal", Regions: []string{"eu"}}}}
	for name, test := range map[string]struct {
		req       placement.Request
		providers []placement.Provider
		want      errs.Reason
		says      string
	}{
		"a build of nobody":            {placement.Request{Build: "new"}, hosts(), errs.BuildUnknown, `placement.build: no provider runs "new"; configured builds are demo, old`},
		"no build":                     {placement.Request{}, hosts(), errs.BuildUnknown, `placement.build: is needed`},
		"no provider":                  {placement.Request{Build: "new"}, nil, errs.BuildUnknown, `(none)`},
		"a region of nobody":           {placement.Request{Build: "demo", Regions: []string{"mars"}}, hosts(), errs.RegionUnknown, `placement.regions: build "demo" is not to be had in mars; it is in asia, eu, us`},
		"a region of another build":    {placement.Request{Build: "old", Regions: []string{"asia"}}, hosts(), errs.RegionUnknown, `it is in eu, us`},
		"a region that no rule names":  {placement.Request{Build: "demo", Regions: []string{"us"}}, hosts(), errs.PlacementImpossible, `metal/us: rule "eu" takes it in eu only`},
		"every one is drained":         {placement.Request{Build: "demo"}, drained, errs.PlacementImpossible, `metal/eu: it is drained`},
		"those that run it come first": {placement.Request{Build: "old", Regions: []string{"us"}}, slices.Concat(hosts()[1:], hosts()[:1]), errs.PlacementImpossible, `nowhere: metal/eu: the placement wants us; metal/us: rule "eu"`},
		"what is near comes first":     {placement.Request{Build: "demo", Regions: []string{"us"}}, drainedOne(1), errs.PlacementImpossible, `nowhere: cloud/us: rule "eu" does not name it; metal/eu: the placement wants us`},
		"a provider without regions":   {placement.Request{Build: "demo"}, hosts()[2:], errs.PlacementImpossible, `desk: rule "eu" does not name it`},
	} {
		err := policy(t, hosts(), eu).Explain(test.req, test.providers).Err()
		if !errs.Is(err, test.want) || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v, want %s with %q", name, err, test.want, test.says)
		}
	}
	var many []placement.Provider
	for i := range 100 {
		many = append(many, placement.Provider{Name: fmt.Sprint("p", i), Builds: []string{"demo"}, Draining: true})
	}
	if err := (placement.Policy{}).Explain(placement.Request{Build: "demo"}, many).Err(); !strings.HasSuffix(err.Error(), "and 92 more") {
		t.Errorf("of many: %v", err)
	}
}

// Of a provider that has not answered nothing is known but what the rule and operators say.
func TestAProviderThatHasNotAnswered(t *testing.T) {
	zero := number(0)
	rule := placement.RuleConfig{Name: "r", MaxLatency: 80 * ms, Candidates: []placement.CandidateConfig{
		{Provider: "metal"}, {Provider: "plug", Regions: []string{"us", "eu"}}, {Provider: "plug", Labels: map[string]string{"mode": "ranked"}},
	}}
	const waits = "12 has not answered yet; what it runs and where is not known"
	for name, test := range map[string]struct {
		rules  []placement.RuleConfig
		req    placement.Request
		change func(*placement.Provider)
		want   string
		err    errs.Reason
	}{
		"no rule":               {nil, placement.Request{Build: "new"}, nil, "plug/ " + waits, ""},
		"no rule, a region":     {nil, placement.Request{Build: "new", Regions: []string{"mars"}}, nil, "plug/ " + waits, ""},
		"no build":              {nil, placement.Request{}, nil, `plug/ 1 does not run ""`, errs.BuildUnknown},
		"the rule's regions":    {[]placement.RuleConfig{rule}, placement.Request{Build: "new", Regions: []string{"us"}}, nil, "plug/us " + waits, ""},
		"none of its regions":   {[]placement.RuleConfig{rule}, placement.Request{Build: "new", Regions: []string{"mars"}}, nil, "plug/us 2 the placement wants mars", errs.PlacementImpossible},
		"any region by a label": {[]placement.RuleConfig{rule}, placement.Request{Build: "new", Regions: []string{"mars"}, Labels: map[string]string{"mode": "ranked"}}, nil, "plug/ " + waits, ""},
		"too far":               {[]placement.RuleConfig{rule}, placement.Request{Build: "new", Latencies: map[string]time.Duration{"us": 90 * ms, "eu": 90 * ms}}, nil, "plug/us 4 90ms away", errs.PlacementImpossible},
		"not named":             {[]placement.RuleConfig{{Name: "m", Candidates: rule.Candidates[:1]}}, placement.Request{Build: "new"}, nil, `plug/ 5 rule "m" does not name it`, errs.PlacementImpossible},
		"no weight":             {nil, placement.Request{Build: "new"}, func(p *placement.Provider) { p.Weight = zero }, "plug/ 6 its weight was set to 0", errs.PlacementImpossible},
		"drained":               {nil, placement.Request{Build: "new"}, func(p *placement.Provider) { p.Draining = true }, "plug/ 7 it is drained", errs.PlacementImpossible},
	} {
		providers := append(hosts()[:1], placement.Provider{Name: "plug", Unanswered: true})
		p := policy(t, providers, test.rules...)
		if test.change != nil {
			test.change(&providers[1])
		}
		e := p.Explain(test.req, providers)
		if got := others(e); !strings.Contains(got, test.want) {
			t.Errorf("%s: %s\nwant %s", name, got, test.want)
		}
		if err := e.Err(); (err == nil) != (test.err == "") || (err != nil && !errs.Is(err, test.err)) {
			t.Errorf("%s: error %v, want %v", name, err, test.err)
		}
	}
	e := placement.Policy{}.Explain(placement.Request{Build: "demo", Regions: []string{"eu"}}, append(hosts()[:1], placement.Provider{Name: "plug", Unanswered: true}))
	if got := tried(e); got != "metal/eu" || e.Err() != nil {
		t.Errorf("others are tried meanwhile: %s", got)
	}
}

// drainedOne are the hosts with one of them drained.
func drainedOne(i int) []placement.Provider {
	out := hosts()
	out[i].Draining = true
	return out
}

func number(n int) *int { return &n }

// weighted is a rule by which providers share by their weights.
func weighted(weights ...int) ([]placement.Provider, placement.RuleConfig) {
	rule := placement.RuleConfig{Name: "share"}
	var providers []placement.Provider
	for i, w := range weights {
		name := string(rune('a' + i))
		providers = append(providers, placement.Provider{Name: name, Regions: []string{"eu", "us"}, Builds: []string{"demo"}})
		rule.Candidates = append(rule.Candidates, placement.CandidateConfig{Provider: name, Weight: number(w), Rank: number(1)})
	}
	return providers, rule
}

const crowd = 10_000

// firsts is where each of a crowd is tried first, with and without wishes for regions.
func firsts(t *testing.T, req placement.Request, providers []placement.Provider, rule placement.RuleConfig) []string {
	t.Helper()
	p := policy(t, providers, rule)
	out := make([]string, crowd)
	for i := range out {
		req.ID = fmt.Sprintf("6c1f9a52-6f3e-4c64-9d5c-3f0d6f3f5a10-%d", i) // as alike as ids of attempts are
		out[i] = p.Explain(req, providers).Candidates[0].Provider
	}
	return out
}

func share(list []string, name string) float64 {
	n := 0
	for _, s := range list {
		if s == name {
			n++
		}
	}
	return float64(n) / float64(len(list))
}

func TestACrowdIsSpreadByWeight(t *testing.T) {
	for _, weights := range [][]int{{100, 100}, {70, 30}, {1, 2, 3, 4}, {1000, 1}, {5, 0, 5}} {
		for _, req := range []placement.Request{{Build: "demo"}, {Build: "demo", Regions: []string{"us"}}, {Build: "demo", Latencies: map[string]time.Duration{"us": ms}}} {
			providers, rule := weighted(weights...)
			got, sum := firsts(t, req, providers, rule), 0
			for _, w := range weights {
				sum += w
			}
			for i, w := range weights {
				if have, want := share(got, providers[i].Name), float64(w)/float64(sum); math.Abs(have-want) > 0.02 {
					t.Errorf("%v: %s gets %.3f, want %.3f", weights, providers[i].Name, have, want)
				}
			}
		}
	}
}

// Who would have been second is spread by weight as well, so that a full provider's share does not go to one other.
func TestTheNextAreSpreadToo(t *testing.T) {
	providers, rule := weighted(1000, 60, 40)
	providers[0].Draining = true
	if have := share(firsts(t, placement.Request{Build: "demo"}, providers, rule), "b"); math.Abs(have-0.6) > 0.02 {
		t.Errorf("b gets %.3f, want 0.6", have)
	}
}

func TestAChangedWeightMovesOnlyWhatMustMove(t *testing.T) {
	req := placement.Request{Build: "demo"}
	providers, rule := weighted(100, 100, 100)
	before := firsts(t, req, providers, rule)
	for name, change := range map[string]func(){
		"more": func() { providers[1].Weight = number(300) }, "less": func() { providers[1].Weight = number(20) }, "none": func() { providers[1].Weight = number(0) },
	} {
		change()
		moved, up := 0, name == "more"
		for i, now := range firsts(t, req, providers, rule) {
			switch {
			case now == before[i]:
			case up != (now == "b") || up == (before[i] == "b"):
				t.Fatalf("%s: an allocation moved from %s to %s", name, before[i], now)
			default:
				moved++
			}
		}
		if moved == 0 {
			t.Errorf("%s: nothing moved", name)
		}
	}
}

// Without an allocation, which has an id, the likeliest order is explained.
func TestWithoutAnAllocationTheHeavierComesFirst(t *testing.T) {
	providers, rule := weighted(10, 30, 20)
	if got := tried(policy(t, providers, rule).Explain(placement.Request{Build: "demo", Regions: []string{"eu"}}, providers)); got != "b/eu c/eu a/eu" {
		t.Error(got)
	}
}
