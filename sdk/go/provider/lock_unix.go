//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package provider

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// lock keeps other plugins from taking the path until unlock is called. It does not wait for one that is at it: that one gets the path. The file beside the socket stays only if
// this process is killed meanwhile, and does no harm then.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("%w: it keeps two plugins from starting at once. If it is another user's and no plugin starts, remove it", err)
	}
	if err := hold(f); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), f.Close())
	}
	return func() {
		_ = os.Remove(f.Name()) // while it is locked: afterwards it may be another plugin's
		_ = f.Close()
	}, nil
}

// hold locks the file, if it is the one that others would lock as well: whoever had it before has removed it.
func hold(f *os.File) error {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err != nil && !errors.Is(err, syscall.EWOULDBLOCK) {
		return fmt.Errorf("%s cannot be locked: %w", f.Name(), err)
	}
	opened, errOpened := f.Stat()
	there, errThere := os.Lstat(f.Name())
	if err != nil || errOpened != nil || errThere != nil || !os.SameFile(opened, there) {
		return errors.New("is in use: another plugin starts there at this moment")
	}
	return nil
}
