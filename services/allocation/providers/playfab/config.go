// Package playfab is the provider for PlayFab Multiplayer Servers: a session on a server that stands by, for each server. It is written to PlayFab's published
// API description, and was tried against a stand-in only.
package playfab

import (
	"fmt"
	"regexp"

	"github.com/google/uuid"

	"github.com/berth-dev/berth/services/allocation/providers/internal/hostapi"
)

// Config configures a Provider.
type Config struct {
	// TitleID is the title's id, such as AAD5D. Needed, unless there is a URL.
	TitleID string `yaml:"title_id"`
	// URL is the base URL of the API. Default: that of the title.
	URL string `yaml:"url"`
	// SecretKeyFile has a secret key of the title, and is read for each entity token. Needed.
	SecretKeyFile hostapi.SecretFile `yaml:"secret_key_file"`
	// Builds are Berth's builds, each a build or an alias of PlayFab. Needed.
	Builds map[string]Build `yaml:"builds"`
	// Regions are Berth's regions, by the name that PlayFab has for each, such as WestEurope. Needed.
	Regions map[string]string `yaml:"regions"`
}

// Build is what runs a build: one of both.
type Build struct {
	// ID of the build.
	ID string `yaml:"build_id"`
	// Alias is the id of a build alias, which says which builds.
	Alias string `yaml:"alias_id"`
}

var titleID = regexp.MustCompile(`^[0-9A-Za-z]+$`)

// base is where the API is.
func (c Config) base() string {
	if c.URL != "" {
		return c.URL
	}
	return "https://" + c.TitleID + ".playfabapi.com"
}

func (c Config) validate() error {
	if c.URL == "" && !titleID.MatchString(c.TitleID) {
		return fmt.Errorf("playfab.title_id: %q is no title's id, such as AAD5D", c.TitleID)
	}
	if err := hostapi.CheckURL(c.base()); err != nil {
		return fmt.Errorf("playfab.url: %w", err)
	}
	if _, err := c.SecretKeyFile.Read(); err != nil {
		return fmt.Errorf("playfab.secret_key_file: %w", err)
	}
	if err := hostapi.CheckMaps("playfab", c.Builds, c.Regions); err != nil {
		return err
	}
	for name, b := range c.Builds {
		if err := b.validate(); err != nil {
			return fmt.Errorf("playfab.builds.%s%w", name, err)
		}
	}
	for name, region := range c.Regions {
		if region == "" {
			return fmt.Errorf("playfab.regions.%s: is needed: PlayFab's name of the region, such as WestEurope", name)
		}
	}
	return nil
}

func (b Build) validate() error {
	const such = "such as 21781fa8-096d-4d9c-b699-75433d579285"
	switch {
	case b.ID == "" && b.Alias == "":
		return fmt.Errorf(": build_id or alias_id is needed, %s", such)
	case b.ID != "" && b.Alias != "":
		return fmt.Errorf(": build_id and alias_id: one of both, not both")
	case b.ID != "" && !guid(b.ID):
		return fmt.Errorf(".build_id: %q is no GUID, %s", b.ID, such)
	case b.Alias != "" && !guid(b.Alias):
		return fmt.Errorf(".alias_id: %q is no GUID, %s", b.Alias, such)
	}
	return nil
}

func guid(text string) bool { return len(text) == len(uuid.Nil.String()) && uuid.Validate(text) == nil }
