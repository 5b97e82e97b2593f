package tokenissuer_test

import (
	"log/slog"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/berth-dev/berth/pkg/auth"
	"github.com/berth-dev/berth/pkg/auth/oidc"
	tokenv1 "github.com/berth-dev/berth/sdk/go/gen/berth/token/v1"
)

// An identity provider that is away is no reason not to start, not to be ready, or not to know anybody else.
func TestAnIdentityProviderThatIsAwayDoesNotCount(t *testing.T) {
	cfg := config(miniredis.RunT(t).Addr())
	cfg.Auth.OIDC = []auth.OIDC{{
		Config:    oidc.Config{Issuer: "https://127.0.0.1:1", Audience: "berth"},
		RoleClaim: "groups", Roles: map[string]auth.Role{"ops": auth.RoleOperator},
	}}
	i := start(t, slog.New(slog.DiscardHandler), cfg)
	for deadline := time.Now().Add(time.Minute); ; <-time.After(time.Millisecond) {
		if err := i.app.Ready(t.Context()); err == nil {
			break
		} else if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	if _, err := i.public.ListApiKeys(with(t, apiKey), &tokenv1.ListApiKeysRequest{}); err != nil {
		t.Error(err)
	}
}
