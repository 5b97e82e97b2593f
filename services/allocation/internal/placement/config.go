package placement

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Config is the policy as it is written down.
type Config struct {
	// Rules are looked through in order; the first that is for a placement's namespace and build applies. None: every provider, in the order of the
	// configuration.
	Rules []RuleConfig `yaml:"rules"`
}

// RuleConfig says where servers of some placements are looked for.
type RuleConfig struct {
	// Name names the rule in explanations; unique.
	Name string `yaml:"name"`
	// Namespaces and Builds are those that it is for; empty: every.
	Namespaces []string `yaml:"namespaces,omitempty"`
	Builds     []string `yaml:"builds,omitempty"`
	// Prefer says what counts more: PreferRegion (default) or PreferProvider.
	Prefer string `yaml:"prefer,omitempty"`
	// MaxLatency excludes regions from which players are farther away. Default: none.
	MaxLatency time.Duration `yaml:"max_latency,omitempty"`
	// Candidates are where to look, in order.
	Candidates []CandidateConfig `yaml:"candidates"`
}

// CandidateConfig is a provider that a rule names.
type CandidateConfig struct {
	// Provider is its name.
	Provider string `yaml:"provider"`
	// Regions are those of it that count, best first; empty: all that it serves.
	Regions []string `yaml:"regions,omitempty"`
	// Labels are what a placement must have for the entry to count.
	Labels map[string]string `yaml:"labels,omitempty"`
	// Weight is its share among entries of the same rank, 0 to 1000; 0: it gets nothing. Default 100.
	Weight *int `yaml:"weight,omitempty"`
	// Rank is what comes first: lower ones. Entries that follow each other may share one. Default: the position in the list, from 1 on.
	Rank *int `yaml:"rank,omitempty"`
}

// What a rule may prefer.
const (
	// PreferRegion: the best region first, in it the lowest rank.
	PreferRegion = "region"
	// PreferProvider: the lowest rank first, there the best region.
	PreferProvider = "provider"
)

const (
	defaultWeight = 100
	maxWeight     = 1000
)

// namespace is what the API takes as one.
var namespace = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// Validate returns an error that names what to change, for a configuration with providers of these names.
func (c Config) Validate(providers []string) error {
	var all []error
	for i := range c.Rules {
		if err := c.rule(i, providers); err != nil {
			all = append(all, fmt.Errorf("%s: %w", c.at(i), err))
		}
	}
	return errors.Join(all...)
}

// at is where the configuration has a rule.
func (c Config) at(i int) string { return fmt.Sprintf("placement.rules[%d] %q", i, c.Rules[i].Name) }

// rule checks one rule, by itself and against those before it.
func (c Config) rule(i int, providers []string) error {
	r := c.Rules[i]
	before := c.Rules[:i]
	twin := slices.IndexFunc(before, func(other RuleConfig) bool { return other.Name == r.Name })
	wrong := slices.IndexFunc(r.Namespaces, func(n string) bool { return !namespace.MatchString(n) })
	switch {
	case r.Name == "":
		return errors.New("name: is needed; explanations say which rule applied")
	case twin >= 0:
		return fmt.Errorf("name: rules[%d] has it too; give each rule a name of its own", twin)
	case wrong >= 0:
		return fmt.Errorf("namespaces: %q can be no namespace; write lower-case letters, digits and -, at most 63, and no list for every namespace", r.Namespaces[wrong])
	case !slices.Contains([]string{"", PreferRegion, PreferProvider}, r.Prefer):
		return fmt.Errorf("prefer: %q is neither %s nor %s", r.Prefer, PreferRegion, PreferProvider)
	case r.MaxLatency < 0:
		return fmt.Errorf("max_latency: %v is less than nothing; write a duration such as 80ms, or none for no limit", r.MaxLatency)
	case len(r.Candidates) == 0:
		return errors.New("candidates: at least one is needed, or placements that the rule is for could be served nowhere")
	}
	if names := covering(r, before); len(names) > 0 {
		return fmt.Errorf("can never apply: %s before it takes every placement that it is for; put it first, or take one out", list(names))
	}
	return r.candidates(providers)
}

// anything stands for every name that no rule writes down.
const anything = "*"

