// Package providers lists the providers that are built in.
package providers

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"google.golang.org/grpc"

	"github.com/berth-dev/berth/pkg/errs"
	poolv1 "github.com/berth-dev/berth/pkg/gen/berth/pool/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/providers/agones"
	"github.com/berth-dev/berth/services/allocation/providers/attach"
	"github.com/berth-dev/berth/services/allocation/providers/edgegap"
	"github.com/berth-dev/berth/services/allocation/providers/gamelift"
	"github.com/berth-dev/berth/services/allocation/providers/hathora"
	"github.com/berth-dev/berth/services/allocation/providers/kubernetes"
	"github.com/berth-dev/berth/services/allocation/providers/multiplay"
	"github.com/berth-dev/berth/services/allocation/providers/playfab"
	"github.com/berth-dev/berth/services/allocation/providers/process"
	"github.com/berth-dev/berth/services/allocation/providers/remote"
	"github.com/berth-dev/berth/services/allocation/providers/static"
)

// Config is one provider in a service's configuration.
type Config struct {
	// Name of the provider; unique.
	Name string `yaml:"name"`
	// Kind says which of the built-in providers it is, and which of the blocks below counts.
	Kind string `yaml:"kind"`
	// Credentials is what the bootstrap document of its servers has: tokens (default), or claim, a code that a server exchanges for them. A code is for
	// hosts that log or show what they start servers with.
	Credentials string `yaml:"credentials"`
	// MaxServers is how many servers it may have for allocations at once, over all replicas; 0: no limit.
	MaxServers int `yaml:"max_servers"`
	// MaxCalls is how many allocations may turn to it at once, in one replica; the rest waits. Default 128.
	MaxCalls int `yaml:"max_calls"`
	// Timeout is how long it may take for an answer. Default 30s.
	Timeout time.Duration `yaml:"timeout"`
	// Process runs servers as processes on this machine.
	Process process.Config `yaml:"process,omitempty"`
	// Attach waits for servers that are started by hand.
	Attach attach.Config `yaml:"attach,omitempty"`
	// Remote calls a plugin, a provider that is a process of its own.
	Remote remote.Config `yaml:"remote,omitempty"`
	// Static places instances on servers of a warm pool.
	Static static.Config `yaml:"static,omitempty"`
	// Hathora has a room of Hathora Cloud for each server.
	Hathora hathora.Config `yaml:"hathora,omitempty"`
	// Edgegap has a deployment at Edgegap for each server.
	Edgegap edgegap.Config `yaml:"edgegap,omitempty"`
	// PlayFab has a session of PlayFab Multiplayer Servers for each server.
	PlayFab playfab.Config `yaml:"playfab,omitempty"`
	// Multiplay has an allocation of a Multiplay fleet's server for each server.
	Multiplay multiplay.Config `yaml:"multiplay,omitempty"`
	// GameLift has a game session of Amazon GameLift Servers for each server.
	GameLift gamelift.Config `yaml:"gamelift,omitempty"`
	// Kubernetes has a Pod of a cluster for each server.
	Kubernetes kubernetes.Config `yaml:"kubernetes,omitempty"`
	// Agones has an allocated GameServer of a fleet for each server.
	Agones agones.Config `yaml:"agones,omitempty"`
}

// Deps are what the providers have of the service.
type Deps struct {
	// Log is where they say what is to be told.
	Log *slog.Logger
	// GameInstance is the service's connection to game-instance, with its internal key.
	GameInstance grpc.ClientConnInterface
	// Deployment is what servers are marked with.
	Deployment string
}

// Limits of a provider's settings.
const (
	maxName    = 63
	maxCalls   = 10_000
	minTimeout = 100 * time.Millisecond
	maxTimeout = 10 * time.Minute
)

// What a bootstrap document has.
const (
	// CredentialsTokens: both tokens.
	CredentialsTokens = "tokens"
	// CredentialsClaim: a claim code.
	CredentialsClaim = "claim"
)

// Claims reports whether servers are given a claim code in place of their tokens.
func (c Config) Claims() bool { return c.Credentials == CredentialsClaim }

// Pooled reports whether the servers are there already, with credentials of their own.
func (c Config) Pooled() bool { return c.Kind == kindStatic }

// kindStatic is the kind of pools.
const kindStatic = "static"

// Plugin is a provider as this process calls it. One that can be away also has the method of host.Living. Close it when nothing calls it any more.
type Plugin interface {
	provider.Provider
	// Close ends what the provider runs for itself, and waits for it until the context ends.
	Close(ctx context.Context) error
}

