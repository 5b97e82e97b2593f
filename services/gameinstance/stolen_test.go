package gameinstance_test

import (
	"context"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/berth-dev/berth/pkg/auth"
	"github.com/berth-dev/berth/pkg/errs"
	sessionv1 "github.com/berth-dev/berth/pkg/gen/berth/session/v1"
	"github.com/berth-dev/berth/pkg/ids"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
)

// asServerOf shows a pair of the server that names a namespace, and is valid for so long.
func (w *world) asServerOf(namespace, serverID string, left time.Duration) context.Context {
	w.t.Helper()
	sign := func(audience string) string {
		tok := jwt.NewWithClaims(jwt.SigningMethodEdDSA, jwt.MapClaims{
			"iss": "berth", "aud": audience, "sub": serverID, "pair": "pair", "namespace": namespace, "jti": audience, "exp": time.Now().Add(left).Unix(),
		})
		tok.Header["kid"] = "k"
		raw, err := tok.SignedString(w.peers.key)
		if err != nil {
			w.t.Fatal(err)
		}
		return raw
	}
	return metadata.AppendToOutgoingContext(as(sign("game")), auth.MetadataSocialToken, sign("social"))
}

// A pair is good in the namespace that it names and in no other, even if it is that of the very server.
func TestAPairOfAnotherNamespaceOpensNothing(t *testing.T) {
	w := start(t, nil)
	inst := w.create()
	id, server := inst.GetId(), ids.Server(ids.Attempt(inst.GetId(), 1))
	resumeKey := w.open(id, &linkv1.Hello{}).GetResumeKey()
	if _, err := w.link(id); err != nil {
		t.Fatal(err)
	}
	before := w.get(id)
	data := &typev1.Data{Kind: &typev1.Data_Binary{Binary: []byte("x")}}

	for name, left := range map[string]time.Duration{"valid": time.Hour, "expired": -time.Hour} {
		elsewhere, want := w.asServerOf("other", server, left), errs.InstanceUnknown
		if left < 0 {
			want = errs.CredentialsExpired
			_, err := w.servers.RefreshTokens(elsewhere, &gameserverv1.RefreshTokensRequest{ResumeKey: resumeKey, InstanceId: id})
			reasonIs(t, err, want)
		}
		t.Run(name, func(t *testing.T) {
			_, err := w.servers.UpdateGameData(elsewhere, &gameserverv1.UpdateGameDataRequest{InstanceId: id, GameData: data})
			reasonIs(t, err, want)
			_, err = w.servers.ConnectPlayers(elsewhere, &gameserverv1.ConnectPlayersRequest{InstanceId: id})
			reasonIs(t, err, want)
			_, err = w.servers.EndGameInstance(elsewhere, &gameserverv1.EndGameInstanceRequest{InstanceId: id})
			reasonIs(t, err, want)
		})
	}

	// Over the link the gateway says which namespace the pair named.
	ctx, cancel := context.WithCancel(internally())
	defer cancel()
	stream, err := w.sessions.Relay(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&sessionv1.RelayRequest{
		Id:       1,
		Identity: &sessionv1.ServerIdentity{Namespace: "other", ServerId: server, PairId: "pair", SessionId: w.sessionIDs[server], SessionEpoch: w.epochs[server]},
		Request:  &linkv1.Request{Id: 2, InstanceId: id, LinkEpoch: before.GetLink().GetEpoch(), Method: "EndGameInstance"},
	}); err != nil {
		t.Fatal(err)
	}
	if out, err := stream.Recv(); err != nil || out.GetResponse().GetError().GetReason() != string(errs.InstanceUnknown) {
		t.Errorf("over the link: %v, %v", out, err)
	}

	if after := w.get(id); !proto.Equal(after, before) {
		t.Errorf("refused calls changed the instance from %v to %v", before, after)
	}
	if _, err := w.servers.ConnectPlayers(w.asServer(server), &gameserverv1.ConnectPlayersRequest{InstanceId: id}); err != nil {
		t.Errorf("the pair of the right namespace: %v", err)
	}
}

// A resume key is worth nothing without the pair whose session it is of.
func TestAStolenResumeKeyOpensNothing(t *testing.T) {
	w := start(t, nil)
	victim, thief := w.create().GetId(), w.create().GetId()
	stolen := w.open(victim, &linkv1.Hello{}).GetResumeKey()
	if _, err := w.link(victim); err != nil {
		t.Fatal(err)
	}
	before := w.get(victim)
	hello := &linkv1.Hello{ResumeKey: stolen, Instances: []*linkv1.HelloInstance{{InstanceId: victim, LinkEpoch: before.GetLink().GetEpoch()}}}

	got := w.open(thief, hello)
	if got.GetResumeKey() == stolen || len(got.GetLinks()) != 0 || got.GetSessionId() == w.sessionIDs[before.GetLink().GetServerId()] {
		t.Errorf("a server with a pair of its own opens %v", got)
	}
	_, err := w.sessions.OpenSession(internally(), openRequest(thief, hello)) // its own session has another key
	reasonIs(t, err, errs.CredentialsInUse)
	expired := w.asServerOf("default", ids.Server(ids.Attempt(thief, 1)), -time.Hour)
	for _, id := range []string{victim, thief} {
		_, err := w.servers.RefreshTokens(expired, &gameserverv1.RefreshTokensRequest{ResumeKey: stolen, InstanceId: id})
		reasonIs(t, err, errs.CredentialsExpired)
	}

	if after := w.get(victim); !proto.Equal(after, before) {
		t.Errorf("the instance went from %v to %v", before, after)
	}
	if again := w.open(victim, hello); again.GetResumeKey() != stolen || len(again.GetLinks()) != 1 {
		t.Errorf("its own server resumes as %v", again)
	}
}
