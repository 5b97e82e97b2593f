package grpcserver

import (
	"context"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/berth-dev/berth/pkg/audit"
	"github.com/berth-dev/berth/pkg/auth"
	"github.com/berth-dev/berth/pkg/pagetoken"
	auditv1 "github.com/berth-dev/berth/sdk/go/gen/berth/audit/v1"
)

// Audit serves berth.audit.v1.AuditService.
type Audit struct {
	auditv1.UnimplementedAuditServiceServer
	stream *audit.Stream
	tokens pagetoken.Key
}

// NewAudit returns the handlers of AuditService.
func NewAudit(stream *audit.Stream, tokens pagetoken.Key) *Audit {
	return &Audit{stream: stream, tokens: tokens}
}

// entryList names the list of entries that a filter selects.
func entryList(f *auditv1.AuditFilter) any {
	return struct{ AuditOf [5]string }{[...]string{f.GetNamespace(), f.GetActor(), f.GetAction(), f.GetResource(), f.GetOutcome()}}
}

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
	after, err := s.tokens.Place(entryList(want), req.GetPageToken())
	if err != nil {
		return nil, err
	}
	page, next, err := s.stream.Page(ctx, after, limit, func(e audit.Entry) bool {
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
	out := &auditv1.ListAuditEntriesResponse{}
	for _, e := range page {
		out.Entries = append(out.Entries, &auditv1.AuditEntry{
			Id: e.ID, Time: timestamppb.New(e.Time), LastTime: timestamppb.New(e.LastTime), Count: e.Count, Service: e.Service, Namespace: e.Namespace,
			Actor: e.Actor, Role: e.Role, Action: e.Action, Resource: e.Resource, Address: e.Address, ForwardedFor: e.ForwardedFor, Outcome: e.Outcome,
			Detail: e.Detail, RequestId: e.RequestID,
		})
	}
	out.NextPageToken, err = s.tokens.Token(entryList(want), next)
	return out, err
}
