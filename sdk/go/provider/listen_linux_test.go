package provider_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/berth-dev/berth/sdk/go/provider"
)

// A plugin that does not get round to accepting connections is there all the same: connections are not refused, they have no room.
func TestABusyPluginKeepsItsSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "p.sock")
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	for { // until its queue is full
		conn, err := net.Dial("unix", path)
		if err != nil {
			break
		}
		t.Cleanup(func() { _ = conn.Close() })
	}
	before, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second) // what is not refused would be served
	defer cancel()
	if err := provider.Serve(ctx, provider.ServeConfig{Address: "unix://" + path}, author{}); err == nil || !strings.Contains(err.Error(), "in use, as far as can be seen") {
		t.Errorf("another plugin: %v", err)
	}
	if after, err := os.Lstat(path); err != nil || !os.SameFile(before, after) {
		t.Errorf("its socket is not there any more: %v", err)
	}
}

// One plugin is about to take the place; the one that comes meanwhile does not take it, too.
func TestAPluginDoesNotStartWhereAnotherOneDoes(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "p.sock")
	first, err := os.Create(path + ".lock")
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Flock(int(first.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := provider.Serve(ctx, provider.ServeConfig{Address: "unix://" + path}, author{}); err == nil || !strings.Contains(err.Error(), "starts there at this moment") {
		t.Errorf("the second one: %v", err)
	}
	_ = first.Close() // as if it was killed: the file stays
	start(t, provider.ServeConfig{Address: "unix://" + path}, author{})
	if list, err := os.ReadDir(dir); err != nil || len(list) != 1 {
		t.Errorf("beside the socket there is something: %v, %v", list, err)
	}
}

// A plugin opens the file by which it keeps others out just before the one that has it is through and removes it. It must not lock what nobody else would find.
func TestALockThatWasRemovedIsNone(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "p.sock.lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if err := provider.Hold(f); err != nil {
		t.Errorf("one that is there: %v", err)
	}
	_ = os.Remove(f.Name())
	if err := provider.Hold(f); err == nil || !strings.Contains(err.Error(), "at this moment") {
		t.Errorf("one that was removed: %v", err)
	}
	if other, err := os.Create(f.Name()); err != nil || other.Close() != nil {
		t.Fatal(err)
	}
	if err := provider.Hold(f); err == nil || !strings.Contains(err.Error(), "at this moment") {
		t.Errorf("one in whose place another one is: %v", err)
	}
}
