// Package multiplay is the provider for Multiplay, by Rocket Science or by Unity: an allocation of a fleet's server for each of ours. Unity closed its own on
// 2026-03-31; that dialect is for whoever still has one. The older API, Clanforge, is another one and not spoken.
package multiplay

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/berth-dev/berth/services/allocation/providers/internal/hostapi"
)

// Dialects of the API.
const (
	// RocketScience is that of https://api.multiplay.dev, with an API key.
	RocketScience = "rocketscience"
	// Unity is that of https://multiplay.services.api.unity.com, with a service account's key that is exchanged for a token.
	Unity = "unity"
)

// Where the APIs are.
const (
	defaultURL      = "https://api.multiplay.dev"
	defaultUnityURL = "https://multiplay.services.api.unity.com"
	defaultAuthURL  = "https://services.api.unity.com"
)

const (
	// defaultGiveUp is less than the minute that an instance gives a server by default to link, or its reason would be what is told.
	defaultGiveUp = 45 * time.Second
	maxGiveUp     = time.Hour
)

// Config configures a Provider.
type Config struct {
	// Dialect is RocketScience or Unity. Default: RocketScience.
	Dialect string `yaml:"dialect"`
	// URL is the base URL of the API. Default: the dialect's.
	URL string `yaml:"url"`
	// APIKeyFile has an API key of Rocket Science, and is read for each call. Needed with that dialect, and only there.
	APIKeyFile hostapi.SecretFile `yaml:"api_key_file"`
	// KeyID is that of a service account's key at Unity. Needed with that dialect, and only there; so are the next two.
	KeyID string `yaml:"key_id"`
	// KeySecretFile has the secret of that key, and is read whenever a token is fetched.
	KeySecretFile hostapi.SecretFile `yaml:"key_secret_file"`
	// AuthURL is the base URL of the token exchange. Default: Unity's.
	AuthURL string `yaml:"auth_url"`
	// Project and Environment have the fleets. UUIDs. Needed.
	Project     string `yaml:"project"`
	Environment string `yaml:"environment"`
	// Builds are Berth's builds, each a build configuration of a fleet. Needed.
	Builds map[string]Build `yaml:"builds"`
	// Regions are Berth's regions, by the UUID that Multiplay has for each. Needed.
	Regions map[string]string `yaml:"regions"`
	// GiveUpAfter is how long an allocation may be without a server: then it is given back, and there is no room. Up to an hour.
	// Default: 45 s.
	GiveUpAfter time.Duration `yaml:"give_up_after"`
}

// Build is what runs a build.
type Build struct {
	// Fleet is the fleet's UUID. Needed.
	Fleet string `yaml:"fleet"`
	// BuildConfiguration is the number of the fleet's build configuration. Needed.
	BuildConfiguration int64 `yaml:"build_configuration"`
}

// complete returns the configuration with its defaults.
func (c Config) complete() Config {
	c.Dialect = cmp.Or(c.Dialect, RocketScience)
	c.GiveUpAfter = cmp.Or(c.GiveUpAfter, defaultGiveUp)
	if c.Dialect == Unity {
		c.URL, c.AuthURL = cmp.Or(c.URL, defaultUnityURL), cmp.Or(c.AuthURL, defaultAuthURL)
	}
	c.URL = cmp.Or(c.URL, defaultURL)
	return c
}

func (c Config) validate() error {
	if err := hostapi.CheckURL(c.URL); err != nil {
		return fmt.Errorf("multiplay.url: %w", err)
	}
	if err := c.validateCredentials(); err != nil {
		return err
	}
	if c.GiveUpAfter < 0 || c.GiveUpAfter > maxGiveUp {
		return fmt.Errorf("multiplay.give_up_after: %v is not more than 0 and up to %v", c.GiveUpAfter, maxGiveUp)
	}
	for setting, id := range map[string]string{"project": c.Project, "environment": c.Environment} {
		if err := checkID(id); err != nil {
			return fmt.Errorf("multiplay.%s: %w", setting, err)
		}
	}
	if err := hostapi.CheckMaps("multiplay", c.Builds, c.Regions); err != nil {
		return err
	}
	for name, b := range c.Builds {
		if err := checkID(b.Fleet); err != nil {
			return fmt.Errorf("multiplay.builds.%s.fleet: %w", name, err)
		}
		if b.BuildConfiguration <= 0 {
			return fmt.Errorf("multiplay.builds.%s.build_configuration: is needed: the number of the build configuration, such as 2000012", name)
		}
	}
	for name, region := range c.Regions {
		if err := checkID(region); err != nil {
			return fmt.Errorf("multiplay.regions.%s: %w", name, err)
		}
	}
	return nil
}

func (c Config) validateCredentials() error {
	switch c.Dialect {
	case RocketScience:
		if c.KeyID != "" || c.KeySecretFile != "" || c.AuthURL != "" {
			return errors.New("multiplay.key_id, multiplay.key_secret_file and multiplay.auth_url are for multiplay.dialect unity: take them out, or name it")
		}
		if _, err := c.APIKeyFile.Read(); err != nil {
			return fmt.Errorf("multiplay.api_key_file: %w", err)
		}
		return nil
	case Unity:
	default:
		return fmt.Errorf("multiplay.dialect: %q is neither %s nor %s", c.Dialect, RocketScience, Unity)
	}
	if c.APIKeyFile != "" {
		return errors.New("multiplay.api_key_file: is for multiplay.dialect rocketscience: take it out; unity needs multiplay.key_id and multiplay.key_secret_file")
	}
	if c.KeyID == "" {
		return errors.New("multiplay.key_id: is needed: the id of the service account's key")
	}
	if _, err := c.KeySecretFile.Read(); err != nil {
		return fmt.Errorf("multiplay.key_secret_file: %w", err)
	}
	if err := hostapi.CheckURL(c.AuthURL); err != nil {
		return fmt.Errorf("multiplay.auth_url: %w", err)
	}
	return nil
}

// checkID returns an error unless an id is as Multiplay writes them.
func checkID(id string) error {
	const length = 36 // of the one form that Multiplay has
	if len(id) != length || uuid.Validate(id) != nil {
		return fmt.Errorf("%q is no UUID such as ddbf538c-1408-11f1-a08a-42010ab90008", id)
	}
	return nil
}
