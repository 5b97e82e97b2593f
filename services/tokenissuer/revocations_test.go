package tokenissuer_test

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/berth-dev/berth/pkg/apikey"
	"github.com/berth-dev/berth/pkg/auth"
	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/ids"
	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/pkg/rpc"
	tokenv1 "github.com/berth-dev/berth/sdk/go/gen/berth/token/v1"
	sdk "github.com/berth-dev/berth/sdk/go/token"
)

const operatorKey = apikey.Prefix + "an-operator"

// revocations reads the list as a verifier does.
func (i *issuer) revocations(t *testing.T) *sdk.Revocations {
	t.Helper()
	resp, err := i.GetRevocations(t.Context(), &tokenv1.GetRevocationsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var list []sdk.Revocation
	for _, target := range resp.GetTargets() {
		r := sdk.Revocation{
			Namespace: target.GetNamespace(), PairID: target.GetPairId(), ServerID: target.GetServerId(), InstanceID: target.GetInstanceId(), KeyID: target.GetKeyId(),
		}
		if target.GetIssuedBefore() != nil {
			r.IssuedBefore = target.GetIssuedBefore().AsTime()
		}
		list = append(list, r)
	}
	return sdk.NewRevocations(resp.GetVersion(), list)
}

// server is the verified pair of the attempt.
func (i *issuer) server(t *testing.T) sdk.Server {
	t.Helper()
	pair := i.pair(t)
	s, err := i.verifier().VerifyPair(t.Context(), pair.GetGameToken(), pair.GetSocialToken())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// What one replica revokes the other refuses to mint, at once, and after a restart of both.
func TestRevokeTokens(t *testing.T) {
	instance := ids.AttemptInstance(attempt)
	for name, req := range map[string]*tokenv1.RevokeTokensRequest{
		"pair":     {Target: &tokenv1.RevokeTokensRequest_PairId{PairId: ids.Pair(attempt)}},
		"server":   {Target: &tokenv1.RevokeTokensRequest_ServerId{ServerId: ids.Server(attempt)}},
		"instance": {Target: &tokenv1.RevokeTokensRequest_InstanceId{InstanceId: instance}},
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, addr string, _ *redisx.Store) {
				cfg := withKey(config(addr), operatorKey, auth.RoleOperator)
				one, two := start(t, slog.New(slog.DiscardHandler), cfg), start(t, slog.New(slog.DiscardHandler), cfg)
				server := two.server(t)
				req.Reason = "a stolen laptop"
				resp, err := one.public.RevokeTokens(with(t, operatorKey), req)
				if err != nil {
					t.Fatal(err)
				}
				r := resp.GetRevocation()
				if r.GetActor() != "key:"+operatorKey || r.GetReason() != req.GetReason() || r.GetTarget().GetNamespace() != "default" || r.GetVersion() == 0 ||
					r.GetExpireTime().AsTime().Sub(r.GetCreateTime().AsTime()) != 31*24*time.Hour {
					t.Errorf("got %v", r)
				}
				refused := func(i *issuer) {
					t.Helper()
					_, err := i.IssueTokenPair(t.Context(), &tokenv1.IssueTokenPairRequest{Namespace: "default", AttemptId: attempt})
					wantReason(t, err, errs.CredentialsRevoked)
					_, err = i.RefreshTokenPair(t.Context(), &tokenv1.RefreshTokenPairRequest{Namespace: "default", ServerId: server.ID, PairId: server.PairID})
					wantReason(t, err, errs.CredentialsRevoked)
					if set := i.revocations(t); !set.Server(server) || set.Version() != r.GetVersion() {
						t.Errorf("a verifier is not told: version %d", set.Version())
					}
				}
				refused(two)
				one.stop()
				two.stop()
				refused(start(t, slog.New(slog.DiscardHandler), cfg))
			})
		})
	}
}

func TestRevokeTokensByTime(t *testing.T) {
	each(t, func(t *testing.T, addr string, _ *redisx.Store) {
		i := start(t, slog.New(slog.DiscardHandler), config(addr))
		old, ticket := i.server(t), i.ticket(t, uuid.NewString())
		before := timestamppb.New(old.IssueTime.Add(time.Second))
		for { // the clock has to reach that time
			_, err := i.public.RevokeTokens(with(t, apiKey), &tokenv1.RevokeTokensRequest{Target: &tokenv1.RevokeTokensRequest_IssuedBefore{IssuedBefore: before}})
			if err == nil {
				break
			}
			if err = rpc.FromStatus(err); !errs.Is(err, errs.ValidationFailed) || !strings.Contains(err.Error(), "issued_before") {
				t.Fatal(err)
			}
		}
		set := i.revocations(t)
		if !set.Server(old) || set.Server(i.server(t)) {
			t.Error("the old pair should be revoked, and the new one not")
		}
		found, err := i.public.IntrospectToken(with(t, apiKey), &tokenv1.IntrospectTokenRequest{Token: ticket.GetTicket()})
		if err != nil || found.GetClaims().GetIssueTime().AsTime().Before(before.AsTime()) == found.GetActive() {
			t.Errorf("%v, %v", found, err)
		}
	})
}

