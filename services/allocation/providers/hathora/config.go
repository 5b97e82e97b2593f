// Package hathora is the provider for Hathora Cloud: a room for each server. Hathora closed its hosting of games on 2026-05-05; the provider is written to its
// published API, and was tried against a stand-in only.
package hathora

import (
	"fmt"
	"slices"
	"strings"

	"github.com/berth-dev/berth/services/allocation/providers/internal/hostapi"
)

// DefaultURL is where the API was.
const DefaultURL = "https://api.hathora.dev"

// regionNames are Hathora's.
var regionNames = []string{
	"Chicago", "Dallas", "Dubai", "Frankfurt", "Johannesburg", "London", "Los_Angeles", "Mumbai", "Sao_Paulo", "Seattle", "Singapore", "Sydney", "Tokyo", "Washington_DC",
}

// Config configures a Provider.
type Config struct {
	// URL is the base URL of the API. Default: DefaultURL.
	URL string `yaml:"url"`
	// TokenFile has a token of the organization, and is read for each call. Needed.
	TokenFile hostapi.SecretFile `yaml:"token_file"`
	// Builds are Berth's builds, each an application. Needed.
	Builds map[string]Build `yaml:"builds"`
	// Regions are Berth's regions, by the name that Hathora has for each, such as Frankfurt. Needed.
	Regions map[string]string `yaml:"regions"`
}

// Build is what runs a build.
type Build struct {
	// App is the application's id. Needed.
	App string `yaml:"app"`
	// Deployment of the application. Default: its newest.
	Deployment string `yaml:"deployment"`
}

func (c Config) validate() error {
	if err := hostapi.CheckURL(c.URL); err != nil {
		return fmt.Errorf("hathora.url: %w", err)
	}
	if _, err := c.TokenFile.Read(); err != nil {
		return fmt.Errorf("hathora.token_file: %w", err)
	}
	if err := hostapi.CheckMaps("hathora", c.Builds, c.Regions); err != nil {
		return err
	}
	for name, b := range c.Builds {
		if b.App == "" {
			return fmt.Errorf("hathora.builds.%s.app: is needed, such as app-af469a92-5b45-4565-b3c4-b79878de67d2", name)
		}
	}
	for name, region := range c.Regions {
		switch {
		case region == "":
			return fmt.Errorf("hathora.regions.%s: is needed: Hathora's name of the region, such as Frankfurt", name)
		case !slices.Contains(regionNames, region):
			return fmt.Errorf("hathora.regions.%s: %q is none of %s", name, region, strings.Join(regionNames, ", "))
		}
	}
	return nil
}
