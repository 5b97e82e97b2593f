package standin

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
)

// Serve serves front, which is the host or what stands before it, until the test ends, and returns its base URL.
func Serve(t testing.TB, front http.Handler, host interface{ Close() }) string {
	t.Helper()
	srv := httptest.NewServer(front)
	t.Cleanup(func() {
		srv.CloseClientConnections()
		srv.Close()
		host.Close()
	})
	return srv.URL
}

// SecretFile writes a secret into a file of the test's, and returns its path.
func SecretFile(t testing.TB, secret string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
