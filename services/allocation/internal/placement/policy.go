package placement

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/berth-dev/berth/pkg/errs"
)

// Policy answers where a server is looked for. Its zero value has no rules. It is safe for concurrent use.
type Policy struct{ rules []RuleConfig }

// New returns the policy of a configuration with providers of these names, or Validate's error.
func New(cfg Config, providers []string) (Policy, error) {
	if err := cfg.Validate(providers); err != nil {
		return Policy{}, err
	}
	return Policy{slices.Clone(cfg.Rules)}, nil
}

// Explain returns all pairs of provider and region: those that are tried, in order, then the others, in the order of the providers. Each provider's name is
// its own, and each of its regions is there once.
func (p Policy) Explain(req Request, providers []Provider) Explanation {
	q := question{Request: req, rule: p.rule(req, providers)}
	var tried []*pair // pointers: sorting moves them
	var others []Candidate
	for _, provider := range providers {
		for _, region := range q.regionsOf(provider) {
			if one := q.judge(provider, region); one.Exclusion == None {
				tried = append(tried, one)
			} else {
				others = append(others, one.Candidate)
			}
		}
	}
	slices.SortStableFunc(tried, q.compare) // stable: what nothing decides stays in the order of the providers
	e := Explanation{Rule: q.rule.Name, Candidates: make([]Candidate, 0, len(tried)+len(others)), unknown: unknown(req, providers)}
	for _, one := range tried {
		e.Candidates = append(e.Candidates, one.Candidate)
	}
	e.Candidates = append(e.Candidates, others...)
	return e
}

// rule returns the rule that applies. Where none does, it is one without a name that takes every provider in its order.
func (p Policy) rule(req Request, providers []Provider) RuleConfig {
	for _, r := range p.rules {
		if r.takes(req.Namespace, req.Build) {
			return r
		}
	}
	var r RuleConfig
	for _, provider := range providers {
		r.Candidates = append(r.Candidates, CandidateConfig{Provider: provider.Name})
	}
	return r
}

// question is a request and the rule that applies to it.
type question struct {
	Request
	rule RuleConfig
}

// regionsOf returns the regions of a provider's pairs. One that has not answered has those that the rule names for it; "" stands for any other.
func (q question) regionsOf(p Provider) []string {
	regions := p.Regions
	if p.Unanswered {
		regions = q.rule.named(p.Name)
	}
	if len(regions) == 0 {
		return []string{""}
	}
	return regions
}

// pair is a candidate with what decides its place, beside its rank.
type pair struct {
	Candidate
	away  time.Duration // the latency; the longest there is where none is known
	want  int           // the place among the placement's regions
	score float64       // lower ones first
	own   int           // the place among its provider's regions
}

// judge says whether a pair is tried, and what decides when.
func (q question) judge(p Provider, region string) *pair {
	one := &pair{Candidate: Candidate{Provider: p.Name, Region: region}, away: math.MaxInt64, want: slices.Index(q.Regions, region), own: slices.Index(p.Regions, region)}
	if one.Latency, one.Known = q.Latencies[region]; one.Known {
		one.away = one.Latency
	}
	at := slices.IndexFunc(q.rule.Candidates, func(c CandidateConfig) bool { return c.Provider == p.Name && c.in(region) && c.wants(q.Labels) })
	if at >= 0 {
		entry := q.rule.Candidates[at]
		one.Rank, one.Weight = entry.rank(at), entry.weight()
		if len(entry.Regions) > 0 {
			one.own = slices.Index(entry.Regions, region)
		}
		if p.Weight != nil {
			one.Weight = *p.Weight
		}
		one.score = score(q.ID, p.Name, one.Weight)
	}
	one.Exclusion, one.Message = q.exclusion(p, one.Candidate)
	return one
}

// exclusion returns the first reason for which a candidate is not tried. A candidate without a rank is none of the rule's.
func (q question) exclusion(p Provider, c Candidate) (Exclusion, string) {
	anywhere := p.Unanswered && c.Region == ""
	elsewhere := len(q.Regions) > 0 && !slices.Contains(q.Regions, c.Region) && !anywhere
	switch {
	case !slices.Contains(p.Builds, q.Build) && (!p.Unanswered || q.Build == ""):
		return Build, fmt.Sprintf("does not run %q; it runs %s", q.Build, list(p.Builds))
	case elsewhere && c.Region == "":
		return Region, "names no region, and the placement wants " + list(q.Regions)
	case elsewhere:
		return Region, "the placement wants " + list(q.Regions)
	case c.Rank == 0:
		return q.unnamed(c)
	case q.rule.MaxLatency > 0 && c.Latency > q.rule.MaxLatency:
		return Latency, fmt.Sprintf("%v away; rule %q allows %v", c.Latency, q.rule.Name, q.rule.MaxLatency)
	case c.Weight <= 0 && p.Weight != nil:
		return Weight, "its weight was set to 0"
	case c.Weight <= 0:
		return Weight, fmt.Sprintf("rule %q gives it weight 0", q.rule.Name)
	case p.Draining:
		return Drained, "it is drained"
	case p.Unanswered:
		return Unanswered, "has not answered yet; what it runs and where is not known"
	default:
		return None, ""
	}
}

