// Package providers lists the providers that are built in.
package providers

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/providers/attach"
	"github.com/berth-dev/berth/services/allocation/providers/process"
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
	// Process runs servers as processes on this machine.
	Process process.Config `yaml:"process,omitempty"`
	// Attach waits for servers that are started by hand.
	Attach attach.Config `yaml:"attach,omitempty"`
}

// What a bootstrap document has.
const (
	// CredentialsTokens: both tokens.
	CredentialsTokens = "tokens"
	// CredentialsClaim: a claim code.
	CredentialsClaim = "claim"
)

// Claims reports whether servers are given a claim code in place of their tokens.
func (c Config) Claims() bool { return c.Credentials == CredentialsClaim }

// Plugin is a provider in this process. Close it when nothing calls it any more.
type Plugin interface {
	provider.Provider
	// Close ends what the provider runs for itself, and waits for it until the context ends.
	Close(ctx context.Context) error
}

type builtin struct {
	kind string
	open func(ctx context.Context, cfg Config, log *slog.Logger) (Plugin, error) // nil: planned
}

// builtins lists the kinds. A new provider is one line here.
func builtins() []builtin {
	return []builtin{
		{"process", func(ctx context.Context, cfg Config, log *slog.Logger) (Plugin, error) {
			cfg.Process.Name, cfg.Process.Log = cfg.Name, log
			return process.New(ctx, cfg.Process)
		}},
		{"attach", func(ctx context.Context, cfg Config, log *slog.Logger) (Plugin, error) {
			cfg.Attach.Name, cfg.Attach.Log = cfg.Name, log
			return attach.New(ctx, cfg.Attach)
		}},
		{kind: "static"}, {kind: "remote"}, {kind: "agones"}, {kind: "kubernetes"}, {kind: "gamelift"},
		{kind: "multiplay"}, {kind: "hathora"}, {kind: "edgegap"}, {kind: "playfab"},
	}
}

// Check returns an error unless the configuration names a kind that is built in, and credentials that there are.
func (c Config) Check() error {
	if _, err := c.find(); err != nil {
		return err
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
		switch {
		case b.kind == c.Kind && b.open == nil:
			return b, errs.New(errs.NotImplemented, "provider %q: kind %s is planned and not built yet", c.Name, c.Kind)
		case b.kind == c.Kind:
			return b, nil
		case b.open != nil:
			known = append(known, b.kind)
		}
	}
	return builtin{}, errs.New(errs.ValidationFailed, "provider %q: kind %q is none of %s", c.Name, c.Kind, strings.Join(known, ", "))
}

// Open starts a configured provider.
func Open(ctx context.Context, cfg Config, log *slog.Logger) (Plugin, error) {
	b, err := cfg.find()
	if err != nil {
		return nil, err
	}
	p, err := b.open(ctx, cfg, log)
	if err != nil {
		return nil, fmt.Errorf("provider %q: %w", cfg.Name, err)
	}
	return p, nil
}
