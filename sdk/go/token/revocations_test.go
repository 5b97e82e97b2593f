package token_test

import (
	"testing"
	"time"

	"github.com/berth-dev/berth/sdk/go/token"
)

func TestRevocations(t *testing.T) {
	issued := time.Unix(1_000_000, 0)
	server := token.Server{ID: "s", PairID: "p", Namespace: "n", IssueTime: issued, GameKeyID: "k1", SocialKeyID: "k2"}
	ticket := token.Ticket{ID: "t", InstanceID: "i", Namespace: "n", IssueTime: issued, KeyID: "k1"}
	for name, tc := range map[string]struct {
		list           []token.Revocation
		server, ticket bool
	}{
		"nothing":                        {nil, false, false},
		"the pair":                       {[]token.Revocation{{Namespace: "n", PairID: "p"}}, true, false},
		"the pair in another namespace":  {[]token.Revocation{{Namespace: "m", PairID: "p"}}, false, false},
		"the server":                     {[]token.Revocation{{Namespace: "n", ServerID: "s"}}, true, false},
		"a server of the pair's name":    {[]token.Revocation{{Namespace: "n", ServerID: "p"}, {Namespace: "n", PairID: "s"}}, false, false},
		"the instance":                   {[]token.Revocation{{Namespace: "n", InstanceID: "i"}}, false, true},
		"another namespace's instance":   {[]token.Revocation{{Namespace: "m", InstanceID: "i"}}, false, false},
		"the game token's key":           {[]token.Revocation{{KeyID: "k1"}}, true, true},
		"the social token's key":         {[]token.Revocation{{KeyID: "k2"}}, true, false},
		"before the time of issue":       {[]token.Revocation{{Namespace: "n", IssuedBefore: issued}}, false, false},
		"after the time of issue":        {[]token.Revocation{{Namespace: "n", IssuedBefore: issued.Add(1)}}, true, true},
		"after it, in another namespace": {[]token.Revocation{{Namespace: "m", IssuedBefore: issued.Add(1)}}, false, false},
		"the latest time counts": {[]token.Revocation{
			{Namespace: "n", IssuedBefore: issued.Add(1)}, {Namespace: "n", IssuedBefore: issued.Add(-1)},
		}, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			r := token.NewRevocations(7, tc.list)
			if r.Server(server) != tc.server || r.Ticket(ticket) != tc.ticket || r.Version() != 7 {
				t.Errorf("server %v, ticket %v, version %d", r.Server(server), r.Ticket(ticket), r.Version())
			}
		})
	}
	var none *token.Revocations
	if none.Server(server) || none.Ticket(ticket) || none.Version() != 0 || !none.IssuedBefore("n").IsZero() {
		t.Error("nil revokes something")
	}
	before := token.NewRevocations(1, []token.Revocation{{Namespace: "n", IssuedBefore: time.Unix(1, 0)}})
	if !before.Server(token.Server{Namespace: "n"}) {
		t.Error("a pair that hides when it was issued escapes")
	}
}
