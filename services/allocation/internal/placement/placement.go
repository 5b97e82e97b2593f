// Package placement decides where a server is looked for: which providers and regions are tried, in which order, and why not the others. It is pure: it
// knows neither the providers nor the store, and the same question gets the same answer.
package placement

import "time"

// Request is what an allocation asks for.
type Request struct {
	// ID is the allocation's: it decides among candidates of equal rank, by their weights.
	ID string
	// Namespace is the instance's.
	Namespace string
	// Build is the configured name of what to run.
	Build string
	// Regions are acceptable, best first; empty: any.
	Regions []string
	// Labels are the placement's.
	Labels map[string]string
	// Latencies are what the players measured, by region: the longest of them.
	Latencies map[string]time.Duration
}

// Provider is what there is to choose from.
type Provider struct {
	// Name is the name in the configuration.
	Name string
	// Regions are what it serves; empty: it names none, and is one candidate with the region "".
	Regions []string
	// Builds are what it can run.
	Builds []string
	// Weight overrides what the policy says, if set.
	Weight *int
	// Draining: it gets nothing new.
	Draining bool
	// Unanswered: it has not said yet what it serves and runs, so it has neither Regions nor Builds, and may yet turn out to have any.
	Unanswered bool
}

// Exclusion is why a candidate is not tried. The numbers are those of berth.allocation.v1.PlacementCandidate.Exclusion.
type Exclusion int

// The exclusions. Full, Resting, Refused and Bootstrap are for whoever tries the candidates: this package does not set them. Unanswered is the only other one
// after which a candidate may be tried later without anybody changing anything.
const (
	None Exclusion = iota
	Build
	Region
	Labels
	Latency
	Rule
	Weight
	Drained
	Full
	Resting
	Refused
	Bootstrap
	Unanswered
)

// Candidate is a provider and one of its regions.
type Candidate struct {
	// Provider and Region say which.
	Provider, Region string
	// Exclusion is why it is not tried; None: it is.
	Exclusion Exclusion
	// Message is the same in words, with figures.
	Message string
	// Latency is what the request names for the region; Known says whether it does.
	Latency time.Duration
	Known   bool
	// Weight is its weight among candidates of the same rank, and Rank is what comes first: lower ones.
	Weight, Rank int
}

// Explanation is the answer.
type Explanation struct {
	// Rule is the name of the rule that applied; empty: none.
	Rule string
	// Candidates are those that are tried, in order, then the others.
	Candidates []Candidate
	// unknown is set where the placement names what no provider has.
	unknown error
}
