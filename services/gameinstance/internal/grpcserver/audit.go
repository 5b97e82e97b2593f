package grpcserver

import (
	"context"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/berth-dev/berth/pkg/audit"
	"github.com/berth-dev/berth/pkg/auth"
	auditv1 "github.com/berth-dev/berth/sdk/go/gen/berth/audit/v1"
)

// Audit serves berth.audit.v1.AuditService.
type Audit struct {
	auditv1.UnimplementedAuditServiceServer
	stream *audit.Stream
}

// NewAudit returns the handlers of AuditService.
func NewAudit(stream *audit.Stream) *Audit { return &Audit{stream: stream} }

// ListAuditEntries implements the rpc.
func (s *Audit) ListAuditEntries(ctx context.Context, req *auditv1.ListAuditEntriesRequest) (*auditv1.ListAuditEntriesResponse, error) {
	caller, want, limit := auth.FromContext(ctx), req.GetFilter(), int(req.GetPageSize())
	if limit == 0 {
		limit = 50
	}
	if want.GetNamespace() != "" {
		if err := caller.MayUse(want.GetNamespace()); err != nil {
			return nil, err
		}
	}
	page, next, err := s.stream.Page(ctx, req.GetPageToken(), limit, func(e audit.Entry) bool {
		for _, text := range [...]struct{ want, has string }{
			{want.GetNamespace(), e.Namespace}, {want.GetActor(), e.Actor}, {want.GetAction(), e.Action}, {want.GetResource(), e.Resource}, {want.GetOutcome(), e.Outcome},
		} {
			if text.want != "" && text.want != text.has {
				return false
			}
		}
		return caller.MayUse(e.Namespace) == nil // no limited caller has the namespace ""
	})
	if err != nil {
		return nil, err
	}
	out := &auditv1.ListAuditEntriesResponse{NextPageToken: next}
	for _, e := range page {
		out.Entries = append(out.Entries, &auditv1.AuditEntry{
			Id: e.ID, Time: timestamppb.New(e.Time), LastTime: timestamppb.New(e.LastTime), Count: e.Count, Service: e.Service, Namespace: e.Namespace,
			Actor: e.Actor, Role: e.Role, Action: e.Action, Resource: e.Resource, Address: e.Address, ForwardedFor: e.ForwardedFor, Outcome: e.Outcome,
			Detail: e.Detail, RequestId: e.RequestID,
		})
	}
	return out, nil
}
