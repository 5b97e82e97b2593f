// Package gateway is the edge: game servers link to it, and REST for backends passes through it. It keeps no state that matters.
package gateway

import (
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/berth-dev/berth/pkg/app"
	"github.com/berth-dev/berth/pkg/audit"
	"github.com/berth-dev/berth/pkg/auth"
	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/pkg/tlsx"

	"github.com/berth-dev/berth/services/gateway/internal/door"
	"github.com/berth-dev/berth/services/gateway/internal/rest"
)

// Config configures the gateway.
type Config struct {
	app.Process `yaml:",inline"`

	// EdgeAddr is where game servers connect: the link, REST and gRPC of GameServerService, and the public keys. Default 127.0.0.1:7001.
	EdgeAddr string `yaml:"edge_addr" env:"EDGE_ADDR"`
	// APIAddr is where backends and web tools inside connect: REST and OpenAPI. Default 127.0.0.1:7002.
	APIAddr string `yaml:"api_addr" env:"API_ADDR"`
	// EdgeTLS and APITLS are the certificates of the two; empty: no TLS there.
	EdgeTLS tlsx.KeyPair `yaml:"edge_tls" envPrefix:"EDGE_TLS_"`
	APITLS  tlsx.KeyPair `yaml:"api_tls" envPrefix:"API_TLS_"`
	// EdgeListener and APIListener, where set, are used instead of opening the addresses.
	EdgeListener net.Listener `yaml:"-"`
	APIListener  net.Listener `yaml:"-"`
	// Now, where set, tells the time by which handles expire and rates are measured, instead of the system's clock.
	Now func() time.Time `yaml:"-"`
	// MemoryInUse, where set, tells how many bytes of memory are in use, instead of the runtime.
	MemoryInUse func() int64 `yaml:"-"`

	// TrustedProxies are the networks (CIDR) of proxies in front of the gateway: from them, the address of who sent a request is taken from
	// X-Forwarded-For. Default: none.
	TrustedProxies []string `yaml:"trusted_proxies" env:"TRUSTED_PROXIES"`
	// AllowedHosts are the names by which requests may call the gateway (their Host, without a port); localhost stands for every loopback address, too.
	// Empty, the default: any.
	AllowedHosts []string `yaml:"allowed_hosts" env:"ALLOWED_HOSTS"`
	// CORS is for web pages that call the API.
	CORS CORS `yaml:"cors" envPrefix:"CORS_"`

	// GameInstance, TokenIssuer and Allocation are the gRPC targets of the services. Defaults 127.0.0.1:7101, :7102 and :7103.
	GameInstance string `yaml:"game_instance" env:"GAME_INSTANCE"`
	TokenIssuer  string `yaml:"token_issuer" env:"TOKEN_ISSUER"`
	Allocation   string `yaml:"allocation" env:"ALLOCATION"`

	// Redis is the store.
	Redis redisx.Config `yaml:"redis" envPrefix:"REDIS_"`
	// Auth has the internal key; API keys are checked by the services that they are shown to.
	Auth auth.Config `yaml:"auth" envPrefix:"AUTH_"`
	// TLS is the TLS between services. Without it they have to be on one machine, unless Insecure is set.
	TLS tlsx.Config `yaml:"tls" envPrefix:"TLS_"`
	// Insecure allows services to talk without TLS off this machine.
	Insecure bool `yaml:"insecure" env:"INSECURE"`
	// Audit says where refusals and acts are recorded.
	Audit audit.Settings `yaml:"audit" envPrefix:"AUDIT_"`

	// Heartbeat is how often link sockets are pinged; one that was silent for two heartbeats is cut. Default 10 s.
	Heartbeat time.Duration `yaml:"heartbeat" env:"HEARTBEAT"`
	// HelloTimeout is how long after the upgrade a socket's Hello may come. Default 10 s.
	HelloTimeout time.Duration `yaml:"hello_timeout" env:"HELLO_TIMEOUT"`
	// RequestTimeout is how long a request over a socket may take. Default 10 s.
	RequestTimeout time.Duration `yaml:"request_timeout" env:"REQUEST_TIMEOUT"`
	// Lease is how long this gateway counts as alive without renewing. Default 10 s.
	Lease time.Duration `yaml:"lease" env:"LEASE"`
	// LeaseInterval is how often the lease is renewed. Default 2 s.
	LeaseInterval time.Duration `yaml:"lease_interval" env:"LEASE_INTERVAL"`
	// RelayStreams is how many streams to game-instance carry the requests. Default 4.
	RelayStreams int `yaml:"relay_streams" env:"RELAY_STREAMS"`
	// Limits bound what game servers may do.
	Limits Limits `yaml:"limits" envPrefix:"LIMIT_"`
}

// CORS says which web pages may call the API.
type CORS struct {
	// AllowedOrigins are their origins, exactly as browsers send them: https://tools.example.com. Default: none, so no page may.
	AllowedOrigins []string `yaml:"allowed_origins" env:"ALLOWED_ORIGINS"`
}

