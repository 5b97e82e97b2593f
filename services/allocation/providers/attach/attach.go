// Package attach is the provider for servers that a developer starts by hand, in a debugger or an editor: it writes the bootstrap document
// into a file, where the SDK looks for it, and counts on somebody to start the server.
package attach

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/berth-dev/berth/pkg/ids"
	"github.com/berth-dev/berth/sdk/go/bootstrap"
	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/providers/internal/attempts"
	"github.com/berth-dev/berth/services/allocation/providers/internal/names"
)

const (
	kind         = "attach"
	version      = "1"
	pollInterval = time.Second
)

// Config configures a Provider.
type Config struct {
	// Name of the provider, for messages. Set by the service.
	Name string `yaml:"-"`
	// Log is where the provider says that a server is waited for. Set by the service.
	Log *slog.Logger `yaml:"-"`
	// File is where the bootstrap document is written. Default .berth/bootstrap.json in the working directory, where the SDK finds it.
	File string `yaml:"file"`
	// Regions that the developer's machine counts as. Default: local.
	Regions []string `yaml:"regions"`
	// Builds that may be started by hand. Needed.
	Builds []string `yaml:"builds"`
	// Endpoints are the addresses on which the server will listen, for the players' sake.
	Endpoints []Endpoint `yaml:"endpoints"`
	// StopWithService takes the file away when the service stops, for a service that forgets everything then.
	StopWithService bool `yaml:"stop_with_service"`
}

// Endpoint is an address of the server.
type Endpoint struct {
	// Name of the port.
	Name string `yaml:"name"`
	// Host and Port are the address. Host: default 127.0.0.1.
	Host string `yaml:"host"`
	Port uint16 `yaml:"port"`
	// Protocol is tcp or udp.
	Protocol string `yaml:"protocol"`
}

// Provider implements provider.Provider. It waits for one server at a time. It is safe for concurrent use.
type Provider struct {
	cfg Config
	mu  sync.Mutex
	// waiting is the attempt whose server is waited for or runs; empty: none that this life of the service knows of.
	waiting    string
	region     string
	deployment string
	// adopted says that an earlier life of the service wrote the file. Which deployment's it was, is known to whoever asked for its attempt by name.
	adopted bool
	book    attempts.Book // of what was released
}

var _ provider.Provider = (*Provider)(nil)

// New returns a Provider.
func New(_ context.Context, cfg Config) (*Provider, error) {
	if cfg.File == "" {
		cfg.File = filepath.FromSlash(bootstrap.File)
	}
	if len(cfg.Regions) == 0 {
		cfg.Regions = []string{"local"}
	}
	cfg.Endpoints = slices.Clone(cfg.Endpoints)
	for i := range cfg.Endpoints {
		if cfg.Endpoints[i].Host == "" {
			cfg.Endpoints[i].Host = "127.0.0.1"
		}
	}
	if cfg.Log == nil {
		return nil, errors.New("log: is needed")
	}
	if len(cfg.Builds) == 0 {
		return nil, errors.New("attach.builds: at least one build is needed")
	}
	for _, e := range cfg.Endpoints {
		if !names.Label(e.Name) {
			return nil, fmt.Errorf("attach.endpoints: %q is no name for a port: lower-case letters, digits and '-'", e.Name)
		}
	}
	if _, err := bootstrap.WithEndpoints([]byte("{}"), endpoints(cfg.Endpoints)); err != nil {
		return nil, fmt.Errorf("attach.endpoints: %w", err)
	}
	path, err := filepath.Abs(cfg.File)
	if err != nil {
		return nil, fmt.Errorf("attach.file: %w", err)
	}
	cfg.File = path
	return &Provider{cfg: cfg}, nil
}

func endpoints(list []Endpoint) []bootstrap.Endpoint {
	out := make([]bootstrap.Endpoint, 0, len(list))
	for _, e := range list {
		out = append(out, bootstrap.Endpoint(e))
	}
	return out
}

// Describe implements provider.Provider.
func (p *Provider) Describe(_ context.Context, req *providerv1.DescribeRequest) (*providerv1.DescribeResponse, error) {
	contract, err := provider.Negotiate(req)
	if err != nil {
		return nil, err
	}
	return &providerv1.DescribeResponse{
		Kind: kind, Version: version, Regions: p.cfg.Regions, Builds: p.cfg.Builds,
		MaxBootstrapBytes: bootstrap.MaxSize / 2, PollInterval: durationpb.New(pollInterval), Contract: contract,
	}, nil
}

