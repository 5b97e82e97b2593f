// Package gameinstance is the service that owns game instances, game servers' sessions and their mailboxes.
package gameinstance

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/berth-dev/berth/pkg/app"
	"github.com/berth-dev/berth/pkg/auth"
	"github.com/berth-dev/berth/pkg/redisx"
)

// Config configures the service.
type Config struct {
	app.Process `yaml:",inline"`
	// GRPCAddr is where the service listens.
	GRPCAddr string `yaml:"grpc_addr" env:"GRPC_ADDR"`
	// GRPCListener is used instead of GRPCAddr where the caller has opened it already.
	GRPCListener net.Listener `yaml:"-"`
	// Redis is the store.
	Redis redisx.Config `yaml:"redis" envPrefix:"REDIS_"`
	// Auth knows the callers.
	Auth auth.Config `yaml:"auth" envPrefix:"AUTH_"`
	// TokenIssuer is the gRPC target of the token-issuer.
	TokenIssuer string `yaml:"token_issuer" env:"TOKEN_ISSUER"`
	// Allocation is the gRPC target of the allocation service.
	Allocation string `yaml:"allocation" env:"ALLOCATION"`
	// Timeouts are for instances that do not say. 0 is off.
	Timeouts Timeouts `yaml:"timeouts" envPrefix:"TIMEOUT_"`
}

// Timeouts bound the phases of an instance's life; 0 is off.
type Timeouts struct {
	Allocation      time.Duration `yaml:"allocation" env:"ALLOCATION"`
	Link            time.Duration `yaml:"link" env:"LINK"`
	ConnectPlayers  time.Duration `yaml:"connect_players" env:"CONNECT_PLAYERS"`
	DisconnectGrace time.Duration `yaml:"disconnect_grace" env:"DISCONNECT_GRACE"`
	Lifetime        time.Duration `yaml:"lifetime" env:"LIFETIME"`
	Retention       time.Duration `yaml:"retention" env:"RETENTION"`
}

// Default returns the documented defaults.
func Default() Config {
	return Config{
		Process:  app.Process{AdminAddr: "127.0.0.1:7191", LogLevel: "info", LogFormat: "json"},
		GRPCAddr: "127.0.0.1:7101", TokenIssuer: "127.0.0.1:7102", Allocation: "127.0.0.1:7103",
		Redis: redisx.Config{Addrs: []string{"127.0.0.1:6379"}, Partitions: 256},
		Timeouts: Timeouts{
			Allocation: 120 * time.Second, Link: 60 * time.Second, ConnectPlayers: 60 * time.Second, DisconnectGrace: 60 * time.Second, Retention: time.Hour,
		},
	}
}

// Validate says what is wrong with the configuration, naming the settings.
func (c Config) Validate() error {
	var wrong []error
	if c.TokenIssuer == "" {
		wrong = append(wrong, errors.New("token_issuer (BERTH_TOKEN_ISSUER): the token-issuer's address is missing"))
	}
	if c.Allocation == "" {
		wrong = append(wrong, errors.New("allocation (BERTH_ALLOCATION): the allocation service's address is missing"))
	}
	t := c.Timeouts
	for name, d := range map[string]time.Duration{
		"allocation": t.Allocation, "link": t.Link, "connect_players": t.ConnectPlayers, "disconnect_grace": t.DisconnectGrace, "lifetime": t.Lifetime, "retention": t.Retention,
	} {
		if d < 0 {
			wrong = append(wrong, fmt.Errorf("timeouts.%s (BERTH_TIMEOUT_%s): must not be below 0 (0 is off)", name, strings.ToUpper(name)))
		}
	}
	return errors.Join(append(wrong, c.Auth.Validate())...)
}
