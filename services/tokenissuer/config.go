package tokenissuer

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/berth-dev/berth/pkg/app"
	"github.com/berth-dev/berth/pkg/audit"
	"github.com/berth-dev/berth/pkg/auth"
	"github.com/berth-dev/berth/pkg/conf"
	"github.com/berth-dev/berth/pkg/egress"
	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/pkg/tlsx"
	sdk "github.com/berth-dev/berth/sdk/go/token"
	"github.com/berth-dev/berth/services/tokenissuer/internal/token"
)

// Config configures the service.
type Config struct {
	app.Process `yaml:",inline"`

	// GRPCAddr is where TokenService listens. Default 127.0.0.1:7102.
	GRPCAddr string `yaml:"grpc_addr" env:"GRPC_ADDR"`
	// Redis is where the sealed signing keys are kept.
	Redis redisx.Config `yaml:"redis" envPrefix:"REDIS_"`
	// Auth says who may call.
	Auth auth.Config `yaml:"auth" envPrefix:"AUTH_"`
	// TLS is the TLS between services. Without it they have to be on one machine, unless Insecure is set.
	TLS tlsx.ServerConfig `yaml:"tls" envPrefix:"TLS_"`
	// Insecure allows services to talk without TLS off this machine.
	Insecure bool `yaml:"insecure" env:"INSECURE"`
	// Audit says where refusals and acts are recorded.
	Audit audit.Settings `yaml:"audit" envPrefix:"AUDIT_"`
	// Egress says to which addresses beyond the internet Berth connects for what its configuration names, such as identity providers.
	Egress egress.Config `yaml:"egress" envPrefix:"EGRESS_"`

	// SealingKey encrypts the signing keys in Redis. At least 32 characters, random, the same for all replicas, and kept: without it the
	// signing keys are lost.
	SealingKey conf.Secret `yaml:"sealing_key" env:"SEALING_KEY,unset"`
	// SealingKeyFile is a file that holds the sealing key instead, such as a mounted secret; space around the key does not count.
	SealingKeyFile string `yaml:"sealing_key_file" env:"SEALING_KEY_FILE"`
	// PreviousSealingKey opens signing keys that were sealed before the sealing key was changed; they are sealed anew at the start. It is needed until
	// all replicas have started with the new one.
	PreviousSealingKey conf.Secret `yaml:"previous_sealing_key" env:"PREVIOUS_SEALING_KEY,unset"`
	// PreviousSealingKeyFile is a file that holds it instead.
	PreviousSealingKeyFile string `yaml:"previous_sealing_key_file" env:"PREVIOUS_SEALING_KEY_FILE"`
	// Keys says how signing keys are made and rotated.
	Keys Keys `yaml:"keys" envPrefix:"KEYS_"`

	// PairLifetime is how long partner tokens are valid, 1 minute to 24 hours. Default 1 hour. All who verify add 30 seconds (token.Leeway) for clocks that
	// differ.
	PairLifetime time.Duration `yaml:"pair_lifetime" env:"PAIR_LIFETIME"`
	// RefreshWindow is how long before its expiry a game server is told to have its pair renewed: 10 seconds to 10 seconds less than the pair's lifetime; 0: a
	// half of that. Default 0. A wide window outlasts a longer outage.
	RefreshWindow time.Duration `yaml:"refresh_window" env:"REFRESH_WINDOW"`
	// TicketLifetime is how long players' tickets are valid, 10 seconds to 15 minutes. Default 2 minutes.
	TicketLifetime time.Duration `yaml:"ticket_lifetime" env:"TICKET_LIFETIME"`

	// RevocationRetention is how long a revocation is kept, 25 hours to 1 year. What was revoked must have expired by then, and must not be renewed after it:
	// a game server's session, by which an expired pair may be renewed, is kept for 30 days. Default 31 days.
	RevocationRetention time.Duration `yaml:"revocation_retention" env:"REVOCATION_RETENTION"`

	// GRPCListener is used instead of GRPCAddr if set, and closed by the service.
	GRPCListener net.Listener `yaml:"-"`
}

// Keys says how signing keys are made and rotated. It is the same for all replicas.
type Keys struct {
	// Algorithm is that of keys made from now on, EdDSA or ES256; the next rotation brings the first of them. Default EdDSA.
	Algorithm sdk.Algorithm `yaml:"algorithm" env:"ALGORITHM"`
	// Rotation is how long a key signs before the next one does, 1 hour to 1 year. Default 30 days.
	Rotation time.Duration `yaml:"rotation" env:"ROTATION"`
	// Publish is how long a key is in the key set before it signs, so that all who verify have it by then: 10 seconds to 24 hours, and at most half of the
	// rotation. Default 10 minutes.
	Publish time.Duration `yaml:"publish" env:"PUBLISH"`
}

// Default returns the defaults.
func Default() Config {
	return Config{
		Process:        app.DefaultProcess("127.0.0.1:7192"),
		GRPCAddr:       "127.0.0.1:7102",
		Redis:          redisx.Config{Addrs: []string{"127.0.0.1:6379"}, Partitions: 256},
		Keys:           Keys{Algorithm: sdk.EdDSA, Rotation: 30 * 24 * time.Hour, Publish: 10 * time.Minute},
		TLS:            tlsx.ServerConfig{Peers: []string{tlsx.Name("allocation"), tlsx.Name("game-instance")}},
		Audit:          audit.DefaultSettings(),
		PairLifetime:   time.Hour,
		TicketLifetime: 2 * time.Minute,

		RevocationRetention: 31 * 24 * time.Hour,
	}
}

