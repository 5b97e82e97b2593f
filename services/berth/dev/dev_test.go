package dev

import (
	"context"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/berth-dev/berth/pkg/redisx"
)

// The store's port is open to everybody on the machine, and has keys, tickets' states and what games store.
func TestTheEmbeddedStoreIsNotForOthersOnThisMachine(t *testing.T) {
	s, err := startStore()
	if err != nil {
		t.Fatal(err)
	}
	defer s.redis.Close()
	stranger := redis.NewClient(&redis.Options{Addr: s.redis.Addr()})
	defer stranger.Close()
	if err := stranger.Set(t.Context(), "k", "v", 0).Err(); err == nil || !strings.Contains(err.Error(), "NOAUTH") {
		t.Errorf("a stranger writes: %v", err)
	}
	store, err := redisx.Open(t.Context(), s.config())
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Close(); err != nil {
		t.Error(err)
	}
	other, err := startStore()
	if err != nil {
		t.Fatal(err)
	}
	other.redis.Close()
	if other.password == s.password {
		t.Error("two runs have the same password")
	}
}

// options are those of a Berth that starts nothing by itself.
func options(t *testing.T, dir string) Options {
	t.Helper()
	config := filepath.Join(t.TempDir(), "berth.yaml")
	if err := os.WriteFile(config, []byte("providers: [{name: local, kind: process, process: {builds: {b: {command: 'true'}}}}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return Options{Config: config, AnyPort: true, Dir: dir, LogLevel: "error", Out: io.Discard}
}

// What the file says about identity providers and placement is the services' own, whose checks name what is wrong with it.
func TestTheFileHasBlocksOfTheServices(t *testing.T) {
	const provider = "{issuer: 'https://id.example.com', audience: berth, role_claim: groups, roles: {ops: OPERATOR}}"
	for more, says := range map[string]string{
		"auth: {oidc: [" + provider + "]}\negress: {allow: [10.0.0.0/8]}":  "",
		"auth: {oidc: [" + provider + ", " + provider + "]}":               "issuer: is there twice",
		"egress: {allow: [10.0.0.1]}":                                      "egress.allow",
		"placement: {rules: [{name: r, candidates: [{provider: local}]}]}": "",
		"placement: {rules: [{name: r, candidates: [{provider: x}]}]}":     `no provider is named "x"; there are local`,
		"auth: {internal_key: x}":                                          "internal_key",
	} {
		o := options(t, "")
		file, err := os.OpenFile(o.Config, os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := file.WriteString(more); err != nil {
			t.Fatal(err)
		}
		if err := file.Close(); err != nil {
			t.Fatal(err)
		}
		s, err := New(t.Context(), o)
		if err == nil {
			stop(t, s)
		}
		if (err == nil) != (says == "") || err != nil && !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", more, err)
		}
	}
}

// stop ends a Berth that was built and not yet run.
func stop(t *testing.T, s *Stack) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Serve(ctx); err != nil {
		t.Error(err)
	}
}

func TestAFolderThatCannotBeUsedIsSaidAtTheStart(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"/proc/x", "/proc", filepath.Join(file, "x")} {
		s, err := New(t.Context(), Options{Attach: true, AnyPort: true, Dir: dir, LogLevel: "error", Out: io.Discard})
		if err == nil {
			stop(t, s)
		}
		if err == nil || !strings.Contains(err.Error(), "--dir") || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: %v", dir, err)
		}
	}
}

func TestAnotherBerthInTheFolderIsSaid(t *testing.T) {
	dir := t.TempDir()
	s, err := New(t.Context(), options(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	defer stop(t, s)
	if second, err := New(t.Context(), options(t, dir)); err == nil {
		stop(t, second)
		t.Error("two run in one folder")
	} else if !strings.Contains(err.Error(), "--dir") || !strings.Contains(err.Error(), dir) {
		t.Error(err)
	}
}

func TestAFolderForOneRunIsRemovedAtItsEnd(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	s, err := New(t.Context(), options(t, ""))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(s.dir, "servers", "local")); err != nil {
		t.Error(err)
	}
	stop(t, s)
	if left, err := os.ReadDir(os.TempDir()); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// A page of another site can have its name resolved to this machine, and would then be of the same origin as the API.
func TestAPageOfAnotherSiteReachesNothing(t *testing.T) {
	o := options(t, "")
	o.AllowedHosts = []string{"my-laptop.lan"}
	s, err := New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	stopped := make(chan error, 1)
	go func() { stopped <- s.Serve(ctx) }()
	defer func() {
		cancel()
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	}()
	for _, url := range []string{s.APIURL + "/openapi.json", s.APIURL + "/v1/providers", s.Gateway + "/.well-known/jwks.json", s.Gateway + "/v1/link"} {
		for host, reached := range map[string]bool{"": true, "localhost": true, "127.0.0.1": true, "[::1]:7002": true, "my-laptop.lan:7002": true, "rebound.example": false, "rebound.example:7002": false} {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Host = host
			resp, err := http.DefaultTransport.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if err != nil || (resp.StatusCode != http.StatusForbidden) != reached || !reached && !strings.Contains(string(body), "--allowed-hosts") {
				t.Errorf("%s as %q: %d %s, %v", url, host, resp.StatusCode, body, err)
			}
		}
	}
}
