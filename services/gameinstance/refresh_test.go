package gameinstance_test

import (
	"testing"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/berth-dev/berth/pkg/auth"
	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/ids"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
)

// An expired pair does one thing only, and only for who can prove to be the server that the match needs.
func TestAPairIsRefreshed(t *testing.T) {
	w := start(t, nil)
	inst := w.create()
	server := ids.Server(ids.Attempt(inst.GetId(), 1))
	resumeKey := w.open(inst.GetId(), &linkv1.Hello{}).GetResumeKey()
	expired := metadata.AppendToOutgoingContext(as(w.peers.tokenOf(t, "game", server, -time.Hour)), auth.MetadataSocialToken, w.peers.tokenOf(t, "social", server, -time.Hour))
	other := w.create()

	for name, c := range map[string]struct {
		expired bool
		req     *gameserverv1.RefreshTokensRequest
		want    errs.Reason
	}{
		"valid":                      {false, &gameserverv1.RefreshTokensRequest{}, ""},
		"expired":                    {true, &gameserverv1.RefreshTokensRequest{ResumeKey: resumeKey, InstanceId: inst.GetId()}, ""},
		"expired, no key":            {true, &gameserverv1.RefreshTokensRequest{InstanceId: inst.GetId()}, errs.CredentialsExpired},
		"expired, wrong key":         {true, &gameserverv1.RefreshTokensRequest{ResumeKey: resumeKey + "x", InstanceId: inst.GetId()}, errs.CredentialsExpired},
		"expired, no instance":       {true, &gameserverv1.RefreshTokensRequest{ResumeKey: resumeKey}, errs.CredentialsExpired},
		"expired, somebody's":        {true, &gameserverv1.RefreshTokensRequest{ResumeKey: resumeKey, InstanceId: other.GetId()}, errs.CredentialsExpired},
		"expired, unknown":           {true, &gameserverv1.RefreshTokensRequest{ResumeKey: resumeKey, InstanceId: ids.Server("x")}, errs.CredentialsExpired},
		"instance that is no UUID":   {false, &gameserverv1.RefreshTokensRequest{InstanceId: "x"}, errs.ValidationFailed},
		"resume key that is no such": {true, &gameserverv1.RefreshTokensRequest{ResumeKey: string(make([]byte, 129))}, errs.ValidationFailed},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := w.asServer(server)
			if c.expired {
				ctx = expired
			}
			out, err := w.servers.RefreshTokens(ctx, c.req)
			reasonIs(t, err, c.want)
			if err == nil && (out.GetGameToken() != "renewed game of "+server || out.GetSocialToken() == "" || out.GetExpireTime() == nil || out.GetRefreshTime() == nil) {
				t.Errorf("answered %v", out)
			}
		})
	}
	_, err := w.servers.ConnectPlayers(expired, &gameserverv1.ConnectPlayersRequest{InstanceId: inst.GetId()})
	reasonIs(t, err, errs.CredentialsExpired)
	if _, err := w.instances.TerminateGameInstance(as(apiKey), &instancev1.TerminateGameInstanceRequest{InstanceId: inst.GetId()}); err != nil {
		t.Fatal(err)
	}
	_, err = w.servers.RefreshTokens(expired, &gameserverv1.RefreshTokensRequest{ResumeKey: resumeKey, InstanceId: inst.GetId()})
	reasonIs(t, err, errs.CredentialsExpired)
}

// A registered server need not name an instance: Berth knows them.
func TestAnExpiredRegisteredServerIsRefreshedWhileItHasAnInstance(t *testing.T) {
	w := start(t, nil)
	server := w.register(1).GetId()
	resumeKey := w.arrive(server, &linkv1.Hello{}).GetResumeKey()
	expired := metadata.AppendToOutgoingContext(as(w.peers.tokenOf(t, "game", server, -time.Hour)), auth.MetadataSocialToken, w.peers.tokenOf(t, "social", server, -time.Hour))
	req := &gameserverv1.RefreshTokensRequest{ResumeKey: resumeKey}
	_, err := w.servers.RefreshTokens(expired, req)
	reasonIs(t, err, errs.CredentialsExpired)
	inst, err := w.place(server)
	if err != nil {
		t.Fatal(err)
	}
	w.untilAssigned(server, inst.GetId())
	if _, err := w.servers.RefreshTokens(expired, req); err != nil {
		t.Error(err)
	}
}