// covering returns the names of the rules that leave nothing to one after them; none if something is left.
func covering(r RuleConfig, before []RuleConfig) []string {
	var names []string
	for _, ns := range orAnything(r.Namespaces) {
		for _, build := range orAnything(r.Builds) {
			first := slices.IndexFunc(before, func(b RuleConfig) bool { return b.takes(ns, build) })
			if first < 0 {
				return nil
			}
			if name := fmt.Sprintf("%q", before[first].Name); !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names
}

func orAnything(names []string) []string {
	if len(names) == 0 {
		return []string{anything}
	}
	return names
}

// takes reports whether the rule is for a namespace and a build.
func (r RuleConfig) takes(ns, build string) bool {
	return (len(r.Namespaces) == 0 || slices.Contains(r.Namespaces, ns)) && (len(r.Builds) == 0 || slices.Contains(r.Builds, build))
}

// candidates checks the entries of a rule.
func (r RuleConfig) candidates(providers []string) error {
	last, sum := 0, 0
	for i, c := range r.Candidates {
		if err := c.check(providers); err != nil {
			return fmt.Errorf("candidates[%d].%w", i, err)
		}
		rank := c.rank(i)
		switch earlier := slices.IndexFunc(r.Candidates[:i], func(e CandidateConfig) bool { return e.covers(c) }); {
		case earlier >= 0:
			return fmt.Errorf("candidates[%d]: can never count: candidates[%d] takes provider %q there for the same placements; take one out, or give the first regions or labels",
				i, earlier, c.Provider)
		case c.Rank == nil && rank <= last:
			return fmt.Errorf("candidates[%d].rank: is needed: the one before has rank %d, and the default is the position, %d", i, last, rank)
		case rank < last:
			return fmt.Errorf("candidates[%d].rank: %d comes before the %d of the one before; put candidates into the order in which they are tried", i, rank, last)
		}
		last, sum = rank, sum+c.weight()
	}
	if sum == 0 {
		return errors.New("candidates: every weight is 0, and nothing would ever be tried; give one a weight of 1 to 1000")
	}
	return nil
}

// check checks an entry by itself.
func (c CandidateConfig) check(providers []string) error {
	sorted := slices.Sorted(slices.Values(c.Regions))
	switch {
	case c.Provider == "":
		return fmt.Errorf("provider: is needed; there are %s", list(providers))
	case !slices.Contains(providers, c.Provider):
		return fmt.Errorf("provider: no provider is named %q; there are %s", c.Provider, list(providers))
	case len(slices.Compact(sorted)) != len(c.Regions):
		return fmt.Errorf("regions: one is there twice in %s", strings.Join(c.Regions, ", "))
	case c.weight() < 0:
		return fmt.Errorf("weight: %d is negative; 0 takes the candidate out, %d is the most", c.weight(), maxWeight)
	case c.weight() > maxWeight:
		return fmt.Errorf("weight: %d is over %d; weights are shares, so divide all of the same rank by the same number", c.weight(), maxWeight)
	case c.Rank != nil && *c.Rank < 1:
		return fmt.Errorf("rank: %d is below 1, which is tried first", *c.Rank)
	}
	if _, empty := c.Labels[""]; empty {
		return errors.New("labels: one has no name")
	}
	return nil
}

// weight is the weight, or its default.
func (c CandidateConfig) weight() int {
	if c.Weight == nil {
		return defaultWeight
	}
	return *c.Weight
}

// rank is the rank of the entry at a position.
func (c CandidateConfig) rank(position int) int {
	if c.Rank == nil {
		return position + 1
	}
	return *c.Rank
}

// covers reports whether an entry takes whatever a later one could.
func (c CandidateConfig) covers(later CandidateConfig) bool {
	if c.Provider != later.Provider || !c.wants(later.Labels) {
		return false
	}
	return len(c.Regions) == 0 || (len(later.Regions) > 0 && !slices.ContainsFunc(later.Regions, func(r string) bool { return !slices.Contains(c.Regions, r) }))
}

// in reports whether the entry is for a region of its provider.
func (c CandidateConfig) in(region string) bool {
	return len(c.Regions) == 0 || slices.Contains(c.Regions, region)
}

// named returns the regions of a provider that the rule names, sorted, with "" before them if it takes it anywhere; none if it does not name the provider.
func (r RuleConfig) named(provider string) []string {
	var regions []string
	for _, c := range r.Candidates {
		switch {
		case c.Provider != provider:
		case len(c.Regions) == 0:
			regions = append(regions, "")
		default:
			regions = append(regions, c.Regions...)
		}
	}
	slices.Sort(regions)
	return slices.Compact(regions)
}

// wants reports whether these labels are enough for the entry.
func (c CandidateConfig) wants(labels map[string]string) bool {
	for key, value := range c.Labels {
		if got, ok := labels[key]; !ok || got != value {
			return false
		}
	}
	return true
}

// Check returns an error that names what to change where a rule asks for what its providers do not have. A provider that has not answered yet is believed to
// have it: check again when it has.
func (c Config) Check(providers []Provider) error {
	known := make(map[string]Provider, len(providers))
	for _, p := range providers {
		if !p.Unanswered {
			known[p.Name] = p
		}
	}
	var all []error
	for i, r := range c.Rules {
		if err := errors.Join(r.regionsServed(known), r.buildsRun(known)); err != nil {
			all = append(all, fmt.Errorf("%s: %w", c.at(i), err))
		}
	}
	return errors.Join(all...)
}

func (r RuleConfig) regionsServed(known map[string]Provider) error {
	for i, c := range r.Candidates {
		p, ok := known[c.Provider]
		for _, region := range c.Regions {
			if ok && !slices.Contains(p.Regions, region) {
				return fmt.Errorf("candidates[%d].regions: provider %q does not serve %q; it serves %s", i, p.Name, region, list(p.Regions))
			}
		}
	}
	return nil
}

func (r RuleConfig) buildsRun(known map[string]Provider) error {
	run := make(map[string]bool)
	for _, c := range r.Candidates {
		p, ok := known[c.Provider]
		if !ok {
			return nil
		}
		for _, build := range p.Builds {
			run[build] = true
		}
	}
	for _, build := range r.Builds {
		if !run[build] {
			return fmt.Errorf("builds: none of the rule's providers runs %q; they run %s", build, list(slices.Collect(maps.Keys(run))))
		}
	}
	return nil
}

// maxListed bounds what a message lists.
const maxListed = 20

// list lists names for people, sorted.
func list(names []string) string {
	all := slices.Compact(slices.Sorted(slices.Values(names)))
	switch more := len(all) - maxListed; {
	case len(all) == 0:
		return "(none)"
	case more > 0:
		return fmt.Sprintf("%s and %d more", strings.Join(all[:maxListed], ", "), more)
	default:
		return strings.Join(all, ", ")
	}
}
