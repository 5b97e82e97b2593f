package token_test

import (
	"testing"
	"time"

	"github.com/berth-dev/berth/sdk/go/token"
	"github.com/golang-jwt/jwt/v5"
)

func TestVerifyClaim(t *testing.T) {
	i, c := newIssuer(t, "k1"), claims(token.AudienceClaim)
	got, err := verifier(t, i).VerifyClaim(t.Context(), i.sign(t, c))
	want := token.Claim{
		AttemptID: "jti-claim", ServerID: "server-1", PairID: "pair-1", InstanceID: "instance-1", Namespace: "default",
		IssueTime: c.IssuedAt.Time, ExpireTime: c.ExpiresAt.Time, KeyID: "k1",
	}
	if err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
}

// A claim code is verified as every token is, and no other token is one.
func TestVerifyClaimRefuses(t *testing.T) {
	for algorithm, i := range issuers(t, "k1") {
		v := verifier(t, i)
		changed := func(change func(*token.Claims)) string {
			c := claims(token.AudienceClaim)
			change(&c)
			return i.sign(t, c)
		}
		for name, tc := range map[string]struct {
			code string
			want token.Reason
		}{
			"none":            {"", token.Missing},
			"game token":      {i.sign(t, claims(token.AudienceGame)), token.Invalid},
			"social token":    {i.sign(t, claims(token.AudienceSocial)), token.Invalid},
			"ticket":          {i.sign(t, claims(token.AudienceTicket)), token.Invalid},
			"two audiences":   {changed(func(c *token.Claims) { c.Audience = jwt.ClaimStrings{"claim", "game"} }), token.Invalid},
			"another's key":   {issuers(t, "k1")[algorithm].sign(t, claims(token.AudienceClaim)), token.Invalid},
			"alg none":        {i.signWith(t, claims(token.AudienceClaim), jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType), token.Invalid},
			"expired":         {changed(func(c *token.Claims) { c.ExpiresAt = jwt.NewNumericDate(time.Now().Add(-time.Minute)) }), token.Expired},
			"without attempt": {changed(func(c *token.Claims) { c.ID = "" }), token.Invalid},
			"without server":  {changed(func(c *token.Claims) { c.Subject = "" }), token.Invalid},
			"without pair":    {changed(func(c *token.Claims) { c.Pair = "" }), token.Invalid},
			"no instance":     {changed(func(c *token.Claims) { c.Instance = "" }), token.Invalid},
			"no namespace":    {changed(func(c *token.Claims) { c.Namespace = "" }), token.Invalid},
		} {
			t.Run(algorithm+" "+name, func(t *testing.T) {
				_, err := v.VerifyClaim(t.Context(), tc.code)
				wantReason(t, err, tc.want)
			})
		}
		_, err := v.VerifyTicket(t.Context(), i.sign(t, claims(token.AudienceClaim)))
		wantReason(t, err, token.Invalid)
	}
}

// What revokes a server's pair, or what was minted for its instance, revokes its claim code.
func TestAClaimCodeIsRevoked(t *testing.T) {
	issued := time.Unix(1_000_000, 0)
	claim := token.Claim{AttemptID: "a", ServerID: "s", PairID: "p", InstanceID: "i", Namespace: "n", IssueTime: issued, KeyID: "k"}
	for name, tc := range map[string]struct {
		revoked token.Revocation
		want    bool
	}{
		"its pair":           {token.Revocation{Namespace: "n", PairID: "p"}, true},
		"its server":         {token.Revocation{Namespace: "n", ServerID: "s"}, true},
		"its instance":       {token.Revocation{Namespace: "n", InstanceID: "i"}, true},
		"its key":            {token.Revocation{KeyID: "k"}, true},
		"all before":         {token.Revocation{Namespace: "n", IssuedBefore: issued.Add(1)}, true},
		"another server":     {token.Revocation{Namespace: "n", ServerID: "p"}, false},
		"another namespace":  {token.Revocation{Namespace: "m", InstanceID: "i"}, false},
		"all of before that": {token.Revocation{Namespace: "n", IssuedBefore: issued}, false},
	} {
		if got := token.NewRevocations(1, []token.Revocation{tc.revoked}).Claim(claim); got != tc.want {
			t.Errorf("%s: revoked %v", name, got)
		}
	}
	var none *token.Revocations
	if none.Claim(claim) {
		t.Error("nil revokes something")
	}
}