// Limits bound sockets, and what they and others may do.
type Limits struct {
	// Sockets is how many link sockets this gateway takes. Default 20,000.
	Sockets int `yaml:"sockets" env:"SOCKETS"`
	// FrameBytes is the largest frame that a server may send. Default 1 MiB + 64 KiB. The Hello of a server with 1000 instances may have 100 KB.
	FrameBytes int64 `yaml:"frame_bytes" env:"FRAME_BYTES"`
	// InFlight is how many requests on a socket may wait for an answer. Default 64.
	InFlight int `yaml:"in_flight" env:"IN_FLIGHT"`
	// Queue and QueueBytes bound the frames that wait to be written to a socket; one more closes it with SLOW_CONSUMER. Defaults 1024 and 4 MiB.
	Queue      int `yaml:"queue" env:"QUEUE"`
	QueueBytes int `yaml:"queue_bytes" env:"QUEUE_BYTES"`
	// MemoryBytes is how much memory the process may use before it takes no further link sockets. 0, the default: 90 % of GOMEMLIMIT, or else of the control
	// group's limit; where there is neither, any.
	MemoryBytes int64 `yaml:"memory_bytes" env:"MEMORY_BYTES"`
	// Rates are how often each may do something.
	Rates door.Rates `yaml:",inline"`
}

// maxInFlight is how many requests game-instance remembers for sure: a repeat of an older one would not be known as one.
const maxInFlight = 128

// Default returns the defaults.
func Default() Config {
	return Config{
		Process:  app.DefaultProcess("127.0.0.1:7194"),
		EdgeAddr: "127.0.0.1:7001", APIAddr: "127.0.0.1:7002",
		GameInstance: "127.0.0.1:7101", TokenIssuer: "127.0.0.1:7102", Allocation: "127.0.0.1:7103",
		Audit:     audit.DefaultSettings(),
		Redis:     redisx.Config{Addrs: []string{"127.0.0.1:6379"}, Partitions: 256},
		Heartbeat: 10 * time.Second, HelloTimeout: 10 * time.Second, RequestTimeout: 10 * time.Second,
		Lease: 10 * time.Second, LeaseInterval: 2 * time.Second, RelayStreams: 4,
		Limits: Limits{Sockets: 20_000, FrameBytes: 1<<20 + 64<<10, InFlight: 64, Queue: 1024, QueueBytes: 4 << 20, Rates: door.DefaultRates()},
	}
}

// Validate returns an error that names every setting that cannot be used.
func (c Config) Validate() error {
	var bad []error
	need := func(ok bool, setting, env, format string, args ...any) {
		if !ok {
			bad = append(bad, fmt.Errorf("%s (BERTH_%s): %s", setting, env, fmt.Sprintf(format, args...)))
		}
	}
	need(c.EdgeAddr != "" || c.EdgeListener != nil, "edge_addr", "EDGE_ADDR", "is empty")
	need(c.APIAddr != "" || c.APIListener != nil, "api_addr", "API_ADDR", "is empty")
	need(c.GameInstance != "", "game_instance", "GAME_INSTANCE", "is empty")
	need(c.TokenIssuer != "", "token_issuer", "TOKEN_ISSUER", "is empty")
	need(c.Allocation != "", "allocation", "ALLOCATION", "is empty")
	need(c.Heartbeat > 0, "heartbeat", "HEARTBEAT", "must be positive, not %v", c.Heartbeat)
	need(c.HelloTimeout > 0, "hello_timeout", "HELLO_TIMEOUT", "must be positive, not %v", c.HelloTimeout)
	need(c.RequestTimeout > 0, "request_timeout", "REQUEST_TIMEOUT", "must be positive, not %v", c.RequestTimeout)
	need(c.LeaseInterval > 0, "lease_interval", "LEASE_INTERVAL", "must be positive, not %v", c.LeaseInterval)
	need(c.Lease >= 3*c.LeaseInterval, "lease", "LEASE", "must be at least three times lease_interval (%v), not %v", c.LeaseInterval, c.Lease)
	need(c.RelayStreams > 0, "relay_streams", "RELAY_STREAMS", "must be positive, not %d", c.RelayStreams)
	need(c.Limits.Sockets > 0, "limits.sockets", "LIMIT_SOCKETS", "must be positive, not %d", c.Limits.Sockets)
	need(c.Limits.FrameBytes >= 1<<10, "limits.frame_bytes", "LIMIT_FRAME_BYTES", "must be at least 1024, not %d", c.Limits.FrameBytes)
	need(c.Limits.InFlight > 0 && c.Limits.InFlight <= maxInFlight, "limits.in_flight", "LIMIT_IN_FLIGHT", "must be 1 to %d, not %d", maxInFlight, c.Limits.InFlight)
	need(c.Limits.Queue > 0, "limits.queue", "LIMIT_QUEUE", "must be positive, not %d", c.Limits.Queue)
	need(c.Limits.QueueBytes > 0, "limits.queue_bytes", "LIMIT_QUEUE_BYTES", "must be positive, not %d", c.Limits.QueueBytes)
	need(c.Limits.MemoryBytes >= 0, "limits.memory_bytes", "LIMIT_MEMORY_BYTES", "must not be negative, not %d", c.Limits.MemoryBytes)
	bad = append(bad, c.Limits.Rates.Validate(), door.ValidateProxies(c.TrustedProxies), door.ValidateHosts(c.AllowedHosts), rest.ValidateOrigins(c.CORS.AllowedOrigins))
	bad = append(bad, c.EdgeTLS.Validate("edge_tls"), c.APITLS.Validate("api_tls"), c.TLS.Validate(c.Insecure, c.addrs()), c.Audit.Validate())
	return errors.Join(append(bad, c.Auth.Validate())...)
}

// addrs are the addresses between services.
func (c Config) addrs() map[string]string {
	return map[string]string{"game_instance": c.GameInstance, "token_issuer": c.TokenIssuer, "allocation": c.Allocation}
}
