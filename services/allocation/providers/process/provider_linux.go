// Package process is the provider that runs game servers as processes on its own machine.
//
// Servers outlive the service: each has a state file and writes its output into a file by itself, so that the next start of the service
// takes it up again. A server is a process group; it has ended when its first process has, and then nothing of the group is left running.
package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/berth-dev/berth/sdk/go/bootstrap"
	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
)

const (
	kind    = "process"
	version = "1"

	pollInterval = 500 * time.Millisecond
	// watchEvery is how often servers are looked at that are being stopped; the end of our own children is signalled.
	watchEvery = 50 * time.Millisecond
	pruneEvery = time.Hour
	// rotateEvery is how often the size of outputs is looked at.
	rotateEvery = time.Second
	// releaseWait is how long Release waits for a server that stops at once.
	releaseWait = 100 * time.Millisecond
	// lockWait is how long a start waits for the service's last life to leave the folder.
	lockWait = 5 * time.Second
	// killMargin is what Close keeps of its deadline for servers that have to be killed.
	killMargin = time.Second
)

// Provider implements provider.Provider. It is safe for concurrent use.
type Provider struct {
	cfg    Config
	folder folder
	boot   string
	lock   *os.File
	log    *slog.Logger
	ports  portRange
	bind   func(protocol string, port uint16) (got uint16, held io.Closer, err error) // takes a port; 0: any that is free

	mu      sync.Mutex
	servers map[string]*server
	next    uint16 // of the range: where the search for a port goes on, so that one that was just given back rests
	closing bool

	look chan struct{} // one waiting look is as good as many
	stop chan struct{}
	loop sync.WaitGroup
}

var _ provider.Provider = (*Provider)(nil)

// New takes up the servers that the state folder knows of. Close it.
func New(ctx context.Context, cfg Config) (*Provider, error) {
	cfg, err := cfg.complete()
	if err != nil {
		return nil, err
	}
	ports, err := parsePorts(cfg.Ports)
	if err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(cfg.StateDir) // the output of servers with a directory of their own goes there too
	if err == nil {
		err = os.MkdirAll(dir, 0o700)
	}
	if err != nil {
		return nil, fmt.Errorf("process.state_dir: %w", err)
	}
	p := &Provider{
		cfg: cfg, folder: folder(dir), boot: bootID(), log: cfg.Log.With("provider", cfg.Name), ports: ports, bind: bind,
		servers: make(map[string]*server), look: make(chan struct{}, 1), stop: make(chan struct{}),
	}
	if p.lock, err = lock(ctx, filepath.Join(dir, "lock")); err != nil {
		return nil, fmt.Errorf("process.state_dir: %s: %w", dir, err)
	}
	if err := p.adopt(); err != nil {
		return nil, errors.Join(fmt.Errorf("process.state_dir: %w", err), p.lock.Close())
	}
	p.loop.Go(p.watch)
	return p, nil
}

// lock makes the folder this provider's own. The kernel lets go of it when the process ends, however that happens.
func lock(ctx context.Context, path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(lockWait); ; {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if time.Now().After(deadline) {
			return nil, errors.Join(ErrFolderInUse, f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), f.Close())
		case <-time.After(watchEvery):
		}
	}
}

// adopt reads the state files. What is no state file is logged and left alone.
func (p *Provider) adopt() error {
	records, err := p.folder.read()
	if records == nil && err != nil {
		return err
	}
	if err != nil {
		p.log.Error("state files cannot be read", "error", err)
	}
	for _, r := range records {
		if r.Phase == phaseIntent && !p.find(&r) {
			if err := p.folder.remove(r.Attempt, false); err != nil {
				return err
			}
			continue
		}
		s := &server{record: r, done: make(chan struct{})}
		if r.Phase == phaseExited {
			close(s.done)
		}
		p.servers[r.Attempt] = s
	}
	return nil
}

// find searches for the process of a server whose start was not written down: the service was lost between the two.
func (p *Provider) find(r *record) bool {
	if r.Boot != p.boot {
		return false
	}
	marked := processes(func(s stat) bool { return s.group == s.pid && carries(s.pid, mark(r.Attempt)) })
	if len(marked) == 0 {
		return false
	}
	first := slices.MinFunc(marked, func(a, b stat) int { return int(int64(a.start) - int64(b.start)) })
	r.Phase, r.PID, r.Start = phaseStarted, first.pid, first.start
	p.keep(*r)
	return true
}

