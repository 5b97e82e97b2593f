package allocation_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berth-dev/berth/pkg/conf"
	"github.com/berth-dev/berth/services/allocation"
	"github.com/berth-dev/berth/services/allocation/providers"
)

func TestConfigIsReadFromFileAndEnvironment(t *testing.T) {
	path := filepath.Join(t.TempDir(), "berth.yaml")
	if err := os.WriteFile(path, []byte(`
grpc_addr: 127.0.0.1:9999
providers:
  - name: here
    kind: process
    process:
      state_dir: /var/lib/berth/servers
      stop_grace: 3s
      handover: pipe
      builds:
        demo:
          command: ./gameserver
          args: [-quiet]
          env: {MAP: desert}
          dir: /srv/demo
          endpoints: [{name: game, protocol: tcp}]
  - name: desk
    kind: attach
    credentials: claim
    max_servers: 20
    max_calls: 8
    timeout: 5s
    attach: {builds: [demo]}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("BERTH_GATEWAY_URL", "https://edge.example.com")
	t.Setenv("BERTH_AUTH_INTERNAL_KEY", "0123456789abcdef0123456789abcdef")
	cfg := allocation.Default()
	if err := conf.Load(path, &cfg); err != nil {
		t.Fatal(err)
	}
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	p := cfg.Providers[0].Process
	if cfg.GRPCAddr != "127.0.0.1:9999" || cfg.GatewayURL != "https://edge.example.com" || p.StopGrace != 3*time.Second || p.Handover != "pipe" ||
		p.Builds["demo"].Env["MAP"] != "desert" || p.Builds["demo"].Endpoints[0].Name != "game" || cfg.Providers[1].Attach.Builds[0] != "demo" || cfg.Providers[0].Claims() || !cfg.Providers[1].Claims() ||
		cfg.Providers[1].MaxServers != 20 || cfg.Providers[1].MaxCalls != 8 || cfg.Providers[1].Timeout != 5*time.Second {
		t.Errorf("read: %+v", cfg)
	}
}

func TestConfigNamesWhatToChange(t *testing.T) {
	for want, change := range map[string]func(*allocation.Config){
		"BERTH_GRPC_ADDR":     func(c *allocation.Config) { c.GRPCAddr = "" },
		"BERTH_GAME_INSTANCE": func(c *allocation.Config) { c.GameInstance = "" },
		"token_issuer (BERTH_TOKEN_ISSUER): without TLS":  func(c *allocation.Config) { c.TokenIssuer = "token-issuer:7102" },
		"BERTH_TOKEN_ISSUER":                              func(c *allocation.Config) { c.TokenIssuer = "" },
		"BERTH_GATEWAY_URL":                               func(c *allocation.Config) { c.GatewayURL = "edge.example.com" },
		"gateway_ca_file (BERTH_GATEWAY_CA_FILE): is for": func(c *allocation.Config) { c.GatewayCAFile = "ca.pem" },
		"providers: at least":                             func(c *allocation.Config) { c.Providers = nil },
		"providers: two":                                  func(c *allocation.Config) { c.Providers = append(c.Providers, c.Providers[0]) },
		"64 bytes; at most 63":                            func(c *allocation.Config) { c.Providers[0].Name = strings.Repeat("a", 64) },
		"has no name":                                     func(c *allocation.Config) { c.Providers[0].Name = "" },
		"none of process":                                 func(c *allocation.Config) { c.Providers[0].Kind = "warp" },
		"BERTH_AUTH_INTERNAL":                             func(*allocation.Config) {},
		`"key" is neither`:                                func(c *allocation.Config) { c.Providers[0].Credentials = "key" },
		"BERTH_QUEUE_LIMIT":                               func(c *allocation.Config) { c.Queue.Limit = 0 },
		"max_servers: -1":                                 func(c *allocation.Config) { c.Providers[0].MaxServers = -1 },
		"max_calls: 20000":                                func(c *allocation.Config) { c.Providers[0].MaxCalls = 20000 },
		"timeout: 1ms":                                    func(c *allocation.Config) { c.Providers[0].Timeout = time.Millisecond },
	} {
		cfg := allocation.Default()
		cfg.Providers = []providers.Config{{Name: "here", Kind: "process"}}
		change(&cfg)
		err := cfg.Validate()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
}
