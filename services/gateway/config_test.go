package gateway_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berth-dev/berth/pkg/conf"

	"github.com/berth-dev/berth/services/gateway"
)

func TestDefaultsAreValid(t *testing.T) {
	cfg := gateway.Default()
	cfg.Auth.InternalKey = internalKey // has no default
	if err := cfg.Validate(); err != nil {
		t.Error(err)
	}
}

func TestConfigurationComesFromFileAndEnvironment(t *testing.T) {
	file := filepath.Join(t.TempDir(), "gateway.yaml")
	if err := os.WriteFile(file, []byte("edge_addr: 0.0.0.0:1\nheartbeat: 3s\nlimits:\n  in_flight: 5\nredis:\n  addrs: [\"a:1\"]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("BERTH_LIMIT_QUEUE", "7")
	t.Setenv("BERTH_REDIS_ADDRS", "b:2,c:3")
	t.Setenv("BERTH_HELLO_TIMEOUT", "4s")
	cfg := gateway.Default()
	if err := conf.Load(file, &cfg); err != nil {
		t.Fatal(err)
	}
	if cfg.EdgeAddr != "0.0.0.0:1" || cfg.Heartbeat != 3*time.Second || cfg.HelloTimeout != 4*time.Second || cfg.Limits.InFlight != 5 || cfg.Limits.Queue != 7 || len(cfg.Redis.Addrs) != 2 {
		t.Errorf("%+v", cfg)
	}
}

func TestEveryBadSettingIsNamed(t *testing.T) {
	err := gateway.Config{}.Validate()
	for _, want := range []string{
		"edge_addr (BERTH_EDGE_ADDR)", "api_addr (BERTH_API_ADDR)", "game_instance (BERTH_GAME_INSTANCE)", "token_issuer (BERTH_TOKEN_ISSUER)",
		"allocation (BERTH_ALLOCATION)", "heartbeat (BERTH_HEARTBEAT)", "lease_interval (BERTH_LEASE_INTERVAL)", "limits.in_flight (BERTH_LIMIT_IN_FLIGHT)",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not name %s", err, want)
		}
	}
	cfg := gateway.Default()
	cfg.Lease = 2 * cfg.LeaseInterval
	if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), "lease (BERTH_LEASE)") {
		t.Errorf("a lease that two lost renewals end: %v", err)
	}
}