// keep writes a state file. A failure is logged: the server is managed from memory then, and found by its mark after a restart.
func (p *Provider) keep(r record) {
	if err := p.folder.write(r); err != nil {
		p.log.Error("state file cannot be written", "attempt", r.Attempt, "error", err)
	}
}

// Describe implements provider.Provider.
func (p *Provider) Describe(_ context.Context, req *providerv1.DescribeRequest) (*providerv1.DescribeResponse, error) {
	contract, err := provider.Negotiate(req)
	if err != nil {
		return nil, err
	}
	limit := int64(bootstrap.MaxSize)
	if p.cfg.Handover == HandoverPipe {
		limit = pipeSize
	}
	return &providerv1.DescribeResponse{
		Kind: kind, Version: version, Regions: p.cfg.Regions, Builds: slices.Sorted(maps.Keys(p.cfg.Builds)),
		MaxBootstrapBytes: limit - endpointsSize, PollInterval: durationpb.New(pollInterval), Contract: contract,
	}, nil
}

// Allocate implements provider.Provider.
func (p *Provider) Allocate(_ context.Context, req *providerv1.AllocateRequest) (*providerv1.AllocateResponse, error) {
	if !validAttempt(req.GetAttemptId()) {
		return nil, provider.Failure(provider.Invalid, "attempt_id: must be 1 to 48 letters, digits and '-'")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if s, ok := p.servers[req.GetAttemptId()]; ok {
		if s.Released {
			return nil, provider.Failure(provider.Invalid, "attempt %s was released before", s.Attempt)
		}
		p.advance(s, time.Now())
		return &providerv1.AllocateResponse{Server: s.message()}, nil
	}
	s, err := p.start(req)
	if err != nil {
		return nil, err
	}
	p.servers[s.Attempt] = s
	p.log.Info("server started", "attempt", s.Attempt, "instance", s.Instance, "build", s.Build, "pid", s.PID)
	return &providerv1.AllocateResponse{Server: s.message()}, nil
}

func validAttempt(id string) bool {
	return len(id) > 0 && len(id) <= 48 && strings.Trim(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-") == ""
}

// Get implements provider.Provider.
func (p *Provider) Get(_ context.Context, req *providerv1.GetRequest) (*providerv1.GetResponse, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s, ok := p.servers[req.GetAttemptId()]
	if !ok {
		return nil, provider.Failure(provider.NotFound, "no process was started for attempt %s", req.GetAttemptId())
	}
	p.advance(s, time.Now())
	return &providerv1.GetResponse{Server: s.message()}, nil
}

// List implements provider.Provider: all servers of the deployment that were not released to the end, on one page, as MaxServers bounds them.
func (p *Provider) List(_ context.Context, req *providerv1.ListRequest) (*providerv1.ListResponse, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	resp := new(providerv1.ListResponse)
	for _, attempt := range slices.Sorted(maps.Keys(p.servers)) {
		s := p.servers[attempt]
		p.advance(s, time.Now())
		if s.Deployment == req.GetDeployment() && (!s.Released || !s.ended()) {
			resp.Servers = append(resp.Servers, s.message())
		}
	}
	return resp, nil
}

// Release implements provider.Provider.
func (p *Provider) Release(ctx context.Context, req *providerv1.ReleaseRequest) (*providerv1.ReleaseResponse, error) {
	if !validAttempt(req.GetAttemptId()) {
		return nil, provider.Failure(provider.Invalid, "attempt_id: must be 1 to 48 letters, digits and '-'")
	}
	s := p.release(req.GetAttemptId())
	select {
	case <-s.done:
		return &providerv1.ReleaseResponse{State: providerv1.ServerState_SERVER_STATE_EXITED}, nil
	case <-time.After(releaseWait):
	case <-ctx.Done():
	}
	return &providerv1.ReleaseResponse{State: providerv1.ServerState_SERVER_STATE_STOPPING}, nil
}

// release remembers that nobody wants the attempt's server and begins to stop it.
func (p *Provider) release(attempt string) *server {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	s, ok := p.servers[attempt]
	if !ok {
		s = &server{record: record{Attempt: attempt, Phase: phaseExited, EndTime: now, Message: "released before it was started"}, done: make(chan struct{})}
		close(s.done)
		p.servers[attempt] = s
	}
	if !s.Released {
		s.Released = true
		p.keep(s.record)
	}
	p.advance(s, now)
	if !s.ended() {
		p.ask(s, now)
		p.lookNow()
	}
	return s
}

// Close ends the provider and waits for all that it runs. Servers go on, unless StopWithService is set: then all are stopped before ctx ends, with
// less grace where it has to be.
func (p *Provider) Close(ctx context.Context) error {
	p.mu.Lock()
	p.closing = true
	var err error
	if p.cfg.StopWithService {
		if deadline, ok := ctx.Deadline(); ok {
			p.cfg.StopGrace = max(0, min(p.cfg.StopGrace, time.Until(deadline)-killMargin))
		}
		now := time.Now()
		for _, s := range p.servers {
			if !s.ended() {
				p.ask(s, now)
			}
		}
	}
	p.mu.Unlock()
	if p.cfg.StopWithService {
		p.lookNow()
		err = p.waitForAll(ctx)
	}
	close(p.stop)
	p.loop.Wait()
	return errors.Join(err, p.lock.Close())
}

func (p *Provider) waitForAll(ctx context.Context) error {
	p.mu.Lock()
	servers := slices.Collect(maps.Values(p.servers))
	p.mu.Unlock()
	for _, s := range servers {
		select {
		case <-s.done:
		case <-ctx.Done():
			return fmt.Errorf("provider %q: server of attempt %s does not end: %w", p.cfg.Name, s.Attempt, ctx.Err())
		}
	}
	return nil
}

func (p *Provider) lookNow() {
	select {
	case p.look <- struct{}{}:
	default:
	}
}

// watch notices the end of servers, and kills what does not stop.
func (p *Provider) watch() {
	children := make(chan os.Signal, 1) // overflow: one signal stands for all children that ended
	signal.Notify(children, syscall.SIGCHLD)
	defer signal.Stop(children)
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	prune := time.NewTicker(pruneEvery)
	defer prune.Stop()
	rotate := time.NewTicker(rotateEvery)
	defer rotate.Stop()
	p.prune(time.Now())
	for {
		all := true
		select {
		case <-p.stop:
			return
		case now := <-prune.C:
			p.prune(now)
			continue
		case <-rotate.C:
			p.rotate()
			continue
		case <-children:
		case <-p.look:
		case <-tick.C:
			all = false
		}
		p.advanceAll(all)
	}
}

// advanceAll looks at all servers, or at those only that are being stopped. One that was started in another life of the service is looked at when
// it is asked for.
func (p *Provider) advanceAll(all bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	for _, s := range p.servers {
		if all || !s.StopTime.IsZero() {
			p.advance(s, now)
		}
	}
}

// rotate bounds the output of the servers that run.
func (p *Provider) rotate() {
	p.mu.Lock()
	var running []string
	for attempt, s := range p.servers {
		if !s.ended() {
			running = append(running, attempt)
		}
	}
	p.mu.Unlock()
	for _, attempt := range running {
		if err := p.folder.rotate(attempt, p.cfg.OutputBytes); err != nil {
			p.log.Warn("the output of a server cannot be bounded", "attempt", attempt, "error", err)
		}
	}
}

// prune forgets servers that ended long ago, with their output.
func (p *Provider) prune(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for attempt, s := range p.servers {
		if !s.ended() || now.Sub(s.EndTime) < p.cfg.KeepEnded {
			continue
		}
		if err := p.folder.remove(attempt, false); err != nil {
			p.log.Warn("files of an ended server cannot be removed", "attempt", attempt, "error", err)
			continue
		}
		delete(p.servers, attempt)
	}
}

func protocolOf(name string) typev1.Protocol {
	if name == "udp" {
		return typev1.Protocol_PROTOCOL_UDP
	}
	return typev1.Protocol_PROTOCOL_TCP
}