// Validate returns an error that names the setting to change, and its environment variable.
func (c Config) Validate() error {
	var errList []error
	if c.GRPCListener == nil && c.GRPCAddr == "" {
		errList = append(errList, errors.New("grpc_addr (BERTH_GRPC_ADDR): must be set"))
	}
	if c.SealingKey == "" && c.SealingKeyFile == "" {
		errList = append(errList, errors.New("sealing_key (BERTH_SEALING_KEY) or sealing_key_file (BERTH_SEALING_KEY_FILE): one must be set"))
	}
	if c.SealingKey != "" && c.SealingKeyFile != "" {
		errList = append(errList, errors.New("sealing_key (BERTH_SEALING_KEY) and sealing_key_file (BERTH_SEALING_KEY_FILE): only one may be set"))
	}
	if c.PreviousSealingKey != "" && c.PreviousSealingKeyFile != "" {
		errList = append(errList, errors.New("previous_sealing_key (BERTH_PREVIOUS_SEALING_KEY) and previous_sealing_key_file (BERTH_PREVIOUS_SEALING_KEY_FILE): only one may be set"))
	}
	errList = append(errList, c.Keys.validate(),
		within("pair_lifetime (BERTH_PAIR_LIFETIME)", c.PairLifetime, time.Minute, token.MaxLifetime),
		c.Auth.Validate(),
		c.TLS.Validate(c.Insecure, c.addrs()), c.Audit.Validate(), c.Egress.Validate(),
		within("ticket_lifetime (BERTH_TICKET_LIFETIME)", c.TicketLifetime, 10*time.Second, 15*time.Minute),
		within("revocation_retention (BERTH_REVOCATION_RETENTION)", c.RevocationRetention, token.MaxLifetime+time.Hour, 365*24*time.Hour))
	if c.RefreshWindow != 0 {
		errList = append(errList, within("refresh_window (BERTH_REFRESH_WINDOW)", c.RefreshWindow, 10*time.Second, c.PairLifetime-10*time.Second))
	}
	return errors.Join(errList...)
}

// addrs are the addresses between services.
func (c Config) addrs() map[string]string {
	return map[string]string{"grpc_addr": tlsx.ListenAddr(c.GRPCListener, c.GRPCAddr)}
}

func within(setting string, d, low, high time.Duration) error {
	if d < low || d > high {
		return fmt.Errorf("%s: must be %v to %v, not %v", setting, low, high, d)
	}
	return nil
}

func (k Keys) validate() error {
	var errList []error
	if k.Algorithm != sdk.EdDSA && k.Algorithm != sdk.ES256 {
		errList = append(errList, fmt.Errorf("keys.algorithm (BERTH_KEYS_ALGORITHM): must be %s or %s, not %q", sdk.EdDSA, sdk.ES256, k.Algorithm))
	}
	errList = append(errList,
		within("keys.rotation (BERTH_KEYS_ROTATION)", k.Rotation, time.Hour, 365*24*time.Hour),
		within("keys.publish (BERTH_KEYS_PUBLISH)", k.Publish, 10*time.Second, 24*time.Hour))
	if k.Publish > k.Rotation/2 {
		errList = append(errList, fmt.Errorf("keys.publish (BERTH_KEYS_PUBLISH): must be at most half of keys.rotation (BERTH_KEYS_ROTATION), which is %v, not %v", k.Rotation, k.Publish))
	}
	return errors.Join(errList...)
}

// policy is what the ring needs to know.
func (c Config) policy() token.Policy {
	return token.Policy{
		Algorithm: c.Keys.Algorithm, Rotation: c.Keys.Rotation, Publish: c.Keys.Publish,
		Lifetime: max(c.PairLifetime, c.TicketLifetime),
	}
}

// rootKeys are the names of the root keys; package auth names the one without a name "root".
func (c Config) rootKeys() []string {
	names := []string{"root"}
	for _, k := range c.Auth.APIKeys {
		names = append(names, k.Name)
	}
	return names
}

// refreshWindow is how long before its expiry a pair should be renewed.
func (c Config) refreshWindow() time.Duration {
	if c.RefreshWindow == 0 {
		return c.PairLifetime / 2
	}
	return c.RefreshWindow
}

// sealer returns the Sealer of the configured sealing keys.
func (c Config) sealer() (*token.Sealer, error) {
	current, setting, err := secret("sealing_key", c.SealingKey, c.SealingKeyFile)
	if err != nil {
		return nil, err
	}
	if _, err := token.NewSealer(current, ""); err != nil {
		return nil, fmt.Errorf("%s: %w", setting, err)
	}
	previous, setting, err := secret("previous_sealing_key", c.PreviousSealingKey, c.PreviousSealingKeyFile)
	if err != nil {
		return nil, err
	}
	if previous == "" && c.PreviousSealingKeyFile != "" {
		return nil, fmt.Errorf("%s: is empty", setting)
	}
	s, err := token.NewSealer(current, previous)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", setting, err)
	}
	return s, nil
}

// secret returns a secret that is in a setting or in the file that a second one names, and the name of the one that has it.
func secret(setting string, value conf.Secret, file string) (secret conf.Secret, from string, err error) {
	variable := "BERTH_" + strings.ToUpper(setting)
	if file == "" {
		return value, fmt.Sprintf("%s (%s)", setting, variable), nil
	}
	from = fmt.Sprintf("%s_file (%s_FILE)", setting, variable)
	raw, err := os.ReadFile(file)
	if err != nil {
		return "", from, fmt.Errorf("%s: %w", from, err)
	}
	return conf.Secret(strings.TrimSpace(string(raw))), from, nil
}
