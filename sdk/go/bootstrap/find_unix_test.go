//go:build unix

package bootstrap_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/berth-dev/berth/sdk/go/bootstrap"
)

// elsewhere makes an empty directory the working directory and unsets the variables.
func elsewhere(t *testing.T) string {
	t.Helper()
	for _, env := range []string{bootstrap.EnvDocument, bootstrap.EnvFile, bootstrap.EnvFD} {
		t.Setenv(env, "")
	}
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	return dir
}

// named is the good document with another instance, to tell documents apart.
func named(instance string) string { return strings.Replace(good, "i-1", instance, 1) }

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// pipe leaves the reading end of a pipe open for Find, as a parent process does, and returns the writing end.
func pipe(t *testing.T) *os.File {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	fd, err := syscall.Dup(int(r.Fd())) // one that no *os.File of this process owns
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	t.Setenv(bootstrap.EnvFD, strconv.Itoa(fd))
	return w
}

func wantInstance(t *testing.T, want string) {
	t.Helper()
	d, err := bootstrap.Find(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if d.Instance != want {
		t.Fatalf("found the document of %s, want that of %s", d.Instance, want)
	}
}

func TestFindOrder(t *testing.T) {
	dir := elsewhere(t)
	write(t, filepath.Join(dir, bootstrap.File), named("above"))
	deep := filepath.Join(dir, "a", "b")
	if err := os.MkdirAll(deep, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Chdir(deep)
	wantInstance(t, "above")

	write(t, filepath.Join(deep, bootstrap.File), named("here"))
	wantInstance(t, "here")

	w := pipe(t)
	if _, err := w.WriteString(named("pipe")); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	wantInstance(t, "pipe")

	file := filepath.Join(dir, "document.json")
	write(t, file, named("file"))
	t.Setenv(bootstrap.EnvFile, file)
	wantInstance(t, "file")

	t.Setenv(bootstrap.EnvDocument, named("variable"))
	wantInstance(t, "variable")
}

func TestFindSaysWhereItLooked(t *testing.T) {
	dir := elsewhere(t)
	_, err := bootstrap.Find(t.Context())
	var none *bootstrap.NotFoundError
	if !errors.As(err, &none) {
		t.Fatalf("got %v, want a *NotFoundError", err)
	}
	for _, place := range []string{bootstrap.EnvDocument, bootstrap.EnvFile, bootstrap.EnvFD, filepath.Join(dir, bootstrap.File)} {
		if !strings.Contains(err.Error(), place) {
			t.Errorf("%q does not name %s", err, place)
		}
	}
}

// A document that is there and bad must not be passed over in favour of an older one that lies about.
func TestFindStopsAtABadDocument(t *testing.T) {
	dir := elsewhere(t)
	write(t, filepath.Join(dir, bootstrap.File), named("lies about"))
	for env, value := range map[string]string{
		bootstrap.EnvDocument: `{"v":1,"game":"GAMETOKEN"}`,
		bootstrap.EnvFile:     filepath.Join(dir, "missing.json"),
		bootstrap.EnvFD:       "nine",
	} {
		t.Run(env, func(t *testing.T) {
			t.Setenv(env, value)
			_, err := bootstrap.Find(t.Context())
			var invalid *bootstrap.InvalidError
			if !errors.As(err, &invalid) || invalid.Place != env {
				t.Fatalf("got %v, want an *InvalidError about %s", err, env)
			}
			if strings.Contains(err.Error(), "GAMETOKEN") {
				t.Errorf("the error has a token in it: %v", err)
			}
		})
	}
}

// The parent may never write: Find ends with its context and leaves nothing waiting.
func TestFindWaitsNoLongerThanItsContext(t *testing.T) {
	elsewhere(t)
	pipe(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := bootstrap.Find(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the deadline", err)
	}
}
