package gameinstance_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/berth-dev/berth/pkg/apikey"
	"github.com/berth-dev/berth/pkg/auth"
	"github.com/berth-dev/berth/pkg/errs"
	auditv1 "github.com/berth-dev/berth/sdk/go/gen/berth/audit/v1"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	"github.com/berth-dev/berth/services/gameinstance"
)

const (
	operatorKey   = apikey.Prefix + "operator"
	euOperatorKey = apikey.Prefix + "operator-of-eu"
)

func TestOperatorsReadTheAudit(t *testing.T) {
	w := start(t, func(c *gameinstance.Config) {
		c.Auth.APIKeys = append(c.Auth.APIKeys,
			auth.APIKey{Name: "ops", SHA256: apikey.Hash(operatorKey), Role: auth.RoleOperator},
			auth.APIKey{Name: "ops-eu", SHA256: apikey.Hash(euOperatorKey), Role: auth.RoleOperator, Namespaces: []string{"eu"}})
	})
	client := auditv1.NewAuditServiceClient(w.conn)
	inst := w.create()
	_, err := w.instances.CreateGameInstance(as(euOperatorKey), &instancev1.CreateGameInstanceRequest{Namespace: "eu", RequestId: "r1", Placement: &instancev1.Placement{Build: "game"}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.instances.TerminateGameInstance(as(viewerKey), &instancev1.TerminateGameInstanceRequest{InstanceId: inst.GetId()})
	reasonIs(t, err, errs.RoleRequired)
	_, err = w.instances.GetGameInstance(as(apikey.Prefix+"wrong"), &instancev1.GetGameInstanceRequest{InstanceId: inst.GetId()})
	reasonIs(t, err, errs.CredentialsInvalid)

	list := func(ctx context.Context, req *auditv1.ListAuditEntriesRequest) []string {
		t.Helper()
		out, err := client.ListAuditEntries(ctx, req)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range out.GetEntries() {
			if e.GetId() == "" || e.GetTime() == nil || e.GetCount() != 1 || e.GetService() != "game-instance" || e.GetAddress() == "" {
				t.Errorf("%v", e)
			}
			got = append(got, e.GetActor()+" "+e.GetOutcome()+" "+e.GetNamespace())
		}
		return got
	}
	eventually := func(want []string, ctx context.Context, req *auditv1.ListAuditEntriesRequest) {
		t.Helper()
		deadline := time.Now().Add(time.Minute)
		for fmt.Sprint(list(ctx, req)) != fmt.Sprint(want) {
			if time.Now().After(deadline) {
				t.Fatalf("%v: listed %v, want %v", req, list(ctx, req), want)
			}
			<-time.After(10 * time.Millisecond)
		}
	}
	all := []string{"unknown CREDENTIALS_INVALID default", "key:viewer ROLE_REQUIRED default", "key:ops-eu OK eu", "key:root OK default"}
	eventually(all, as(operatorKey), &auditv1.ListAuditEntriesRequest{})
	eventually(all[2:3], as(euOperatorKey), &auditv1.ListAuditEntriesRequest{})
	for want, filter := range map[string]*auditv1.AuditFilter{
		all[0]: {Outcome: "CREDENTIALS_INVALID"}, all[1]: {Actor: "key:viewer"}, all[2]: {Namespace: "eu"},
		all[3]: {Namespace: "default", Action: "/berth.instance.v1.GameInstanceService/CreateGameInstance", Resource: "instance:" + inst.GetId()},
	} {
		eventually([]string{want}, as(operatorKey), &auditv1.ListAuditEntriesRequest{Filter: filter})
	}

	var paged []string
	req := &auditv1.ListAuditEntriesRequest{PageSize: 3}
	for {
		out, err := client.ListAuditEntries(as(operatorKey), req)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range out.GetEntries() {
			paged = append(paged, e.GetActor())
		}
		if req.PageToken = out.GetNextPageToken(); req.PageToken == "" {
			break
		}
	}
	if fmt.Sprint(paged) != "[unknown key:viewer key:ops-eu key:root]" {
		t.Errorf("paged: %v", paged)
	}

	for _, c := range []struct {
		ctx  context.Context
		req  *auditv1.ListAuditEntriesRequest
		want errs.Reason
	}{
		{context.Background(), &auditv1.ListAuditEntriesRequest{}, errs.CredentialsMissing},
		{as(viewerKey), &auditv1.ListAuditEntriesRequest{}, errs.RoleRequired},
		{as(euOperatorKey), &auditv1.ListAuditEntriesRequest{Filter: &auditv1.AuditFilter{Namespace: "default"}}, errs.NamespaceDenied},
		{as(operatorKey), &auditv1.ListAuditEntriesRequest{PageToken: "x"}, errs.ValidationFailed},
		{as(operatorKey), &auditv1.ListAuditEntriesRequest{PageSize: 501}, errs.ValidationFailed},
	} {
		_, err := client.ListAuditEntries(c.ctx, c.req)
		reasonIs(t, err, c.want)
	}
}
