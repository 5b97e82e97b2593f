// Package grpcserver serves berth.allocation.v1.AllocationService.
package grpcserver

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/berth-dev/berth/pkg/auth"
	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/ids"
	"github.com/berth-dev/berth/pkg/pagetoken"
	allocationv1 "github.com/berth-dev/berth/sdk/go/gen/berth/allocation/v1"
	"github.com/berth-dev/berth/services/allocation/internal/allocator"
	"github.com/berth-dev/berth/services/allocation/internal/fleet"
	"github.com/berth-dev/berth/services/allocation/internal/reaper"
	"github.com/berth-dev/berth/services/allocation/internal/wire"
)

const (
	defaultPageSize = 50
	maxWatchers     = 1000
	// watchEvery and watchFleetEvery are how often a watcher's allocation, and the providers, are looked at.
	watchEvery      = 250 * time.Millisecond
	watchFleetEvery = time.Second
)

// Server implements the service.
type Server struct {
	allocationv1.UnimplementedAllocationServiceServer
	allocations *allocator.Service
	fleet       *fleet.Fleet
	reaper      *reaper.Reaper
	tokens      pagetoken.Key
	watchers    chan struct{} // one for each; who finds no room is refused
}

// New returns a Server.
func New(allocations *allocator.Service, providers *fleet.Fleet, orphans *reaper.Reaper, tokens pagetoken.Key) *Server {
	return &Server{allocations: allocations, fleet: providers, reaper: orphans, tokens: tokens, watchers: make(chan struct{}, maxWatchers)}
}

// CreateAllocation stores the wish for a server.
func (s *Server) CreateAllocation(ctx context.Context, req *allocationv1.CreateAllocationRequest) (*allocationv1.CreateAllocationResponse, error) {
	a, err := s.allocations.Create(ctx, allocator.Wish{
		ID: req.GetAllocationId(), Namespace: req.GetNamespace(), InstanceID: req.GetInstanceId(),
		Placement: wire.FromPlacement(req.GetPlacement()), Deadline: fromTimestamp(req.GetDeadline()), Traceparent: req.GetTraceparent(),
		Setbacks: wire.FromSetbacks(req.GetSetbacks()),
	})
	if err != nil {
		return nil, err
	}
	return &allocationv1.CreateAllocationResponse{Allocation: toAllocation(a)}, nil
}

// CheckPlacement says whether a placement could be served.
func (s *Server) CheckPlacement(ctx context.Context, req *allocationv1.CheckPlacementRequest) (*allocationv1.CheckPlacementResponse, error) {
	if err := s.allocations.Check(ctx, req.GetNamespace(), wire.FromPlacement(req.GetPlacement())); err != nil {
		return nil, err
	}
	return &allocationv1.CheckPlacementResponse{}, nil
}

// ExplainPlacement says where a placement would be tried, and why not elsewhere.
func (s *Server) ExplainPlacement(_ context.Context, req *allocationv1.ExplainPlacementRequest) (*allocationv1.ExplainPlacementResponse, error) {
	e, err := s.allocations.Explain(ids.Namespace(req.GetNamespace()), wire.FromPlacement(req.GetPlacement()))
	if err != nil {
		return nil, err
	}
	return &allocationv1.ExplainPlacementResponse{Explanation: toExplanation(e)}, nil
}

// GetAllocation returns an allocation.
func (s *Server) GetAllocation(ctx context.Context, req *allocationv1.GetAllocationRequest) (*allocationv1.GetAllocationResponse, error) {
	a, err := s.allocations.Get(ctx, ids.Namespace(req.GetNamespace()), req.GetAllocationId())
	if err != nil {
		return nil, err
	}
	return &allocationv1.GetAllocationResponse{Allocation: toAllocation(a)}, nil
}

// allocationList names a list of allocations.
type allocationList struct{ AllocationsOf string }

// ListAllocations returns a page of a namespace's allocations.
func (s *Server) ListAllocations(ctx context.Context, req *allocationv1.ListAllocationsRequest) (*allocationv1.ListAllocationsResponse, error) {
	of, size := allocationList{ids.Namespace(req.GetNamespace())}, int(req.GetPageSize())
	if size == 0 {
		size = defaultPageSize
	}
	after, err := s.tokens.Place(of, req.GetPageToken())
	if err != nil {
		return nil, err
	}
	list, next, err := s.allocations.List(ctx, of.AllocationsOf, size, after)
	if err != nil {
		return nil, err
	}
	resp := &allocationv1.ListAllocationsResponse{Allocations: make([]*allocationv1.Allocation, 0, len(list))}
	for _, a := range list {
		resp.Allocations = append(resp.Allocations, toAllocation(a))
	}
	resp.NextPageToken, err = s.tokens.Token(of, next)
	return resp, err
}

// ReleaseAllocation stores that the server is to be given back.
func (s *Server) ReleaseAllocation(ctx context.Context, req *allocationv1.ReleaseAllocationRequest) (*allocationv1.ReleaseAllocationResponse, error) {
	a, err := s.allocations.Release(ctx, req.GetNamespace(), req.GetAllocationId(), req.GetInstanceId())
	if err != nil {
		return nil, err
	}
	return &allocationv1.ReleaseAllocationResponse{Allocation: toAllocation(a)}, nil
}

