package allocator

import (
	"time"

	"github.com/berth-dev/berth/services/allocation/internal/placement"
)

// ProviderInfo is what a configured provider is.
type ProviderInfo struct {
	// Name is the name in this configuration.
	Name string
	// Kind is the kind, such as "process".
	Kind string
	// Regions are the regions that it serves, and Builds what it can run.
	Regions, Builds []string
	// PollInterval is how often it may be asked about a server.
	PollInterval time.Duration
	// Claims says that its servers are given a claim code in place of their tokens.
	Claims bool
	// Pool says that its servers are there already, and have credentials of their own: none are minted for them.
	Pool bool
	// MaxBootstrap is the largest bootstrap that it can carry, in bytes; 0: no limit known.
	MaxBootstrap int64
	// Timeout bounds a call to it; 0: DefaultTimeout.
	Timeout time.Duration
	// MaxServers is how many servers it may have for allocations at once; 0: no limit.
	MaxServers int
	// MaxCalls is how many allocations may turn to it at once; 0: DefaultMaxCalls. The rest waits in a lane of its own.
	MaxCalls int
}

const (
	// DefaultTimeout is how long a provider may take for an answer.
	DefaultTimeout = 30 * time.Second
	// DefaultMaxCalls is how many allocations may turn to one provider at once.
	DefaultMaxCalls = 128
)

// Catalog is the configured providers, in the order of the configuration.
type Catalog []ProviderInfo

// CatalogOf returns the catalog of providers.
func CatalogOf(providers []Provider) Catalog {
	out := make(Catalog, 0, len(providers))
	for _, p := range providers {
		out = append(out, p.Info)
	}
	return out
}

// Choices are the providers as a placement policy sees them: with no weights of their own, and none drained.
func (c Catalog) Choices() []placement.Provider {
	out := make([]placement.Provider, 0, len(c))
	for _, info := range c {
		out = append(out, placement.Provider{Name: info.Name, Regions: info.Regions, Builds: info.Builds})
	}
	return out
}

// request is the question where an allocation's server is looked for; without an id it is that of any allocation.
func (p Placement) request(id, namespace string) placement.Request {
	return placement.Request{ID: id, Namespace: namespace, Build: p.Build, Regions: p.Regions, Labels: p.Labels, Latencies: p.Latencies}
}
