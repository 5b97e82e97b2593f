package providertest_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/sdk/go/provider/chaos"
	"github.com/berth-dev/berth/sdk/go/provider/chaos/chaoshost"
)

// plugin is a provider as people write them: it asks its host, which is a chaos provider, and makes sense of the answers. A mistake is one method in another way.
type plugin struct {
	*chaos.Provider
	host *host
	over chan struct{} // closed at the end

	describe func(context.Context, *providerv1.DescribeRequest) (*providerv1.DescribeResponse, error)
	allocate func(context.Context, *providerv1.AllocateRequest) (*providerv1.AllocateResponse, error)
	get      func(context.Context, *providerv1.GetRequest) (*providerv1.GetResponse, error)
	list     func(context.Context, *providerv1.ListRequest) (*providerv1.ListResponse, error)
	release  func(context.Context, *providerv1.ReleaseRequest) (*providerv1.ReleaseResponse, error)
}

// host can be made to get requests twice and to answer nonsense, which a chaos provider by itself cannot be.
type host struct {
	*chaoshost.Host
	twice, nonsense atomic.Bool
	sense           providerv1.FailureReason // that the plugin makes of nonsense
	believes        bool                     // nonsense, for the success of a release
	documents       sync.Map
}

func (h *host) Duplicate(context.Context) error { h.twice.Store(true); return nil }
func (h *host) Garble(context.Context) error    { h.nonsense.Store(true); return nil }
func (h *host) Heal(ctx context.Context) error {
	h.twice.Store(false)
	h.nonsense.Store(false)
	return h.Host.Heal(ctx)
}

func newPlugin() *plugin {
	h := &host{sense: provider.Ambiguous}
	script := chaos.Script{PageSize: 2, PollInterval: 10 * time.Millisecond}
	p, err := chaos.New(chaos.Config{Script: script, Run: func(ctx context.Context, order *providerv1.AllocateRequest) error {
		h.documents.Store(order.GetAttemptId(), order.GetBootstrap())
		<-ctx.Done()
		return nil
	}})
	if err != nil {
		panic(err)
	}
	h.Host = chaoshost.New(p, script)
	h.Document = func(ctx context.Context, attempt string) ([]byte, error) {
		for ctx.Err() == nil {
			if raw, ok := h.documents.Load(attempt); ok {
				return raw.([]byte), nil
			}
			time.Sleep(time.Millisecond)
		}
		return nil, ctx.Err()
	}
	return &plugin{Provider: p, host: h, over: make(chan struct{}), describe: p.Describe, allocate: p.Allocate, get: p.Get, list: p.List, release: p.Release}
}

// ask asks the host, twice if it is so, and makes a failure of nonsense.
func ask[Req, Resp proto.Message](ctx context.Context, h *host, method func(context.Context, Req) (Resp, error), req Req) (Resp, error) {
	if h.twice.Load() {
		_, _ = method(ctx, req)
	}
	resp, err := method(ctx, req)
	if h.nonsense.Load() {
		var none Resp
		return none, provider.Failure(h.sense, "the host's answer makes no sense")
	}
	return resp, err
}

func (p *plugin) Close() {
	close(p.over)
	p.Provider.Close()
}

func (p *plugin) Describe(ctx context.Context, req *providerv1.DescribeRequest) (*providerv1.DescribeResponse, error) {
	return p.describe(ctx, req)
}

func (p *plugin) Allocate(ctx context.Context, req *providerv1.AllocateRequest) (*providerv1.AllocateResponse, error) {
	return ask(ctx, p.host, p.allocate, req)
}

func (p *plugin) Get(ctx context.Context, req *providerv1.GetRequest) (*providerv1.GetResponse, error) {
	return ask(ctx, p.host, p.get, req)
}

func (p *plugin) List(ctx context.Context, req *providerv1.ListRequest) (*providerv1.ListResponse, error) {
	return ask(ctx, p.host, p.list, req)
}

func (p *plugin) Release(ctx context.Context, req *providerv1.ReleaseRequest) (*providerv1.ReleaseResponse, error) {
	if p.host.believes && p.host.nonsense.Load() {
		return &providerv1.ReleaseResponse{State: providerv1.ServerState_SERVER_STATE_EXITED}, nil
	}
	return ask(ctx, p.host, p.release, req)
}

// renamed returns the request under another attempt, so that a host takes it for a new one.
func renamed(req *providerv1.AllocateRequest, n int32) *providerv1.AllocateRequest {
	out := proto.CloneOf(req)
	out.AttemptId = req.GetAttemptId()[:8] + "-" + string('a'+n%26) + string('a'+n/26%26)
	return out
}

// as returns the answer as one for the attempt.
func as(attempt string, resp *providerv1.AllocateResponse, err error) (*providerv1.AllocateResponse, error) {
	if err == nil {
		resp.Server.AttemptId = attempt
	}
	return resp, err
}

// moment is how long a plugin that is asked takes at least.
const moment = 100 * time.Millisecond

// insist makes a call that goes on when its caller cancels it. It reports whether that happened in its first moment.
func insist(ctx context.Context, next allocateFunc, req *providerv1.AllocateRequest) (resp *providerv1.AllocateResponse, cancelled bool, err error) {
	deadline, _ := ctx.Deadline() // each call of the suite has one
	heedless, cancel := context.WithDeadline(context.WithoutCancel(ctx), deadline)
	defer cancel()
	resp, err = next(heedless, req)
	select {
	case <-ctx.Done():
		return resp, errors.Is(ctx.Err(), context.Canceled), err
	case <-time.After(moment):
		return resp, false, err
	}
}

func untyped() error { return status.Error(codes.Internal, "something went wrong") }
