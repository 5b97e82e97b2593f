// Package gameinstance is the service that owns game instances, game servers' sessions and their mailboxes.
package gameinstance

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/berth-dev/berth/pkg/app"
	"github.com/berth-dev/berth/pkg/audit"
	"github.com/berth-dev/berth/pkg/auth"
	"github.com/berth-dev/berth/pkg/egress"
	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/pkg/tlsx"
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
	// TLS is the TLS between services. Without it they have to be on one machine, unless Insecure is set.
	TLS tlsx.ServerConfig `yaml:"tls" envPrefix:"TLS_"`
	// Insecure allows services to talk without TLS off this machine.
	Insecure bool `yaml:"insecure" env:"INSECURE"`
	// Audit says where refusals and acts are recorded.
	Audit audit.Settings `yaml:"audit" envPrefix:"AUDIT_"`
	// Egress says to which addresses beyond the internet Berth connects for what its configuration names, such as identity providers.
	Egress egress.Config `yaml:"egress" envPrefix:"EGRESS_"`
	// TokenIssuer is the gRPC target of the token-issuer.
	TokenIssuer string `yaml:"token_issuer" env:"TOKEN_ISSUER"`
	// Allocation is the gRPC target of the allocation service.
	Allocation string `yaml:"allocation" env:"ALLOCATION"`
	// Timeouts are for instances that do not say. 0 is off.
	Timeouts Timeouts `yaml:"timeouts" envPrefix:"TIMEOUT_"`
	// Timers say when deadlines are put off because Berth, and not the server, may be to blame.
	Timers Timers `yaml:"timers" envPrefix:"TIMER_"`
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

// Timers say when deadlines are put off.
type Timers struct {
	// Gap is how long no sweep may run before the time does not count.
	Gap time.Duration `yaml:"gap" env:"GAP"`
	// Hold is how long nothing expires after a gap; 0 is off.
	Hold time.Duration `yaml:"hold" env:"HOLD"`
	// MassLossShare of the links has to be lost for a mass loss; 1 is off.
	MassLossShare float64 `yaml:"mass_loss_share" env:"MASS_LOSS_SHARE"`
	// MassLossMin is how many links have to be lost at least for a mass loss.
	MassLossMin int64 `yaml:"mass_loss_min" env:"MASS_LOSS_MIN"`
	// MassLossLimit is how old a loss may be to count and to be held.
	MassLossLimit time.Duration `yaml:"mass_loss_limit" env:"MASS_LOSS_LIMIT"`
}

// Default returns the documented defaults.
func Default() Config {
	return Config{
		Process:  app.DefaultProcess("127.0.0.1:7191"),
		GRPCAddr: "127.0.0.1:7101", TokenIssuer: "127.0.0.1:7102", Allocation: "127.0.0.1:7103",
		Redis: redisx.Config{Addrs: []string{"127.0.0.1:6379"}, Partitions: 256},
		Audit: audit.DefaultSettings(),
		TLS:   tlsx.ServerConfig{Peers: []string{tlsx.Name("allocation"), tlsx.Name("gateway")}},
		Timeouts: Timeouts{
			Allocation: 120 * time.Second, Link: 60 * time.Second, ConnectPlayers: 60 * time.Second, DisconnectGrace: 60 * time.Second, Retention: time.Hour,
		},
		Timers: Timers{Gap: 5 * time.Second, Hold: 60 * time.Second, MassLossShare: 0.3, MassLossMin: 10, MassLossLimit: 10 * time.Minute},
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
	return errors.Join(append(wrong, c.Timers.validate(), c.Auth.Validate(), c.TLS.Validate(c.Insecure, c.addrs()), c.Audit.Validate(), c.Egress.Validate())...)
}

// addrs are the addresses between services.
func (c Config) addrs() map[string]string {
	return map[string]string{"grpc_addr": tlsx.ListenAddr(c.GRPCListener, c.GRPCAddr), "token_issuer": c.TokenIssuer, "allocation": c.Allocation}
}

// minGap leaves room for some sweeps in a gap.
const minGap = 500 * time.Millisecond

func (t Timers) validate() error {
	var wrong []error
	if t.Gap < minGap {
		wrong = append(wrong, fmt.Errorf("timers.gap (BERTH_TIMER_GAP): must be at least %s", minGap))
	}
	if t.Hold < 0 {
		wrong = append(wrong, errors.New("timers.hold (BERTH_TIMER_HOLD): must not be below 0 (0 is off)"))
	}
	if !(t.MassLossShare > 0 && t.MassLossShare <= 1) {
		wrong = append(wrong, errors.New("timers.mass_loss_share (BERTH_TIMER_MASS_LOSS_SHARE): must be above 0 and at most 1 (1 is off)"))
	}
	if t.MassLossMin < 1 {
		wrong = append(wrong, errors.New("timers.mass_loss_min (BERTH_TIMER_MASS_LOSS_MIN): must be at least 1"))
	}
	if t.MassLossLimit < 0 {
		wrong = append(wrong, errors.New("timers.mass_loss_limit (BERTH_TIMER_MASS_LOSS_LIMIT): must not be below 0 (0 is off)"))
	}
	return errors.Join(wrong...)
}
