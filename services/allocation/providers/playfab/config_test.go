package playfab_test

import (
	"os"
	"strings"
	"testing"

	"github.com/berth-dev/berth/services/allocation/providers/playfab"
)

func TestConfig(t *testing.T) {
	builds := func(b playfab.Build) func(*playfab.Config) {
		return func(c *playfab.Config) { c.Builds = map[string]playfab.Build{"shooter": b} }
	}
	region := func(name string) func(*playfab.Config) {
		return func(c *playfab.Config) { c.Regions = map[string]string{"eu": name} }
	}
	for want, change := range map[string]func(*playfab.Config){
		"playfab.title_id":                              func(c *playfab.Config) { c.URL = "" },
		`playfab.title_id: "AAD5D.x"`:                   func(c *playfab.Config) { c.URL, c.TitleID = "", "AAD5D.x" },
		"playfab.url":                                   func(c *playfab.Config) { c.URL = "http://aad5d.playfabapi.com" },
		"playfab.secret_key_file":                       func(c *playfab.Config) { c.SecretKeyFile += ".not" },
		"playfab.builds: at least":                      func(c *playfab.Config) { c.Builds = nil },
		"playfab.regions: at least":                     func(c *playfab.Config) { c.Regions = nil },
		"playfab.builds.shooter: build_id":              builds(playfab.Build{}),
		"playfab.builds.shooter: build_id and alias_id": builds(playfab.Build{ID: shooter, Alias: racers}),
		"playfab.builds.shooter.build_id":               builds(playfab.Build{ID: "shooter"}),
		"playfab.builds.shooter.alias_id":               builds(playfab.Build{Alias: "{" + racers + "}"}),
		`playfab.regions.eu: "" is no name`:             region(""),
		`playfab.regions.eu: "eu-central-1" is no name that PlayFab has for a region; those known are AustraliaEast, `: region("eu-central-1"),
		`playfab.regions.eu: "Europe" is no name`:                        region("Europe"),
		`playfab.regions.eu: "WestEurope\t" is no name`:                  region("WestEurope\t"),
		`playfab.regions.eu: PlayFab spells "westeurope" as WestEurope`:  region("westeurope"),
		`playfab.regions.eu: PlayFab spells "West Europe" as WestEurope`: region("West Europe"),
		`playfab.regions.eu: PlayFab spells "EastUS" as EastUs`:          region("EastUS"),
		`playfab.regions.eu: PlayFab spells "UK South" as UkSouth`:       region("UK South"),
	} {
		_, cfg, _ := start(t, nil)
		change(&cfg)
		if _, err := playfab.New(cfg); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got %v; want %q", err, want)
		}
	}
	_, cfg, _ := start(t, nil)
	cfg.URL, cfg.TitleID = "", "AAD5D"
	cfg.Regions["soon"] = "NewZealandNorth" // PlayFab may have it one day
	if _, err := playfab.New(cfg); err != nil {
		t.Error(err)
	}
	if err := os.Remove(string(cfg.SecretKeyFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := playfab.New(cfg); err == nil || !strings.HasPrefix(err.Error(), "playfab.secret_key_file") {
		t.Errorf("without a key: %v", err)
	}
}
