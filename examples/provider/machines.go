package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

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
	// Bootstrap is what the game server is started with, in base64 in the file: it has to get there byte by byte.
	Bootstrap []byte
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

func (m *machines) file(at machine) string {
	return filepath.Join(m.dir, fmt.Sprintf("%s_%d.json", at.host, at.port))
}

// read returns the order of a machine; ok is false where it has none.
func (m *machines) read(at machine) (o order, ok bool, err error) {
	raw, err := os.ReadFile(m.file(at))
	if errors.Is(err, fs.ErrNotExist) {
		return o, false, nil
	}
	if err == nil {
		err = json.Unmarshal(raw, &o)
	}
	if err != nil {
		return o, false, fmt.Errorf("%s cannot be read, so nobody knows whose server is on that machine: repair it, or remove it when none is: %w", m.file(at), err)
	}
	return o, true, nil
}

// find returns the machine with an attempt's server. A file that cannot be read may be the attempt's: only if no other one is, it is in the way.
func (m *machines) find(attempt string) (machine, bool, error) {
	var unread error
	for _, at := range m.list {
		o, ok, err := m.read(at)
		if ok && o.Attempt == attempt {
			return at, true, nil
		}
		unread = errors.Join(unread, err)
	}
	return machine{}, false, unread
}

func (at machine) server(attempt string) *providerv1.Server {
	return &providerv1.Server{
		AttemptId: attempt, ExternalId: net.JoinHostPort(at.host, strconv.Itoa(int(at.port))), Region: at.region, State: providerv1.ServerState_SERVER_STATE_RUNNING,
		Endpoints: []*typev1.Endpoint{{Name: "game", Host: at.host, Port: at.port, Protocol: typev1.Protocol_PROTOCOL_UDP}},
	}
}

// Describe implements provider.Provider.
func (m *machines) Describe(context.Context, *providerv1.DescribeRequest) (*providerv1.DescribeResponse, error) {
	return &providerv1.DescribeResponse{Kind: "machines", Version: "1", Builds: []string{m.build}, Regions: m.regions()}, nil
}

func (m *machines) regions() []string {
	var regions []string
	for _, at := range m.list {
		if !slices.Contains(regions, at.region) {
			regions = append(regions, at.region)
		}
	}
	return regions
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
		if err := m.write(at, order{req.GetAttemptId(), req.GetDeployment(), req.GetBootstrap()}); err != nil {
			return nil, provider.Failure(provider.Unavailable, "no file was written: %v", err) // for certain: the rename is the last step
		}
		return &providerv1.AllocateResponse{Server: at.server(req.GetAttemptId())}, nil
	}
	return nil, provider.Failure(provider.NoCapacity, "all machines in region %q have a server", req.GetRegion())
}

// refuse says why no machine can ever do, if there is a reason.
func (m *machines) refuse(req *providerv1.AllocateRequest) error {
	switch {
	case !attemptID.MatchString(req.GetAttemptId()):
		return provider.Failure(provider.Invalid, "attempt_id: must be 1 to 48 letters, digits and '-'")
	case req.GetBuild() != m.build:
		return provider.Failure(provider.Invalid, "build %q is not on the machines; they have %q", req.GetBuild(), m.build)
	case req.GetRegion() != "" && !slices.Contains(m.regions(), req.GetRegion()):
		return provider.Failure(provider.Invalid, "no machine is in region %q; they are in %q", req.GetRegion(), m.regions())
	}
	switch _, err := os.Stat(m.released(req.GetAttemptId())); {
	case err == nil:
		return provider.Failure(provider.Invalid, "attempt %s was released before", req.GetAttemptId())
	case !errors.Is(err, fs.ErrNotExist):
		return provider.Failure(provider.Unavailable, "it cannot be seen whether attempt %s was released: %v", req.GetAttemptId(), err)
	}
	return nil
}

// attemptID is what is a name of a file, too.
var attemptID = regexp.MustCompile(`^[a-zA-Z0-9-]{1,48}$`)

// remembered is for how long it is known that an attempt was released: longer than any late call for it is under way.
const remembered = 24 * time.Hour

func (m *machines) released(attempt string) string { return filepath.Join(m.dir, attempt+".released") }

// noteReleased has an attempt get no machine any more, and forgets those of whom nobody speaks by now.
func (m *machines) noteReleased(attempt string) error {
	if err := os.WriteFile(m.released(attempt), nil, 0o600); err != nil {
		return err
	}
	all, err := filepath.Glob(m.released("*"))
	for _, file := range all {
		if info, gone := os.Stat(file); gone == nil && time.Since(info.ModTime()) > remembered {
			err = errors.Join(err, os.Remove(file))
		}
	}
	return err
}

// write makes the file in one step: it is there whole, or not at all, also after a power failure. Its document is a secret.
func (m *machines) write(at machine, o order) error {
	raw, err := json.Marshal(o)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(m.file(at)+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(raw)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil { // the name may reach the disk before what is in the file
		return err
	}
	return os.Rename(f.Name(), m.file(at))
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

// List implements provider.Provider: all on one page, those with the mark of the deployment that asks. One file that cannot be read does not hide the others.
func (m *machines) List(_ context.Context, req *providerv1.ListRequest) (*providerv1.ListResponse, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	resp := new(providerv1.ListResponse)
	for _, at := range m.list {
		o, ok, err := m.read(at)
		if err != nil {
			slog.Error("a machine is not listed", "error", err)
		}
		if ok && o.Deployment == req.GetDeployment() {
			resp.Servers = append(resp.Servers, at.server(o.Attempt))
		}
	}
	return resp, nil
}

// Release implements provider.Provider. A server that is not there is released.
func (m *machines) Release(_ context.Context, req *providerv1.ReleaseRequest) (*providerv1.ReleaseResponse, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !attemptID.MatchString(req.GetAttemptId()) {
		return &providerv1.ReleaseResponse{State: providerv1.ServerState_SERVER_STATE_EXITED}, nil // nobody can have it
	}
	if err := m.noteReleased(req.GetAttemptId()); err != nil {
		return nil, err
	}
	at, found, err := m.find(req.GetAttemptId())
	if err == nil && found {
		err = os.Remove(m.file(at))
	}
	return &providerv1.ReleaseResponse{State: providerv1.ServerState_SERVER_STATE_EXITED}, err
}
