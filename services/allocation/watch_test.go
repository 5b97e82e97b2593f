package allocation_test

import (
	"errors"
	"io"
	"slices"
	"testing"

	"github.com/berth-dev/berth/pkg/ids"
	"github.com/berth-dev/berth/pkg/redisx/redistest"
	allocationv1 "github.com/berth-dev/berth/sdk/go/gen/berth/allocation/v1"
)

// Who watches an allocation sees its whole life, and that it is over; who watches the providers sees what they have become less.
func TestWatching(t *testing.T) {
	c, bare, _ := service(t, redistest.Server(t), newPeer(t))
	all, err := bare.WatchProviders(as(t, viewerKey), &allocationv1.WatchProvidersRequest{})
	if err != nil {
		t.Fatal(err)
	}
	hasServers(t, all, 0)
	if _, err := c.CreateAllocation(t.Context(), create(1, "demo")); err != nil {
		t.Fatal(err)
	}
	one, err := bare.WatchAllocation(as(t, viewerKey), &allocationv1.WatchAllocationRequest{AllocationId: ids.Attempt(instance, 1)})
	if err != nil {
		t.Fatal(err)
	}
	hasServers(t, all, 1)
	var seen []allocationv1.Allocation_State
	for {
		resp, err := one.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if a := resp.GetAllocation(); a.GetState() == allocationv1.Allocation_STATE_BOUND && !slices.Contains(seen, a.GetState()) {
			if _, err := c.ReleaseAllocation(t.Context(), &allocationv1.ReleaseAllocationRequest{AllocationId: a.GetId(), Namespace: "default", InstanceId: instance}); err != nil {
				t.Fatal(err)
			}
		}
		seen = append(seen, resp.GetAllocation().GetState())
	}
	if !slices.IsSorted(seen) || !slices.Contains(seen, allocationv1.Allocation_STATE_BOUND) || seen[len(seen)-1] != allocationv1.Allocation_STATE_RELEASED {
		t.Errorf("seen: %v", seen)
	}
	hasServers(t, all, 0)
}

// hasServers waits until the watched provider has so many.
func hasServers(t *testing.T, w interface {
	Recv() (*allocationv1.WatchProvidersResponse, error)
}, want int64) {
	t.Helper()
	for {
		resp, err := w.Recv()
		if err != nil || len(resp.GetProviders()) != 1 {
			t.Fatalf("providers: %v, %v", resp, err)
		}
		if resp.GetProviders()[0].GetServers() == want {
			return
		}
	}
}
