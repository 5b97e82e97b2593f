package allocator

import (
	"slices"
	"strings"
	"time"

	"github.com/berth-dev/berth/pkg/errs"
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
	// MaxBootstrap is the largest bootstrap that it can carry, in bytes; 0: no limit known.
	MaxBootstrap int64
}

// Catalog is the configured providers, in the order of the configuration.
type Catalog []ProviderInfo

// Place chooses the provider and the region for a placement: the best region that anybody serves for the build, and there the provider that is
// configured first.
func (c Catalog) Place(p Placement) (provider, region string, err error) {
	var able Catalog
	for _, info := range c {
		if slices.Contains(info.Builds, p.Build) {
			able = append(able, info)
		}
	}
	if len(able) == 0 {
		return "", "", errs.New(errs.BuildUnknown, "placement.build: no provider runs %q; configured builds are %s", p.Build, names(c, func(i ProviderInfo) []string { return i.Builds }))
	}
	if len(p.Regions) == 0 {
		return able[0].Name, first(able[0].Regions), nil
	}
	for _, region := range p.Regions {
		for _, info := range able {
			if slices.Contains(info.Regions, region) {
				return info.Name, region, nil
			}
		}
	}
	return "", "", errs.New(errs.BuildUnknown, "placement.regions: build %q is not to be had in %s; it is in %s", p.Build,
		strings.Join(p.Regions, ", "), names(able, func(i ProviderInfo) []string { return i.Regions }))
}

func first(s []string) string {
	if len(s) == 0 {
		return ""
	}
	return s[0]
}

// names lists what the providers have, sorted, for people.
func names(c Catalog, of func(ProviderInfo) []string) string {
	var all []string
	for _, info := range c {
		all = append(all, of(info)...)
	}
	slices.Sort(all)
	if all = slices.Compact(all); len(all) == 0 {
		return "(none)"
	}
	return strings.Join(all, ", ")
}
