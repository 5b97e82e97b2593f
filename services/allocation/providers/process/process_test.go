//go:build linux

package process_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/berth-dev/berth/sdk/go/bootstrap"
	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/providers/process"
)

const (
	gameToken   = "GAME-TOKEN-MUST-NOT-BE-SEEN"
	socialToken = "SOCIAL-TOKEN-MUST-NOT-BE-SEEN"
	patience    = 20 * time.Second
)

// instance differs from run to run, so that no process which a broken run left behind is taken for one of this run.
var instance = cmp.Or(os.Getenv("PROVIDER_TEST_INSTANCE"), uuid.NewString())

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

func attempt(n int) string { return instance + "-" + strconv.Itoa(n) }

// config has one build for each mode of the child.
func config(dir string, log *slog.Logger) process.Config {
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	cfg := process.Config{Name: "here", Log: log, StateDir: dir, StopGrace: 200 * time.Millisecond, Builds: make(map[string]process.Build)}
	for _, mode := range []string{"serve", "crash", "suicide", "stubborn", "parent", "orphan", "report", "talk", "greedy"} {
		cfg.Builds[mode] = process.Build{Command: self, Env: map[string]string{childMode: mode}}
	}
	return cfg
}

func order(build, attempt string) *providerv1.AllocateRequest {
	doc, err := json.Marshal(bootstrap.Document{
		Version: 1, Namespace: "default", Instance: instance, Server: "server", Gateway: "http://127.0.0.1:7001", Game: gameToken, Social: socialToken,
	})
	if err != nil {
		panic(err)
	}
	return &providerv1.AllocateRequest{AttemptId: attempt, Namespace: "default", InstanceId: instance, Build: build, Region: "local", Bootstrap: doc}
}

// open opens a provider whose servers end with the test.
func open(t *testing.T, cfg process.Config) *process.Provider {
	t.Helper()
	p, err := process.New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end(t, p) })
	return p
}

func end(t *testing.T, p *process.Provider) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	list, err := p.List(ctx, nil)
	if err != nil {
		t.Error(err)
	}
	for _, s := range list.GetServers() {
		release(t, p, s.GetAttemptId())
	}
	if err := p.Close(ctx); err != nil {
		t.Error(err)
	}
}

func allocate(t *testing.T, p *process.Provider, build, attempt string) *providerv1.Server {
	t.Helper()
	resp, err := p.Allocate(t.Context(), order(build, attempt))
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetServer()
}

func get(t *testing.T, p *process.Provider, attempt string) *providerv1.Server {
	t.Helper()
	resp, err := p.Get(context.Background(), &providerv1.GetRequest{AttemptId: attempt})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetServer()
}

// release releases until the server is gone.
func release(t *testing.T, p *process.Provider, attempt string) {
	t.Helper()
	eventually(t, "the release of "+attempt, func() bool {
		resp, err := p.Release(context.Background(), &providerv1.ReleaseRequest{AttemptId: attempt})
		if err != nil {
			t.Fatal(err)
		}
		return resp.GetState() == providerv1.ServerState_SERVER_STATE_EXITED
	})
}

