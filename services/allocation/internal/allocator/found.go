package allocator

import "github.com/berth-dev/berth/pkg/ids"

// Listed is a server that a provider lists.
type Listed struct {
	// Attempt is what the server was started for, as it says.
	Attempt string
	Server
}

// Page is a part of what a provider lists.
type Page struct {
	// Servers are the servers.
	Servers []Listed
	// Nonsense says for each entry that can be no server of this deployment what is wrong with it.
	Nonsense []string
	// Next is the token of the next page; empty: this is the last.
	Next string
}

// Found returns an allocation as good as a server's own, for asking its instance about it; false: no instance can have had such an attempt.
func Found(provider string, s Listed) (Allocation, bool) {
	instance := ids.AttemptInstance(s.Attempt)
	return Allocation{ID: s.Attempt, InstanceID: instance, Provider: provider, Region: s.Region, Endpoints: s.Endpoints, PoolServer: s.PoolServer, Report: ReportAllocated}, instance != ""
}
