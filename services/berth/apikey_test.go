package main

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/berth-dev/berth/pkg/apikey"
	"github.com/berth-dev/berth/pkg/auth"
)

func generate(args ...string) (string, error) {
	var out bytes.Buffer
	cmd := apiKeyCommand()
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	cmd.SetOut(&out)
	cmd.SetArgs(append([]string{"generate"}, args...))
	err := cmd.Execute()
	return out.String(), err
}

// parts are the key, its hash and the entry that were printed.
func parts(t *testing.T, out string) (key, hash, entry string) {
	t.Helper()
	lines := strings.SplitN(out, "\n", 3)
	if len(lines) != 3 || !strings.HasPrefix(lines[0], "key     ") || !strings.HasPrefix(lines[1], "sha256  ") {
		t.Fatalf("printed %q", out)
	}
	_, entry, _ = strings.Cut(lines[2], ":\n\n")
	return strings.Fields(lines[0])[1], strings.Fields(lines[1])[1], entry
}

func TestAKeyWithoutARole(t *testing.T) {
	out, err := generate()
	if err != nil {
		t.Fatal(err)
	}
	if key, hash, entry := parts(t, out); !apikey.Valid(key) || apikey.Hash(key) != hash || entry != "" {
		t.Errorf("%q", out)
	}
}

// What is printed for a key of any role can be put into a configuration as it is.
func TestTheEntryOfAKeyIsOneOfAConfiguration(t *testing.T) {
	for _, role := range keyRoles {
		for _, args := range [][]string{nil, {"--name", "yes", "--namespaces", "default,ranked"}} {
			out, err := generate(append([]string{"--role", string(role)}, args...)...)
			if err != nil {
				t.Fatal(err)
			}
			key, hash, entry := parts(t, out)
			var file struct {
				Auth auth.Config `yaml:"auth"`
			}
			d := yaml.NewDecoder(strings.NewReader(entry))
			d.KnownFields(true)
			if err := d.Decode(&file); err != nil {
				t.Fatalf("%v in %q", err, entry)
			}
			file.Auth.InternalKey = "an-internal-key-of-at-least-32-characters"
			if err := file.Auth.Validate(); err != nil || len(file.Auth.APIKeys) != 1 {
				t.Fatalf("%s: %v in %q", role, err, entry)
			}
			want := auth.APIKey{Name: strings.ToLower(string(role)), SHA256: hash, Role: role}
			if len(args) > 0 {
				want.Name, want.Namespaces = "yes", []string{"default", "ranked"}
			}
			got := file.Auth.APIKeys[0]
			if got.Name != want.Name || got.SHA256 != want.SHA256 || got.Role != want.Role || !slices.Equal(got.Namespaces, want.Namespaces) || apikey.Hash(key) != hash {
				t.Errorf("%q is %+v, want %+v", entry, got, want)
			}
			if strings.Contains(entry, key) {
				t.Errorf("the key stands in the entry: %q", entry)
			}
		}
	}
}

func TestMistakesInAKeysFlagsAreSaid(t *testing.T) {
	for says, args := range map[string][]string{
		`--role: "pool" is no role of an API key; the roles are VIEWER, SERVICE, OPERATOR, ADMIN, POOL`: {"--role", "pool"},
		`"GAME_SERVER" is no role`: {"--role", "GAME_SERVER"},
		`add one of VIEWER`:        {"--namespaces", "default"},
		`one has no name`:          {"--role", "POOL", "--namespaces", "default,"},
		`for the entry of a key`:   {"--name", "metal"},
	} {
		if out, err := generate(args...); err == nil || out != "" || !strings.Contains(err.Error(), says) {
			t.Errorf("%v: %q, %v; want %q", args, out, err, says)
		}
	}
}
