package conf_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/berth-dev/berth/pkg/conf"
)

type config struct {
	Addr string        `yaml:"addr" env:"ADDR"`
	Wait time.Duration `yaml:"wait" env:"WAIT"`
	Key  conf.Secret   `yaml:"key" env:"KEY,unset"`
	Sub  struct {
		Names []string      `yaml:"names" env:"NAMES" envSeparator:","`
		Wait  time.Duration `yaml:"wait" env:"WAIT"`
		Size  int           `yaml:"size" env:"SIZE"`
	} `yaml:"sub" envPrefix:"SUB_"`
}

func file(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestTheEnvironmentWinsOverTheFileAndTheFileOverDefaults(t *testing.T) {
	t.Setenv("BERTH_WAIT", "3s")
	t.Setenv("BERTH_KEY", "from the environment")
	t.Setenv("BERTH_SUB_NAMES", "a,b")
	c := config{Addr: "default", Wait: time.Second}
	if err := conf.Load(file(t, "wait: 2s\nkey: from the file"), &c); err != nil {
		t.Fatal(err)
	}
	if c.Addr != "default" || c.Wait != 3*time.Second || c.Key.Reveal() != "from the environment" || len(c.Sub.Names) != 2 {
		t.Errorf("loaded %#v", c)
	}
	if os.Getenv("BERTH_KEY") != "" {
		t.Error("a secret stays in the environment, where children would inherit it")
	}
}

func TestMistakesAreNamed(t *testing.T) {
	for content, want := range map[string]string{"adr: x": "adr", "wait: soon": "soon"} {
		if err := conf.Load(file(t, content), &config{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", content, err)
		}
	}
	t.Setenv("BERTH_WAIT", "soon")
	t.Setenv("BERTH_SUB_WAIT", "1h")
	t.Setenv("BERTH_SUB_SIZE", "big")
	t.Setenv("BERTH_KEY", "hush")
	err := conf.Load("", &config{})
	for _, want := range []string{"wait (BERTH_WAIT): ", "soon", "sub.size (BERTH_SUB_SIZE): ", "big"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("environment: %v, want %q", err, want)
		}
	}
	for _, unwanted := range []string{"sub.wait", "field", "hush"} {
		if err != nil && strings.Contains(err.Error(), unwanted) {
			t.Errorf("environment: %v", err)
		}
	}
	if err := conf.Load("/nonexistent", &config{}); err == nil {
		t.Error("a file that is not there was read")
	}
}

func TestSecretsAreNeverPrinted(t *testing.T) {
	const value = "hush"
	c := config{Key: value}
	y, err := yaml.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	j, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "key", c.Key, "config", c)
	for _, printed := range []string{string(y), string(j), log.String(), fmt.Sprint(c), fmt.Sprintf("%+v %#v %s %q", c, c, c.Key, c.Key)} {
		if strings.Contains(printed, value) {
			t.Errorf("printed: %s", printed)
		}
	}
}
