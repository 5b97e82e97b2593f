// Package conf reads a service's configuration: defaults, then a YAML file, then the environment. Unknown keys of the file
// and values that cannot be read are errors that name what to change.
package conf

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/caarlos0/env/v11"
	"go.yaml.in/yaml/v3"
)

// Secret is a value that is never printed. Read it with Reveal.
type Secret string

const redacted = "(secret)"

// Reveal returns the value.
func (s Secret) Reveal() string { return string(s) }

// String hides the value.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return redacted
}

// GoString hides the value.
func (s Secret) GoString() string { return s.String() }

// LogValue hides the value from slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalYAML hides the value when a configuration is printed.
func (s Secret) MarshalYAML() (any, error) { return s.String(), nil }

// MarshalJSON hides the value when a configuration is printed.
func (s Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + s.String() + `"`), nil }

// Load fills cfg, which holds the defaults, from the YAML file at path (none if empty) and then from the environment,
// whose variables the `env` tags of the fields name, after "BERTH_".
func Load(path string, cfg any) error {
	if path != "" {
		raw, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("read configuration: %w", err)
		}
		dec := yaml.NewDecoder(bytes.NewReader(raw))
		dec.KnownFields(true)
		if err := dec.Decode(cfg); err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("configuration file %s: %w", path, err)
		}
	}
	if err := env.ParseWithOptions(cfg, env.Options{Prefix: "BERTH_"}); err != nil {
		return fmt.Errorf("configuration from the environment: %w", err)
	}
	return nil
}
