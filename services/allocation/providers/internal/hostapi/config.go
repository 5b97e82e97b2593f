package hostapi

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/providers/internal/names"
)

// CheckMaps returns an error unless a provider has builds and regions, with names that can be asked for. block is that of its settings.
func CheckMaps[B, R any](block string, builds map[string]B, regions map[string]R) error {
	switch {
	case len(builds) == 0:
		return fmt.Errorf("%s.builds: at least one is needed", block)
	case len(regions) == 0:
		return fmt.Errorf("%s.regions: at least one is needed", block)
	}
	if err := names.Builds(slices.Sorted(maps.Keys(builds))); err != nil {
		return fmt.Errorf("%s.builds: %w", block, err)
	}
	if err := names.Regions(slices.Sorted(maps.Keys(regions))); err != nil {
		return fmt.Errorf("%s.regions: %w", block, err)
	}
	return nil
}

// Describe answers Describe for a provider whose builds and regions are those of its configuration; d says the rest.
func Describe[B, R any](req *providerv1.DescribeRequest, builds map[string]B, regions map[string]R, d *providerv1.DescribeResponse) (*providerv1.DescribeResponse, error) {
	contract, err := provider.Negotiate(req)
	if err != nil {
		return nil, err
	}
	d.Contract, d.Builds, d.Regions = contract, slices.Sorted(maps.Keys(builds)), slices.Sorted(maps.Keys(regions))
	return d, nil
}

// Lookup returns what the configuration says of a build or region, or a failure that names those it has. what is "build" or "region".
func Lookup[T any](what string, configured map[string]T, name string) (T, error) {
	v, ok := configured[name]
	if !ok {
		return v, provider.Failure(provider.Invalid, "%s %q is not configured; there are %s", what, name, strings.Join(slices.Sorted(maps.Keys(configured)), ", "))
	}
	return v, nil
}

// NameOf returns Berth's name of a host's region; "" if it has none.
func NameOf[T comparable](configured map[string]T, v T) string {
	for _, name := range slices.Sorted(maps.Keys(configured)) {
		if configured[name] == v {
			return name
		}
	}
	return ""
}
