package allocation_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/berth-dev/berth/pkg/apikey"
	"github.com/berth-dev/berth/pkg/auth"
	"github.com/berth-dev/berth/pkg/conf"
	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/ids"
	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/pkg/redisx/redistest"
	"github.com/berth-dev/berth/pkg/rpc"
	allocationv1 "github.com/berth-dev/berth/sdk/go/gen/berth/allocation/v1"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	"github.com/berth-dev/berth/services/allocation"
	"github.com/berth-dev/berth/services/allocation/providers"
	"github.com/berth-dev/berth/services/allocation/providers/process"
)

const (
	viewerKey  = "berth_viewer"
	limitedKey = "berth_limited"
)

// service starts the whole service with the process provider. It returns a client that speaks as another service, and one without credentials.
func service(t *testing.T, redis string, p *peer) (internal, bare allocationv1.AllocationServiceClient, stop func()) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg := allocation.Default()
	cfg.GRPCListener = ln
	cfg.Redis = redisx.Config{Addrs: []string{redis}}
	cfg.Auth = auth.Config{InternalKey: internalKey, APIKeys: []auth.APIKey{
		{Name: "viewer", SHA256: apikey.Hash(viewerKey), Role: auth.RoleViewer},
		{Name: "limited", SHA256: apikey.Hash(limitedKey), Role: auth.RoleOperator, Namespaces: []string{"other"}},
	}}
	cfg.GameInstance, cfg.TokenIssuer = p.conn.Target(), p.conn.Target()
	cfg.Providers = []providers.Config{{Name: "here", Kind: "process", Process: process.Config{
		StateDir: t.TempDir(), StopWithService: true,
		Builds: map[string]process.Build{
			"demo":  {Command: "/bin/sleep", Args: []string{"1000"}, Endpoints: []process.Endpoint{{Name: "game", Protocol: "udp"}}},
			"crash": {Command: "/bin/false"},
			"none":  {Command: "/nowhere/gameserver"},
		},
	}}}
	stop = run(t, allocation.Module(cfg))
	t.Cleanup(stop)
	var clients []allocationv1.AllocationServiceClient
	for _, key := range []conf.Secret{internalKey, ""} {
		conn, err := rpc.Dial(ln.Addr().String(), key)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		clients = append(clients, allocationv1.NewAllocationServiceClient(conn))
	}
	return clients[0], clients[1], stop
}

// as is a context that shows an API key.
func as(t *testing.T, key string) context.Context {
	t.Helper()
	return metadata.AppendToOutgoingContext(t.Context(), auth.MetadataAuthorization, "Bearer "+key)
}

func create(n int, build string) *allocationv1.CreateAllocationRequest {
	return &allocationv1.CreateAllocationRequest{
		AllocationId: ids.Attempt(instance, n), Namespace: "default", InstanceId: instance,
		Placement: &instancev1.Placement{Build: build, Regions: []string{"local"}}, Deadline: timestamppb.New(time.Now().Add(time.Minute)),
	}
}

// waitFor waits until the allocation is in one of the states.
func waitFor(t *testing.T, c allocationv1.AllocationServiceClient, n int, want ...allocationv1.Allocation_State) *allocationv1.Allocation {
	t.Helper()
	var a *allocationv1.Allocation
	eventually(t, func() (bool, any) {
		resp, err := c.GetAllocation(as(t, viewerKey), &allocationv1.GetAllocationRequest{AllocationId: ids.Attempt(instance, n)})
		if err != nil {
			t.Fatal(err)
		}
		a = resp.GetAllocation()
		return slices.Contains(want, a.GetState()), a
	})
	return a
}