func TestGetRevocationsIsSparing(t *testing.T) {
	i := start(t, slog.New(slog.DiscardHandler), config(miniredis.RunT(t).Addr()))
	first, err := i.GetRevocations(t.Context(), &tokenv1.GetRevocationsRequest{})
	if err != nil || first.GetVersion() != 0 {
		t.Fatal(first, err)
	}
	revoked, err := i.public.RevokeTokens(with(t, apiKey), &tokenv1.RevokeTokensRequest{Target: &tokenv1.RevokeTokensRequest_InstanceId{InstanceId: uuid.NewString()}})
	if err != nil {
		t.Fatal(err)
	}
	for known, want := range map[int64]int{0: 11, revoked.GetRevocation().GetVersion(): 0, 1: 11} {
		got, err := i.GetRevocations(t.Context(), &tokenv1.GetRevocationsRequest{KnownVersion: known})
		if err != nil || len(got.GetTargets()) != want || got.GetUnchanged() != (want == 0) || got.GetVersion() != revoked.GetRevocation().GetVersion() {
			t.Errorf("known %d: %v, %v", known, got, err)
		}
	}
	// Like the keys it is for everybody who verifies tokens.
	if _, err := i.public.GetRevocations(t.Context(), &tokenv1.GetRevocationsRequest{}); err != nil {
		t.Error(err)
	}
}

// While Redis is away the list must not look like the newest, what is known to be revoked is refused, and what is not is minted.
func TestRevocationsWithoutRedis(t *testing.T) {
	m := miniredis.RunT(t)
	i := start(t, slog.New(slog.DiscardHandler), config(m.Addr()))
	req := &tokenv1.RevokeTokensRequest{Target: &tokenv1.RevokeTokensRequest_PairId{PairId: ids.Pair(attempt)}}
	if _, err := i.public.RevokeTokens(with(t, apiKey), req); err != nil {
		t.Fatal(err)
	}
	i.revocations(t)
	m.Close()
	_, err := i.IssueTokenPair(t.Context(), &tokenv1.IssueTokenPairRequest{Namespace: "default", AttemptId: attempt})
	wantReason(t, err, errs.CredentialsRevoked)
	if _, err = i.IssueTokenPair(t.Context(), &tokenv1.IssueTokenPairRequest{Namespace: "default", AttemptId: ids.Attempt(uuid.NewString(), 1)}); err != nil {
		t.Error(err)
	}
	_, err = i.GetRevocations(t.Context(), &tokenv1.GetRevocationsRequest{})
	wantReason(t, err, errs.StoreUnavailable)
	_, err = i.public.RevokeTokens(with(t, apiKey), req)
	wantReason(t, err, errs.StoreUnavailable)
	_, err = i.public.ListRevocations(with(t, apiKey), &tokenv1.ListRevocationsRequest{})
	wantReason(t, err, errs.StoreUnavailable)
}

