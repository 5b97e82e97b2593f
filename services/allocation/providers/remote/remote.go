// Package remote is the provider for plugins: hosting providers that are processes of their own, in any language, and speak berth.provider.v1.
package remote

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/keepalive"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
)

const (
	// maxMessage bounds an answer, and maxHeaders what comes with it, such as the words of a failure.
	maxMessage = 4 << 20
	maxHeaders = 64 << 10
	// startWait is how long a start waits for the plugin to say what it is. A plugin that takes longer is there later.
	startWait = 2 * time.Second
	// lookTimeout bounds a look at the plugin: its health, and Describe.
	lookTimeout = 5 * time.Second
	// healthEvery is how often a plugin is asked for its health.
	healthEvery = 10 * time.Second
	// minPause and maxPause bound the time between two looks at a plugin that is away.
	minPause, maxPause = 50 * time.Millisecond, 5 * time.Second
	// silence is how long the network may leave what was sent unacknowledged before a connection counts as broken.
	silence = 20 * time.Second
)

// Provider implements provider.Provider by calling a plugin. Whether the plugin is there, it finds out in the background until Close. It is safe for
// concurrent use.
type Provider struct {
	name   string
	log    *slog.Logger
	conn   *grpc.ClientConn
	plugin provider.Provider
	end    context.CancelFunc
	ended  chan struct{}
	lost   chan struct{}

	mu        sync.Mutex
	described *providerv1.DescribeResponse // what the plugin said last; nil: nothing that can be used
	problem   string                       // why it is not as it should be; empty: it is
}

var _ provider.Provider = (*Provider)(nil)

// New returns a Provider. A plugin that is away, or cannot be used, is no error: it may come, or be replaced.
func New(ctx context.Context, cfg Config) (*Provider, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	transport, err := cfg.transport()
	if err != nil {
		return nil, err
	}
	p := &Provider{
		name: cfg.Name, log: cfg.Log.With("provider", cfg.Name, "address", cfg.Address), ended: make(chan struct{}), problem: "the plugin has not been reached yet",
		lost: make(chan struct{}, 1), // overflow: dropped; one says it all
	}
	p.conn, err = grpc.NewClient(cfg.target(),
		grpc.WithTransportCredentials(transport), grpc.WithStatsHandler(watcher{p.lost}), grpc.WithMaxHeaderListSize(maxHeaders),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)), grpc.WithDisableServiceConfig(), grpc.WithDisableRetry(),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: minPause, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: 5 * time.Second,
		}),
		// Pings are rarer than any library refuses. What matters is the timeout: the system ends a connection that is not acknowledged for so long.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 6 * time.Minute, Timeout: silence}),
	)
	if err != nil {
		return nil, err
	}
	p.plugin = provider.Client(p.conn)
	background, end := context.WithCancel(context.WithoutCancel(ctx))
	p.end = end
	looked := make(chan struct{})
	go p.keep(background, sync.OnceFunc(func() { close(looked) })) // owned: Close waits for it
	wait := time.NewTimer(startWait)
	defer wait.Stop()
	select {
	case <-looked:
	case <-wait.C:
	case <-ctx.Done():
	}
	return p, nil
}

// Close ends the connection; the plugin and its servers go on.
func (p *Provider) Close(ctx context.Context) error {
	p.end()
	select {
	case <-p.ended:
	case <-ctx.Done():
	}
	return p.conn.Close()
}

// Status returns what the plugin has said that it is, and what is wrong with it now, for people. The answer is nil until the plugin was there, and when it
// cannot be used; a plugin that is only away keeps it. An empty problem means that it was well when it was last looked at.
func (p *Provider) Status() (*providerv1.DescribeResponse, string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.described, p.problem
}

// Describe implements provider.Provider with what the plugin said last.
func (p *Provider) Describe(_ context.Context, req *providerv1.DescribeRequest) (*providerv1.DescribeResponse, error) {
	if _, err := provider.Negotiate(req); err != nil {
		return nil, err
	}
	if err := p.usable(); err != nil {
		return nil, err
	}
	d, _ := p.Status()
	return d, nil
}

// usable returns an error unless the plugin has said what it is. Before that nothing is sent to it.
func (p *Provider) usable() error {
	d, problem := p.Status()
	if d == nil {
		return provider.Failure(provider.Unavailable, "plugin %s: %s", p.name, problem)
	}
	return nil
}

// Allocate implements provider.Provider.
func (p *Provider) Allocate(ctx context.Context, req *providerv1.AllocateRequest) (*providerv1.AllocateResponse, error) {
	return call(ctx, p, "Allocate", p.plugin.Allocate, req, func(resp *providerv1.AllocateResponse) error {
		return checkServer(resp.GetServer(), req.GetAttemptId())
	})
}

// Get implements provider.Provider.
func (p *Provider) Get(ctx context.Context, req *providerv1.GetRequest) (*providerv1.GetResponse, error) {
	return call(ctx, p, "Get", p.plugin.Get, req, func(resp *providerv1.GetResponse) error {
		return checkServer(resp.GetServer(), req.GetAttemptId())
	})
}

// List implements provider.Provider.
func (p *Provider) List(ctx context.Context, req *providerv1.ListRequest) (*providerv1.ListResponse, error) {
	return call(ctx, p, "List", p.plugin.List, req, checkPage)
}

// Release implements provider.Provider.
func (p *Provider) Release(ctx context.Context, req *providerv1.ReleaseRequest) (*providerv1.ReleaseResponse, error) {
	return call(ctx, p, "Release", p.plugin.Release, req, checkRelease)
}

// call makes a call and checks its answer. What is answered without sense may have had its effect.
func call[Req, Resp any](ctx context.Context, p *Provider, method string, do func(context.Context, *Req) (*Resp, error), req *Req, check func(*Resp) error) (*Resp, error) {
	if err := p.usable(); err != nil {
		return nil, err
	}
	ctx, sent := withSent(ctx)
	resp, err := do(ctx, req)
	if err != nil {
		return nil, p.failure(method, err, sent.Load())
	}
	if err = check(resp); err != nil {
		return nil, provider.Failure(provider.Ambiguous, "plugin %s: its answer to %s makes no sense: %v", p.name, method, err)
	}
	return resp, nil
}
