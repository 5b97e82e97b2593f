package redistest

import (
	"bufio"
	"net"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Process is a redis-server. Its methods are for one goroutine, that of the test.
type Process struct {
	// Addr is its address.
	Addr string
	// Cmd is the process, for tests that kill or pause it.
	Cmd *exec.Cmd

	args   []string
	done   <-chan struct{} // closed when the process has ended
	paused bool
}

// Start starts a real redis-server at an address, which keeps its append-only file in dir, so that a test can start another one in its place. More
// arguments are settings: "--name", "value". The server ends with the test, and with the process that runs it.
func Start(tb testing.TB, dir, addr string, args ...string) *Process {
	tb.Helper()
	host, port := split(addr)
	args = append([]string{"--port", port, "--bind", host, "--dir", dir, "--save", "", "--appendonly", "yes", "--daemonize", "no"}, args...)
	p := &Process{Addr: addr, args: args}
	p.launch(tb)
	return p
}

// Kill kills the server as the machine's failure would: it has no time for anything.
func (p *Process) Kill(tb testing.TB) {
	tb.Helper()
	if err := p.Cmd.Process.Kill(); err != nil {
		tb.Fatal(err)
	}
	<-p.done
}

// Stop asks the server to end, as an operator would, and waits until it has written what it has.
func (p *Process) Stop(tb testing.TB) {
	tb.Helper()
	p.signal(tb, syscall.SIGTERM)
	<-p.done
}

// Pause stops the server in the middle of what it does; connections to it stay open.
func (p *Process) Pause(tb testing.TB) {
	tb.Helper()
	p.signal(tb, syscall.SIGSTOP)
	p.paused = true
}

// Resume lets a paused server go on.
func (p *Process) Resume(tb testing.TB) {
	tb.Helper()
	p.signal(tb, syscall.SIGCONT)
	p.paused = false
}

// Restart starts a server that has ended again, with what its append-only file has.
func (p *Process) Restart(tb testing.TB) {
	tb.Helper()
	<-p.done
	p.paused = false
	p.launch(tb)
}

func (p *Process) signal(tb testing.TB, s syscall.Signal) {
	tb.Helper()
	if err := p.Cmd.Process.Signal(s); err != nil {
		tb.Fatal(err)
	}
}

// answers reports whether the server can be asked anything.
func (p *Process) answers() bool {
	select {
	case <-p.done:
		return false
	default:
		return !p.paused
	}
}

// launch returns when the server accepts connections.
func (p *Process) launch(tb testing.TB) {
	tb.Helper()
	r := &run{cmd: exec.Command(redisServer(tb), p.args...), started: make(chan error, 1), ready: make(chan struct{}), done: make(chan struct{})}
	go r.follow()
	if err := <-r.started; err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = r.cmd.Process.Kill()
		<-r.done
	})
	p.Cmd, p.done = r.cmd, r.done
	select {
	case <-r.ready:
	case <-r.done:
		tb.Fatalf("redis-server ended at once: %s", r.last)
	case <-time.After(patience):
		tb.Fatal("redis-server does not get ready")
	}
}

// run is one run of a redis-server.
type run struct {
	cmd     *exec.Cmd
	started chan error
	ready   chan struct{}
	done    chan struct{}
	last    string // line of output, to be read after done
}

// follow starts the server and stays until it has ended. It keeps its thread, because the kernel ends the server with the thread that started it.
func (r *run) follow() {
	defer close(r.done)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	endWithParent(r.cmd)
	out, err := r.cmd.StdoutPipe()
	if err == nil {
		err = r.cmd.Start()
	}
	r.started <- err
	if err != nil {
		return
	}
	said := false
	for lines := bufio.NewScanner(out); lines.Scan(); {
		r.last = lines.Text()
		if !said && strings.Contains(r.last, "Ready to accept connections") {
			said = true
			close(r.ready)
		}
	}
	_ = r.cmd.Wait()
}

func split(addr string) (host, port string) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		panic(err) // a test's own address
	}
	return host, port
}

// ownGroup keeps a Ctrl-C at the terminal from a process.
func ownGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
