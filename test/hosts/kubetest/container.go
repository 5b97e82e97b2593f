package kubetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Container is what a kubelet starts.
type Container struct {
	// Pod is NAMESPACE/NAME of its Pod.
	Pod string
	// Name of the container.
	Name string
	// Command and its arguments, with $(VARIABLES) filled in.
	Command []string
	// Env is its environment, with what is from Secrets.
	Env map[string]string
	// Grace is how long it has between SIGTERM and SIGKILL.
	Grace time.Duration
}

// Running is a container that runs.
type Running struct {
	// Stop tells it to end, as SIGTERM does, and Kill ends it at once. Both return at once, and may be called again.
	Stop, Kill func()
	// Ended gets its exit status, once. It has room for it.
	Ended <-chan int
}

// Runtime starts containers.
type Runtime func(Container) (Running, error)

// Said is a container that is only said to run, until it is stopped.
func Said(stop func()) Running {
	ended := make(chan int, 1) // one is sent
	end := sync.OnceFunc(func() {
		stop()
		ended <- 0
	})
	return Running{Stop: end, Kill: end, Ended: ended}
}

// Processes runs containers as processes of this machine: with their command and their environment, and not with their image, their mounts and their network.
// Players reach them at the address of their Pod, which is one of the loopback interface that only this Pod has. It is safe for concurrent use.
type Processes struct {
	t   testing.TB
	dir string
	mu  sync.Mutex
	pid map[string]int // of those that run, by NAMESPACE/NAME of the Pod and the container's name
}

// NewProcesses returns Processes whose output is shown if the test fails.
func NewProcesses(t testing.TB) *Processes {
	t.Helper()
	p := &Processes{t: t, dir: t.TempDir(), pid: make(map[string]int)}
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		logs, _ := filepath.Glob(filepath.Join(p.dir, "*"))
		for _, log := range logs {
			text, _ := os.ReadFile(log)
			t.Logf("%s: %s", filepath.Base(log), text[max(0, len(text)-2000):])
		}
	})
	return p
}

// Start is a Runtime. A kubelet waits for what it has started.
func (p *Processes) Start(c Container) (Running, error) {
	if len(c.Command) == 0 {
		return Running{}, errors.New("no command specified")
	}
	log, err := os.OpenFile(filepath.Join(p.dir, strings.ReplaceAll(c.Pod, "/", "_")+"_"+c.Name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return Running{}, err
	}
	defer func() { _ = log.Close() }()
	ctx, stop := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, c.Command[0], c.Command[1:]...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = p.dir, []string{}, log, log
	for name, value := range c.Env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	cmd.Cancel, cmd.WaitDelay = func() error { return cmd.Process.Signal(syscall.SIGTERM) }, max(c.Grace, time.Millisecond)
	if err := cmd.Start(); err != nil {
		stop()
		return Running{}, err
	}
	key, ended := c.Pod+"/"+c.Name, make(chan int, 1) // one is sent
	p.mu.Lock()
	p.pid[key] = cmd.Process.Pid
	p.mu.Unlock()
	go func() { // until the process ends, which the kubelet sees to and waits for
		defer stop()
		_ = cmd.Wait()
		p.mu.Lock()
		delete(p.pid, key)
		p.mu.Unlock()
		ended <- exitStatus(cmd.ProcessState)
	}()
	return Running{Stop: stop, Kill: func() { _ = cmd.Process.Kill() }, Ended: ended}, nil
}

// exitStatus is that of a container: 128 and the signal, if one ended it.
func exitStatus(s *os.ProcessState) int {
	if w, ok := s.Sys().(syscall.WaitStatus); ok && w.Signaled() {
		return 128 + int(w.Signal())
	}
	return s.ExitCode()
}

// Kill kills the process of a Pod's container, as the machine does that has no memory left.
func (p *Processes) Kill(pod, container string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	pid, ok := p.pid[pod+"/"+container]
	if !ok {
		return fmt.Errorf("container %s of Pod %s does not run", container, pod)
	}
	return syscall.Kill(pid, syscall.SIGKILL)
}

// Count returns how many run.
func (p *Processes) Count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.pid)
}