func TestServiceRunsRealProcesses(t *testing.T) {
	c, bare, stop := service(t, redistest.Server(t), newPeer(t))
	ctx := t.Context()
	viewer := as(t, viewerKey)

	if _, err := c.CreateAllocation(ctx, create(1, "demo")); err != nil {
		t.Fatal(err)
	}
	bound := waitFor(t, bare, 1, allocationv1.Allocation_STATE_BOUND)
	pid, _, _ := strings.Cut(bound.GetExternalId(), "-")
	if bound.GetEndpoints()[0].GetHost() != "127.0.0.1" || bound.GetServerId() != ids.Server(bound.GetId()) || !isRunning(t, pid) {
		t.Errorf("bound: %v", bound)
	}
	if _, err := c.CreateAllocation(ctx, create(2, "crash")); err != nil {
		t.Fatal(err)
	}
	if a := waitFor(t, bare, 2, allocationv1.Allocation_STATE_RELEASED); a.GetMessage() != "exit status 1" {
		t.Errorf("a server that crashes: %v", a)
	}
	if _, err := c.CreateAllocation(ctx, create(3, "none")); err != nil {
		t.Fatal(err)
	}
	if a := waitFor(t, bare, 3, allocationv1.Allocation_STATE_FAILED); !strings.Contains(a.GetMessage(), "command /nowhere/gameserver does not exist") {
		t.Errorf("a command that does not exist: %v", a)
	}

	var listed []string
	token := ""
	for {
		resp, err := bare.ListAllocations(viewer, &allocationv1.ListAllocationsRequest{PageSize: 2, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range resp.GetAllocations() {
			listed = append(listed, a.GetId())
		}
		if token = resp.GetNextPageToken(); token == "" {
			break
		}
	}
	if want := []string{ids.Attempt(instance, 3), ids.Attempt(instance, 2), ids.Attempt(instance, 1)}; !slices.Equal(listed, want) {
		t.Errorf("list: %v, want the newest first: %v", listed, want)
	}
	list, err := bare.ListProviders(viewer, nil)
	if err != nil || len(list.GetProviders()) != 1 || list.GetProviders()[0].GetKind() != "process" || !slices.Equal(list.GetProviders()[0].GetBuilds(), []string{"crash", "demo", "none"}) {
		t.Errorf("providers: %v, %v", list, err)
	}
	if _, err := c.ReleaseAllocation(ctx, &allocationv1.ReleaseAllocationRequest{AllocationId: bound.GetId(), Namespace: "default", InstanceId: instance}); err != nil {
		t.Fatal(err)
	}
	waitFor(t, bare, 1, allocationv1.Allocation_STATE_RELEASED)
	if isRunning(t, pid) {
		t.Error("the process runs after its release")
	}

	if _, err := c.CreateAllocation(ctx, create(4, "demo")); err != nil {
		t.Fatal(err)
	}
	pid, _, _ = strings.Cut(waitFor(t, bare, 4, allocationv1.Allocation_STATE_BOUND).GetExternalId(), "-")
	stop()
	if isRunning(t, pid) {
		t.Error("stop_with_service: the process runs after the service's end")
	}
}

func isRunning(t *testing.T, pid string) bool {
	t.Helper()
	if _, err := strconv.Atoi(pid); err != nil {
		t.Fatalf("external id: %v", err)
	}
	raw, err := os.ReadFile(filepath.Join("/proc", pid, "stat"))
	return err == nil && !strings.Contains(string(raw), ") Z ")
}

func TestErrorsAreTyped(t *testing.T) {
	c, bare, _ := service(t, redistest.Server(t), newPeer(t))
	ctx := t.Context()
	viewer, limited := as(t, viewerKey), as(t, limitedKey)
	other := create(1, "demo")
	other.Namespace = "other"
	if _, err := c.CreateAllocation(ctx, other); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		call func() error
		want errs.Reason
		says string
	}{
		"an unknown build": {func() error { _, err := c.CreateAllocation(ctx, create(9, "nope")); return err }, errs.BuildUnknown, "crash, demo, none"},
		"an unknown build, checked": {func() error {
			_, err := c.CheckPlacement(ctx, &allocationv1.CheckPlacementRequest{Namespace: "default", Placement: &instancev1.Placement{Build: "nope"}})
			return err
		}, errs.BuildUnknown, "placement.build"},
		"an unknown region": {func() error {
			_, err := c.CheckPlacement(ctx, &allocationv1.CheckPlacementRequest{Namespace: "default", Placement: &instancev1.Placement{Build: "demo", Regions: []string{"moon"}}})
			return err
		}, errs.RegionUnknown, "it is in local"},
		"no placement": {func() error {
			_, err := c.CreateAllocation(ctx, &allocationv1.CreateAllocationRequest{AllocationId: "x", Namespace: "default", InstanceId: instance})
			return err
		}, errs.ValidationFailed, "placement"},
		"an unknown allocation": {func() error {
			_, err := bare.GetAllocation(viewer, &allocationv1.GetAllocationRequest{AllocationId: ids.Attempt(instance, 77)})
			return err
		}, errs.AllocationUnknown, "no allocation"},
		"no allocation's id at all": {func() error {
			_, err := bare.GetAllocation(viewer, &allocationv1.GetAllocationRequest{AllocationId: "x"})
			return err
		}, errs.AllocationUnknown, "no allocation"},
		"an allocation of another namespace": {func() error {
			_, err := bare.GetAllocation(viewer, &allocationv1.GetAllocationRequest{AllocationId: ids.Attempt(instance, 1)})
			return err
		}, errs.AllocationUnknown, `"default"`},
		"a page token of somebody else's": {func() error {
			_, err := bare.ListAllocations(viewer, &allocationv1.ListAllocationsRequest{PageToken: "???"})
			return err
		}, errs.ValidationFailed, "page_token"},
		"draining with a key of some namespaces": {func() error {
			_, err := bare.DrainProvider(limited, &allocationv1.DrainProviderRequest{Provider: "here"})
			return err
		}, errs.NamespaceDenied, "providers are those of all namespaces"},
		"nobody":             {func() error { _, err := bare.ListProviders(ctx, nil); return err }, errs.CredentialsMissing, "API key"},
		"a key for internal": {func() error { _, err := bare.CreateAllocation(limited, create(9, "demo")); return err }, errs.RoleRequired, "INTERNAL"},
		"a key of another namespace": {func() error {
			_, err := bare.ListAllocations(limited, &allocationv1.ListAllocationsRequest{})
			return err
		}, errs.NamespaceDenied, "namespace"},
	} {
		err := rpc.FromStatus(test.call())
		if !errs.Is(err, test.want) || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v, want %s with %q", name, err, test.want, test.says)
		}
	}
	if _, err := c.CheckPlacement(ctx, &allocationv1.CheckPlacementRequest{Namespace: "default", Placement: &instancev1.Placement{Build: "demo"}}); err != nil {
		t.Errorf("a placement that can be served: %v", err)
	}
}
