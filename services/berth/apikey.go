package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/berth-dev/berth/pkg/apikey"
	"github.com/berth-dev/berth/pkg/auth"
)

// keyRoles are the roles that an API key may have.
var keyRoles = []auth.Role{auth.RoleViewer, auth.RoleService, auth.RoleOperator, auth.RoleAdmin, auth.RolePool}

// keyOptions say what a key is for.
type keyOptions struct {
	role, name string
	namespaces []string
}

func apiKeyCommand() *cobra.Command {
	var o keyOptions
	generate := &cobra.Command{
		Use: "generate [flags]", Short: "Make an API key and its hash, offline", Args: cobra.NoArgs,
		Long: `Makes an API key and prints it with its SHA-256. Nothing is stored and nobody is asked: the key cannot be shown again. Give it to whoever is to use it.

A key may do what the configuration says that its hash may. With --role, the entry for the configuration of all services (auth.api_keys) is printed, too:
  VIEWER    sees
  SERVICE   creates and changes instances: matchmakers, lobbies
  OPERATOR  drains providers, ends what others began
  ADMIN     everything, API keys included
  POOL      joins warm pools, and nothing else: the servers of a pool
Each but POOL includes those before it. Without --role, the hash can be set as BERTH_AUTH_API_KEY_SHA256, which has role ADMIN.

Keys for everyday use are better made by rpc (CreateApiKey), with a key of role ADMIN: they need no restart, and can be revoked.`,
		Example: `  berth apikey generate
  berth apikey generate --role OPERATOR --name ann
  berth apikey generate --role POOL --name metal --namespaces default,ranked`,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.generate(cmd.OutOrStdout()) },
	}
	f := generate.Flags()
	f.StringVar(&o.role, "role", "", "what the key may do: "+roles())
	f.StringVar(&o.name, "name", "", "name of the key in history and audit (default: the role in lower case)")
	f.StringSliceVar(&o.namespaces, "namespaces", nil, "namespaces that the key is limited to (default: all)")
	cmd := &cobra.Command{Use: "apikey", Short: "API keys for backends, operators and web tools"}
	cmd.AddCommand(generate)
	return cmd
}

// roles lists the roles for people.
func roles() string {
	names := make([]string, len(keyRoles))
	for n, r := range keyRoles {
		names[n] = string(r)
	}
	return strings.Join(names, ", ")
}

// generate prints a new key.
func (o keyOptions) generate(out io.Writer) error {
	switch {
	case o.role == "" && (o.name != "" || len(o.namespaces) > 0):
		return fmt.Errorf("--name and --namespaces are for the entry of a key with a --role: add one of %s", roles())
	case o.role != "" && !slices.Contains(keyRoles, auth.Role(o.role)):
		return fmt.Errorf("--role: %q is no role of an API key; the roles are %s", o.role, roles())
	case slices.Contains(o.namespaces, ""):
		return errors.New("--namespaces: one has no name")
	}
	key, hash := apikey.Generate()
	text := fmt.Sprintf("key     %s\nsha256  %s\n", key.Reveal(), hash)
	if o.role != "" {
		entry, err := o.entry(hash)
		if err != nil {
			return err
		}
		text += "\nThe entry for the configuration of all services:\n\n" + entry
	}
	_, err := io.WriteString(out, text)
	return err
}

// entry is the key's hash as it stands in a configuration.
func (o keyOptions) entry(hash string) (string, error) {
	type keyEntry struct {
		Name       string   `yaml:"name"`
		SHA256     string   `yaml:"sha256"`
		Role       string   `yaml:"role"`
		Namespaces []string `yaml:"namespaces,omitempty,flow"`
	}
	one := keyEntry{Name: o.name, SHA256: hash, Role: o.role, Namespaces: o.namespaces}
	if one.Name == "" {
		one.Name = strings.ToLower(o.role)
	}
	raw, err := yaml.Marshal(map[string]any{"auth": map[string]any{"api_keys": []keyEntry{one}}})
	return string(raw), err
}
