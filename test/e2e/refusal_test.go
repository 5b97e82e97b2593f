package e2e

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/berth-dev/berth/pkg/redisx/redistest"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/test/stack"
)

// lateRefuser takes every order, and says when it is asked about the server that it will not come.
type lateRefuser struct {
	reasons map[string]providerv1.FailureReason // by build

	mu    sync.Mutex
	asked map[string]string // builds by attempts
	freed []string
}

func (l *lateRefuser) Describe(_ context.Context, req *providerv1.DescribeRequest) (*providerv1.DescribeResponse, error) {
	contract, err := provider.Negotiate(req)
	return &providerv1.DescribeResponse{Kind: "late", Builds: []string{"hold", "never"}, Contract: contract}, err
}

func (l *lateRefuser) Allocate(_ context.Context, req *providerv1.AllocateRequest) (*providerv1.AllocateResponse, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked[req.GetAttemptId()] = req.GetBuild()
	return &providerv1.AllocateResponse{Server: &providerv1.Server{AttemptId: req.GetAttemptId(), ExternalId: "order", State: providerv1.ServerState_SERVER_STATE_STARTING}}, nil
}

func (l *lateRefuser) Get(_ context.Context, req *providerv1.GetRequest) (*providerv1.GetResponse, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	build, ok := l.asked[req.GetAttemptId()]
	if !ok {
		return nil, provider.Failure(provider.NotFound, "no such order")
	}
	return &providerv1.GetResponse{Server: &providerv1.Server{
		AttemptId: req.GetAttemptId(), ExternalId: "order", State: providerv1.ServerState_SERVER_STATE_EXITED, Failure: l.reasons[build], Message: "the order was turned down",
	}}, nil
}

func (l *lateRefuser) Release(_ context.Context, req *providerv1.ReleaseRequest) (*providerv1.ReleaseResponse, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.freed = append(l.freed, req.GetAttemptId())
	return &providerv1.ReleaseResponse{State: providerv1.ServerState_SERVER_STATE_EXITED}, nil
}

func (l *lateRefuser) List(context.Context, *providerv1.ListRequest) (*providerv1.ListResponse, error) {
	return &providerv1.ListResponse{}, nil
}

// serve serves it as a plugin until the test ends.
func (l *lateRefuser) serve(t *testing.T, address string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() {
		done <- provider.Serve(ctx, provider.ServeConfig{Address: address, Ready: func(net.Addr) { close(ready) }}, l)
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	<-ready
}

// A host takes an order and turns it down later: it was no server that could be lost, and the match is played elsewhere.
func TestAServerThatIsRefusedAfterAll(t *testing.T) {
	dir, redis := t.TempDir(), redistest.Server(t)
	late := &lateRefuser{asked: make(map[string]string), reasons: map[string]providerv1.FailureReason{"hold": provider.NoCapacity, "never": provider.Invalid}}
	address := "unix://" + filepath.Join(dir, "late.sock")
	late.serve(t, address)
	t.Cleanup(func() { killServers(t) })
	s := stack.Start(t, stack.Config{Binaries: binaries, Redis: redis, Dir: dir, File: fmt.Sprintf(`providers:
  - {name: late, kind: remote, remote: {address: %q}}
  - {name: here, kind: process, process: {state_dir: %q, builds: {hold: {command: %q, args: ["--hold"], endpoints: [{name: game, protocol: tcp}]}}}}
`, address, filepath.Join(dir, "here"), binary("gameserver"))})
	b := &berth{api: s.API, urls: s.URLs, edges: s.Edges, key: testAPIKey, dir: dir, procs: s.Procs, redis: redis}

	inst := b.becomes(t, b.create(t, "hold", "ann").GetId(), running)
	attempts := inst.GetAttempts()
	if len(attempts) != 2 || attempts[0].GetProvider() != "late" || attempts[0].GetFailure() != "NO_CAPACITY" || attempts[1].GetProvider() != "here" || attempts[1].GetFailure() != "" {
		t.Errorf("its attempts are %v", attempts)
	}
	b.join(t, inst.GetId(), "ann")
	eventually(t, "the order is given back", func() error {
		late.mu.Lock()
		defer late.mu.Unlock()
		if !slices.Contains(late.freed, attempts[0].GetId()) {
			return fmt.Errorf("given back: %v", late.freed)
		}
		return nil
	})

	// Only it has this build, and it never will: one order is enough to know that.
	inst = b.becomes(t, b.create(t, "never", "bob").GetId(), terminated)
	if attempts := inst.GetAttempts(); len(attempts) != 2 || attempts[0].GetFailure() != "INVALID" || attempts[1].GetProvider() != "" ||
		inst.GetReason() != instancev1.GameInstance_REASON_ALLOCATION_FAILED {
		t.Errorf("it ended as %v", inst)
	}
}
