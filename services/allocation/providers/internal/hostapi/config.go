package hostapi

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
)

// maxConfigured is how long the name of a build or region may be, in bytes.
const maxConfigured = 128

// CheckMaps returns an error unless a provider has builds and regions with names. block is that of its settings.
func CheckMaps[B, R any](block string, builds map[string]B, regions map[string]R) error {
	for _, m := range []struct {
		setting string
		names   []string
	}{{block + ".builds", slices.Sorted(maps.Keys(builds))}, {block + ".regions", slices.Sorted(maps.Keys(regions))}} {
		if len(m.names) == 0 {
			return fmt.Errorf("%s: at least one is needed", m.setting)
		}
		for _, name := range m.names {
			if name == "" || len(name) > maxConfigured {
				return fmt.Errorf("%s: %q is no name of 1 to %d bytes", m.setting, name, maxConfigured)
			}
		}
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
