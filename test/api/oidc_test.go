package api

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/berth-dev/berth/pkg/auth"
	"github.com/berth-dev/berth/pkg/auth/oidc/oidctest"
	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/rpc"
	allocationv1 "github.com/berth-dev/berth/sdk/go/gen/berth/allocation/v1"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	tokenv1 "github.com/berth-dev/berth/sdk/go/gen/berth/token/v1"
)

// takes is the configuration that takes an identity provider's tokens.
func takes(identity *oidctest.Issuer) auth.OIDC {
	return auth.OIDC{
		Config: identity.Config(), RoleClaim: "realm_access.roles", NamespaceClaim: "namespaces",
		Roles: map[string]auth.Role{"watch": auth.RoleViewer, "play": auth.RoleService, "operate": auth.RoleOperator, "rule": auth.RoleAdmin},
	}
}

// bearer is a token of the identity provider; more changes its claims.
func (s *stack) bearer(t *testing.T, sub, role string, more map[string]any) string {
	claims := oidctest.Claims(s.identity.URL, map[string]any{"sub": sub, "realm_access": map[string]any{"roles": []string{role}}, "namespaces": []string{"people"}})
	for name, value := range more {
		claims[name] = value
	}
	return s.signs.Sign(t, claims, nil)
}

// rest makes a call and returns its status and its body.
func (s *stack) rest(t *testing.T, method, path, bearer, body string) (int, map[string]any) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, s.api+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+bearer)
	resp, err := s.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]any
	if err := json.Unmarshal(raw, &out); err != nil {
		t.Fatalf("%s: %v", raw, err)
	}
	return resp.StatusCode, out
}

