package placement_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/berth-dev/berth/services/allocation/internal/placement"
)

// One question with twenty providers in three regions each: it is asked once for each round of an allocation.
func BenchmarkExplain(b *testing.B) {
	var providers []placement.Provider
	rule := placement.RuleConfig{Name: "all"}
	for i := range 20 {
		name := fmt.Sprint("provider-", i)
		providers = append(providers, placement.Provider{Name: name, Regions: []string{"eu", "us", "asia"}, Builds: []string{"demo"}})
		rule.Candidates = append(rule.Candidates, placement.CandidateConfig{Provider: name, Rank: number(1)})
	}
	p, err := placement.New(placement.Config{Rules: []placement.RuleConfig{rule}}, names(providers))
	if err != nil {
		b.Fatal(err)
	}
	req := placement.Request{ID: "6c1f9a52-6f3e-4c64-9d5c-3f0d6f3f5a10-1", Build: "demo", Latencies: map[string]time.Duration{"eu": 30 * ms, "us": 90 * ms}}
	b.ReportAllocs()
	for b.Loop() {
		p.Explain(req, providers)
	}
}
