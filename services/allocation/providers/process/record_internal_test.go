package process

import (
	"errors"
	"os"
	"syscall"
	"testing"
)

// On a full disk the older output is not kept, but the newer one is begun anew all the same, or the disk would stay full.
func TestOutputIsBoundedOnAFullDisk(t *testing.T) {
	f := folder(t.TempDir())
	if err := os.WriteFile(f.path("a", logSuffix), make([]byte, 3000), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/dev/full", f.path("a", tempSuffix+".log")); err != nil {
		t.Fatal(err)
	}
	if err := f.rotate("a", 1000); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("rotated: %v", err)
	}
	if info, err := os.Stat(f.path("a", logSuffix)); err != nil || info.Size() != 0 {
		t.Errorf("the output is %v, %v", info, err)
	}
}
