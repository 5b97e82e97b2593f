//go:build linux

package process_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/berth-dev/berth/sdk/go/bootstrap"
	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/providers/process"
)

const (
	instance    = "6c1f9a52-6f3e-4c64-9d5c-3f0d6f3f5a10"
	gameToken   = "GAME-TOKEN-MUST-NOT-BE-SEEN"
	socialToken = "SOCIAL-TOKEN-MUST-NOT-BE-SEEN"
	patience    = 20 * time.Second
)

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

func attempt(n int) string { return instance + "-" + strconv.Itoa(n) }

// config has one build for each mode of the child.
func config(dir string, log *slog.Logger) process.Config {
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	cfg := process.Config{Name: "here", Log: log, StateDir: dir, StopGrace: 200 * time.Millisecond, Builds: make(map[string]process.Build)}
	for _, mode := range []string{"serve", "crash", "suicide", "stubborn", "parent", "orphan", "report"} {
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

func TestServersAreTakenUpAgainByTheNextProvider(t *testing.T) {
	dir := t.TempDir()
	ctx := context.Background()
	first, err := process.New(ctx, config(dir, discard()))
	if err != nil {
		t.Fatal(err)
	}
	before := allocate(t, first, "serve", attempt(1))
	allocate(t, first, "crash", attempt(2))
	status := waitExited(t, first, attempt(2))
	allocate(t, first, "parent", attempt(3))
	output(t, dir, attempt(1), "ready")
	var grandchild int
	if _, err := fmt.Sscanf(output(t, dir, attempt(3), "ready"), "ready %d", &grandchild); err != nil {
		t.Fatal(err)
	}
	if err := first.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if !alive(pidOf(t, before)) {
		t.Fatal("a server ended with the provider, which was not told to stop it")
	}

	second := open(t, config(dir, discard()))
	if after := allocate(t, second, "serve", attempt(1)); after.GetExternalId() != before.GetExternalId() || after.GetState() != providerv1.ServerState_SERVER_STATE_RUNNING {
		t.Errorf("before %v, after %v", before, after)
	}
	if got := get(t, second, attempt(2)); got.GetMessage() != status {
		t.Errorf("the status of a server that had ended: %q, want %q", got.GetMessage(), status)
	}
	// The first process of the third ends while nobody is its parent any more; its child is found by its mark.
	if err := syscall.Kill(pidOf(t, get(t, second, attempt(3))), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if got := waitExited(t, second, attempt(3)); !strings.Contains(got, "unknown") {
		t.Errorf("message %q", got)
	}
	if alive(grandchild) {
		t.Error("the grandchild is left")
	}
	release(t, second, attempt(1))
	if alive(pidOf(t, before)) {
		t.Error("the server runs after its release")
	}
}

// kill -9 of the service leaves its servers running and writing; the next life of it manages them.
func TestServersOutliveAServiceThatIsKilled(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), childMode+"=service", "PROVIDER_TEST_DIR="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := make([]byte, len("ready\n"))
	if _, err := out.Read(said); err != nil || string(said) != "ready\n" {
		t.Fatalf("the service says %q, %v", said, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	p := open(t, config(dir, discard()))
	s := get(t, p, attempt(1))
	if s.GetState() != providerv1.ServerState_SERVER_STATE_RUNNING || !alive(pidOf(t, s)) {
		t.Fatalf("after the service's death: %v", s)
	}
	output(t, dir, attempt(1), "ready")
	release(t, p, attempt(1))
	eventually(t, "the process to go", func() bool { return !alive(pidOf(t, s)) })
}

// A service that is lost between the state file and the start, or between the start and the note of it, starts one server in the end.
func TestCrashBetweenIntentAndStart(t *testing.T) {
	rewrite := func(t *testing.T, dir, id string) {
		t.Helper()
		path := filepath.Join(dir, id+".json")
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var r map[string]any
		if err := json.Unmarshal(raw, &r); err != nil {
			t.Fatal(err)
		}
		r["phase"] = "intent"
		delete(r, "pid")
		delete(r, "start")
		if raw, err = json.Marshal(r); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	first, err := process.New(t.Context(), config(dir, discard()))
	if err != nil {
		t.Fatal(err)
	}
	started := allocate(t, first, "serve", attempt(1))
	allocate(t, first, "serve", attempt(2))
	output(t, dir, attempt(1), "ready")
	output(t, dir, attempt(2), "ready")
	release(t, first, attempt(2))
	if err := first.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	rewrite(t, dir, attempt(1)) // runs, and was not noted
	rewrite(t, dir, attempt(2)) // does not run

	second := open(t, config(dir, discard()))
	if got := allocate(t, second, "serve", attempt(1)); got.GetExternalId() != started.GetExternalId() {
		t.Errorf("a second process was started: %v, and %v", started, got)
	}
	if _, err := second.Get(t.Context(), &providerv1.GetRequest{AttemptId: attempt(2)}); provider.ReasonOf(err) != provider.NotFound {
		t.Errorf("a server that was never started: %v", err)
	}
	if got := allocate(t, second, "serve", attempt(2)); got.GetState() != providerv1.ServerState_SERVER_STATE_RUNNING {
		t.Errorf("allocated after the crash: %v", got)
	}
}

// The number of a server that ended while nobody looked is somebody else's by now: that one is left alone.
func TestReleaseSparesAProcessThatGotTheNumberLater(t *testing.T) {
	bystander := exec.Command("/proc/self/exe")
	bystander.Env = append(os.Environ(), childMode+"=serve")
	bystander.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a group of that number, too
	if err := bystander.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = bystander.Process.Kill(); _ = bystander.Wait() })
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	for name, state := range map[string]string{
		"another start": fmt.Sprintf(`"boot":%q,"start":1`, strings.TrimSpace(string(boot))),
		"another boot":  fmt.Sprintf(`"boot":"x","start":%d`, startOf(t, bystander.Process.Pid)),
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			record := fmt.Sprintf(`{"v":1,"attempt":%q,"phase":"started","pid":%d,%s}`, attempt(1), bystander.Process.Pid, state)
			if err := os.WriteFile(filepath.Join(dir, attempt(1)+".json"), []byte(record), 0o600); err != nil {
				t.Fatal(err)
			}
			p := open(t, config(dir, discard()))
			release(t, p, attempt(1))
			if got := get(t, p, attempt(1)); got.GetState() != providerv1.ServerState_SERVER_STATE_EXITED || !strings.Contains(got.GetMessage(), "unknown") {
				t.Errorf("the server that is gone: %v", got)
			}
			if !alive(bystander.Process.Pid) {
				t.Fatal("the bystander was killed")
			}
		})
	}
}

func startOf(t *testing.T, pid int) uint64 {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:]))
	n, err := strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
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

func TestTheFolderIsOneProvidersOwn(t *testing.T) {
	dir := t.TempDir()
	open(t, config(dir, discard()))
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := process.New(ctx, config(dir, discard())); err == nil {
		t.Fatal("two providers share a folder")
	}
}

func TestEndedServersAreForgottenInTime(t *testing.T) {
	dir := t.TempDir()
	cfg := config(dir, discard())
	first, err := process.New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	allocate(t, first, "crash", attempt(1))
	waitExited(t, first, attempt(1))
	end(t, first)
	files := func() []string {
		found, err := filepath.Glob(filepath.Join(dir, "*-1.*"))
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	if len(files()) != 2 {
		t.Errorf("state and output of a server that ended just now: %v", files())
	}
	cfg.KeepEnded = time.Nanosecond
	open(t, cfg)
	eventually(t, "the files to go", func() bool { return len(files()) == 0 })
}
