package provider

import (
	"context"

	"google.golang.org/grpc"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
)

// Contract is the version of the provider contract that this package speaks, as caller and as provider.
const Contract = 1

// Negotiate returns the version of the contract in which a Describe is answered: the newest that both speak. Where there is none it fails with INVALID
// and says what is spoken here. A caller that names no version means 1. [Serve] does it for a provider that is a process of its own.
func Negotiate(req *providerv1.DescribeRequest) (int32, error) {
	oldest, newest := max(1, req.GetContractMin()), max(1, req.GetContractMax())
	if oldest > newest || oldest > Contract {
		return 0, Failure(Invalid, "the provider speaks version %d of berth.provider.v1 and the caller %d to %d: use versions of both that fit", Contract, oldest, newest)
	}
	return min(newest, Contract), nil
}

// Client returns the provider at the other end of a connection. Errors are those of gRPC; [ReasonOf] tells their reasons. The connection stays
// the caller's to close. It is safe for concurrent use.
func Client(cc grpc.ClientConnInterface) Provider {
	return client{providerv1.NewProviderServiceClient(cc)}
}

type client struct {
	rpc providerv1.ProviderServiceClient
}

// Describe implements Provider.
func (c client) Describe(ctx context.Context, req *providerv1.DescribeRequest) (*providerv1.DescribeResponse, error) {
	return c.rpc.Describe(ctx, req)
}

// Allocate implements Provider.
func (c client) Allocate(ctx context.Context, req *providerv1.AllocateRequest) (*providerv1.AllocateResponse, error) {
	return c.rpc.Allocate(ctx, req)
}

// Get implements Provider.
func (c client) Get(ctx context.Context, req *providerv1.GetRequest) (*providerv1.GetResponse, error) {
	return c.rpc.Get(ctx, req)
}

// List implements Provider.
func (c client) List(ctx context.Context, req *providerv1.ListRequest) (*providerv1.ListResponse, error) {
	return c.rpc.List(ctx, req)
}

// Release implements Provider.
func (c client) Release(ctx context.Context, req *providerv1.ReleaseRequest) (*providerv1.ReleaseResponse, error) {
	return c.rpc.Release(ctx, req)
}
