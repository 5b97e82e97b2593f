package attach_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/berth-dev/berth/sdk/go/provider/providertest"
)

// host looks into the file. Nothing else stands behind the provider that could misbehave.
type host struct {
	providertest.Unsupported
	file string
}

func (h host) Bootstrap(context.Context, string) ([]byte, error) { return os.ReadFile(h.file) }

func TestConformance(t *testing.T) {
	file := filepath.Join(t.TempDir(), "bootstrap.json")
	providertest.Run(t, providertest.Config{Provider: open(t, file, discard()), Host: host{file: file}, MaxServers: 1})
}
