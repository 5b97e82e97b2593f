package gameinstance_test

import (
	"context"
	"crypto/ed25519"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/berth-dev/berth/pkg/apikey"
	"github.com/berth-dev/berth/pkg/audit"
	"github.com/berth-dev/berth/pkg/auth"
	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/ids"
	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/pkg/redisx/redistest"
	auditv1 "github.com/berth-dev/berth/sdk/go/gen/berth/audit/v1"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	tokenv1 "github.com/berth-dev/berth/sdk/go/gen/berth/token/v1"
	"github.com/berth-dev/berth/services/gameinstance"
)

// Nonces of two who have the same code.
const (
	mine   = "a-nonce-of-16-b."
	theirs = "another-one-of-16"
)

// code returns the claim code of an instance's n-th attempt; change changes what it says, and key, if there is one, signs it.
func (p *peers) code(t *testing.T, instance string, n int, change func(jwt.MapClaims), key ...ed25519.PrivateKey) string {
	t.Helper()
	attempt := ids.Attempt(instance, n)
	says := jwt.MapClaims{
		"iss": "berth", "aud": "claim", "sub": ids.Server(attempt), "pair": ids.Pair(attempt), "namespace": "default", "instance": instance, "jti": attempt,
		"iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix(),
	}
	if change != nil {
		change(says)
	}
	tok := jwt.NewWithClaims(jwt.SigningMethodEdDSA, says)
	tok.Header["kid"] = "k"
	raw, err := tok.SignedString(append(key, p.key)[0])
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// claim uses a code, without any other credentials.
func (w *world) claim(code, nonce string) (*gameserverv1.ClaimTokensResponse, error) {
	w.t.Helper()
	return w.servers.ClaimTokens(context.Background(), &gameserverv1.ClaimTokensRequest{Claim: code, Nonce: []byte(nonce)})
}

// claimed uses a code, which must get its server's pair.
func (w *world) claimed(code, nonce, instance string, n int) {
	w.t.Helper()
	out, err := w.claim(code, nonce)
	if err != nil || out.GetGameToken() != "game of "+ids.Attempt(instance, n) || out.GetSocialToken() == "" || out.GetExpireTime() == nil {
		w.t.Errorf("answered %v, %v", out, err)
	}
}

// The same nonce has the pair again, whatever was lost, restarted or linked meanwhile; and another one does not stop the match that is played.
func TestAClaimCodeIsExchangedForThePair(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redisx.Store) {
		p := newPeers(t)
		w := startAt(t, s, p, nil)
		id := w.create().GetId()
		code := p.code(t, id, 1, nil)
		w.claimed(code, mine, id, 1)
		w.eventually(func() bool { // that allocation has answered may change it once in between
			once := w.get(id)
			w.claimed(code, mine, id, 1)
			w.claimed(p.code(t, id, 1, func(c jwt.MapClaims) { c["exp"] = time.Now().Add(2 * time.Hour).Unix() }), mine, id, 1) // minted again
			return w.get(id).GetRevision() == once.GetRevision()
		}, "asking again changes the instance")
		w.stop()
		w = startAt(t, s, p, nil) // nothing is in memory
		w.claimed(code, mine, id, 1)
		w.open(id, &linkv1.Hello{})
		if _, err := w.link(id); err != nil {
			t.Fatal(err)
		}
		w.claimed(code, mine, id, 1)
		linked := w.get(id)
		_, err := w.claim(code, theirs)
		reasonIs(t, err, errs.ClaimUsed)
		if after := w.get(id); !proto.Equal(after, linked) {
			t.Errorf("a late claim changed the instance from %v to %v", linked, after)
		}
		if _, err := w.servers.ConnectPlayers(w.asServer(ids.Server(ids.Attempt(id, 1))), &gameserverv1.ConnectPlayersRequest{InstanceId: id}); err != nil {
			t.Errorf("the match does not go on: %v", err)
		}
		if events := w.events(id); strings.Count(events, "claimed") != 1 {
			t.Errorf("the history has %s", events)
		}
	})
}

// events returns the names of what happened to an instance.
func (w *world) events(id string) string {
	w.t.Helper()
	out, err := w.instances.ListHistory(as(viewerKey), &instancev1.ListHistoryRequest{InstanceId: id})
	if err != nil {
		w.t.Fatal(err)
	}
	var names []string
	for _, e := range out.GetEntries() {
		names = append(names, e.GetEvent())
	}
	return strings.Join(names, " ")
}