// unnamed says why none of the rule's entries takes a candidate.
func (q question) unnamed(c Candidate) (Exclusion, string) {
	e, why := Rule, fmt.Sprintf("rule %q does not name it", q.rule.Name)
	for _, entry := range q.rule.Candidates {
		switch {
		case entry.Provider != c.Provider:
		case entry.in(c.Region):
			return Labels, fmt.Sprintf("rule %q takes it for placements with %s; this one has %s", q.rule.Name, pairs(entry.Labels), q.has(entry.Labels))
		default:
			e, why = Region, fmt.Sprintf("rule %q takes it in %s only", q.rule.Name, list(entry.Regions))
		}
	}
	return e, why
}

// compare decides which of two pairs is tried first.
func (q question) compare(a, b *pair) int {
	region := cmp.Or(cmp.Compare(a.away, b.away), cmp.Compare(a.want, b.want))
	rank := cmp.Compare(a.Rank, b.Rank)
	if q.rule.Prefer == PreferProvider {
		region, rank = rank, region
	}
	return cmp.Or(region, rank, cmp.Compare(a.score, b.score), cmp.Compare(a.own, b.own))
}

// score is lower for what comes earlier among candidates of one rank. Each allocation has a number between 0 and 1 for each provider, and whoever has the
// least of its logarithm over its weight is first: weighted rendezvous hashing, in which a changed weight moves only allocations to or from its provider.
// Without an allocation, the heavier one is first.
func score(id, provider string, weight int) float64 {
	if id == "" {
		return -float64(weight)
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(id + "\x00" + provider)) // fnv never fails
	x := h.Sum64()
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9 // the finisher of SplitMix64: names that differ at their ends get unrelated numbers
	x = (x ^ x>>27) * 0x94d049bb133111eb
	x ^= x >> 31
	return -math.Log((float64(x>>11)+0.5)/(1<<53)) / float64(max(weight, 1))
}

// unknown returns an error for a placement that names what no provider has, whatever the policy says. While one has not answered, that is not known.
func unknown(req Request, providers []Provider) error {
	var builds, regions []string
	able, served := false, len(req.Regions) == 0
	for _, p := range providers {
		builds = append(builds, p.Builds...)
		if !slices.Contains(p.Builds, req.Build) {
			continue
		}
		able, regions = true, append(regions, p.Regions...)
		served = served || slices.ContainsFunc(req.Regions, func(r string) bool { return slices.Contains(p.Regions, r) })
	}
	switch {
	case req.Build == "":
		return errs.New(errs.BuildUnknown, "placement.build: is needed; configured builds are %s", list(builds))
	case slices.ContainsFunc(providers, func(p Provider) bool { return p.Unanswered }):
		return nil
	case !able:
		return errs.New(errs.BuildUnknown, "placement.build: no provider runs %q; configured builds are %s", req.Build, list(builds))
	case !served:
		return errs.New(errs.RegionUnknown, "placement.regions: build %q is not to be had in %s; it is in %s", req.Build, strings.Join(req.Regions, ", "), list(regions))
	default:
		return nil
	}
}

// maxReasons bounds how many exclusions an error names.
const maxReasons = 8

// Err returns nil if any candidate is tried, or may be when its provider has answered. Otherwise it is BUILD_UNKNOWN or REGION_UNKNOWN where the placement names what no provider has, and
// PLACEMENT_IMPOSSIBLE, with what excludes each candidate, where the policy or operators leave none.
func (e Explanation) Err() error {
	byReason := slices.Clone(e.Candidates)
	slices.SortStableFunc(byReason, func(a, b Candidate) int { return cmp.Compare(telling(a.Exclusion), telling(b.Exclusion)) })
	var reasons []string
	for _, c := range byReason {
		if c.Exclusion == None || c.Exclusion == Unanswered {
			return nil
		}
		reasons = append(reasons, fmt.Sprintf("%s: %s", strings.TrimSuffix(c.Provider+"/"+c.Region, "/"), c.Message))
	}
	if e.unknown != nil {
		return e.unknown
	}
	if more := len(reasons) - maxReasons; more > 0 {
		reasons = append(reasons[:maxReasons], fmt.Sprintf("and %d more", more))
	}
	return errs.New(errs.PlacementImpossible, "placement: it could be served nowhere: %s", strings.Join(reasons, "; "))
}

// telling is lower for reasons that say more about what to change: candidates in other regions, and of other builds, are the farthest from what was asked.
func telling(e Exclusion) int { return slices.Index([]Exclusion{Region, Build}, e) }

// has returns those of a placement's labels that have the keys of others, for people.
func (q question) has(keys map[string]string) string {
	got := make(map[string]string)
	for key := range keys {
		if v, ok := q.Labels[key]; ok {
			got[key] = v
		}
	}
	if len(got) == 0 {
		return "no such label"
	}
	return pairs(got)
}

// pairs writes labels for people, sorted.
func pairs(labels map[string]string) string {
	out := make([]string, 0, len(labels))
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		out = append(out, key+"="+labels[key])
	}
	return strings.Join(out, ", ")
}
