//go:build unix

package bootstrap

import (
	"fmt"
	"os"
	"syscall"
)

// inherited opens a descriptor that the parent left to this process, such that a read from a pipe can be interrupted.
func inherited(fd uintptr) (*os.File, error) {
	if err := syscall.SetNonblock(int(fd), true); err != nil {
		return nil, fmt.Errorf("descriptor %d: %w", fd, err)
	}
	return os.NewFile(fd, fmt.Sprintf("descriptor %d", fd)), nil
}
