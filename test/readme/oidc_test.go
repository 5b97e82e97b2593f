package readme_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-dev/berth/pkg/conf"
	"github.com/berth-dev/berth/services/gameinstance"
)

// The example of identity providers can be used as it is, in the file of a service.
func TestIdentityProviders(t *testing.T) {
	_, rest, ok := strings.Cut(section(t, page(t, "docs/configuration.md"), "Callers of an identity provider"), "```yaml\n")
	example, _, closed := strings.Cut(rest, "```")
	if !ok || !closed {
		t.Fatal("docs/configuration.md has no example of identity providers")
	}
	file := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(file, []byte(example), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := gameinstance.Default()
	if err := conf.Load(file, &cfg); err != nil {
		t.Fatal(err)
	}
	cfg.Auth.InternalKey = "0123456789abcdef0123456789abcdef"
	if err := cfg.Validate(); err != nil || len(cfg.Auth.OIDC) != 2 {
		t.Errorf("%d identity providers: %v", len(cfg.Auth.OIDC), err)
	}
}
