package tokenissuer

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berth-dev/berth/pkg/auth"
	"github.com/berth-dev/berth/pkg/conf"
	"github.com/berth-dev/berth/pkg/tlsx"
)

const sealingKey = conf.Secret("0123456789abcdef0123456789abcdef")

func TestValidateNamesTheSetting(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*Config)
		want   string // empty: valid
	}{
		"defaults and a key":      {func(*Config) {}, ""},
		"key in a file":           {func(c *Config) { c.SealingKey, c.SealingKeyFile = "", "/run/secrets/key" }, ""},
		"no sealing key":          {func(c *Config) { c.SealingKey = "" }, "sealing_key (BERTH_SEALING_KEY) or sealing_key_file"},
		"two sealing keys":        {func(c *Config) { c.SealingKeyFile = "/run/secrets/key" }, "only one"},
		"no address":              {func(c *Config) { c.GRPCAddr = "" }, "grpc_addr (BERTH_GRPC_ADDR)"},
		"pair lifetime at least":  {func(c *Config) { c.PairLifetime = time.Minute }, ""},
		"pair lifetime at most":   {func(c *Config) { c.PairLifetime = 24 * time.Hour }, ""},
		"pair lifetime short":     {func(c *Config) { c.PairLifetime = time.Minute - 1 }, "pair_lifetime (BERTH_PAIR_LIFETIME)"},
		"pair lifetime long":      {func(c *Config) { c.PairLifetime = 24*time.Hour + 1 }, "pair_lifetime (BERTH_PAIR_LIFETIME)"},
		"two previous keys":       {func(c *Config) { c.PreviousSealingKey, c.PreviousSealingKeyFile = sealingKey, "/run/secrets/key" }, "previous_sealing_key (BERTH_PREVIOUS_SEALING_KEY)"},
		"ES256":                   {func(c *Config) { c.Keys.Algorithm = "ES256" }, ""},
		"egress":                  {func(c *Config) { c.Egress.Allow = []string{"10.0.0.1"} }, "egress.allow (BERTH_EGRESS_ALLOW)"},
		"identity provider":       {func(c *Config) { c.Auth.OIDC = []auth.OIDC{{}} }, "auth.oidc"},
		"RS256":                   {func(c *Config) { c.Keys.Algorithm = "RS256" }, "keys.algorithm (BERTH_KEYS_ALGORITHM)"},
		"no algorithm":            {func(c *Config) { c.Keys.Algorithm = "" }, "keys.algorithm (BERTH_KEYS_ALGORITHM)"},
		"rotation at least":       {func(c *Config) { c.Keys.Rotation = time.Hour }, ""},
		"rotation short":          {func(c *Config) { c.Keys.Rotation = time.Hour - 1 }, "keys.rotation (BERTH_KEYS_ROTATION)"},
		"rotation long":           {func(c *Config) { c.Keys.Rotation = 365*24*time.Hour + 1 }, "keys.rotation (BERTH_KEYS_ROTATION)"},
		"publish at least":        {func(c *Config) { c.Keys.Publish = 10 * time.Second }, ""},
		"publish short":           {func(c *Config) { c.Keys.Publish = 10*time.Second - 1 }, "keys.publish (BERTH_KEYS_PUBLISH)"},
		"publish long":            {func(c *Config) { c.Keys.Publish = 24*time.Hour + 1 }, "keys.publish (BERTH_KEYS_PUBLISH)"},
		"publish half a rotation": {func(c *Config) { c.Keys.Rotation, c.Keys.Publish = time.Hour, 30*time.Minute }, ""},
		"publish over half":       {func(c *Config) { c.Keys.Rotation, c.Keys.Publish = time.Hour, 31*time.Minute }, "at most half of keys.rotation"},
		"refresh window at least": {func(c *Config) { c.RefreshWindow = 10 * time.Second }, ""},
		"refresh window at most":  {func(c *Config) { c.RefreshWindow = time.Hour - 10*time.Second }, ""},
		"refresh window short":    {func(c *Config) { c.RefreshWindow = 10*time.Second - 1 }, "refresh_window (BERTH_REFRESH_WINDOW)"},
		"refresh window long":     {func(c *Config) { c.RefreshWindow = time.Hour - 10*time.Second + 1 }, "refresh_window (BERTH_REFRESH_WINDOW)"},
		"retention at least":      {func(c *Config) { c.RevocationRetention = 25 * time.Hour }, ""},
		"retention short":         {func(c *Config) { c.RevocationRetention = 25*time.Hour - 1 }, "revocation_retention (BERTH_REVOCATION_RETENTION)"},
		"retention long":          {func(c *Config) { c.RevocationRetention = 366 * 24 * time.Hour }, "revocation_retention (BERTH_REVOCATION_RETENTION)"},
		"ticket lifetime minimum": {func(c *Config) { c.TicketLifetime = 10 * time.Second }, ""},
		"ticket lifetime maximum": {func(c *Config) { c.TicketLifetime = 15 * time.Minute }, ""},
		"ticket lifetime short":   {func(c *Config) { c.TicketLifetime = 0 }, "ticket_lifetime (BERTH_TICKET_LIFETIME)"},
		"ticket lifetime long":    {func(c *Config) { c.TicketLifetime = 15*time.Minute + 1 }, "ticket_lifetime (BERTH_TICKET_LIFETIME)"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := Default()
			cfg.SealingKey, cfg.Auth.InternalKey = sealingKey, "0123456789abcdef0123456789abcdef"
			tc.change(&cfg)
			err := cfg.Validate()
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

func TestSealingKey(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte("\n"+sealingKey.Reveal()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	short := filepath.Join(t.TempDir(), "short")
	if err := os.WriteFile(short, []byte("  31 characters and much space   "+strings.Repeat(" ", 32)), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		cfg  Config
		want string
	}{
		"given":        {Config{SealingKey: sealingKey}, ""},
		"in a file":    {Config{SealingKeyFile: file}, ""},
		"short":        {Config{SealingKey: sealingKey[1:]}, "sealing_key (BERTH_SEALING_KEY): needs at least 32 characters"},
		"file short":   {Config{SealingKeyFile: short}, "sealing_key_file (BERTH_SEALING_KEY_FILE): needs at least 32 characters"},
		"file missing": {Config{SealingKeyFile: file + "x"}, "sealing_key_file (BERTH_SEALING_KEY_FILE): open"},

		"previous":              {Config{SealingKey: sealingKey, PreviousSealingKey: sealingKey + "x"}, ""},
		"previous in a file":    {Config{SealingKey: sealingKey, PreviousSealingKeyFile: file}, ""},
		"previous short":        {Config{SealingKey: sealingKey, PreviousSealingKey: "x"}, "previous_sealing_key (BERTH_PREVIOUS_SEALING_KEY): needs at least 32 characters"},
		"previous file missing": {Config{SealingKey: sealingKey, PreviousSealingKeyFile: file + "x"}, "previous_sealing_key_file (BERTH_PREVIOUS_SEALING_KEY_FILE): open"},
		"previous file empty":   {Config{SealingKey: sealingKey, PreviousSealingKeyFile: os.DevNull}, "previous_sealing_key_file (BERTH_PREVIOUS_SEALING_KEY_FILE): is empty"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := tc.cfg.sealer()
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

func TestConfigFromFileAndEnvironment(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.yaml")
	doc := "log_level: warn\ngrpc_addr: 127.0.0.1:9\nredis: {addrs: [\"127.0.0.1:1\"]}\npair_lifetime: 90m\nsealing_key: " + sealingKey.Reveal() + "\n"
	if err := os.WriteFile(file, []byte(doc), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("BERTH_TICKET_LIFETIME", "30s")
	t.Setenv("BERTH_REDIS_ADDRS", "127.0.0.1:2,127.0.0.1:3")
	t.Setenv("BERTH_AUTH_INTERNAL_KEY", "internal")
	cfg := Default()
	if err := conf.Load(file, &cfg); err != nil {
		t.Fatal(err)
	}
	if cfg.LogLevel != "warn" || cfg.GRPCAddr != "127.0.0.1:9" || strings.Join(cfg.Redis.Addrs, " ") != "127.0.0.1:2 127.0.0.1:3" || cfg.SealingKey != sealingKey ||
		cfg.PairLifetime != 90*time.Minute || cfg.TicketLifetime != 30*time.Second || cfg.Auth.InternalKey != "internal" {
		t.Errorf("got %+v", cfg)
	}
	t.Setenv("BERTH_SEALING_KEY", "other")
	if err := conf.Load("", &cfg); err != nil || cfg.SealingKey != "other" {
		t.Errorf("got %v", err)
	}
	if v, ok := os.LookupEnv("BERTH_SEALING_KEY"); ok {
		t.Errorf("the sealing key stays in the environment: %d characters", len(v))
	}
}

// A gateway faces the internet. What it needs of this service is public; its certificate must not mint tokens.
func TestAGatewayMayNotMint(t *testing.T) {
	for _, peer := range Default().TLS.Peers {
		if peer == tlsx.Name("gateway") {
			t.Errorf("%s counts as a service", peer)
		}
	}
}
