package grpcserver

import (
	"context"

	attemptv1 "github.com/berth-dev/berth/pkg/gen/berth/attempt/v1"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/services/gameinstance/internal/instance"
	"github.com/berth-dev/berth/services/gameinstance/internal/wire"
)

// Attempt serves berth.attempt.v1.AttemptService.
type Attempt struct {
	attemptv1.UnimplementedAttemptServiceServer
	instances *instance.Service
}

// NewAttempt returns the handlers of AttemptService.
func NewAttempt(instances *instance.Service) *Attempt { return &Attempt{instances: instances} }

// ReportAttempt implements the rpc.
func (s *Attempt) ReportAttempt(ctx context.Context, req *attemptv1.ReportAttemptRequest) (*attemptv1.ReportAttemptResponse, error) {
	var cmd instance.Command
	switch o := req.GetOutcome().(type) {
	case *attemptv1.ReportAttemptRequest_Allocated:
		cmd = instance.ReportAllocated{AttemptID: req.GetAttemptId(), Provider: o.Allocated.GetProvider(), Region: o.Allocated.GetRegion(), Endpoints: wire.FromEndpoints(o.Allocated.GetEndpoints())}
	case *attemptv1.ReportAttemptRequest_Failed:
		cmd = instance.ReportFailed{AttemptID: req.GetAttemptId(), Message: o.Failed.GetMessage()}
	case *attemptv1.ReportAttemptRequest_Exited:
		cmd = instance.ReportExited{AttemptID: req.GetAttemptId(), Message: o.Exited.GetMessage()}
	case *attemptv1.ReportAttemptRequest_Released:
		cmd = instance.ReportReleased{AttemptID: req.GetAttemptId()}
	default:
		return nil, errs.New(errs.ValidationFailed, "outcome: none is set that this version knows")
	}
	inst, err := s.instances.Apply(ctx, "", req.GetInstanceId(), instance.Envelope{Actor: "service:allocation"}, cmd)
	if errs.Is(err, errs.InstanceUnknown) || errs.Is(err, errs.InstanceDeleted) {
		return &attemptv1.ReportAttemptResponse{Verdict: attemptv1.ReportAttemptResponse_VERDICT_ABANDONED}, nil
	}
	if err != nil {
		return nil, err
	}
	return &attemptv1.ReportAttemptResponse{Verdict: verdict(inst, req.GetAttemptId())}, nil
}

func verdict(inst *instance.Instance, attemptID string) attemptv1.ReportAttemptResponse_Verdict {
	for _, a := range inst.Attempts {
		if a.ID != attemptID {
			continue
		}
		switch a.Fate {
		case instance.Open:
			return attemptv1.ReportAttemptResponse_VERDICT_OPEN
		case instance.Accepted:
			return attemptv1.ReportAttemptResponse_VERDICT_ACCEPTED
		}
	}
	return attemptv1.ReportAttemptResponse_VERDICT_ABANDONED
}