// Two with the same code before the server has linked: neither gets anything, and the instance does what it does when it loses a server. The audit says it.
func TestAClaimCodeThatTwoHaveIsGoodForNeither(t *testing.T) {
	for name, c := range map[string]struct {
		onLoss instancev1.GameInstance_OnServerLoss
		state  instancev1.GameInstance_State
		reason instancev1.GameInstance_Reason
	}{
		"terminated":     {instancev1.GameInstance_ON_SERVER_LOSS_TERMINATE, instancev1.GameInstance_STATE_TERMINATED, instancev1.GameInstance_REASON_CLAIMED_TWICE},
		"another server": {instancev1.GameInstance_ON_SERVER_LOSS_REPLACE, instancev1.GameInstance_STATE_ALLOCATING, 0},
	} {
		t.Run(name, func(t *testing.T) {
			w := start(t, func(c *gameinstance.Config) {
				c.Auth.APIKeys = append(c.Auth.APIKeys, auth.APIKey{Name: "ops", SHA256: apikey.Hash(operatorKey), Role: auth.RoleOperator, Namespaces: []string{"default"}})
			})
			made, err := w.instances.CreateGameInstance(as(apiKey), &instancev1.CreateGameInstanceRequest{Placement: &instancev1.Placement{Build: "game"}, OnServerLoss: c.onLoss})
			if err != nil {
				t.Fatal(err)
			}
			id := made.GetInstance().GetId()
			attempt, code := ids.Attempt(id, 1), w.peers.code(t, id, 1, nil)
			<-w.peers.created
			w.claimed(code, mine, id, 1)
			_, err = w.claim(code, theirs)
			reasonIs(t, err, errs.ClaimUsed)
			if got := w.get(id); got.GetState() != c.state || got.GetReason() != c.reason || got.GetAttempts()[0].GetFate() != instancev1.Attempt_FATE_ABANDONED {
				t.Errorf("the instance is %v", got)
			}
			if events := w.events(id); !strings.Contains(events, "claimed claimed_twice") {
				t.Errorf("the history has %s", events)
			}
			if released := <-w.peers.released; released != attempt {
				t.Errorf("%s was released", released)
			}

			// What the first one got opens nothing.
			w.open(id, &linkv1.Hello{})
			_, err = w.link(id)
			reasonIs(t, err, errs.Superseded)
			_, err = w.servers.ConnectPlayers(w.asServer(ids.Server(attempt)), &gameserverv1.ConnectPlayersRequest{InstanceId: id})
			reasonIs(t, err, errs.Superseded)
			_, err = w.claim(code, mine)
			reasonIs(t, err, errs.Superseded)
			_, err = w.claim(code, theirs) // a repeat of what was answered
			reasonIs(t, err, errs.ClaimUsed)
			if c.reason == 0 { // the next server is not concerned
				w.claimed(w.peers.code(t, id, 2, nil), mine, id, 2)
			}
			w.audited(code, id, audit.OK, 1)
			w.audited(code, id, string(errs.ClaimUsed), 1) // the refusals are alike, so the second is counted into the first when the minute is over
		})
	}
}

// audited waits until the audit has so many entries about a claim with this outcome, for those who see the instance's namespace.
func (w *world) audited(code, id, outcome string, want int) {
	w.t.Helper()
	client := auditv1.NewAuditServiceClient(w.conn)
	for begin := time.Now(); ; <-time.After(time.Millisecond) {
		out, err := client.ListAuditEntries(as(operatorKey), &auditv1.ListAuditEntriesRequest{Filter: &auditv1.AuditFilter{
			Outcome: outcome, Action: "/berth.gameserver.v1.GameServerService/ClaimTokens",
		}})
		if err != nil {
			w.t.Fatal(err)
		}
		if list := out.GetEntries(); len(list) >= want {
			e := list[len(list)-1]
			if e.GetResource() != "instance:"+id || e.GetNamespace() != "default" || strings.Contains(e.String(), code) {
				w.t.Errorf("audited as %v", e)
			}
			return
		}
		if time.Since(begin) > time.Minute {
			w.t.Fatal("the audit has nothing of it")
		}
	}
}

// Whoever is first: the instance is one arbiter, and no two servers come of one code.
func TestTwoClaimAtTheSameInstant(t *testing.T) {
	w := start(t, nil)
	for range 20 {
		id := w.create().GetId()
		code := w.peers.code(t, id, 1, nil)
		errors := make([]error, 2)
		var both sync.WaitGroup
		for n, nonce := range []string{mine, theirs} {
			both.Go(func() { _, errors[n] = w.claim(code, nonce) })
		}
		both.Wait()
		if (errors[0] == nil) == (errors[1] == nil) {
			t.Fatalf("answered %v and %v", errors[0], errors[1])
		}
		for _, err := range errors {
			if err != nil {
				reasonIs(t, err, errs.ClaimUsed)
			}
		}
		if got := w.get(id); got.GetState() != instancev1.GameInstance_STATE_TERMINATED || got.GetReason() != instancev1.GameInstance_REASON_CLAIMED_TWICE {
			t.Fatalf("the instance is %v", got)
		}
		w.open(id, &linkv1.Hello{})
		_, err := w.link(id)
		reasonIs(t, err, errs.Superseded)
	}
}