// Tokens of an identity provider are credentials at every service, over gRPC and, through a gateway that knows nothing of them, over REST.
func TestCallersOfAnIdentityProvider(t *testing.T) {
	s := start(t, local(t))
	const instances = "/v1/namespaces/people/instances"
	ruler := s.bearer(t, "ruler", "rule", nil)
	if err := eventually(func() error { // until each service has the keys
		for _, path := range []string{instances, "/v1/api-keys", "/v1/namespaces/people/allocations"} {
			if status, answer := s.rest(t, http.MethodGet, path, ruler, ""); status != http.StatusOK {
				return fmt.Errorf("%s: %d %v", path, status, answer)
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	expired := map[string]any{"exp": time.Now().Add(-time.Hour).Unix()}
	for name, c := range map[string]struct {
		method, path, token string
		status              int
		reason              errs.Reason
	}{
		"a viewer lists":                     {http.MethodGet, instances, s.bearer(t, "ann", "watch", nil), 200, ""},
		"a viewer creates":                   {http.MethodPost, instances, s.bearer(t, "ann", "watch", nil), 403, errs.RoleRequired},
		"without a role":                     {http.MethodGet, instances, s.bearer(t, "ann", "dance", nil), 403, errs.RoleRequired},
		"without a namespace":                {http.MethodGet, instances, s.bearer(t, "ann", "rule", map[string]any{"namespaces": nil}), 403, errs.NamespaceDenied},
		"in another namespace":               {http.MethodGet, "/v1/namespaces/other/instances", s.bearer(t, "ann", "rule", nil), 403, errs.NamespaceDenied},
		"expired":                            {http.MethodGet, instances, s.bearer(t, "ann", "rule", expired), 401, errs.CredentialsExpired},
		"for somebody else":                  {http.MethodGet, instances, s.bearer(t, "ann", "rule", map[string]any{"aud": "x"}), 401, errs.CredentialsInvalid},
		"for somebody else, at token-issuer": {http.MethodGet, "/v1/api-keys", s.bearer(t, "ann", "rule", map[string]any{"aud": "x"}), 401, errs.CredentialsInvalid},
		"of an unknown issuer, at allocation": {
			http.MethodGet, "/v1/namespaces/people/allocations", s.bearer(t, "ann", "rule", map[string]any{"iss": "https://example.com"}), 401, errs.CredentialsInvalid,
		},
		"forged": {http.MethodGet, instances, oidctest.NewKey(t, s.signs.ID).Sign(t, oidctest.Claims(s.identity.URL, nil), nil), 401, errs.CredentialsInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			status, answer := s.rest(t, c.method, c.path, c.token, body(c.method))
			if status != c.status || c.reason != "" && !strings.Contains(fmt.Sprint(answer["details"]), string(c.reason)) {
				t.Errorf("%d %v", status, answer)
			}
		})
	}
	t.Run("who does it", func(t *testing.T) { s.whoDoesIt(t, instances) })
	t.Run("over gRPC", func(t *testing.T) { s.overGRPC(t) })
	t.Run("keys are rotated", func(t *testing.T) {
		next := oidctest.NewKey(t, "k2")
		s.identity.Restore(next)
		s.signs = next
		if err := eventually(func() error {
			if status, answer := s.rest(t, http.MethodGet, instances, s.bearer(t, "ann", "watch", nil), ""); status != http.StatusOK {
				return fmt.Errorf("%d %v", status, answer)
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
	})
}

func body(method string) string {
	if method == http.MethodGet {
		return ""
	}
	return `{"placement":{"build":"silent"},"skipAllocation":true}`
}

// whoDoesIt checks that a request id is its caller's, whom the history names.
func (s *stack) whoDoesIt(t *testing.T, instances string) {
	create := func(sub string) string {
		t.Helper()
		status, answer := s.rest(t, http.MethodPost, instances, s.bearer(t, sub, "play", nil), `{"placement":{"build":"silent"},"skipAllocation":true,"requestId":"the-same"}`)
		made, _ := answer["instance"].(map[string]any)
		id, _ := made["id"].(string)
		if status != http.StatusOK || id == "" {
			t.Fatalf("%d %v", status, answer)
		}
		return id
	}
	anns := create("ann")
	if again := create("ann"); again != anns {
		t.Errorf("a repeat made %s, and the first %s", again, anns)
	}
	if bobs := create("bob"); bobs == anns {
		t.Error("another caller with the same request id got the first one's instance")
	}
	status, answer := s.rest(t, http.MethodGet, instances+"/"+anns+"/history", s.bearer(t, "cleo", "watch", nil), "")
	actor := "oidc:" + strings.TrimPrefix(s.identity.URL, "https://") + "#ann"
	if status != http.StatusOK || !strings.Contains(fmt.Sprint(answer), actor) {
		t.Errorf("%d, without %s: %v", status, actor, answer)
	}
}

// overGRPC calls each service with a token.
func (s *stack) overGRPC(t *testing.T) {
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), auth.MetadataAuthorization, "Bearer "+s.bearer(t, "ann", "rule", nil)), patience)
	defer cancel()
	if _, err := instancev1.NewGameInstanceServiceClient(s.conns[gameInstance]).ListGameInstances(ctx, &instancev1.ListGameInstancesRequest{Namespace: "people"}); err != nil {
		t.Error(err)
	}
	if _, err := tokenv1.NewTokenServiceClient(s.conns[tokenIssuer]).ListApiKeys(ctx, &tokenv1.ListApiKeysRequest{}); err != nil {
		t.Error(err)
	}
	if _, err := allocationv1.NewAllocationServiceClient(s.conns[allocations]).ListAllocations(ctx, &allocationv1.ListAllocationsRequest{Namespace: "people"}); err != nil {
		t.Error(err)
	}
	// A token that was to be a game server's.
	_, err := instancev1.NewGameInstanceServiceClient(s.conns[gameInstance]).ListGameInstances(
		metadata.AppendToOutgoingContext(ctx, auth.MetadataSocialToken, "x"), &instancev1.ListGameInstancesRequest{Namespace: "people"})
	if !errs.Is(rpc.FromStatus(err), errs.CredentialsInvalid) {
		t.Errorf("beside a social token: %v", err)
	}
}
