package process

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-dev/berth/sdk/go/bootstrap"
	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
)

const (
	// pipeSize is what a pipe holds before anybody reads it.
	pipeSize = 64 << 10
	// endpointsSize is left free in the bootstrap document for the endpoints, which are filled in here.
	endpointsSize = 8 << 10
	pipeTimeout   = 2 * time.Second
	portTries     = 50
)

// mark is the setting by which a server's processes are known when nothing else of them is.
func mark(attempt string) string { return envAttempt + "=" + attempt }

func externalID(pid int, start uint64) string { return fmt.Sprintf("%d-%d", pid, start) }

// start starts a server. The state file is written before, so that a crash leaves no server that nobody knows of, and again after it. A failure
// means that nothing was started.
func (p *Provider) start(req *providerv1.AllocateRequest) (*server, error) {
	build, ok := p.cfg.Builds[req.GetBuild()]
	switch {
	case p.closing:
		return nil, provider.Failure(provider.Unavailable, "the service is stopping")
	case !ok:
		return nil, provider.Failure(provider.Invalid, "build %q is not configured", req.GetBuild())
	case req.GetRegion() != "" && !slices.Contains(p.cfg.Regions, req.GetRegion()):
		return nil, provider.Failure(provider.Invalid, "region %q is not served", req.GetRegion())
	case p.running("") >= p.cfg.MaxServers:
		return nil, provider.Failure(provider.NoCapacity, "max_servers: %d servers run already", p.cfg.MaxServers)
	case build.MaxServers > 0 && p.running(req.GetBuild()) >= build.MaxServers:
		return nil, provider.Failure(provider.NoCapacity, "builds.%s.max_servers: %d servers run already", req.GetBuild(), build.MaxServers)
	}
	command, err := build.program()
	if err != nil {
		return nil, provider.Failure(provider.Invalid, "build %q: %v", req.GetBuild(), err)
	}
	endpoints, err := p.freePorts(build.Endpoints)
	if err != nil {
		return nil, err
	}
	s := &server{done: make(chan struct{}), record: record{
		Attempt: req.GetAttemptId(), Deployment: req.GetDeployment(), Namespace: req.GetNamespace(), Instance: req.GetInstanceId(), Build: req.GetBuild(), Region: req.GetRegion(),
		Endpoints: endpoints, Phase: phaseIntent, Boot: p.boot,
	}}
	document, err := withEndpoints(req.GetBootstrap(), endpoints)
	if err != nil {
		return nil, provider.Failure(provider.Invalid, "%v", err)
	}
	if err := p.folder.write(s.record); err != nil {
		return nil, provider.Failure(provider.Unavailable, "state file: %v", err)
	}
	if err := p.launch(s, build, command, document); err != nil {
		if errRemove := p.folder.remove(s.Attempt, false); errRemove != nil {
			p.log.Warn("files of a server that was not started cannot be removed", "attempt", s.Attempt, "error", errRemove)
		}
		return nil, err
	}
	return s, nil
}

// running counts the servers of a build; "": of all.
func (p *Provider) running(build string) int {
	n := 0
	for _, s := range p.servers {
		if !s.ended() && (build == "" || s.Build == build) {
			n++
		}
	}
	return n
}

func withEndpoints(document []byte, endpoints []endpoint) ([]byte, error) {
	list := make([]bootstrap.Endpoint, 0, len(endpoints))
	for _, e := range endpoints {
		list = append(list, bootstrap.Endpoint(e))
	}
	return bootstrap.WithEndpoints(document, list)
}

// launch starts the process and notes which one it is.
func (p *Provider) launch(s *server, build Build, command string, document []byte) error {
	output, err := os.OpenFile(p.folder.path(s.Attempt, logSuffix), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return provider.Failure(provider.Unavailable, "file for the server's output: %v", err)
	}
	defer func() { _ = output.Close() }() // the server has its own
	cmd := &exec.Cmd{
		Path: command, Args: append([]string{build.Command}, build.Args...), Dir: build.Dir, Env: build.environ(s.Attempt),
		Stdout: output, Stderr: output, SysProcAttr: &syscall.SysProcAttr{Setpgid: true},
	}
	if p.cfg.Handover == HandoverPipe {
		pipe, err := filled(document)
		if err != nil {
			return provider.Failure(provider.Unavailable, "pipe for the bootstrap document: %v", err)
		}
		defer func() { _ = pipe.Close() }()
		cmd.ExtraFiles = []*os.File{pipe} // the first one is number 3 over there
		cmd.Env = append(cmd.Env, bootstrap.EnvFD+"=3")
	} else {
		cmd.Env = append(cmd.Env, bootstrap.EnvDocument+"="+string(document))
	}
	if err := cmd.Start(); err != nil {
		return notStarted(s.Build, err)
	}
	s.cmd, s.PID, s.Phase = cmd, cmd.Process.Pid, phaseStarted
	p.limit(s, build.Limits)
	if now, ok := statOf(s.PID); ok { // a child that ended at once is still there, as a zombie
		s.Start = now.start
	}
	p.keep(s.record)
	return nil
}

