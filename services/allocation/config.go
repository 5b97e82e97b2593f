package allocation

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"regexp"

	"github.com/berth-dev/berth/pkg/app"
	"github.com/berth-dev/berth/pkg/audit"
	"github.com/berth-dev/berth/pkg/auth"
	"github.com/berth-dev/berth/pkg/egress"
	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/pkg/tlsx"
	"github.com/berth-dev/berth/services/allocation/internal/allocator"
	"github.com/berth-dev/berth/services/allocation/internal/placement"
	"github.com/berth-dev/berth/services/allocation/providers"
)

// Config configures the service.
type Config struct {
	app.Process `yaml:",inline"`
	// GRPCAddr is where the service listens. Default 127.0.0.1:7103.
	GRPCAddr string `yaml:"grpc_addr" env:"GRPC_ADDR"`
	// GRPCListener is used instead of GRPCAddr, where the program opened it already.
	GRPCListener net.Listener `yaml:"-"`
	// Redis is where allocations are kept.
	Redis redisx.Config `yaml:"redis" envPrefix:"REDIS_"`
	// Auth says whom to know.
	Auth auth.Config `yaml:"auth" envPrefix:"AUTH_"`
	// TLS is the TLS between services. Without it they have to be on one machine, unless Insecure is set.
	TLS tlsx.ServerConfig `yaml:"tls" envPrefix:"TLS_"`
	// Insecure allows services to talk without TLS off this machine.
	Insecure bool `yaml:"insecure" env:"INSECURE"`
	// Audit says where refusals and acts are recorded.
	Audit audit.Settings `yaml:"audit" envPrefix:"AUDIT_"`
	// Egress says to which addresses beyond the internet Berth connects for what its configuration names, such as identity providers.
	Egress egress.Config `yaml:"egress" envPrefix:"EGRESS_"`
	// GameInstance and TokenIssuer are the gRPC targets of the other services. Defaults 127.0.0.1:7101 and 127.0.0.1:7102.
	GameInstance string `yaml:"game_instance" env:"GAME_INSTANCE"`
	TokenIssuer  string `yaml:"token_issuer" env:"TOKEN_ISSUER"`
	// GatewayURL is the base URL of the gateway's edge, as game servers reach it. Default http://127.0.0.1:7001.
	GatewayURL string `yaml:"gateway_url" env:"GATEWAY_URL"`
	// GatewayCAFile has certificates (PEM) of the authorities that sign the gateway's, for game servers on machines that do not know them. It is read at the
	// start, and goes into the bootstrap document. Default: none, the authorities of their systems.
	GatewayCAFile string `yaml:"gateway_ca_file" env:"GATEWAY_CA_FILE"`
	// Deployment is the name of this deployment of Berth. Servers are marked with it at their hosts, so that two deployments that share one touch nothing of
	// each other. Changing it makes Berth forget what is marked with the old one. Default berth.
	Deployment string `yaml:"deployment" env:"DEPLOYMENT"`
	// Providers are the hosting providers, in the order in which they are preferred.
	Providers []providers.Config `yaml:"providers"`
	// Queue bounds who waits for room.
	Queue Queue `yaml:"queue" envPrefix:"QUEUE_"`
	// Placement says at which of them servers are looked for, and in which order.
	Placement Placement `yaml:"placement"`
}

// Queue says how many may wait while nobody has room.
type Queue struct {
	// Limit is how many allocations may wait for one build; more are refused (ALLOCATION_QUEUE_FULL). Default 10000.
	Limit int `yaml:"limit" env:"LIMIT"`
}

// Placement is the placement policy as it is written down.
type Placement = placement.Config