// A pair that cannot be minted leaves the code with who has claimed it.
func TestAClaimIsRepeatedUntilThePairIsMinted(t *testing.T) {
	w := start(t, nil)
	id := w.create().GetId()
	code := w.peers.code(t, id, 1, nil)
	w.peers.mu.Lock()
	w.peers.unminted = 2
	w.peers.mu.Unlock()
	for range 2 {
		_, err := w.claim(code, mine)
		reasonIs(t, err, errs.ServiceUnavailable)
	}
	w.claimed(code, mine, id, 1)
}

// What is no code of this very attempt gets nothing and changes nothing.
func TestClaimsThatAreRefused(t *testing.T) {
	w := start(t, nil)
	id, over := w.create().GetId(), w.create().GetId()
	if _, err := w.instances.TerminateGameInstance(as(apiKey), &instancev1.TerminateGameInstanceRequest{InstanceId: over}); err != nil {
		t.Fatal(err)
	}
	_, forger, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	good, before := w.peers.code(t, id, 1, nil), w.get(id)
	with := func(claim string, value any) string {
		return w.peers.code(t, id, 1, func(c jwt.MapClaims) { c[claim] = value })
	}
	server, stranger := ids.Server(ids.Attempt(id, 1)), ids.Server("nobody's")
	for name, c := range map[string]struct {
		code, nonce string
		want        errs.Reason
	}{
		"no code":                      {"", mine, errs.ValidationFailed},
		"an oversized code":            {strings.Repeat("x", 8193), mine, errs.ValidationFailed},
		"no nonce":                     {good, "", errs.ValidationFailed},
		"a nonce too short":            {good, mine[:15], errs.ValidationFailed},
		"a nonce too long":             {good, strings.Repeat("x", 65), errs.ValidationFailed},
		"no token":                     {"abc", mine, errs.CredentialsInvalid},
		"of another key":               {w.peers.code(t, id, 1, nil, forger), mine, errs.CredentialsInvalid},
		"a game token":                 {w.peers.token(t, "game", server), mine, errs.CredentialsInvalid},
		"a social token":               {w.peers.token(t, "social", server), mine, errs.CredentialsInvalid},
		"expired":                      {with("exp", time.Now().Add(-time.Hour).Unix()), mine, errs.CredentialsExpired},
		"of another namespace":         {with("namespace", "other"), mine, errs.InstanceUnknown},
		"of an instance that is not":   {w.peers.code(t, stranger, 1, nil), mine, errs.InstanceUnknown},
		"of another instance":          {with("instance", over), mine, errs.NotAssigned},
		"of an attempt that is not":    {w.peers.code(t, id, 2, nil), mine, errs.NotAssigned},
		"of an instance that is over":  {w.peers.code(t, over, 1, nil), mine, errs.Superseded},
		"and another's nonce, of that": {w.peers.code(t, over, 1, nil), theirs, errs.Superseded},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := w.claim(c.code, c.nonce)
			reasonIs(t, err, c.want)
			if err != nil && strings.Contains(err.Error(), "eyJ") {
				t.Errorf("the error quotes the code: %v", err)
			}
		})
	}
	// It opens no other door, and a credential that is not valid is refused here as everywhere.
	asToken := metadata.AppendToOutgoingContext(as(good), auth.MetadataSocialToken, w.peers.token(t, "social", server))
	_, err = w.servers.ConnectPlayers(asToken, &gameserverv1.ConnectPlayersRequest{InstanceId: id})
	reasonIs(t, err, errs.CredentialsInvalid)
	_, err = w.servers.ClaimTokens(asToken, &gameserverv1.ClaimTokensRequest{Claim: good, Nonce: []byte(mine)})
	reasonIs(t, err, errs.CredentialsInvalid)
	_, err = w.servers.ClaimTokens(as(apikey.Prefix+"wrong"), &gameserverv1.ClaimTokensRequest{Claim: good, Nonce: []byte(mine)})
	reasonIs(t, err, errs.CredentialsInvalid)
	if after := w.get(id); !proto.Equal(after, before) {
		t.Errorf("refused claims changed the instance from %v to %v", before, after)
	}
	w.claimed(good, mine, id, 1)
}

// Who revokes a server, or what was minted for its instance, need not know what it was started with.
func TestARevokedClaimCodeIsRefused(t *testing.T) {
	p := newPeers(t)
	w := startAt(t, redistest.Embedded(t), p, nil)
	id := w.create().GetId()
	w.stop()
	p.revoked = []*tokenv1.RevocationTarget{{Namespace: "default", Target: &tokenv1.RevocationTarget_ServerId{ServerId: ids.Server(ids.Attempt(id, 1))}}}
	w = startAt(t, w.store, p, nil)
	_, err := w.claim(p.code(t, id, 1, nil), mine)
	reasonIs(t, err, errs.CredentialsRevoked)
}
