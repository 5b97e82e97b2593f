package placement_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/berth-dev/berth/services/allocation/internal/placement"
)

func read(t testing.TB, text string) (placement.Config, error) {
	t.Helper()
	var cfg placement.Config
	d := yaml.NewDecoder(bytes.NewReader([]byte(text)))
	d.KnownFields(true)
	return cfg, d.Decode(&cfg)
}

const good = `
rules:
  - name: ranked
    namespaces: [n1]
    builds: [demo]
    prefer: provider
    max_latency: 80ms
    candidates:
      - {provider: a, regions: [eu], labels: {mode: ranked}, weight: 70, rank: 1}
      - {provider: b, weight: 0, rank: 1}
      - {provider: a}
  - name: rest
    candidates: [{provider: b, regions: [us]}, {provider: b}]
`

// mistakes are what is refused: the place is that of the rules, and the text what the refusal has to say.
var mistakes = map[string]struct{ rules, says string }{
	"no name":               {`[{candidates: [{provider: a}]}]`, `placement.rules[0] "": name: is needed`},
	"a name twice":          {`[{name: x, builds: [demo], candidates: [{provider: a}]}, {name: x, candidates: [{provider: a}]}]`, `placement.rules[1] "x": name: rules[0] has it too`},
	"no namespace":          {`[{name: x, namespaces: [Prod], candidates: [{provider: a}]}]`, `namespaces: "Prod" can be no namespace`},
	"nothing to prefer":     {`[{name: x, prefer: cost, candidates: [{provider: a}]}]`, `prefer: "cost" is neither region nor provider`},
	"less than no latency":  {`[{name: x, max_latency: -1ms, candidates: [{provider: a}]}]`, `max_latency: -1ms is less than nothing`},
	"no candidates":         {`[{name: x}]`, `candidates: at least one is needed`},
	"no provider":           {`[{name: x, candidates: [{weight: 1}]}]`, `candidates[0].provider: is needed; there are a, b`},
	"an unknown provider":   {`[{name: x, candidates: [{provider: a}, {provider: c}]}]`, `candidates[1].provider: no provider is named "c"; there are a, b`},
	"a region twice":        {`[{name: x, candidates: [{provider: a, regions: [eu, us, eu]}]}]`, `candidates[0].regions: one is there twice in eu, us, eu`},
	"a label without name":  {`[{name: x, candidates: [{provider: a, labels: {"": y}}]}]`, `candidates[0].labels: one has no name`},
	"a negative weight":     {`[{name: x, candidates: [{provider: a, weight: -1}]}]`, `candidates[0].weight: -1 is negative`},
	"too much weight":       {`[{name: x, candidates: [{provider: a, weight: 1001}]}]`, `candidates[0].weight: 1001 is over 1000`},
	"no weight at all":      {`[{name: x, candidates: [{provider: a, weight: 0}, {provider: b, weight: 0}]}]`, `candidates: every weight is 0`},
	"a rank below the most": {`[{name: x, candidates: [{provider: a, rank: 0}]}]`, `candidates[0].rank: 0 is below 1`},
	"a rank out of order":   {`[{name: x, candidates: [{provider: a, rank: 3}, {provider: b, rank: 2}]}]`, `candidates[1].rank: 2 comes before the 3`},
	"a rank that is needed": {`[{name: x, candidates: [{provider: a, rank: 2}, {provider: b}]}]`, `candidates[1].rank: is needed: the one before has rank 2`},
	"an entry twice":        {`[{name: x, candidates: [{provider: a}, {provider: a, labels: {mode: x}}]}]`, `candidates[1]: can never count: candidates[0] takes provider "a"`},
	"a rule behind another": {`[{name: all, candidates: [{provider: a}]}, {name: late, builds: [demo], candidates: [{provider: a}]}]`, `placement.rules[1] "late": can never apply: "all" before it takes every placement`},
	"a rule behind two": {`[{name: n1, namespaces: [n1], candidates: [{provider: a}]}, {name: n2, namespaces: [n2], candidates: [{provider: a}]},
		{name: both, namespaces: [n1, n2], candidates: [{provider: a}]}]`, `"both": can never apply: "n1", "n2" before it`},
}

