// Package peers is how game-instance calls the other services.
package peers

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/rpc"
	"github.com/berth-dev/berth/pkg/tracing"
	allocationv1 "github.com/berth-dev/berth/sdk/go/gen/berth/allocation/v1"
	tokenv1 "github.com/berth-dev/berth/sdk/go/gen/berth/token/v1"
	"github.com/berth-dev/berth/sdk/go/token"
	"github.com/berth-dev/berth/services/gameinstance/internal/instance"
	"github.com/berth-dev/berth/services/gameinstance/internal/wire"
)

// Allocation calls the allocation service. It implements outbox.Allocation and instance.Placements.
type Allocation struct {
	client allocationv1.AllocationServiceClient
}

// NewAllocation returns an Allocation that calls over a connection.
func NewAllocation(conn grpc.ClientConnInterface) *Allocation {
	return &Allocation{client: allocationv1.NewAllocationServiceClient(conn)}
}

// Check implements instance.Placements.
func (a *Allocation) Check(ctx context.Context, namespace string, p instance.Placement) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	_, err := a.client.CheckPlacement(ctx, &allocationv1.CheckPlacementRequest{Namespace: namespace, Placement: wire.ToPlacement(p)})
	return rpc.FromStatus(err)
}

// Allocate implements outbox.Allocation.
func (a *Allocation) Allocate(ctx context.Context, inst *instance.Instance, attemptID string) error {
	req := &allocationv1.CreateAllocationRequest{
		AllocationId: attemptID, Namespace: inst.Namespace, InstanceId: inst.ID, Placement: wire.ToPlacement(inst.Placement), Traceparent: inst.Traceparent,
	}
	if deadline, ok := inst.Deadlines[instance.DeadlineAllocation]; ok {
		req.Deadline = timestamppb.New(deadline)
	}
	for _, earlier := range inst.Attempts {
		if earlier.Failure != "" {
			req.Setbacks = append(req.Setbacks, &allocationv1.Setback{Provider: earlier.Provider, Region: earlier.Region, Failure: earlier.Failure, Message: earlier.Message})
		}
	}
	_, err := a.client.CreateAllocation(tracing.WithParent(ctx, inst.Traceparent), req)
	return rpc.FromStatus(err)
}

// Release implements outbox.Allocation.
func (a *Allocation) Release(ctx context.Context, inst *instance.Instance, attemptID string) error {
	_, err := a.client.ReleaseAllocation(tracing.WithParent(ctx, inst.Traceparent), &allocationv1.ReleaseAllocationRequest{Namespace: inst.Namespace, AllocationId: attemptID, InstanceId: inst.ID})
	return rpc.FromStatus(err)
}

// TokenIssuer calls the token-issuer. It implements instance.Tickets and grpcserver.Pairs.
type TokenIssuer struct{ client tokenv1.TokenServiceClient }

// NewTokenIssuer returns a TokenIssuer that calls over a connection.
func NewTokenIssuer(conn grpc.ClientConnInterface) *TokenIssuer {
	return &TokenIssuer{client: tokenv1.NewTokenServiceClient(conn)}
}

// Ticket implements instance.Tickets.
func (t *TokenIssuer) Ticket(ctx context.Context, namespace, instanceID string, player instance.Player) (string, time.Time, error) {
	req := &tokenv1.IssuePlayerTicketRequest{Namespace: namespace, InstanceId: instanceID, PlayerId: player.ID}
	if !player.AddTime.IsZero() {
		req.PlayerAddTime = timestamppb.New(player.AddTime)
	}
	out, err := t.client.IssuePlayerTicket(ctx, req)
	if err != nil {
		return "", time.Time{}, rpc.FromStatus(err)
	}
	if out.GetTicket() == "" {
		return "", time.Time{}, errs.New(errs.Internal, "the token-issuer answered without a ticket")
	}
	return out.GetTicket(), out.GetExpireTime().AsTime(), nil
}

// Renew implements grpcserver.Pairs.
func (t *TokenIssuer) Renew(ctx context.Context, server token.Server) (*tokenv1.RefreshTokenPairResponse, error) {
	out, err := t.client.RefreshTokenPair(ctx, &tokenv1.RefreshTokenPairRequest{Namespace: server.Namespace, ServerId: server.ID, PairId: server.PairID})
	return out, rpc.FromStatus(err)
}

// Pair implements grpcserver.Pairs.
func (t *TokenIssuer) Pair(ctx context.Context, namespace, attemptID string) (*tokenv1.IssueTokenPairResponse, error) {
	out, err := t.client.IssueTokenPair(ctx, &tokenv1.IssueTokenPairRequest{Namespace: namespace, AttemptId: attemptID})
	return out, rpc.FromStatus(err)
}
