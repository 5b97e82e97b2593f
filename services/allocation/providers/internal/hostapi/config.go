package hostapi

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
)

// names are those that a placement can ask for (berth.instance.v1.Placement): a build of any other one would be configured in vain, and a region could not be asked for.
type names struct {
	pattern *regexp.Regexp
	words   string
}

var (
	buildNames  = names{regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$`), "a-z, 0-9, and '.', '_' and '-' between them"}
	regionNames = names{regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`), "a-z, 0-9, and '-' between them"}
)

// CheckMaps returns an error unless a provider has builds and regions, with names that can be asked for. block is that of its settings.
func CheckMaps[B, R any](block string, builds map[string]B, regions map[string]R) error {
	if err := buildNames.check(slices.Sorted(maps.Keys(builds))); err != nil {
		return fmt.Errorf("%s.builds: %w", block, err)
	}
	if err := regionNames.check(slices.Sorted(maps.Keys(regions))); err != nil {
		return fmt.Errorf("%s.regions: %w", block, err)
	}
	return nil
}

func (n names) check(configured []string) error {
	if len(configured) == 0 {
		return errors.New("at least one is needed")
	}
	for _, name := range configured {
		if n.pattern.MatchString(name) {
			continue
		}
		better := ""
		if lower := strings.ToLower(name); n.pattern.MatchString(lower) {
			better = fmt.Sprintf("; call it %q", lower)
		}
		return fmt.Errorf("%q is no name that a placement can ask for: up to 63 of %s%s", name, n.words, better)
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
