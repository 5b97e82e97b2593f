package redisstore

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	recordv1 "github.com/berth-dev/berth/pkg/gen/berth/record/v1"
	allocationv1 "github.com/berth-dev/berth/sdk/go/gen/berth/allocation/v1"
	"github.com/berth-dev/berth/services/allocation/internal/allocator"
	"github.com/berth-dev/berth/services/allocation/internal/wire"
)

// encode patches the record that the allocation was read from, so that fields of newer versions stay.
func encode(a *allocator.Allocation) ([]byte, error) {
	r := new(recordv1.AllocationRecord)
	if err := proto.Unmarshal(a.Stored, r); err != nil {
		return nil, fmt.Errorf("stored allocation %s: %w", a.ID, err)
	}
	r.Id, r.Namespace, r.InstanceId = a.ID, a.Namespace, a.InstanceID
	r.State = allocationv1.Allocation_State(a.State)
	if r.Placement == nil { // it never changes
		r.Placement = wire.Placement(a.Placement)
	}
	r.Deadline, r.Traceparent = micros(a.Deadline), a.Traceparent
	r.Provider, r.Region, r.ExternalId, r.ServerId = a.Provider, a.Region, a.ExternalID, a.PoolServer
	r.Endpoints = wire.Endpoints(a.Endpoints)
	r.Message = a.Message
	r.Report, r.ReportTime, r.ReportTries = recordv1.AttemptReport(a.Report), micros(a.ReportAt), int32(a.ReportTries)
	r.CallTime, r.Tries, r.Missing = micros(a.CallAt), int32(a.Tries), int32(a.Missing)
	encodeExplanation(r, a)
	r.Elsewhere, r.Failure, r.Doubtful = a.Failure != "", a.Failure, a.Doubtful
	r.Setbacks = wire.Setbacks(a.Setbacks)
	r.Gone, r.EndState = a.Gone, allocationv1.Allocation_State(a.End)
	r.CreateTime, r.UpdateTime, r.ExpireTime = micros(a.CreateTime), micros(a.UpdateTime), micros(a.ExpireAt)
	return proto.Marshal(r)
}

func decode(raw []byte, rev int64) (allocator.Allocation, error) {
	r := new(recordv1.AllocationRecord)
	if err := proto.Unmarshal(raw, r); err != nil {
		return allocator.Allocation{}, fmt.Errorf("stored allocation: %w", err)
	}
	a := allocator.Allocation{
		ID: r.GetId(), Namespace: r.GetNamespace(), InstanceID: r.GetInstanceId(), Rev: rev, Stored: raw,
		State: allocator.State(r.GetState()), Placement: wire.FromPlacement(r.GetPlacement()),
		Deadline: moment(r.GetDeadline()), Traceparent: r.GetTraceparent(),
		Provider: r.GetProvider(), Region: r.GetRegion(), ExternalID: r.GetExternalId(), PoolServer: r.GetServerId(), Endpoints: wire.FromEndpoints(r.GetEndpoints()), Message: r.GetMessage(),
		Report: allocator.Report(r.GetReport()), ReportAt: moment(r.GetReportTime()), ReportTries: int(r.GetReportTries()),
		CallAt: moment(r.GetCallTime()), Tries: int(r.GetTries()), Missing: int(r.GetMissing()),
		Failure: failure(r), Setbacks: wire.FromSetbacks(r.GetSetbacks()), Doubtful: r.GetDoubtful(), Gone: r.GetGone(), End: allocator.State(r.GetEndState()),
		CreateTime: moment(r.GetCreateTime()), UpdateTime: moment(r.GetUpdateTime()), ExpireAt: moment(r.GetExpireTime()),
		RoundAt: moment(r.GetRoundTime()), Rounds: int(r.GetRounds()), WaitSince: moment(r.GetWaitTime()), GiveUpAt: moment(r.GetGiveUpTime()),
	}
	decodeExplanation(&a, r)
	return a, nil
}

// failure is why an attempt failed where it was. A record of an earlier version has only that it did, which was said of providers that do not answer.
func failure(r *recordv1.AllocationRecord) string {
	if r.GetElsewhere() && r.GetFailure() == "" {
		return allocator.Ambiguous.String()
	}
	return r.GetFailure()
}

func encodeExplanation(r *recordv1.AllocationRecord, a *allocator.Allocation) {
	r.RoundTime, r.Rounds, r.WaitTime, r.GiveUpTime = micros(a.RoundAt), int32(a.Rounds), micros(a.WaitSince), micros(a.GiveUpAt)
	r.Explanation, r.CandidateTimes = wire.Explanation(a.Explanation), nil
	for _, c := range a.Explanation.Candidates {
		r.CandidateTimes = append(r.CandidateTimes, micros(c.NotBefore))
	}
}

func decodeExplanation(a *allocator.Allocation, r *recordv1.AllocationRecord) {
	a.Explanation = wire.FromExplanation(r.GetExplanation())
	for i := range min(len(a.Explanation.Candidates), len(r.GetCandidateTimes())) {
		a.Explanation.Candidates[i].NotBefore = moment(r.GetCandidateTimes()[i])
	}
}

func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func moment(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us)
}
