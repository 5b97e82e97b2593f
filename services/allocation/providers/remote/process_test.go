//go:build unix

package remote_test

import (
	"context"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/providers/remote"
)

func TestAPluginIsCalledOverAUnixSocket(t *testing.T) {
	address := "unix://" + filepath.Join(t.TempDir(), "p.sock")
	p := open(t, remote.Config{Address: address})
	if d, problem := p.Status(); d != nil || !strings.Contains(problem, "away") {
		t.Errorf("before the plugin: %v, %q", d, problem)
	}
	_, err := p.Describe(t.Context(), new(providerv1.DescribeRequest))
	expect(t, "before the plugin", err, provider.Unavailable, "mine")
	spawn(t, address, "duel")
	builds(t, p, "duel")
	if d, err := p.Describe(t.Context(), new(providerv1.DescribeRequest)); err != nil || d.GetKind() != "theirs" || d.GetContract() != 1 {
		t.Errorf("%v, %v", d, err)
	}
	a, err := p.Allocate(t.Context(), &providerv1.AllocateRequest{AttemptId: "a-1", Deployment: "blue", Bootstrap: []byte("{}")})
	if err != nil || a.GetServer().GetAttemptId() != "a-1" || a.GetServer().GetMessage() != "blue{}" {
		t.Errorf("%v, %v", a, err)
	}
	if err := get(t.Context(), p, "a-1"); err != nil {
		t.Error(err)
	}
	if l, err := p.List(t.Context(), &providerv1.ListRequest{Deployment: "blue"}); err != nil || len(l.GetServers()) != 1 || l.GetNextPageToken() != "blue" {
		t.Errorf("%v, %v", l, err)
	}
	if r, err := p.Release(t.Context(), &providerv1.ReleaseRequest{AttemptId: "a-1"}); err != nil || r.GetState() != providerv1.ServerState_SERVER_STATE_EXITED {
		t.Errorf("%v, %v", r, err)
	}
}

// What was under way may have had its effect; what comes after never reached anybody. The plugin that comes back is another one.
func TestAPluginIsKilledInACallAndComesBackWithAnotherDescribe(t *testing.T) {
	address := "unix://" + filepath.Join(t.TempDir(), "p.sock")
	first := spawn(t, address, "duel")
	p := open(t, remote.Config{Address: address})
	builds(t, p, "duel")
	answer := make(chan error, 1)
	go func() { answer <- get(context.Background(), p, hang) }()
	first.begun(t)
	first.kill()
	expect(t, "under way", <-answer, provider.Ambiguous, "mine")
	expect(t, "afterwards", get(t.Context(), p, "a"), provider.Unavailable, "mine", "not reached")
	status(t, p, func(d *providerv1.DescribeResponse, problem string) bool {
		return strings.Contains(problem, "away") && d.GetBuilds()[0] == "duel"
	})
	spawn(t, address, "race")
	builds(t, p, "race")
	if err := get(t.Context(), p, "a"); err != nil {
		t.Error(err)
	}
}

// stop stops it as SIGSTOP does, and waits until none of it runs.
func (p *process) stop(t *testing.T) {
	t.Helper()
	p.signal(t, syscall.SIGSTOP)
	var is syscall.WaitStatus
	if _, err := syscall.Wait4(p.cmd.Process.Pid, &is, syscall.WUNTRACED, nil); err != nil || !is.Stopped() {
		t.Fatalf("%v, %v", is, err)
	}
}

func TestAPluginIsStopped(t *testing.T) {
	dir := t.TempDir()
	stopped, other := "unix://"+filepath.Join(dir, "a.sock"), "unix://"+filepath.Join(dir, "b.sock")
	process := spawn(t, stopped, "duel")
	spawn(t, other, "race")
	p, q := open(t, remote.Config{Address: stopped}), open(t, remote.Config{Address: other})
	builds(t, p, "duel")
	builds(t, q, "race")
	process.stop(t)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	answer := make(chan error, 1)
	go func() { answer <- get(ctx, p, "a") }()
	for range 20 {
		if err := get(t.Context(), q, "a"); err != nil {
			t.Errorf("the other plugin: %v", err)
		}
	}
	expect(t, "stopped", <-answer, provider.Ambiguous, "mine", "in time")
	process.signal(t, syscall.SIGCONT)
	if err := get(t.Context(), p, "a"); err != nil {
		t.Errorf("after it goes on: %v", err)
	}
}

// The service may be the one that starts while a plugin hangs.
func TestAStartDoesNotWaitForAPluginThatHangs(t *testing.T) {
	address := "unix://" + filepath.Join(t.TempDir(), "p.sock")
	process := spawn(t, address, "duel")
	builds(t, open(t, remote.Config{Address: address}), "duel")
	process.stop(t)
	p := open(t, remote.Config{Address: address})
	expect(t, "not described", get(t.Context(), p, "a"), provider.Unavailable, "mine", "not been reached")
	process.signal(t, syscall.SIGCONT)
	builds(t, p, "duel")
}

func TestACallIsCutOff(t *testing.T) {
	address := "unix://" + filepath.Join(t.TempDir(), "p.sock")
	process := spawn(t, address, "duel")
	p := open(t, remote.Config{Address: address})
	builds(t, p, "duel")
	ctx, cancel := context.WithCancel(t.Context())
	answer := make(chan error, 1)
	go func() { answer <- get(ctx, p, hang) }()
	process.begun(t)
	cancel()
	expect(t, "cut off", <-answer, provider.Ambiguous, "cut off")
	expect(t, "never begun", get(ctx, p, "a"), provider.Unavailable)
}
