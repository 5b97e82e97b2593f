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
	"reflect"
	"strings"

	"github.com/caarlos0/env/v11"
	"go.yaml.in/yaml/v3"
)

// Secret is a value that is never printed. Read it with Reveal.
type Secret string

const redacted = "(secret)"

// prefix begins the name of every variable.
const prefix = "BERTH_"

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
	environ := env.ToMap(os.Environ()) // as it is before secrets are taken out of it
	if err := env.ParseWithOptions(cfg, env.Options{Prefix: prefix}); err != nil {
		if named := unreadable(reflect.TypeOf(cfg).Elem(), "", prefix, environ); named != nil {
			err = named
		}
		return fmt.Errorf("configuration from the environment: %w", err)
	}
	return nil
}

// unreadable returns an error that names each setting of a configuration whose variable has a value that cannot be read, with key and variable: the
// environment's reader names fields of Go. It reads each variable again, alone.
func unreadable(cfg reflect.Type, key, prefix string, environ map[string]string) error {
	var bad []error
	for i := range cfg.NumField() {
		field := cfg.Field(i)
		name, options, _ := strings.Cut(field.Tag.Get("yaml"), ",")
		switch {
		case options == "inline":
			name = key
		case key != "":
			name = key + "." + name
		}
		if field.Type.Kind() == reflect.Struct {
			bad = append(bad, unreadable(field.Type, name, prefix+field.Tag.Get("envPrefix"), environ))
			continue
		}
		variable, _, _ := strings.Cut(field.Tag.Get("env"), ",")
		if _, set := environ[prefix+variable]; variable == "" || !set {
			continue
		}
		alone := reflect.New(reflect.StructOf([]reflect.StructField{{Name: "Value", Type: field.Type, Tag: field.Tag}}))
		err := env.ParseWithOptions(alone.Interface(), env.Options{Prefix: prefix, Environment: environ})
		var parse env.ParseError
		if errors.As(err, &parse) {
			err = parse.Err
		}
		if err != nil {
			bad = append(bad, fmt.Errorf("%s (%s): %w", name, prefix+variable, err))
		}
	}
	return errors.Join(bad...)
}
