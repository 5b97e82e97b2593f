// Package provider is the contract between Berth's allocation service and a hosting provider, for authors of providers in Go. The
// messages are those of berth.provider.v1.ProviderService: a built-in provider and one in a process of its own are called with the same.
package provider

import (
	"context"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
)

// Provider gets game servers from one host and gives them back. Its methods are the rpcs of berth.provider.v1.ProviderService; the
// proto comments say what each promises. A failure is made by [Failure]; any other error counts as ambiguous.
//
// Implementations are safe for concurrent use and return soon after the context ends.
type Provider interface {
	// Describe says what the provider is and can do.
	Describe(context.Context, *providerv1.DescribeRequest) (*providerv1.DescribeResponse, error)
	// Allocate asks the host for one server. A repeat with the same attempt id returns the same server.
	Allocate(context.Context, *providerv1.AllocateRequest) (*providerv1.AllocateResponse, error)
	// Get returns one server, or fails with NOT_FOUND.
	Get(context.Context, *providerv1.GetRequest) (*providerv1.GetResponse, error)
	// List returns the servers that carry this deployment's mark.
	List(context.Context, *providerv1.ListRequest) (*providerv1.ListResponse, error)
	// Release gives a server back; a server that is not there counts as released.
	Release(context.Context, *providerv1.ReleaseRequest) (*providerv1.ReleaseResponse, error)
}
