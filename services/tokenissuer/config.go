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
	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/pkg/tlsx"
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

	// SealingKey encrypts the signing keys in Redis. At least 32 characters, random, the same for all replicas, and kept: without it the
	// signing keys are lost.
	SealingKey conf.Secret `yaml:"sealing_key" env:"SEALING_KEY,unset"`
	// SealingKeyFile is a file that holds the sealing key instead, such as a mounted secret; space around the key does not count.
	SealingKeyFile string `yaml:"sealing_key_file" env:"SEALING_KEY_FILE"`

	// PairLifetime is how long partner tokens are valid, 1 minute to 24 hours. Default 1 hour.
	PairLifetime time.Duration `yaml:"pair_lifetime" env:"PAIR_LIFETIME"`
	// TicketLifetime is how long players' tickets are valid, 10 seconds to 15 minutes. Default 2 minutes.
	TicketLifetime time.Duration `yaml:"ticket_lifetime" env:"TICKET_LIFETIME"`

	// GRPCListener is used instead of GRPCAddr if set, and closed by the service.
	GRPCListener net.Listener `yaml:"-"`
}

// Default returns the defaults.
func Default() Config {
	return Config{
		Process:        app.Process{AdminAddr: "127.0.0.1:7192", LogLevel: "info", LogFormat: "json"},
		GRPCAddr:       "127.0.0.1:7102",
		Redis:          redisx.Config{Addrs: []string{"127.0.0.1:6379"}, Partitions: 256},
		Audit:          audit.DefaultSettings(),
		TLS:            tlsx.ServerConfig{Peers: []string{tlsx.Name("allocation"), tlsx.Name("game-instance")}},
		PairLifetime:   time.Hour,
		TicketLifetime: 2 * time.Minute,
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
	errList = append(errList,
		within("pair_lifetime (BERTH_PAIR_LIFETIME)", c.PairLifetime, time.Minute, 24*time.Hour),
		c.Auth.Validate(),
		c.TLS.Validate(c.Insecure, c.addrs()), c.Audit.Validate(),
		within("ticket_lifetime (BERTH_TICKET_LIFETIME)", c.TicketLifetime, 10*time.Second, 15*time.Minute))
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

// sealer returns the Sealer of the configured sealing key.
func (c Config) sealer() (*token.Sealer, error) {
	setting, key := "sealing_key (BERTH_SEALING_KEY)", c.SealingKey
	if c.SealingKeyFile != "" {
		setting = "sealing_key_file (BERTH_SEALING_KEY_FILE)"
		raw, err := os.ReadFile(c.SealingKeyFile)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", setting, err)
		}
		key = conf.Secret(strings.TrimSpace(string(raw)))
	}
	s, err := token.NewSealer(key)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", setting, err)
	}
	return s, nil
}
