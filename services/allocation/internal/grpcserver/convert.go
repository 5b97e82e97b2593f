package grpcserver

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	allocationv1 "github.com/berth-dev/berth/sdk/go/gen/berth/allocation/v1"
	"github.com/berth-dev/berth/services/allocation/internal/allocator"
	"github.com/berth-dev/berth/services/allocation/internal/wire"
)

func toAllocation(a allocator.Allocation) *allocationv1.Allocation {
	return &allocationv1.Allocation{
		Id: a.ID, Namespace: a.Namespace, InstanceId: a.InstanceID, State: allocationv1.Allocation_State(a.State),
		Placement: wire.Placement(a.Placement), Provider: a.Provider, Region: a.Region, ExternalId: a.ExternalID, ServerId: a.ServerID(),
		Endpoints: wire.Endpoints(a.Endpoints), Message: a.Message,
		CreateTime: timestamppb.New(a.CreateTime), UpdateTime: timestamppb.New(a.UpdateTime),
	}
}

func fromTimestamp(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}
