package grpcserver

import (
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	allocationv1 "github.com/berth-dev/berth/sdk/go/gen/berth/allocation/v1"
	"github.com/berth-dev/berth/services/allocation/internal/allocator"
	"github.com/berth-dev/berth/services/allocation/internal/fleet"
	"github.com/berth-dev/berth/services/allocation/internal/reaper"
	"github.com/berth-dev/berth/services/allocation/internal/wire"
)

func toAllocation(a allocator.Allocation) *allocationv1.Allocation {
	out := &allocationv1.Allocation{
		Id: a.ID, Namespace: a.Namespace, InstanceId: a.InstanceID, State: allocationv1.Allocation_State(a.State),
		Placement: wire.Placement(a.Placement), Provider: a.Provider, Region: a.Region, ExternalId: a.ExternalID, ServerId: a.ServerID(),
		Endpoints: wire.Endpoints(a.Endpoints), Message: a.Message,
		CreateTime: timestamppb.New(a.CreateTime), UpdateTime: timestamppb.New(a.UpdateTime), Explanation: wire.Explanation(a.Explanation),
	}
	if !a.WaitSince.IsZero() {
		out.WaitTime = timestamppb.New(a.WaitSince)
	}
	return out
}

func fromTimestamp(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}

func toProvider(p fleet.Status) *allocationv1.Provider {
	out := &allocationv1.Provider{
		Name: p.Name, Kind: p.Kind, Regions: p.Regions, Builds: p.Builds,
		Draining: p.Draining, Servers: int64(p.Servers), MaxServers: int64(p.MaxServers), Problem: p.Problem,
	}
	if p.Weight != nil {
		out.Weight = proto.Int32(int32(*p.Weight))
	}
	if !p.MoveTime.IsZero() {
		out.MoveTime = timestamppb.New(p.MoveTime)
	}
	for _, h := range p.Health {
		out.Health = append(out.Health, &allocationv1.RegionHealth{Region: h.Region, Resting: h.Resting, Message: h.Message})
	}
	return out
}

func toOrphan(o reaper.Orphan) *allocationv1.Orphan {
	return &allocationv1.Orphan{
		Provider: o.Provider, ExternalId: o.ExternalID, AttemptId: o.Attempt, Action: allocationv1.Orphan_Action(o.Action), Message: o.Message, Since: timestamppb.New(o.Since),
	}
}
