// Package playfab is the provider for PlayFab Multiplayer Servers: a session on a server that stands by, for each server. It is written to PlayFab's published
// API description, and was tried against a stand-in only.
package playfab

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

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
		if err := checkRegion(region); err != nil {
			return fmt.Errorf("playfab.regions.%s: %w", name, err)
		}
	}
	return nil
}

// regions are those that PlayFab's API description of 2026-02-27 has (AzureRegion).
var regions = []string{
	"AustraliaEast", "AustraliaSoutheast", "BrazilSouth", "CanadaCentral", "CentralIndia", "CentralUs", "EastAsia", "EastUs", "EastUs2", "FranceCentral", "JapanEast",
	"JapanWest", "KoreaCentral", "MexicoCentral", "NorthCentralUs", "NorthEurope", "SouthAfricaNorth", "SouthCentralUs", "SoutheastAsia", "SwedenCentral", "UaeNorth",
	"UkSouth", "WestCentralUs", "WestEurope", "WestUs", "WestUs2",
}

// region is the form that they have.
var region = regexp.MustCompile(`^([A-Z][a-z]+){2,}[0-9]*$`)

// checkRegion returns an error unless it may be a region of PlayFab. One that is not among those known is let through, since new ones come; one that is known and
// spelt another way, such as Azure's own, is not.
func checkRegion(name string) error {
	if slices.Contains(regions, name) {
		return nil
	}
	for _, known := range regions {
		if strings.EqualFold(strings.Map(plain, name), known) {
			return fmt.Errorf("PlayFab spells %q as %s", name, known)
		}
	}
	if !region.MatchString(name) {
		return fmt.Errorf("%q is no name that PlayFab has for a region; those known are %s", name, strings.Join(regions, ", "))
	}
	return nil
}

// regionOf returns Berth's name of a region of PlayFab's; "" if it has none, or several, of which a session does not tell which was asked for.
func (c Config) regionOf(theirs string) string {
	ours := ""
	for name, region := range c.Regions {
		switch {
		case region != theirs:
		case ours != "":
			return ""
		default:
			ours = name
		}
	}
	return ours
}

// plain leaves out what is between the words of a name.
func plain(r rune) rune {
	if r == ' ' || r == '-' || r == '_' {
		return -1
	}
	return r
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