// Default returns the defaults.
func Default() Config {
	return Config{
		Process:  app.DefaultProcess("127.0.0.1:7193"),
		GRPCAddr: "127.0.0.1:7103",

		Deployment: "berth",
		Redis:      redisx.Config{Addrs: []string{"127.0.0.1:6379"}, Partitions: 256},
		Audit:      audit.DefaultSettings(),
		TLS:        tlsx.ServerConfig{Peers: []string{tlsx.Name("game-instance")}},

		Queue:        Queue{Limit: allocator.DefaultQueueLimit},
		GameInstance: "127.0.0.1:7101",
		TokenIssuer:  "127.0.0.1:7102",
		GatewayURL:   "http://127.0.0.1:7001",
	}
}

// Validate returns an error that names the setting to change.
func (c Config) Validate() error {
	switch {
	case c.GRPCAddr == "" && c.GRPCListener == nil:
		return errors.New("grpc_addr (BERTH_GRPC_ADDR): is needed")
	case c.GameInstance == "":
		return errors.New("game_instance (BERTH_GAME_INSTANCE): is needed")
	case !deploymentName.MatchString(c.Deployment):
		return errors.New("deployment (BERTH_DEPLOYMENT): must be 1 to 63 lower-case letters, digits and '-'")
	case c.TokenIssuer == "":
		return errors.New("token_issuer (BERTH_TOKEN_ISSUER): is needed")
	case c.Queue.Limit < 1:
		return errors.New("queue.limit (BERTH_QUEUE_LIMIT): must be at least 1")
	case len(c.Providers) == 0:
		return errors.New("providers: at least one is needed; kind process runs servers on this machine")
	}
	u, err := url.Parse(c.GatewayURL)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return errors.New("gateway_url (BERTH_GATEWAY_URL): must be a base URL such as https://edge.example.com")
	}
	if c.GatewayCAFile != "" && u.Scheme != "https" {
		return errors.New("gateway_ca_file (BERTH_GATEWAY_CA_FILE): is for a gateway_url (BERTH_GATEWAY_URL) with https")
	}
	seen := make(map[string]bool, len(c.Providers))
	for _, p := range c.Providers {
		if err := p.Check(); err != nil {
			return err
		}
		if seen[p.Name] {
			return fmt.Errorf("providers: two are named %q", p.Name)
		}
		seen[p.Name] = true
	}
	return errors.Join(c.Placement.Validate(c.names()), c.Auth.Validate(), c.TLS.Validate(c.Insecure, c.addrs()), c.Audit.Validate(), c.Egress.Validate())
}

// names are those of the providers.
func (c Config) names() []string {
	out := make([]string, 0, len(c.Providers))
	for _, p := range c.Providers {
		out = append(out, p.Name)
	}
	return out
}

var deploymentName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// maxGatewayCA keeps the bootstrap document within what fits everywhere.
const maxGatewayCA = 32 << 10

// gatewayCA returns the certificates of GatewayCAFile.
func (c Config) gatewayCA() (string, error) {
	if c.GatewayCAFile == "" {
		return "", nil
	}
	raw, err := os.ReadFile(c.GatewayCAFile)
	switch {
	case err != nil:
		return "", fmt.Errorf("gateway_ca_file (BERTH_GATEWAY_CA_FILE): %w", err)
	case len(raw) > maxGatewayCA:
		return "", fmt.Errorf("gateway_ca_file (BERTH_GATEWAY_CA_FILE): %s has %d bytes, and %d fit into a bootstrap document", c.GatewayCAFile, len(raw), maxGatewayCA)
	case !x509.NewCertPool().AppendCertsFromPEM(raw):
		return "", fmt.Errorf("gateway_ca_file (BERTH_GATEWAY_CA_FILE): %s has no certificate in PEM", c.GatewayCAFile)
	}
	return string(raw), nil
}

// addrs are the addresses between services.
func (c Config) addrs() map[string]string {
	return map[string]string{"grpc_addr": tlsx.ListenAddr(c.GRPCListener, c.GRPCAddr), "game_instance": c.GameInstance, "token_issuer": c.TokenIssuer}
}
