//go:build linux

package process_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/providers/process"
)

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
	cmd.Env = append(os.Environ(), childMode+"=service", "PROVIDER_TEST_DIR="+dir, "PROVIDER_TEST_INSTANCE="+instance)
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

// The same for the rest of a group whose number was a server's once.
func TestReleaseSparesAGroupThatGotTheNumberLater(t *testing.T) {
	first := exec.Command("/proc/self/exe")
	first.Env = append(os.Environ(), childMode+"=orphan")
	first.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := first.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	var rest int
	if _, err := fmt.Fscanf(out, "ready %d\n", &rest); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Kill(rest, syscall.SIGKILL); _ = first.Wait() })
	eventually(t, "the first process to end", func() bool { return !alive(first.Process.Pid) })
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	record := fmt.Sprintf(`{"v":1,"attempt":%q,"phase":"started","pid":%d,"boot":%q,"start":1}`, attempt(1), first.Process.Pid, strings.TrimSpace(string(boot)))
	if err := os.WriteFile(filepath.Join(dir, attempt(1)+".json"), []byte(record), 0o600); err != nil {
		t.Fatal(err)
	}
	p := open(t, config(dir, discard()))
	release(t, p, attempt(1))
	if !alive(rest) {
		t.Error("the group was killed")
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