// WatchAllocation sends an allocation whenever it has changed, until it is over.
func (s *Server) WatchAllocation(req *allocationv1.WatchAllocationRequest, stream grpc.ServerStreamingServer[allocationv1.WatchAllocationResponse]) error {
	rev := int64(0)
	return s.watch(stream.Context(), watchEvery, func(ctx context.Context) (over bool, err error) {
		a, err := s.allocations.Get(ctx, ids.Namespace(req.GetNamespace()), req.GetAllocationId())
		if err != nil || a.Rev == rev {
			return false, err
		}
		rev = a.Rev
		return a.State.Final(), stream.Send(&allocationv1.WatchAllocationResponse{Allocation: toAllocation(a)})
	})
}

// watch looks until it is over. Watchers outlive a store that is away.
func (s *Server) watch(ctx context.Context, every time.Duration, look func(context.Context) (over bool, err error)) error {
	select {
	case s.watchers <- struct{}{}:
		defer func() { <-s.watchers }()
	default:
		return errs.New(errs.LimitExceeded, "this replica has %d watchers, and may not have more", maxWatchers)
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if over, err := look(ctx); over || (err != nil && !errs.Is(err, errs.StoreUnavailable)) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// CancelAllocation stores that an allocation is to be given up.
func (s *Server) CancelAllocation(ctx context.Context, req *allocationv1.CancelAllocationRequest) (*allocationv1.CancelAllocationResponse, error) {
	a, err := s.allocations.Cancel(ctx, ids.Namespace(req.GetNamespace()), req.GetAllocationId(), req.GetReason())
	if err != nil {
		return nil, err
	}
	return &allocationv1.CancelAllocationResponse{Allocation: toAllocation(a)}, nil
}

// ListProviders returns the configured providers.
func (s *Server) ListProviders(ctx context.Context, _ *allocationv1.ListProvidersRequest) (*allocationv1.ListProvidersResponse, error) {
	list, err := s.providers(ctx)
	return &allocationv1.ListProvidersResponse{Providers: list}, err
}

// WatchProviders sends the providers whenever one has changed.
func (s *Server) WatchProviders(_ *allocationv1.WatchProvidersRequest, stream grpc.ServerStreamingServer[allocationv1.WatchProvidersResponse]) error {
	var last *allocationv1.WatchProvidersResponse
	return s.watch(stream.Context(), watchFleetEvery, func(ctx context.Context) (over bool, err error) {
		list, err := s.providers(ctx)
		now := &allocationv1.WatchProvidersResponse{Providers: list}
		if err != nil || (last != nil && proto.Equal(last, now)) {
			return false, err
		}
		last = now
		return false, stream.Send(now)
	})
}

func (s *Server) providers(ctx context.Context) ([]*allocationv1.Provider, error) {
	list, err := s.fleet.Status(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]*allocationv1.Provider, 0, len(list))
	for _, p := range list {
		out = append(out, toProvider(p))
	}
	return out, nil
}

// mayUseAll returns an error if the caller is limited to some namespaces: providers serve all of them.
func mayUseAll(ctx context.Context) error {
	if len(auth.FromContext(ctx).Namespaces) == 0 {
		return nil
	}
	return errs.New(errs.NamespaceDenied, "providers are those of all namespaces, and these credentials are limited to some")
}

// SetProviderWeight sets a provider's weight.
func (s *Server) SetProviderWeight(ctx context.Context, req *allocationv1.SetProviderWeightRequest) (*allocationv1.SetProviderWeightResponse, error) {
	if err := mayUseAll(ctx); err != nil {
		return nil, err
	}
	var weight *int
	if req.Weight != nil {
		w := int(req.GetWeight())
		weight = &w
	}
	p, err := s.fleet.SetWeight(ctx, req.GetProvider(), weight)
	if err != nil {
		return nil, err
	}
	return &allocationv1.SetProviderWeightResponse{Provider: toProvider(p)}, nil
}

// DrainProvider stops new allocations on a provider.
func (s *Server) DrainProvider(ctx context.Context, req *allocationv1.DrainProviderRequest) (*allocationv1.DrainProviderResponse, error) {
	if err := mayUseAll(ctx); err != nil {
		return nil, err
	}
	var after *time.Duration
	if req.GetMoveAfter() != nil {
		d := req.GetMoveAfter().AsDuration()
		after = &d
	}
	p, err := s.fleet.Drain(ctx, req.GetProvider(), after)
	if err != nil {
		return nil, err
	}
	return &allocationv1.DrainProviderResponse{Provider: toProvider(p)}, nil
}

// ResumeProvider ends a drain.
func (s *Server) ResumeProvider(ctx context.Context, req *allocationv1.ResumeProviderRequest) (*allocationv1.ResumeProviderResponse, error) {
	if err := mayUseAll(ctx); err != nil {
		return nil, err
	}
	p, err := s.fleet.Resume(ctx, req.GetProvider())
	if err != nil {
		return nil, err
	}
	return &allocationv1.ResumeProviderResponse{Provider: toProvider(p)}, nil
}

// ReapServers looks for servers that belong to no allocation.
func (s *Server) ReapServers(ctx context.Context, req *allocationv1.ReapServersRequest) (*allocationv1.ReapServersResponse, error) {
	if err := mayUseAll(ctx); err != nil {
		return nil, err
	}
	if req.GetProvider() != "" && !s.reaper.Has(req.GetProvider()) {
		return nil, fleet.Unknown(req.GetProvider())
	}
	found, problems := s.reaper.Reap(ctx, reaper.Options{Provider: req.GetProvider(), DryRun: req.GetDryRun(), Force: req.GetForce()})
	resp := &allocationv1.ReapServersResponse{Problems: problems}
	for _, o := range found {
		resp.Orphans = append(resp.Orphans, toOrphan(o))
	}
	return resp, nil
}
