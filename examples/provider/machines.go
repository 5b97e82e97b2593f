package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
)

// machines implements provider.Provider. All it knows is in files, so that a crash forgets nothing.
type machines struct {
	dir, build string
	list       []machine
	mu         sync.Mutex // a call sees the files as no other one is changing them
}

type machine struct {
	region, host string
	port         uint32
}

// order is the file of a machine that has a server.
type order struct {
	// Attempt is whose server it is, and Deployment the mark.
	Attempt, Deployment string
	// Bootstrap is what the game server is started with, as it came.
	Bootstrap string
}

func (m *machines) add(flag string) error {
	region, address, _ := strings.Cut(flag, "/")
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	n, err := strconv.ParseUint(port, 10, 16)
	m.list = append(m.list, machine{region, host, uint32(n)})
	return err
}

func (at machine) name() string { return fmt.Sprintf("%s_%d", at.host, at.port) }

func (m *machines) file(at machine) string { return filepath.Join(m.dir, at.name()+".json") }

// tombstone is the file that says that nobody wants an attempt any more: an Allocate that comes late must start nothing. It may be deleted after a day.
func (m *machines) tombstone(attempt string) string { return filepath.Join(m.dir, "released", attempt) }

// read returns the order of a machine; ok is false where it has none.
func (m *machines) read(at machine) (o order, ok bool, err error) {
	raw, err := os.ReadFile(m.file(at))
	if errors.Is(err, fs.ErrNotExist) {
		return o, false, nil
	}
	if err == nil {
		err = json.Unmarshal(raw, &o)
	}
	return o, err == nil, err
}

// find returns the machine with an attempt's server.
func (m *machines) find(attempt string) (machine, bool, error) {
	for _, at := range m.list {
		if o, ok, err := m.read(at); err != nil || ok && o.Attempt == attempt {
			return at, ok, err
		}
	}
	return machine{}, false, nil
}

func (at machine) server(attempt string) *providerv1.Server {
	return &providerv1.Server{
		AttemptId: attempt, ExternalId: at.name(), Region: at.region, State: providerv1.ServerState_SERVER_STATE_RUNNING,
		Endpoints: []*typev1.Endpoint{{Name: "game", Host: at.host, Port: at.port}},
	}
}

// Describe implements provider.Provider.
func (m *machines) Describe(context.Context, *providerv1.DescribeRequest) (*providerv1.DescribeResponse, error) {
	resp := &providerv1.DescribeResponse{Kind: "machines", Version: "1", Builds: []string{m.build}}
	for _, at := range m.list {
		if !slices.Contains(resp.GetRegions(), at.region) {
			resp.Regions = append(resp.Regions, at.region)
		}
	}
	return resp, nil
}

// refuse says why there can be no server, whatever room there is.
func (m *machines) refuse(req *providerv1.AllocateRequest) error {
	inRegion := func(at machine) bool { return at.region == req.GetRegion() }
	switch _, err := os.Stat(m.tombstone(req.GetAttemptId())); {
	case err == nil:
		return provider.Failure(provider.Invalid, "attempt %s was released before", req.GetAttemptId())
	case req.GetBuild() != m.build:
		return provider.Failure(provider.Invalid, "build %q is not on the machines; they have %q", req.GetBuild(), m.build)
	case req.GetRegion() != "" && !slices.ContainsFunc(m.list, inRegion):
		return provider.Failure(provider.Invalid, "there is no machine in region %q", req.GetRegion())
	}
	return nil
}

// Allocate implements provider.Provider. A repeat finds the file of the first call.
func (m *machines) Allocate(_ context.Context, req *providerv1.AllocateRequest) (*providerv1.AllocateResponse, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if at, found, err := m.find(req.GetAttemptId()); err != nil || found {
		return &providerv1.AllocateResponse{Server: at.server(req.GetAttemptId())}, err
	}
	if err := m.refuse(req); err != nil {
		return nil, err
	}
	for _, at := range m.list {
		if req.GetRegion() != "" && req.GetRegion() != at.region {
			continue
		}
		if _, taken, err := m.read(at); err != nil || taken {
			continue // a file that cannot be read may be somebody's
		}
		if err := m.write(at, order{req.GetAttemptId(), req.GetDeployment(), string(req.GetBootstrap())}); err != nil {
			return nil, provider.Failure(provider.Unavailable, "no file was written: %v", err) // for certain: the rename is the last step
		}
		return &providerv1.AllocateResponse{Server: at.server(req.GetAttemptId())}, nil
	}
	return nil, provider.Failure(provider.NoCapacity, "all machines in region %q have a server", req.GetRegion())
}

// write makes the file in one step: it is there whole, or not at all. Its document is a secret.
func (m *machines) write(at machine, o order) error {
	raw, err := json.Marshal(o)
	if err != nil {
		return err
	}
	temp := m.file(at) + ".new"
	if err := os.WriteFile(temp, raw, 0o600); err != nil {
		return err
	}
	return os.Rename(temp, m.file(at))
}

// Get implements provider.Provider.
func (m *machines) Get(_ context.Context, req *providerv1.GetRequest) (*providerv1.GetResponse, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	at, found, err := m.find(req.GetAttemptId())
	if err == nil && !found {
		err = provider.Failure(provider.NotFound, "no machine has the server of attempt %s", req.GetAttemptId())
	}
	return &providerv1.GetResponse{Server: at.server(req.GetAttemptId())}, err
}

// List implements provider.Provider: all on one page, those with the mark of the deployment that asks.
func (m *machines) List(_ context.Context, req *providerv1.ListRequest) (*providerv1.ListResponse, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	resp := new(providerv1.ListResponse)
	for _, at := range m.list {
		o, ok, err := m.read(at)
		if err != nil {
			return nil, err
		}
		if ok && o.Deployment == req.GetDeployment() {
			resp.Servers = append(resp.Servers, at.server(o.Attempt))
		}
	}
	return resp, nil
}

// Release implements provider.Provider. A server that is not there is released, and does not come any more.
func (m *machines) Release(_ context.Context, req *providerv1.ReleaseRequest) (*providerv1.ReleaseResponse, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if filepath.Base(req.GetAttemptId()) != req.GetAttemptId() {
		return nil, provider.Failure(provider.Invalid, "attempt_id: %q is none of Berth's", req.GetAttemptId())
	}
	if err := os.WriteFile(m.tombstone(req.GetAttemptId()), nil, 0o600); err != nil {
		return nil, provider.Failure(provider.Unavailable, "no file was written: %v", err)
	}
	at, found, err := m.find(req.GetAttemptId())
	if err == nil && found {
		err = os.Remove(m.file(at))
	}
	return &providerv1.ReleaseResponse{State: providerv1.ServerState_SERVER_STATE_EXITED}, err
}
