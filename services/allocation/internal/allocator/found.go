package allocator

import "github.com/berth-dev/berth/pkg/ids"

// Listed is a server that a provider lists.
type Listed struct {
	// Attempt is what the server was started for, as it says.
	Attempt string
	Server
}

// Found returns an allocation as good as a server's own, for asking its instance about it; false: no instance can have had such an attempt.
func Found(provider string, s Listed) (Allocation, bool) {
	instance := ids.AttemptInstance(s.Attempt)
	return Allocation{ID: s.Attempt, InstanceID: instance, Provider: provider, Region: s.Region, Endpoints: s.Endpoints, PoolServer: s.PoolServer, Report: ReportAllocated}, instance != ""
}
