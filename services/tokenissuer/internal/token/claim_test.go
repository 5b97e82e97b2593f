package token

import (
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/ids"
	sdk "github.com/berth-dev/berth/sdk/go/token"
)

// Everything in a claim code follows from the attempt, but for its times: nothing has to be stored of it.
func TestIssueClaim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer(t)
		c, err := i.IssueClaim(t.Context(), "prod", attempt)
		if err != nil {
			t.Fatal(err)
		}
		now := time.Now().Truncate(time.Second)
		want := sdk.Claim{
			AttemptID: attempt, ServerID: ids.Server(attempt), PairID: ids.Pair(attempt), InstanceID: ids.AttemptInstance(attempt), Namespace: "prod",
			IssueTime: now, ExpireTime: now.Add(time.Hour), KeyID: signing(t, i.cfg.Keys).ID(),
		}
		got, err := verifier(i).VerifyClaim(t.Context(), c.Code.Reveal())
		if err != nil || got != want || c.ServerID != want.ServerID || !c.ExpireTime.Equal(want.ExpireTime) {
			t.Errorf("issued %+v, verified as %+v, %v", c, got, err)
		}
		again, err := i.IssueClaim(t.Context(), "prod", attempt)
		if err != nil {
			t.Fatal(err)
		}
		_, first := claimsOf(t, c.Code)
		if _, second := claimsOf(t, again.Code); !reflect.DeepEqual(first, second) {
			t.Errorf("minted again in the same second it says %v, and not %v", second, first)
		}
	})
}

func TestIssueClaimRefuses(t *testing.T) {
	i := newIssuer(t)
	if _, err := i.IssueClaim(t.Context(), "default", ids.Registration("default", "key:k", "rack-7")); !errs.Is(err, errs.ValidationFailed) {
		t.Errorf("for a registration: %v", err)
	}
	for name, target := range map[string]Target{
		"server":   {Namespace: "default", ServerID: ids.Server(attempt)},
		"pair":     {Namespace: "default", PairID: ids.Pair(attempt)},
		"instance": {Namespace: "default", InstanceID: ids.AttemptInstance(attempt)},
	} {
		i := newIssuer(t)
		c, err := i.IssueClaim(t.Context(), "default", attempt)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := i.cfg.Revocations.Revoke(t.Context(), Revocation{Target: target}); err != nil {
			t.Fatal(err)
		}
		if _, err := i.IssueClaim(t.Context(), "default", attempt); !errs.Is(err, errs.CredentialsRevoked) {
			t.Errorf("%s: %v", name, err)
		}
		found, err := i.Introspect(t.Context(), c.Code.Reveal())
		if err != nil || found.Refused == nil || found.Refused.Reason != sdk.Revoked || found.Verified.ID != attempt {
			t.Errorf("%s: introspected as %+v, %v", name, found, err)
		}
	}
}