// limit sets the limits of a server's first process, which its children inherit.
func (p *Provider) limit(s *server, l Limits) {
	for resource, most := range map[int]uint64{unix.RLIMIT_DATA: l.MemoryBytes, unix.RLIMIT_NOFILE: l.OpenFiles} {
		if most == 0 {
			continue
		}
		err := unix.Prlimit(s.PID, resource, &unix.Rlimit{Cur: most, Max: most}, nil)
		if err != nil && !errors.Is(err, unix.ESRCH) { // one that has ended needs none
			p.log.Warn("a limit of a server cannot be set", "attempt", s.Attempt, "build", s.Build, "limit", most, "error", err)
		}
	}
}

// filled returns the end to read of a pipe that holds the document and has no writer any more.
func filled(document []byte) (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	err = w.SetWriteDeadline(time.Now().Add(pipeTimeout)) // a system short of memory gives smaller pipes
	if err == nil {
		_, err = w.Write(document)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

func notStarted(build string, err error) error {
	switch {
	case errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.ENOMEM), errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return provider.Failure(provider.NoCapacity, "build %q: the system starts no more processes: %v", build, err)
	default:
		return provider.Failure(provider.Invalid, "build %q: %v", build, err)
	}
}

// program returns the path of the build's command, or says what is wrong with it.
func (b Build) program() (string, error) {
	if b.Dir != "" {
		if info, err := os.Stat(b.Dir); err != nil || !info.IsDir() {
			return "", fmt.Errorf("dir %s is no folder", b.Dir)
		}
	}
	if !strings.ContainsRune(b.Command, filepath.Separator) {
		path, err := exec.LookPath(b.Command)
		if err != nil {
			return "", fmt.Errorf("command %q is not in PATH", b.Command)
		}
		return filepath.Abs(path)
	}
	path := b.Command
	if !filepath.IsAbs(path) {
		path = filepath.Join(b.Dir, path)
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("command %s does not exist", path)
	case err != nil:
		return "", fmt.Errorf("command: %w", err)
	case info.IsDir() || info.Mode()&0o111 == 0:
		return "", fmt.Errorf("command %s is not executable", path)
	}
	return path, nil
}

// environ is the build's environment without the bootstrap.
func (b Build) environ(attempt string) []string {
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	for _, name := range slices.Sorted(maps.Keys(b.Env)) {
		env = append(env, name+"="+b.Env[name])
	}
	return append(env, mark(attempt))
}

// freePorts finds a free port for each endpoint. All are held until the last is found, and let go of before the server starts.
func (p *Provider) freePorts(wanted []Endpoint) ([]endpoint, error) {
	var held []io.Closer
	defer func() {
		for _, h := range held {
			_ = h.Close()
		}
	}()
	var endpoints []endpoint
	for _, w := range wanted {
		port := uint16(0)
		for _, try := range p.candidates() {
			n, closer, err := p.bind(w.Protocol, try)
			switch {
			case err != nil && try != 0: // somebody else's
				continue
			case err != nil:
				return nil, provider.Failure(provider.NoCapacity, "endpoint %q: no free %s port: %v", w.Name, w.Protocol, err)
			}
			held = append(held, closer)
			if !p.promised(w.Protocol, n) {
				port = n
				break
			}
		}
		if port == 0 {
			return nil, provider.Failure(provider.NoCapacity, "endpoint %q: no free %s port%s", w.Name, w.Protocol, p.within())
		}
		p.next = port + 1
		endpoints = append(endpoints, endpoint{Name: w.Name, Host: p.cfg.AdvertiseHost, Port: port, Protocol: w.Protocol})
	}
	return endpoints, nil
}

// candidates are the ports to try: those of the range, from where the last search ended, or as often any.
func (p *Provider) candidates() []uint16 {
	if p.ports.first == 0 {
		return make([]uint16, portTries)
	}
	size := int(p.ports.last) - int(p.ports.first) + 1
	from := 0
	if p.next > p.ports.first && p.next <= p.ports.last {
		from = int(p.next - p.ports.first)
	}
	ports := make([]uint16, 0, size)
	for n := range size {
		ports = append(ports, p.ports.first+uint16((from+n)%size))
	}
	return ports
}

func (p *Provider) within() string {
	if p.ports.first == 0 {
		return ""
	}
	return fmt.Sprintf(" in %d-%d", p.ports.first, p.ports.last)
}

// promised reports whether a server was given the port that may not have opened it yet.
func (p *Provider) promised(protocol string, port uint16) bool {
	for _, s := range p.servers {
		if !s.ended() && slices.ContainsFunc(s.Endpoints, func(e endpoint) bool { return e.Protocol == protocol && e.Port == port }) {
			return true
		}
	}
	return false
}

func bind(protocol string, port uint16) (uint16, io.Closer, error) {
	if protocol == "udp" {
		c, err := net.ListenUDP("udp", &net.UDPAddr{Port: int(port)})
		if err != nil {
			return 0, nil, err
		}
		addr, _ := c.LocalAddr().(*net.UDPAddr)
		return uint16(addr.Port), c, nil
	}
	ln, err := net.ListenTCP("tcp", &net.TCPAddr{Port: int(port)})
	if err != nil {
		return 0, nil, err
	}
	addr, _ := ln.Addr().(*net.TCPAddr)
	return uint16(addr.Port), ln, nil
}
