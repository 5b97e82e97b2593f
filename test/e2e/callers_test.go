package e2e

import (
	"fmt"
	"strings"
	"testing"

	tokenv1 "github.com/berth-dev/berth/sdk/go/gen/berth/token/v1"
)

// An API key that was made by rpc opens what its role and namespaces allow, on every service, until it is revoked.
func TestAPIKeysAreMadeAndRevoked(t *testing.T) {
	shapes(t, func(t *testing.T, s *berth) {
		var made tokenv1.CreateApiKeyResponse
		s.ok(t, 0, "POST", "/v1/api-keys", `{"name":"lobby","role":"ROLE_SERVICE","namespaces":["default"]}`, &made)
		as := func(method, path, body string) (int, string) {
			status, out := do(t, method, s.urls[len(s.urls)-1]+path, body, "Authorization", "Bearer "+made.GetKey())
			return status, string(out)
		}
		status, body := as("POST", instances, `{"placement":{"build":"hold"},"skipAllocation":true}`)
		if status != 200 {
			t.Fatalf("create: %d %s", status, body)
		}
		for name, c := range map[string]struct {
			method, path, body string
			status             int
		}{
			"another namespace":      {"GET", "/v1/namespaces/elsewhere/instances", "", 403},
			"a role above":           {"GET", "/v1/api-keys", "", 403},
			"the allocation service": {"GET", "/v1/namespaces/default/allocations", "", 200},
			"an operator's":          {"POST", "/v1/tokens:introspect", `{"token":"x"}`, 403},
			"its own namespace":      {"GET", instances, "", 200},
		} {
			if status, body := as(c.method, c.path, c.body); status != c.status {
				t.Errorf("%s: %d %s, want %d", name, status, body, c.status)
			}
		}
		s.ok(t, 0, "POST", "/v1/api-keys/lobby:revoke", "{}", nil)
		eventually(t, "the key is refused", func() error {
			if status, body := as("GET", instances, ""); status != 401 {
				return fmt.Errorf("%d %s", status, body)
			}
			return nil
		})
		if _, list := s.rest(t, 0, "GET", "/v1/api-keys", ""); strings.Contains(string(list), made.GetKey()) || strings.Contains(string(list), "lobby") {
			t.Errorf("listed %s", list)
		}
	})
}
