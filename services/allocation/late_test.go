package allocation_test

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/rpc"
	allocationv1 "github.com/berth-dev/berth/sdk/go/gen/berth/allocation/v1"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation"
	"github.com/berth-dev/berth/services/allocation/providers"
	"github.com/berth-dev/berth/services/allocation/providers/remote"
)

// lateFarm is a plugin that runs one build more than a farm.
type lateFarm struct{ *farm }

func (lateFarm) Describe(context.Context, *providerv1.DescribeRequest) (*providerv1.DescribeResponse, error) {
	return &providerv1.DescribeResponse{Kind: "farm", Regions: []string{"moon"}, Builds: []string{"late"}, PollInterval: durationpb.New(0)}, nil
}

// serveLate serves a plugin until the test ends.
func serveLate(t *testing.T, address string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- provider.Serve(ctx, provider.ServeConfig{Address: address}, lateFarm{newFarm()})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// A plugin that is away when the service starts refuses nobody: who asks for what only it could have waits, and is placed or refused once it has answered.
func TestAPluginThatComesLate(t *testing.T) {
	cfg := two(t, newPeer(t))
	address := "unix://" + filepath.Join(t.TempDir(), "plugin.sock")
	cfg.Providers = append(cfg.Providers, providers.Config{Name: "plug", Kind: "remote", Remote: remote.Config{Address: address}})
	cfg.Placement = written(t, "placement:\n  rules:\n  - {name: r, builds: [late, never], candidates: [{provider: metal}, {provider: plug, regions: [moon]}]}\n")
	stop := run(t, allocation.Module(cfg))
	t.Cleanup(stop)
	conn, err := rpc.Dial(cfg.GRPCListener.Addr().String(), internalKey)
	if err != nil {
		t.Fatal(err)
	}
	bare, err := rpc.Dial(cfg.GRPCListener.Addr().String(), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = conn.Close(), bare.Close() })
	c, viewer := allocationv1.NewAllocationServiceClient(conn), allocationv1.NewAllocationServiceClient(bare)

	late := &instancev1.Placement{Build: "late", Regions: []string{"moon"}}
	if _, err := c.CheckPlacement(t.Context(), &allocationv1.CheckPlacementRequest{Namespace: "default", Placement: late}); err != nil {
		t.Errorf("a build that may be the plugin's is refused: %v", err)
	}
	explained, err := viewer.ExplainPlacement(as(t, viewerKey), &allocationv1.ExplainPlacementRequest{Placement: late})
	if err != nil {
		t.Fatal(err)
	}
	plug := explained.GetExplanation().GetCandidates()[len(explained.GetExplanation().GetCandidates())-1]
	if plug.GetProvider() != "plug" || plug.GetExclusion() != allocationv1.PlacementCandidate_EXCLUSION_UNANSWERED || !strings.Contains(plug.GetMessage(), "has not answered yet") {
		t.Errorf("explained with %v", plug)
	}
	for n, build := range []string{"late", "never"} {
		order := create(n+1, build)
		order.Placement.Regions = []string{"moon"}
		if _, err := c.CreateAllocation(t.Context(), order); err != nil {
			t.Fatalf("build %s: %v", build, err)
		}
	}
	get := func(n int) *allocationv1.Allocation {
		resp, err := viewer.GetAllocation(as(t, viewerKey), &allocationv1.GetAllocationRequest{AllocationId: create(n, "").GetAllocationId()})
		if err != nil {
			t.Fatal(err)
		}
		return resp.GetAllocation()
	}
	for n := range 2 {
		eventually(t, func() (bool, any) {
			a := get(n + 1)
			return a.GetState() == allocationv1.Allocation_STATE_QUEUED && a.GetWaitTime() != nil && strings.Contains(a.GetMessage(), `provider "plug" in moon: has not answered yet`), a
		})
	}

	serveLate(t, address)
	eventually(t, func() (bool, any) {
		a := get(1)
		return a.GetState() == allocationv1.Allocation_STATE_BOUND && a.GetProvider() == "plug" && a.GetRegion() == "moon", a
	})
	eventually(t, func() (bool, any) {
		a := get(2)
		return a.GetState() == allocationv1.Allocation_STATE_FAILED && strings.Contains(a.GetMessage(), `does not run "never"`), a
	})
	_, err = c.CheckPlacement(t.Context(), &allocationv1.CheckPlacementRequest{Namespace: "default", Placement: &instancev1.Placement{Build: "never"}})
	if err := rpc.FromStatus(err); !errs.Is(err, errs.BuildUnknown) {
		t.Errorf("when all have answered: %v", err)
	}
}
