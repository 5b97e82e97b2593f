package kubernetes

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/berth-dev/berth/services/allocation/providers/internal/hostapi"
	"github.com/berth-dev/berth/services/allocation/providers/internal/kube"
)

// A node is asked for once a minute, however many servers it has; one that is gone has no address, and one that cannot be looked up again keeps its own.
func TestNodesAreRemembered(t *testing.T) {
	asked, away := 0, false
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/api/v1/nodes/eu-1" {
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, `{"kind":"Status","reason":"NotFound","message":"nodes \"eu-2\" not found","details":{"kind":"nodes"}}`)
			return
		}
		if away {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		asked++
		fmt.Fprintf(w, `{"status":{"addresses":[{"type":"InternalIP","address":"10.0.0.1"},{"type":"ExternalIP","address":"198.51.100.%d"},{"type":"ExternalIP","address":"2001:db8::1"}]}}`, asked)
	}))
	defer srv.Close()
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("t"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := newClient(kube.Config{URL: srv.URL, TokenFile: hostapi.SecretFile(token)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.api.Close()
	var n nodes
	address := func(name string) string {
		got, err := n.address(t.Context(), c, name, externalIP)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if first, second := address("eu-1"), address("eu-1"); first != "198.51.100.1" || second != first {
		t.Errorf("got %s, %s", first, second)
	}
	age := func() {
		old := n.known["eu-1"]
		old.read = old.read.Add(-nodeAge - time.Second)
		n.known["eu-1"] = old
	}
	age()
	if got := address("eu-1"); got != "198.51.100.2" {
		t.Errorf("a minute later: %s", got)
	}
	age()
	away = true
	if got := address("eu-1"); got != "198.51.100.2" {
		t.Errorf("when it cannot be looked up: %s", got)
	}
	if got, err := n.address(t.Context(), c, "eu-1", externalDNS); err == nil {
		t.Errorf("an address that it never had: %q", got)
	}
	if got := address("eu-2"); got != "" {
		t.Errorf("of no node: %s", got)
	}
}