func waitExited(t *testing.T, p *process.Provider, attempt string) string {
	t.Helper()
	eventually(t, "the end of "+attempt, func() bool { return get(t, p, attempt).GetState() == providerv1.ServerState_SERVER_STATE_EXITED })
	return get(t, p, attempt).GetMessage()
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !holds(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// output waits until the server has said the word, and returns all that it said.
func output(t *testing.T, dir, attempt, word string) string {
	t.Helper()
	var out []byte
	eventually(t, strconv.Quote(word)+" from "+attempt, func() bool {
		out, _ = os.ReadFile(filepath.Join(dir, attempt+".log"))
		return bytes.Contains(out, []byte(word+"\n")) || bytes.Contains(out, []byte(word+" "))
	})
	return string(out)
}

func pidOf(t *testing.T, s *providerv1.Server) int {
	t.Helper()
	pid, _, _ := strings.Cut(s.GetExternalId(), "-")
	n, err := strconv.Atoi(pid)
	if err != nil {
		t.Fatalf("external id %q: %v", s.GetExternalId(), err)
	}
	return n
}

// alive reports whether a process runs; a zombie does not.
func alive(pid int) bool {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(raw), ") Z ")
}

func TestAllocateTwiceStartsOneProcess(t *testing.T) {
	dir := t.TempDir()
	p := open(t, config(dir, discard()))
	first, second := allocate(t, p, "serve", attempt(1)), allocate(t, p, "serve", attempt(1))
	if first.GetExternalId() != second.GetExternalId() || first.GetState() != providerv1.ServerState_SERVER_STATE_RUNNING {
		t.Errorf("two answers for one attempt: %v and %v", first, second)
	}
	output(t, dir, attempt(1), "ready")
	if out, _ := os.ReadFile(filepath.Join(dir, attempt(1)+".log")); bytes.Count(out, []byte("ready")) != 1 {
		t.Errorf("more than one process wrote: %q", out)
	}
	if other := allocate(t, p, "serve", attempt(2)); other.GetExternalId() == first.GetExternalId() {
		t.Error("two attempts share a process")
	}
	list, err := p.List(t.Context(), nil)
	if err != nil || len(list.GetServers()) != 2 {
		t.Errorf("list: %v, %v", list, err)
	}
}

func TestExitIsToldWithItsStatus(t *testing.T) {
	p := open(t, config(t.TempDir(), discard()))
	for build, want := range map[string]string{"crash": "exit status 3", "suicide": "signal: killed"} {
		id := instance + "-" + build
		allocate(t, p, build, id)
		if got := waitExited(t, p, id); got != want {
			t.Errorf("%s: %q, want %q", build, got, want)
		}
	}
}

func TestReleaseAsksFirst(t *testing.T) {
	dir := t.TempDir()
	cfg := config(dir, discard())
	cfg.StopGrace = time.Hour
	p := open(t, cfg)
	s := allocate(t, p, "serve", attempt(1))
	output(t, dir, attempt(1), "ready")
	release(t, p, attempt(1))
	if alive(pidOf(t, s)) {
		t.Error("the process runs after its release")
	}
	if got := get(t, p, attempt(1)); got.GetState() != providerv1.ServerState_SERVER_STATE_EXITED || got.GetMessage() != "exit status 0" {
		t.Errorf("after the release: %v", got)
	}
	release(t, p, attempt(1)) // again
	release(t, p, attempt(9)) // never heard of
	for _, id := range []string{attempt(1), attempt(9)} {
		if _, err := p.Allocate(t.Context(), order("serve", id)); provider.ReasonOf(err) != provider.Invalid {
			t.Errorf("an allocate that came after the release of %s: %v", id, err)
		}
	}
}

func TestReleaseKillsTheWholeGroup(t *testing.T) {
	for _, build := range []string{"stubborn", "parent"} {
		t.Run(build, func(t *testing.T) {
			dir := t.TempDir()
			p := open(t, config(dir, discard()))
			allocate(t, p, build, attempt(1))
			var pid int
			if _, err := fmt.Sscanf(output(t, dir, attempt(1), "ready"), "ready %d", &pid); err != nil {
				t.Fatal(err)
			}
			resp, err := p.Release(t.Context(), &providerv1.ReleaseRequest{AttemptId: attempt(1)})
			if err != nil || resp.GetState() != providerv1.ServerState_SERVER_STATE_STOPPING {
				t.Errorf("release of a server that does not stop: %v, %v", resp, err)
			}
			if s := get(t, p, attempt(1)); s.GetState() != providerv1.ServerState_SERVER_STATE_STOPPING {
				t.Errorf("while it is stopped: %v", s)
			}
			waitExited(t, p, attempt(1)) // without another call of Release
			if alive(pid) {
				t.Error("a process of the group is left")
			}
			if !strings.Contains(output(t, dir, attempt(1), "asked"), "asked") {
				t.Error("it was not asked before it was killed")
			}
		})
	}
}

// A server that ends and leaves a child behind has ended when the child is gone too, and keeps its own exit status.
func TestNothingOfTheGroupIsLeftWhenTheServerEnds(t *testing.T) {
	dir := t.TempDir()
	p := open(t, config(dir, discard()))
	allocate(t, p, "orphan", attempt(1))
	var pid int
	if _, err := fmt.Sscanf(output(t, dir, attempt(1), "ready"), "ready %d", &pid); err != nil {
		t.Fatal(err)
	}
	if got := waitExited(t, p, attempt(1)); got != "exit status 0" {
		t.Errorf("message %q", got)
	}
	if alive(pid) {
		t.Error("the child is left")
	}
}

func TestCloseStopsTheServersIfToldTo(t *testing.T) {
	dir := t.TempDir()
	cfg := config(dir, discard())
	cfg.StopWithService, cfg.StopGrace = true, time.Hour // the deadline is what counts
	p, err := process.New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for n, build := range []string{"serve", "stubborn", "parent"} {
		pids = append(pids, pidOf(t, allocate(t, p, build, attempt(n))))
		out := output(t, dir, attempt(n), "ready")
		var grandchild int
		if _, err := fmt.Sscanf(out, "ready %d", &grandchild); err == nil {
			pids = append(pids, grandchild)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
	defer cancel()
	if err := p.Close(ctx); err != nil {
		t.Error(err)
	}
	for _, pid := range pids {
		if alive(pid) {
			t.Errorf("process %d is left", pid)
		}
	}
	if _, err := p.Allocate(t.Context(), order("serve", attempt(9))); provider.ReasonOf(err) != provider.Unavailable {
		t.Errorf("allocate after close: %v", err)
	}
}
