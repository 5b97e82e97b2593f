package grpcserver

import (
	"context"

	attemptv1 "github.com/berth-dev/berth/pkg/gen/berth/attempt/v1"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/services/gameinstance/internal/instance"
	"github.com/berth-dev/berth/services/gameinstance/internal/registry"
	"github.com/berth-dev/berth/services/gameinstance/internal/wire"
)

// Attempt serves berth.attempt.v1.AttemptService.
type Attempt struct {
	attemptv1.UnimplementedAttemptServiceServer
	instances *instance.Service
	pools     *registry.Pools
}

// NewAttempt returns the handlers of AttemptService.
func NewAttempt(instances *instance.Service, pools *registry.Pools) *Attempt {
	return &Attempt{instances: instances, pools: pools}
}

// ReportAttempt implements the rpc.
func (s *Attempt) ReportAttempt(ctx context.Context, req *attemptv1.ReportAttemptRequest) (*attemptv1.ReportAttemptResponse, error) {
	if req.GetAsked() != nil {
		return s.asked(ctx, req)
	}
	var cmd instance.Command
	switch o := req.GetOutcome().(type) {
	case *attemptv1.ReportAttemptRequest_Allocated:
		var err error
		if cmd, err = s.allocated(ctx, req.GetAttemptId(), o.Allocated); err != nil {
			return nil, err
		}
	case *attemptv1.ReportAttemptRequest_Failed:
		cmd = instance.ReportFailed{
			AttemptID: req.GetAttemptId(), Message: o.Failed.GetMessage(), Elsewhere: o.Failed.GetElsewhere(),
			Provider: o.Failed.GetProvider(), Region: o.Failed.GetRegion(), Failure: o.Failed.GetFailure(),
		}
	case *attemptv1.ReportAttemptRequest_Exited:
		cmd = instance.ReportExited{AttemptID: req.GetAttemptId(), Message: o.Exited.GetMessage(), Missing: o.Exited.GetMissing()}
	case *attemptv1.ReportAttemptRequest_Released:
		cmd = instance.ReportReleased{AttemptID: req.GetAttemptId()}
	default:
		return nil, errs.New(errs.ValidationFailed, "outcome: none is set that this version knows")
	}
	inst, err := s.instances.Apply(ctx, "", req.GetInstanceId(), instance.Envelope{Actor: "service:allocation"}, cmd)
	switch {
	case errs.Is(err, errs.InstanceUnknown):
		return &attemptv1.ReportAttemptResponse{Verdict: attemptv1.ReportAttemptResponse_VERDICT_UNKNOWN}, nil
	case errs.Is(err, errs.InstanceDeleted):
		return &attemptv1.ReportAttemptResponse{Verdict: attemptv1.ReportAttemptResponse_VERDICT_ABANDONED}, nil
	case err != nil:
		return nil, err
	}
	return &attemptv1.ReportAttemptResponse{Verdict: verdict(inst, req.GetAttemptId())}, nil
}

// asked says what an instance says of an attempt, as it is.
func (s *Attempt) asked(ctx context.Context, req *attemptv1.ReportAttemptRequest) (*attemptv1.ReportAttemptResponse, error) {
	found, err := s.instances.Load(ctx, req.GetInstanceId(), instance.Needs{})
	if err != nil {
		return nil, err
	}
	switch {
	case found.Gone:
		return &attemptv1.ReportAttemptResponse{Verdict: attemptv1.ReportAttemptResponse_VERDICT_ABANDONED}, nil
	case found.Instance == nil:
		return &attemptv1.ReportAttemptResponse{Verdict: attemptv1.ReportAttemptResponse_VERDICT_UNKNOWN}, nil
	}
	return &attemptv1.ReportAttemptResponse{Verdict: verdict(found.Instance, req.GetAttemptId())}, nil
}

// allocated returns what an instance is to know of a server that was named: of one of a pool only as long as the attempt has its room there.
func (s *Attempt) allocated(ctx context.Context, attemptID string, o *attemptv1.Allocated) (instance.Command, error) {
	if o.GetServerId() != "" {
		has, err := s.pools.Has(ctx, attemptID, o.GetServerId())
		if err != nil {
			return nil, err
		}
		if !has {
			return instance.ReportFailed{AttemptID: attemptID, Message: "the attempt has its room on game server " + o.GetServerId() + " no longer", Elsewhere: true}, nil
		}
	}
	return instance.ReportAllocated{AttemptID: attemptID, Provider: o.GetProvider(), Region: o.GetRegion(), Endpoints: wire.FromEndpoints(o.GetEndpoints()), ServerID: o.GetServerId()}, nil
}

// MoveInstance implements the rpc.
func (s *Attempt) MoveInstance(ctx context.Context, req *attemptv1.MoveInstanceRequest) (*attemptv1.MoveInstanceResponse, error) {
	_, err := s.instances.Apply(ctx, "", req.GetInstanceId(), instance.Envelope{Actor: "service:allocation"}, instance.Move{AttemptID: req.GetAttemptId(), Message: req.GetReason()})
	switch {
	case errs.Is(err, errs.InstanceUnknown), errs.Is(err, errs.InstanceDeleted): // there is nothing left to move
		err = nil
	case errs.Is(err, errs.LimitExceeded), errs.Is(err, errs.StateNotAllowed):
		return &attemptv1.MoveInstanceResponse{Message: err.Error()}, nil
	}
	return &attemptv1.MoveInstanceResponse{Moved: err == nil}, err
}

// verdict is what the instance says of an attempt. Of one that is over, or whose server is known to be gone, no server is wanted any more, whatever it was once.
func verdict(inst *instance.Instance, attemptID string) attemptv1.ReportAttemptResponse_Verdict {
	for _, a := range inst.Attempts {
		switch {
		case a.ID != attemptID:
		case inst.State.Final(), !a.ReleaseTime.IsZero():
			return attemptv1.ReportAttemptResponse_VERDICT_ABANDONED
		case a.Fate == instance.Open:
			return attemptv1.ReportAttemptResponse_VERDICT_OPEN
		case a.Fate == instance.Accepted:
			return attemptv1.ReportAttemptResponse_VERDICT_ACCEPTED
		}
	}
	return attemptv1.ReportAttemptResponse_VERDICT_ABANDONED
}
