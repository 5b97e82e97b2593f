// Package grpcserver serves berth.allocation.v1.AllocationService.
package grpcserver

import (
	"context"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/ids"
	"github.com/berth-dev/berth/pkg/pagetoken"
	allocationv1 "github.com/berth-dev/berth/sdk/go/gen/berth/allocation/v1"
	"github.com/berth-dev/berth/services/allocation/internal/allocator"
	"github.com/berth-dev/berth/services/allocation/internal/wire"
)

const defaultPageSize = 50

// Server implements the service.
type Server struct {
	allocationv1.UnimplementedAllocationServiceServer
	allocations *allocator.Service
	tokens      pagetoken.Key
}

// New returns a Server.
func New(allocations *allocator.Service, tokens pagetoken.Key) *Server {
	return &Server{allocations: allocations, tokens: tokens}
}

// CreateAllocation stores the wish for a server.
func (s *Server) CreateAllocation(ctx context.Context, req *allocationv1.CreateAllocationRequest) (*allocationv1.CreateAllocationResponse, error) {
	a, err := s.allocations.Create(ctx, allocator.Wish{
		ID: req.GetAllocationId(), Namespace: req.GetNamespace(), InstanceID: req.GetInstanceId(),
		Placement: wire.FromPlacement(req.GetPlacement()), Deadline: fromTimestamp(req.GetDeadline()), Traceparent: req.GetTraceparent(),
	})
	if err != nil {
		return nil, err
	}
	return &allocationv1.CreateAllocationResponse{Allocation: toAllocation(a)}, nil
}

// CheckPlacement says whether a placement could be served.
func (s *Server) CheckPlacement(_ context.Context, req *allocationv1.CheckPlacementRequest) (*allocationv1.CheckPlacementResponse, error) {
	if err := s.allocations.Check(wire.FromPlacement(req.GetPlacement())); err != nil {
		return nil, err
	}
	return &allocationv1.CheckPlacementResponse{}, nil
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

// ListProviders returns the configured providers.
func (s *Server) ListProviders(context.Context, *allocationv1.ListProvidersRequest) (*allocationv1.ListProvidersResponse, error) {
	resp := new(allocationv1.ListProvidersResponse)
	for _, p := range s.allocations.Providers() {
		resp.Providers = append(resp.Providers, &allocationv1.Provider{Name: p.Name, Kind: p.Kind, Regions: p.Regions, Builds: p.Builds})
	}
	return resp, nil
}

// DrainProvider is not built yet.
func (s *Server) DrainProvider(context.Context, *allocationv1.DrainProviderRequest) (*allocationv1.DrainProviderResponse, error) {
	return nil, errs.New(errs.NotImplemented, "draining a provider is part of the contract and not built yet")
}