func TestListRevocations(t *testing.T) {
	i := start(t, slog.New(slog.DiscardHandler), withKey(config(miniredis.RunT(t).Addr()), operatorKey, auth.RoleOperator, "prod"))
	var want []string
	for n := range 3 {
		id := ids.Pair(strings.Repeat("x", n+1))
		want = append([]string{id}, want...)
		for _, namespace := range []string{"prod", ""} {
			req := &tokenv1.RevokeTokensRequest{Namespace: namespace, Target: &tokenv1.RevokeTokensRequest_PairId{PairId: id}}
			if _, err := i.public.RevokeTokens(with(t, apiKey), req); err != nil {
				t.Fatal(err)
			}
		}
	}
	var got []string
	for token := ""; ; {
		page, err := i.public.ListRevocations(with(t, operatorKey), &tokenv1.ListRevocationsRequest{Namespace: "prod", PageSize: 2, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range page.GetRevocations() {
			got = append(got, r.GetTarget().GetPairId())
		}
		if token = page.GetNextPageToken(); token == "" {
			break
		}
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("got %v, want %v", got, want)
	}
	_, err := i.public.ListRevocations(with(t, operatorKey), &tokenv1.ListRevocationsRequest{})
	wantReason(t, err, errs.NamespaceDenied)
	_, err = i.public.RevokeTokens(with(t, operatorKey), &tokenv1.RevokeTokensRequest{Target: &tokenv1.RevokeTokensRequest_PairId{PairId: want[0]}})
	wantReason(t, err, errs.NamespaceDenied)
}

func TestIntrospectToken(t *testing.T) {
	var logs lockedBuffer
	cfg := withKey(withKey(config(miniredis.RunT(t).Addr()), operatorKey, auth.RoleOperator, "prod"), apikey.Prefix+"service", auth.RoleService)
	i := start(t, slog.New(slog.NewJSONHandler(&logs, &slog.HandlerOptions{Level: slog.LevelDebug})), cfg)
	pair, instance := i.pair(t), uuid.NewString()
	ticket := i.ticket(t, instance)

	found, err := i.public.IntrospectToken(with(t, apiKey), &tokenv1.IntrospectTokenRequest{Token: pair.GetSocialToken()})
	c := found.GetClaims()
	if err != nil || !found.GetActive() || found.GetReason() != "" || c.GetAudience() != "social" || c.GetSubject() != pair.GetServerId() || c.GetPairId() != pair.GetPairId() ||
		c.GetNamespace() != "default" || c.GetTokenId() == "" || c.GetKeyId() == "" || !c.GetExpireTime().AsTime().Equal(pair.GetExpireTime().AsTime()) || c.GetIssueTime() == nil {
		t.Errorf("%v, %v", found, err)
	}
	found, err = i.public.IntrospectToken(with(t, apiKey), &tokenv1.IntrospectTokenRequest{Token: ticket.GetTicket()})
	if c = found.GetClaims(); err != nil || !found.GetActive() || c.GetAudience() != "ticket" || c.GetInstanceId() != instance || c.GetSubject() != "player-1" || c.GetPairId() != "" {
		t.Errorf("%v, %v", found, err)
	}
	if _, err := i.public.RevokeTokens(with(t, apiKey), &tokenv1.RevokeTokensRequest{Target: &tokenv1.RevokeTokensRequest_InstanceId{InstanceId: instance}}); err != nil {
		t.Fatal(err)
	}
	found, err = i.public.IntrospectToken(with(t, apiKey), &tokenv1.IntrospectTokenRequest{Token: ticket.GetTicket()})
	if err != nil || found.GetActive() || found.GetReason() != "CREDENTIALS_REVOKED" || found.GetMessage() == "" || found.GetClaims() == nil {
		t.Errorf("a revoked ticket: %v, %v", found, err)
	}
	for n := range 20 { // invented key ids, as often as somebody likes
		found, err = i.public.IntrospectToken(with(t, apiKey), &tokenv1.IntrospectTokenRequest{Token: "x" + pair.GetSocialToken()[n:]})
		if err != nil || found.GetActive() || found.GetReason() != "CREDENTIALS_INVALID" || found.GetClaims() != nil {
			t.Errorf("no token: %v, %v", found, err)
		}
	}
	_, err = i.public.IntrospectToken(with(t, operatorKey), &tokenv1.IntrospectTokenRequest{Token: pair.GetSocialToken()})
	wantReason(t, err, errs.NamespaceDenied)
	_, err = i.public.IntrospectToken(with(t, apikey.Prefix+"service"), &tokenv1.IntrospectTokenRequest{Token: pair.GetSocialToken()})
	wantReason(t, err, errs.RoleRequired)
	_, err = i.public.IntrospectToken(with(t, apiKey), &tokenv1.IntrospectTokenRequest{Token: strings.Repeat("x", 1<<20)})
	wantReason(t, err, errs.ValidationFailed)
	i.stop()
	for _, secret := range []string{signature(pair.GetSocialToken()), signature(ticket.GetTicket()), "eyJ"} {
		if strings.Contains(logs.String(), secret) {
			t.Errorf("the log has a token: %s", logs.String())
		}
	}
}

func TestRefreshTime(t *testing.T) {
	cfg := config(miniredis.RunT(t).Addr())
	cfg.PairLifetime, cfg.RefreshWindow = 2*time.Minute, 30*time.Second
	i := start(t, slog.New(slog.DiscardHandler), cfg)
	pair := i.pair(t)
	renewed, err := i.RefreshTokenPair(t.Context(), &tokenv1.RefreshTokenPairRequest{Namespace: "default", ServerId: pair.GetServerId(), PairId: pair.GetPairId()})
	if err != nil {
		t.Fatal(err)
	}
	for what, p := range map[string]interface {
		GetExpireTime() *timestamppb.Timestamp
		GetRefreshTime() *timestamppb.Timestamp
	}{"issued": pair, "renewed": renewed} {
		if window := p.GetExpireTime().AsTime().Sub(p.GetRefreshTime().AsTime()); window != 30*time.Second {
			t.Errorf("%s: refresh %v before the expiry", what, window)
		}
	}
	server, err := i.verifier().VerifyPair(t.Context(), renewed.GetGameToken(), pair.GetSocialToken())
	if err != nil || server.ID != pair.GetServerId() || server.PairID != pair.GetPairId() {
		t.Errorf("halves of the same pair, renewed and not: %+v, %v", server, err)
	}
	_, err = i.public.RefreshTokenPair(with(t, apiKey), &tokenv1.RefreshTokenPairRequest{Namespace: "default", ServerId: pair.GetServerId(), PairId: pair.GetPairId()})
	wantReason(t, err, errs.RoleRequired)
}
