// Package edgegap is the provider for Edgegap: a deployment for each server. Edgegap has no idempotency key, so that deployments are marked with tags, looked
// for before anything is repeated, and the younger ones of two for one attempt are stopped.
package edgegap

import (
	"fmt"
	"maps"
	"regexp"
	"slices"

	"github.com/berth-dev/berth/services/allocation/providers/internal/hostapi"
)

// DefaultURL is where the API is.
const DefaultURL = "https://api.edgegap.com"

// maxVersion is how long the name of a version may be; an application's may be as long.
const maxVersion = 64

// Config configures a Provider.
type Config struct {
	// URL is the base URL of the API. Default: DefaultURL.
	URL string `yaml:"url"`
	// TokenFile has a token of the organization, without the word "token" before it, and is read for each call. Needed.
	TokenFile hostapi.SecretFile `yaml:"token_file"`
	// Builds are Berth's builds, each a version of an application. Needed.
	Builds map[string]Build `yaml:"builds"`
	// Regions are Berth's regions, each a place near which deployments are wanted. Needed.
	Regions map[string]Region `yaml:"regions"`
	// Ports are names of ports at Edgegap, each with the name of its endpoint. Default: the port's own name.
	Ports map[string]string `yaml:"ports"`
}

// Build is what runs a build.
type Build struct {
	// App is the application's name. Needed.
	App string `yaml:"app"`
	// Version of the application. Needed.
	Version string `yaml:"version"`
}

// Region is a place; Edgegap takes the location that is the best for players there.
type Region struct {
	// Latitude in degrees, -90 to 90. Needed.
	Latitude *float64 `yaml:"latitude"`
	// Longitude in degrees, -180 to 180. Needed.
	Longitude *float64 `yaml:"longitude"`
}

// endpointName is what Berth allows as the name of an endpoint.
var endpointName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,58}[a-z0-9])?$`)

func (c Config) validate() error {
	if err := hostapi.CheckURL(c.URL); err != nil {
		return fmt.Errorf("edgegap.url: %w", err)
	}
	if _, err := c.TokenFile.Read(); err != nil {
		return fmt.Errorf("edgegap.token_file: %w", err)
	}
	if err := hostapi.CheckMaps("edgegap", c.Builds, c.Regions); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(c.Builds)) {
		switch b := c.Builds[name]; {
		case b.App == "" || len(b.App) > maxVersion:
			return fmt.Errorf("edgegap.builds.%s.app: is needed: the name of an application, up to %d characters", name, maxVersion)
		case b.Version == "" || len(b.Version) > maxVersion:
			return fmt.Errorf("edgegap.builds.%s.version: is needed: the name of a version of %s, up to %d characters", name, b.App, maxVersion)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Regions)) {
		r := c.Regions[name]
		if err := degrees(r.Latitude, 90); err != nil {
			return fmt.Errorf("edgegap.regions.%s.latitude: %w", name, err)
		}
		if err := degrees(r.Longitude, 180); err != nil {
			return fmt.Errorf("edgegap.regions.%s.longitude: %w", name, err)
		}
	}
	return c.validatePorts()
}

func degrees(v *float64, limit float64) error {
	if v == nil || !(*v >= -limit && *v <= limit) {
		return fmt.Errorf("is needed: degrees from -%g to %g", limit, limit)
	}
	return nil
}

func (c Config) validatePorts() error {
	taken := make(map[string]string)
	for _, port := range slices.Sorted(maps.Keys(c.Ports)) {
		name := c.Ports[port]
		if !endpointName.MatchString(name) {
			return fmt.Errorf("edgegap.ports.%s: %q is no name of an endpoint: up to 60 of a-z, 0-9, and - between them", port, name)
		}
		if other, ok := taken[name]; ok {
			return fmt.Errorf("edgegap.ports.%s: %q is the name of %s too", port, name, other)
		}
		taken[name] = port
	}
	return nil
}
