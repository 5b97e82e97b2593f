package stack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// Process is one service as a process of its own. Its methods are for one goroutine, that of the test, but for Probe.
type Process struct {
	// Name tells it from the others.
	Name string
	// Admin is the address of its admin listener.
	Admin string
	// Log is the file that has what it writes, over all its lives.
	Log string

	binary string
	env    []string
	cmd    *exec.Cmd
	exited chan struct{} // closed when the process has ended
	err    error         // how; written before exited is closed
}

// Start starts the process, for the first time or again.
func (p *Process) Start(t testing.TB) {
	t.Helper()
	log, err := os.OpenFile(p.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	p.cmd = exec.Command(p.binary)
	p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr = append([]string{"PATH=" + os.Getenv("PATH")}, p.env...), log, log
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.exited = make(chan struct{})
	go func(cmd *exec.Cmd, exited chan<- struct{}) {
		defer close(exited)
		p.err = cmd.Wait()
	}(p.cmd, p.exited)
}

// Ready waits until the process is ready.
func (p *Process) Ready(t testing.TB) {
	t.Helper()
	Eventually(t, p.Name+" is ready", func() error {
		select {
		case <-p.exited:
			t.Fatalf("%s ended: %v\n%s", p.Name, p.err, p.Tail())
		default:
		}
		status, body, err := p.Probe(context.Background(), "/readyz")
		if err == nil && status != http.StatusOK {
			err = errors.New(body)
		}
		return err
	})
}

// Probe asks the admin listener, for five seconds at most. It is safe for concurrent use.
func (p *Process) Probe(ctx context.Context, path string) (int, string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.Admin+path, nil)
	if err != nil {
		return 0, "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

// Tail returns the end of what the process has written.
func (p *Process) Tail() string {
	raw, err := os.ReadFile(p.Log)
	if err != nil {
		return err.Error()
	}
	return string(raw[max(0, len(raw)-4000):])
}

// PID returns the process's id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Kill kills the process with -9 and waits for its end.
func (p *Process) Kill(t testing.TB) {
	t.Helper()
	p.signal(t, syscall.SIGKILL)
	<-p.exited
}

// Pause stops the process in the middle of what it does, until Resume.
func (p *Process) Pause(t testing.TB) {
	t.Helper()
	p.signal(t, syscall.SIGSTOP)
}

// Resume lets a paused process go on.
func (p *Process) Resume(t testing.TB) {
	t.Helper()
	p.signal(t, syscall.SIGCONT)
}

func (p *Process) signal(t testing.TB, s syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// Stop ends the process with SIGTERM, in good order, and returns an error if it does not, or has ended otherwise before.
func (p *Process) Stop() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.exited:
		if p.err != nil {
			return fmt.Errorf("%s ended with %w", p.Name, p.err)
		}
		return nil
	case <-time.After(40 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.exited
		return errors.New(p.Name + " does not stop")
	}
}