type builtin struct {
	kind string
	open func(ctx context.Context, cfg Config, deps Deps) (Plugin, error)
}

// builtins lists the kinds. A new provider is one line here.
func builtins() []builtin {
	return []builtin{
		{"process", func(ctx context.Context, cfg Config, deps Deps) (Plugin, error) {
			cfg.Process.Name, cfg.Process.Log = cfg.Name, deps.Log
			return process.New(ctx, cfg.Process)
		}},
		{"attach", func(ctx context.Context, cfg Config, deps Deps) (Plugin, error) {
			cfg.Attach.Name, cfg.Attach.Log = cfg.Name, deps.Log
			return attach.New(ctx, cfg.Attach)
		}},
		{"remote", func(ctx context.Context, cfg Config, deps Deps) (Plugin, error) {
			cfg.Remote.Name, cfg.Remote.Log = cfg.Name, deps.Log
			return remote.New(ctx, cfg.Remote)
		}},
		{kindStatic, func(_ context.Context, cfg Config, deps Deps) (Plugin, error) {
			cfg.Static.Deployment = deps.Deployment
			return static.New(cfg.Static, poolv1.NewPoolServiceClient(deps.GameInstance))
		}},
		{"hathora", func(_ context.Context, cfg Config, _ Deps) (Plugin, error) { return hathora.New(cfg.Hathora) }},
		{"edgegap", func(_ context.Context, cfg Config, _ Deps) (Plugin, error) { return edgegap.New(cfg.Edgegap) }},
		{"playfab", func(_ context.Context, cfg Config, _ Deps) (Plugin, error) { return playfab.New(cfg.PlayFab) }},
		{"multiplay", func(_ context.Context, cfg Config, _ Deps) (Plugin, error) { return multiplay.New(cfg.Multiplay) }},
		{"gamelift", func(ctx context.Context, cfg Config, deps Deps) (Plugin, error) {
			cfg.GameLift.Log = deps.Log
			return gamelift.New(ctx, cfg.GameLift)
		}},
		{"kubernetes", func(_ context.Context, cfg Config, _ Deps) (Plugin, error) { return kubernetes.New(cfg.Kubernetes) }},
		{"agones", func(_ context.Context, cfg Config, _ Deps) (Plugin, error) { return agones.New(cfg.Agones) }},
	}
}

// Check returns an error unless the configuration names a kind that is built in, and credentials that there are.
func (c Config) Check() error {
	if _, err := c.find(); err != nil {
		return err
	}
	switch {
	case len(c.Name) > maxName:
		return errs.New(errs.ValidationFailed, "provider %q: the name has %d bytes; at most %d can be drained or given a weight", c.Name, len(c.Name), maxName)
	case c.MaxServers < 0:
		return errs.New(errs.ValidationFailed, "provider %q: max_servers: %d is less than 0, which is no limit", c.Name, c.MaxServers)
	case c.MaxCalls < 0 || c.MaxCalls > maxCalls:
		return errs.New(errs.ValidationFailed, "provider %q: max_calls: %d is not 1 to %d, or 0 for the default", c.Name, c.MaxCalls, maxCalls)
	case c.Timeout != 0 && (c.Timeout < minTimeout || c.Timeout > maxTimeout):
		return errs.New(errs.ValidationFailed, "provider %q: timeout: %v is not %v to %v", c.Name, c.Timeout, minTimeout, maxTimeout)
	}
	switch c.Credentials {
	case "", CredentialsTokens, CredentialsClaim:
		return nil
	default:
		return errs.New(errs.ValidationFailed, "provider %q: credentials: %q is neither %s nor %s", c.Name, c.Credentials, CredentialsTokens, CredentialsClaim)
	}
}

func (c Config) find() (builtin, error) {
	if c.Name == "" {
		return builtin{}, errs.New(errs.ValidationFailed, "providers: one of kind %q has no name", c.Kind)
	}
	var known []string
	for _, b := range builtins() {
		if b.kind == c.Kind {
			return b, nil
		}
		known = append(known, b.kind)
	}
	return builtin{}, errs.New(errs.ValidationFailed, "provider %q: kind %q is none of %s", c.Name, c.Kind, strings.Join(known, ", "))
}

// Open starts a configured provider.
func Open(ctx context.Context, cfg Config, deps Deps) (Plugin, error) {
	b, err := cfg.find()
	if err != nil {
		return nil, err
	}
	p, err := b.open(ctx, cfg, deps)
	if err != nil {
		return nil, fmt.Errorf("provider %q: %w", cfg.Name, err)
	}
	return p, nil
}
