package kit_test

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-dev/berth/test/link/kit"
)

func TestOurSDKConforms(t *testing.T) {
	program := filepath.Join(t.TempDir(), "goserver")
	if out, err := exec.Command("go", "build", "-o", program, "../goserver").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	var table, log strings.Builder
	results := kit.SDK{Command: []string{program}, Level: 2, Log: &log}.Check(t.Context())
	kit.Print(&table, results)
	t.Log("\n" + table.String())
	if kit.Failed(results) {
		t.Errorf("what they printed:\n%s", log.String())
	}
}