// Allocate implements provider.Provider: it writes the file.
func (p *Provider) Allocate(ctx context.Context, req *providerv1.AllocateRequest) (*providerv1.AllocateResponse, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waits(req.GetAttemptId()) {
		return &providerv1.AllocateResponse{Server: p.server(req.GetAttemptId())}, nil
	}
	if err := p.refuse(req); err != nil {
		return nil, err
	}
	// A file that no attempt of this life of the service has claimed is left over from a life that was cut short.
	document, err := bootstrap.WithEndpoints(req.GetBootstrap(), endpoints(p.cfg.Endpoints))
	if err != nil {
		return nil, provider.Failure(provider.Invalid, "%v", err)
	}
	if err := write(p.cfg.File, document); err != nil {
		return nil, provider.Failure(provider.Unavailable, "attach.file: %v", err)
	}
	p.waiting, p.region, p.deployment, p.adopted = req.GetAttemptId(), req.GetRegion(), req.GetDeployment(), false
	p.cfg.Log.InfoContext(ctx, "start the game server now; it finds its bootstrap in the file", "file", p.cfg.File, "instance", req.GetInstanceId())
	return &providerv1.AllocateResponse{Server: p.server(req.GetAttemptId())}, nil
}

// refuse says why no server is waited for, if there is a reason.
func (p *Provider) refuse(req *providerv1.AllocateRequest) error {
	switch {
	case p.book.Released(req.GetAttemptId()):
		return provider.Failure(provider.Invalid, "attempt %s was released before", req.GetAttemptId())
	case !slices.Contains(p.cfg.Builds, req.GetBuild()):
		return provider.Failure(provider.Invalid, "build %q is not configured", req.GetBuild())
	case req.GetRegion() != "" && !slices.Contains(p.cfg.Regions, req.GetRegion()):
		return provider.Failure(provider.Invalid, "region %q is not served", req.GetRegion())
	case p.waiting != "":
		return provider.Failure(provider.NoCapacity, "one server at a time: instance %s has the file %s until it is over", ids.AttemptInstance(p.waiting), p.cfg.File)
	}
	return nil
}

// write replaces the file in one step, readable for nobody else.
func write(path string, document []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	temp, err := os.CreateTemp(filepath.Dir(path), ".bootstrap-*") // mode 0600
	if err != nil {
		return err
	}
	_, err = temp.Write(document)
	if err = errors.Join(err, temp.Close()); err == nil {
		err = os.Rename(temp.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp.Name()))
	}
	return nil
}

// waits reports whether the attempt's server is the one that is waited for, and takes up one from an earlier life of the service, whose document is in
// the file still.
func (p *Provider) waits(attempt string) bool {
	if p.waiting == "" && attempt != "" {
		raw, err := os.ReadFile(p.cfg.File)
		if err != nil {
			return false
		}
		if d, err := bootstrap.Parse(raw); err == nil && d.Server == ids.Server(attempt) {
			p.waiting, p.adopted = attempt, true
		}
	}
	return p.waiting == attempt
}

func (p *Provider) server(attempt string) *providerv1.Server {
	s := &providerv1.Server{AttemptId: attempt, ExternalId: p.cfg.File, Region: p.region, State: providerv1.ServerState_SERVER_STATE_RUNNING}
	for _, e := range p.cfg.Endpoints {
		protocol := typev1.Protocol_PROTOCOL_TCP
		if e.Protocol == "udp" {
			protocol = typev1.Protocol_PROTOCOL_UDP
		}
		s.Endpoints = append(s.Endpoints, &typev1.Endpoint{Name: e.Name, Host: e.Host, Port: uint32(e.Port), Protocol: protocol})
	}
	return s
}

// Get implements provider.Provider. A server counts as running until it is released: what becomes of it, its link tells.
func (p *Provider) Get(_ context.Context, req *providerv1.GetRequest) (*providerv1.GetResponse, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.waits(req.GetAttemptId()) {
		return nil, provider.Failure(provider.NotFound, "no server is waited for by attempt %s", req.GetAttemptId())
	}
	return &providerv1.GetResponse{Server: p.server(req.GetAttemptId())}, nil
}

// List implements provider.Provider.
func (p *Provider) List(_ context.Context, req *providerv1.ListRequest) (*providerv1.ListResponse, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	resp := new(providerv1.ListResponse)
	if p.waiting != "" && (p.adopted || p.deployment == req.GetDeployment()) {
		resp.Servers = append(resp.Servers, p.server(p.waiting))
	}
	return resp, nil
}

// Release implements provider.Provider: it takes the file away. The server is whoever's who started it.
func (p *Provider) Release(_ context.Context, req *providerv1.ReleaseRequest) (*providerv1.ReleaseResponse, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waits(req.GetAttemptId()) {
		if err := p.forget(); err != nil {
			return nil, provider.Failure(provider.Unavailable, "attach.file: %v", err)
		}
	}
	p.book.Release(req.GetAttemptId())
	return &providerv1.ReleaseResponse{State: providerv1.ServerState_SERVER_STATE_EXITED}, nil
}

func (p *Provider) forget() error {
	if err := os.Remove(p.cfg.File); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	p.waiting, p.region, p.deployment, p.adopted = "", "", "", false
	return nil
}

// Close takes the file away if StopWithService is set.
func (p *Provider) Close(context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.cfg.StopWithService || p.waiting == "" {
		return nil
	}
	return p.forget()
}
