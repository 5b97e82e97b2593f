package standin

import (
	"context"
	"net/http"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
)

// Calls are a provider's calls by their names: Allocate for fresh, the others about there, which has a server.
func Calls(p provider.Provider, fresh, there *providerv1.AllocateRequest) map[string]func(context.Context) error {
	attempt, deployment := there.GetAttemptId(), there.GetDeployment()
	return map[string]func(context.Context) error{
		"Allocate": func(ctx context.Context) error {
			_, err := p.Allocate(ctx, fresh)
			return err
		},
		"Get": func(ctx context.Context) error {
			_, err := p.Get(ctx, &providerv1.GetRequest{AttemptId: attempt, Deployment: deployment})
			return err
		},
		"List": func(ctx context.Context) error {
			_, err := p.List(ctx, &providerv1.ListRequest{Deployment: deployment})
			return err
		},
		"Release": func(ctx context.Context) error {
			_, err := p.Release(ctx, &providerv1.ReleaseRequest{AttemptId: attempt, Deployment: deployment})
			return err
		},
	}
}

// CutOff makes a call whose time is over as soon as the host, which hangs from now on, has it. It returns what the call fails with.
func (h *Host) CutOff(ctx context.Context, call func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	h.Answer(func(_ http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
	})
	return call(ctx)
}
