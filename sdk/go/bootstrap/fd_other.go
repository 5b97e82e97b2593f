//go:build !unix

package bootstrap

import (
	"fmt"
	"os"
)

// inherited opens a handle that the parent left to this process. A read from it cannot be interrupted here.
func inherited(fd uintptr) (*os.File, error) {
	f := os.NewFile(fd, fmt.Sprintf("descriptor %d", fd))
	if f == nil {
		return nil, fmt.Errorf("descriptor %d is not open", fd)
	}
	return f, nil
}
