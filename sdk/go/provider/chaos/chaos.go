// Package chaos is a provider at which things go wrong as a script says: delays, failures, lost replies, servers that come late, or twice. Its servers are in memory,
// unless a hook or a command runs something real for each. It counts what becomes of them, so that a test can say that none was leaked and none was doubled.
//
// It is for tests of what stands on providers. With an empty script it is a correct provider.
package chaos

import (
	"context"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
)

const (
	kind    = "chaos"
	version = "1"
)

// Config configures a Provider.
type Config struct {
	// Script says what goes wrong. Default: nothing.
	Script Script
	// Run is the server: it is called for each in a goroutine of its own, returns when the server has ended, and ends it when ctx does. Its error becomes the server's
	// message. A server is RUNNING from the start on. Default: the script's command, or nothing.
	Run func(ctx context.Context, order *providerv1.AllocateRequest) error
	// Log is where servers that start and end are logged, on level debug. Default: nowhere.
	Log *slog.Logger
}

// Provider implements provider.Provider. It is safe for concurrent use. Close it.
//
// It keeps a few words on every attempt for as long as it lives: the counts are about all of them.
type Provider struct {
	log *slog.Logger
	run func(ctx context.Context, order *providerv1.AllocateRequest) error // nil: as the script says

	mu       sync.Mutex
	script   Script
	calls    map[string]int // since the script began
	stats    Stats
	attempts map[string]*attempt
	servers  map[int]*server // those that have not ended, by number
	last     int             // number of the newest server

	life    context.Context // ends when the provider is closed
	end     context.CancelFunc
	running sync.WaitGroup
}

var _ provider.Provider = (*Provider)(nil)

// attempt is what is remembered of one for ever.
type attempt struct {
	released bool
	servers  []*server // more than one: doubled
}

type server struct {
	number     int
	attempt    string
	deployment string
	region     string
	state      providerv1.ServerState
	message    string
	refused    providerv1.FailureReason // 0: it is not; else it is an order only, which is turned down when it is asked about
	stop       context.CancelFunc
	runs       bool // something runs for it, and says when it has ended
}

// New returns a Provider. An error says what is wrong with the script.
func New(cfg Config) (*Provider, error) {
	script, err := cfg.Script.complete()
	if err != nil {
		return nil, err
	}
	p := &Provider{
		log: cfg.Log, run: cfg.Run, script: script, calls: make(map[string]int), attempts: make(map[string]*attempt), servers: make(map[int]*server),
	}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	p.life, p.end = context.WithCancel(context.Background())
	return p, nil
}

// SetScript goes on with another script: its steps count calls anew. Calls that are under way end as the old one says. Servers stay.
func (p *Provider) SetScript(s Script) error {
	s, err := s.complete()
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.script = s
	clear(p.calls)
	return nil
}

// Close ends all servers and waits for them. Calls that hang fail.
func (p *Provider) Close() {
	p.mu.Lock()
	p.end()
	for _, s := range p.servers {
		p.stops(s)
	}
	p.mu.Unlock() // whoever has it later starts nothing
	p.running.Wait()
}

// begin counts a call and says what happens to it.
func (p *Provider) begin(rpc string) Step {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls[rpc]++
	p.stats.Calls.add(rpc)
	return p.script.pick(rpc, p.calls[rpc])
}

// play does to a call what the step says. The effect is what it should do.
func play[T any](ctx context.Context, p *Provider, step Step, effect func() (T, error), nonsense T) (T, error) {
	var none T
	if err := p.wait(ctx, step.Delay); err != nil {
		return none, err
	}
	if step.Hang {
		return none, p.wait(ctx, time.Duration(1<<62))
	}
	if step.Fail != "" && step.Late == 0 {
		return none, step.failure()
	}
	resp, err := effect()
	if err != nil {
		return none, err
	}
	if err := p.wait(ctx, step.ReplyDelay); err != nil {
		return none, err
	}
	switch {
	case step.LoseReply:
		return none, provider.Failure(provider.Ambiguous, "the reply was lost: the script says so")
	case step.Garble:
		return nonsense, nil
	default:
		return resp, nil
	}
}

// wait fails if the caller goes before the time is over.
func (p *Provider) wait(ctx context.Context, d time.Duration) error {
	if err := ctx.Err(); err != nil {
		return status.FromContextError(err).Err()
	}
	if d == 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	case <-p.life.Done():
		return closed()
	}
}

func closed() error { return provider.Failure(provider.Ambiguous, "the provider was closed") }