func TestMistakesAreNamed(t *testing.T) {
	for name, m := range mistakes {
		cfg, err := read(t, "rules: "+m.rules)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		err = cfg.Validate([]string{"a", "b"})
		if err == nil || !strings.Contains(err.Error(), m.says) {
			t.Errorf("%s: %v, want %q", name, err, m.says)
		}
		if _, same := placement.New(cfg, []string{"a", "b"}); same == nil || same.Error() != err.Error() {
			t.Errorf("%s: a policy is made of it: %v", name, same)
		}
	}
	cfg, err := read(t, "rules: [{name: x}, {name: y, candidates: [{provider: c}]}]")
	if err != nil {
		t.Fatal(err)
	}
	if err := cfg.Validate(nil); !strings.Contains(err.Error(), "rules[0]") || !strings.Contains(err.Error(), "rules[1]") {
		t.Errorf("two mistakes: %v", err)
	}
}

func TestAGoodConfigurationIsRead(t *testing.T) {
	cfg, err := read(t, good)
	if err != nil {
		t.Fatal(err)
	}
	if err := cfg.Validate([]string{"a", "b"}); err != nil {
		t.Fatal(err)
	}
	if r := cfg.Rules[0]; r.MaxLatency != 80*time.Millisecond || r.Prefer != placement.PreferProvider || *r.Candidates[1].Weight != 0 || r.Candidates[0].Labels["mode"] != "ranked" || r.Candidates[2].Rank != nil {
		t.Errorf("read: %+v", cfg)
	}
	if err := (placement.Config{}).Validate(nil); err != nil {
		t.Errorf("no rules: %v", err)
	}
}

// What providers serve is known when they have said what they are.
func TestRulesAreCheckedAgainstWhatProvidersAre(t *testing.T) {
	providers := []placement.Provider{{Name: "a", Regions: []string{"eu", "us"}, Builds: []string{"demo", "old"}}, {Name: "b", Builds: []string{"demo"}}, {Name: "late", Unanswered: true}}
	for rules, want := range map[string]string{
		`[{name: x, builds: [demo, old], candidates: [{provider: a, regions: [us]}, {provider: b}]}]`:    "",
		`[{name: x, candidates: [{provider: a}, {provider: a, regions: [eu, mars]}]}]`:                   `placement.rules[0] "x": candidates[1].regions: provider "a" does not serve "mars"; it serves eu, us`,
		`[{name: x, candidates: [{provider: b, regions: [eu]}]}]`:                                        `provider "b" does not serve "eu"; it serves (none)`,
		`[{name: x, builds: [demo, new], candidates: [{provider: a}, {provider: b}]}]`:                   `builds: none of the rule's providers runs "new"; they run demo, old`,
		`[{name: x, builds: [old], candidates: [{provider: b}]}]`:                                        `builds: none of the rule's providers runs "old"; they run demo`,
		`[{name: x, builds: [new], candidates: [{provider: a}, {provider: away, regions: [anywhere]}]}]`: "", // it is not there
		`[{name: x, builds: [new], candidates: [{provider: a}, {provider: late, regions: [anywhere]}]}]`: "", // it has not answered, and is believed
	} {
		cfg, err := read(t, "rules: "+rules)
		if err != nil {
			t.Fatal(err)
		}
		if err := cfg.Check(providers); (err == nil) != (want == "") || (err != nil && !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", rules, err, want)
		}
	}
}

// Whatever is written down, it is refused, or it is a policy that answers.
func FuzzConfig(f *testing.F) {
	f.Add(good)
	for _, m := range mistakes {
		f.Add("rules: " + m.rules)
	}
	providers := []placement.Provider{{Name: "a", Regions: []string{"eu", "us"}, Builds: []string{"demo"}}, {Name: "b", Builds: []string{"demo"}}}
	f.Fuzz(func(t *testing.T, text string) {
		cfg, err := read(t, text)
		if err != nil {
			return
		}
		_ = cfg.Check(providers)
		p, err := placement.New(cfg, []string{"a", "b"})
		if err != nil {
			return
		}
		for _, ns := range []string{"n1", "default"} {
			if got := len(p.Explain(placement.Request{ID: "x", Namespace: ns, Build: "demo", Latencies: map[string]time.Duration{"eu": ms}}, providers).Candidates); got != 3 {
				t.Errorf("%d candidates of 3", got)
			}
		}
	})
}
