package readme_test

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/berth-dev/berth/pkg/conf"
	"github.com/berth-dev/berth/services/allocation"
)

type compose struct {
	Services map[string]struct {
		Build *struct {
			Dockerfile, Target string
			Args               map[string]string
		}
		Environment map[string]string
		Ports       []string
		Networks    map[string]struct{ Aliases []string }
	}
}

func loadCompose(t *testing.T) compose {
	t.Helper()
	var c compose
	if err := yaml.Unmarshal([]byte(page(t, "docker-compose.yml")), &c); err != nil {
		t.Fatal(err)
	}
	return c
}

// docker-compose.yml sets only what its binaries know, and everything that they need. No engine runs it here.
func TestComposeSettings(t *testing.T) {
	c := loadCompose(t)
	seen := make(map[string]int)
	for name, s := range c.Services {
		if s.Build == nil {
			continue
		}
		binary := s.Build.Args["BINARY"]
		if s.Build.Target == "allocation" {
			binary = "berth-allocation"
		}
		cfg, ok := services()[binary]
		if !ok {
			continue // an example
		}
		seen[binary]++
		known := map[string]bool{"BERTH_CONFIG": true}
		for _, s := range settings(cfg) {
			known[s.env] = true
		}
		for variable := range s.Environment {
			if !known[variable] {
				t.Errorf("docker-compose.yml: %s: %s has no setting %s", name, binary, variable)
			}
		}
		for _, needed := range []string{"BERTH_AUTH_INTERNAL_KEY", "BERTH_AUTH_API_KEY_SHA256"} {
			if !strings.HasPrefix(s.Environment[needed], "${"+needed+":?") {
				t.Errorf("docker-compose.yml: %s: %s must come from the environment, and be asked for", name, needed)
			}
		}
	}
	if seen["berth-gateway"] != 2 || seen["berth-game-instance"] != 1 || seen["berth-token-issuer"] != 1 || seen["berth-allocation"] != 1 {
		t.Errorf("docker-compose.yml: these run: %v", seen)
	}
}

// Addresses in docker-compose.yml name services of it, and ports that those listen on.
func TestComposeAddresses(t *testing.T) {
	c := loadCompose(t)
	listens := map[string]string{"redis": "6379"}
	for name, s := range c.Services {
		for variable, value := range s.Environment {
			if host, port, ok := strings.Cut(value, ":"); ok && host == "0.0.0.0" && variable != "BERTH_ADMIN_ADDR" {
				listens[name] += " " + port
				for _, n := range s.Networks {
					for _, alias := range n.Aliases {
						listens[alias] += " " + port
					}
				}
			}
		}
	}
	address := regexp.MustCompile(`^(?:http://)?([a-z][a-z-]*):(\d+)$`)
	for name, s := range c.Services {
		for variable, value := range s.Environment {
			if m := address.FindStringSubmatch(value); m != nil && !strings.Contains(listens[m[1]], m[2]) {
				t.Errorf("docker-compose.yml: %s: %s: nobody listens at %s", name, variable, value)
			}
		}
		if s.Build != nil && !strings.Contains(page(t, s.Build.Dockerfile), " AS "+s.Build.Target+"\n") {
			t.Errorf("docker-compose.yml: %s: %s has no target %s", name, s.Build.Dockerfile, s.Build.Target)
		}
	}
}

// The allocation service takes its file.
func TestComposeAllocationFile(t *testing.T) {
	cfg := allocation.Default()
	if err := conf.Load(filepath.Join(root, "deploy/docker/allocation.yaml"), &cfg); err != nil {
		t.Fatal(err)
	}
	cfg.Auth.InternalKey = "0123456789abcdef0123456789abcdef" // comes from the environment
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	if host := cfg.Providers[0].Process.AdvertiseHost; loadCompose(t).Services[host].Build == nil {
		t.Errorf("allocation.yaml: players are sent to %q, which is no service of docker-compose.yml", host)
	}
}
