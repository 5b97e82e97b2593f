package multiplay_test

import (
	"strings"
	"testing"
	"time"

	"github.com/berth-dev/berth/services/allocation/providers/multiplay"
)

func TestConfigNamesWhatIsWrong(t *testing.T) {
	for setting, spoil := range map[string]func(*multiplay.Config){
		"multiplay.dialect":      func(c *multiplay.Config) { c.Dialect = "clanforge" },
		"multiplay.url":          func(c *multiplay.Config) { c.URL = "http://api.multiplay.dev" },
		"multiplay.api_key_file": func(c *multiplay.Config) { c.APIKeyFile = "/nowhere" },
		"multiplay.key_id":       func(c *multiplay.Config) { c.KeyID = keyID },
		"multiplay.project":      func(c *multiplay.Config) { c.Project = "My Game" },
		"multiplay.environment":  func(c *multiplay.Config) { c.Environment = "" },
		"multiplay.builds":       func(c *multiplay.Config) { c.Builds = nil },
		"multiplay.builds.shooter.fleet": func(c *multiplay.Config) {
			c.Builds["shooter"] = multiplay.Build{Fleet: "fleet", BuildConfiguration: 1}
		},
		"multiplay.builds.shooter.build_configuration": func(c *multiplay.Config) { c.Builds["shooter"] = multiplay.Build{Fleet: fleet} },
		"multiplay.regions":                            func(c *multiplay.Config) { c.Regions = nil },
		"multiplay.regions.eu":                         func(c *multiplay.Config) { c.Regions["eu"] = "Europe" },
		"multiplay.give_up_after":                      func(c *multiplay.Config) { c.GiveUpAfter = 2 * time.Hour },
	} {
		refused(t, multiplay.RocketScience, setting, spoil)
	}
	for _, id := range []string{"{" + project + "}", strings.ReplaceAll(project, "-", ""), strings.ReplaceAll(project, "9", "x")} {
		refused(t, multiplay.RocketScience, "multiplay.project", func(c *multiplay.Config) { c.Project = id })
	}
	for setting, spoil := range map[string]func(*multiplay.Config){
		"multiplay.api_key_file":    func(c *multiplay.Config) { c.APIKeyFile = c.KeySecretFile },
		"multiplay.key_id":          func(c *multiplay.Config) { c.KeyID = "" },
		"multiplay.key_secret_file": func(c *multiplay.Config) { c.KeySecretFile = "" },
		"multiplay.auth_url":        func(c *multiplay.Config) { c.AuthURL = "services.api.unity.com" },
	} {
		refused(t, multiplay.Unity, setting, spoil)
	}
}

func refused(t *testing.T, dialect, setting string, spoil func(*multiplay.Config)) {
	t.Helper()
	_, cfg := start(t, dialect)
	spoil(&cfg)
	p, err := multiplay.New(cfg)
	if err == nil {
		_ = p.Close(t.Context())
	}
	if err == nil || !strings.HasPrefix(err.Error(), setting+":") && !strings.HasPrefix(err.Error(), setting+",") {
		t.Errorf("%s, %s: %v", dialect, setting, err)
	}
}