// Describe implements provider.Provider.
func (p *Provider) Describe(ctx context.Context, req *providerv1.DescribeRequest) (*providerv1.DescribeResponse, error) {
	return play(ctx, p, p.begin(describe), func() (*providerv1.DescribeResponse, error) {
		contract, err := provider.Negotiate(req)
		if err != nil {
			return nil, err
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		return &providerv1.DescribeResponse{
			Kind: kind, Version: version, Contract: contract, Builds: p.script.Builds, Regions: p.script.Regions, PollInterval: durationpb.New(p.script.PollInterval),
		}, nil
	}, &providerv1.DescribeResponse{Contract: -1, PollInterval: durationpb.New(-time.Second)})
}

// Allocate implements provider.Provider.
func (p *Provider) Allocate(ctx context.Context, req *providerv1.AllocateRequest) (*providerv1.AllocateResponse, error) {
	step := p.begin(allocate)
	return play(ctx, p, step, func() (*providerv1.AllocateResponse, error) {
		if step.Late > 0 {
			return p.allocateLate(ctx, step, req)
		}
		s, err := p.start(req, step) //nolint:contextcheck // a server outlives the call
		return &providerv1.AllocateResponse{Server: s}, err
	}, &providerv1.AllocateResponse{Server: &providerv1.Server{AttemptId: "nonsense", State: 99}})
}

// allocateLate starts the server when its time has come, whoever waits for it.
func (p *Provider) allocateLate(ctx context.Context, step Step, req *providerv1.AllocateRequest) (*providerv1.AllocateResponse, error) {
	type answer struct {
		server *providerv1.Server
		err    error
	}
	answers := make(chan answer, 1) // there is one
	if !p.goOn(func() {
		if err := p.wait(context.WithoutCancel(ctx), step.Late); err != nil {
			answers <- answer{nil, err}
			return
		}
		s, err := p.start(req, step) //nolint:contextcheck // a server outlives the call
		answers <- answer{s, err}
	}) {
		return nil, closed()
	}
	if step.Fail != "" {
		return nil, step.failure()
	}
	select {
	case a := <-answers:
		return &providerv1.AllocateResponse{Server: a.server}, a.err
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
}

// goOn runs f in a goroutine that Close waits for; false: the provider is closed.
func (p *Provider) goOn(f func()) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.life.Err() != nil {
		return false
	}
	p.running.Go(f)
	return true
}

// Get implements provider.Provider.
func (p *Provider) Get(ctx context.Context, req *providerv1.GetRequest) (*providerv1.GetResponse, error) {
	return play(ctx, p, p.begin(get), func() (*providerv1.GetResponse, error) {
		p.mu.Lock()
		defer p.mu.Unlock()
		a := p.attempts[req.GetAttemptId()]
		if a == nil || len(a.servers) == 0 {
			return nil, provider.Failure(provider.NotFound, "no server was started for attempt %s", req.GetAttemptId())
		}
		p.turnsDown(a.servers[0])
		return &providerv1.GetResponse{Server: a.servers[0].proto()}, nil
	}, &providerv1.GetResponse{Server: &providerv1.Server{AttemptId: "nonsense", State: 99}})
}

// List implements provider.Provider. The token of a page is the number of the last server on the one before.
func (p *Provider) List(ctx context.Context, req *providerv1.ListRequest) (*providerv1.ListResponse, error) {
	return play(ctx, p, p.begin(list), func() (*providerv1.ListResponse, error) {
		after := 0
		if token := req.GetPageToken(); token != "" {
			n, err := strconv.Atoi(token)
			if err != nil || n < 0 {
				return nil, provider.Failure(provider.Invalid, "page_token: is none that List returned")
			}
			after = n
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		resp := new(providerv1.ListResponse)
		for _, number := range slices.Sorted(maps.Keys(p.servers)) {
			s := p.servers[number]
			if number <= after || s.deployment != req.GetDeployment() {
				continue
			}
			if len(resp.GetServers()) == p.script.PageSize {
				resp.NextPageToken = strconv.Itoa(after)
				break
			}
			resp.Servers = append(resp.Servers, s.proto())
			after = number
		}
		return resp, nil
	}, &providerv1.ListResponse{Servers: []*providerv1.Server{nil, {State: 99}}})
}

// Release implements provider.Provider.
func (p *Provider) Release(ctx context.Context, req *providerv1.ReleaseRequest) (*providerv1.ReleaseResponse, error) {
	return play(ctx, p, p.begin(release), func() (*providerv1.ReleaseResponse, error) {
		p.mu.Lock()
		defer p.mu.Unlock()
		return &providerv1.ReleaseResponse{State: p.release(req.GetAttemptId())}, nil
	}, &providerv1.ReleaseResponse{State: 99})
}

var attemptID = regexp.MustCompile(`^[a-zA-Z0-9-]{1,48}$`)
