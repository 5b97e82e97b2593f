package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/berth-dev/berth/pkg/apikey"
	"github.com/berth-dev/berth/pkg/freeport"
	"github.com/berth-dev/berth/pkg/redisx/redistest"
)

// service is one process of the four-process shape.
type service struct {
	name, binary string
	env          []string
	admin, log   string
	cmd          *exec.Cmd
	exited       chan error
}

// Keys of the four-process shape, long and easy to find in a scan.
const (
	testAPIKey      = apikey.Prefix + "e2eApiKeyThatMustNotBeFoundAnywhere"
	testInternalKey = "e2eInternalKeyThatMustNotBeFoundAnywhere"
	testSealingKey  = "e2eSealingKeyThatMustNotBeFoundAnywhere"
)

// processes starts the four services as processes, with two gateways and a real redis-server.
func processes(t testing.TB) *stack {
	t.Helper()
	return processesOn(t, redistest.Server(t), nil)
}

// processesOn is processes with a given redis-server; gatewayRedis is another way for the gateways to it.
func processesOn(t testing.TB, redis string, gatewayRedis func(redis string) string) *stack {
	t.Helper()
	return processesWith(t, redis, gatewayRedis, func(string) []string { return nil })
}

// processesWith is processesOn with more in the environment of each binary.
func processesWith(t testing.TB, redis string, gatewayRedis func(redis string) string, more func(binary string) []string) *stack {
	t.Helper()
	dir := t.TempDir()
	var port [13]string
	for n := range port {
		port[n] = freeport.Addr(t)
	}
	instance, issuer, allocation := port[0], port[1], port[2]
	edges, apis := []string{port[3], port[4]}, []string{port[5], port[6]}
	if gatewayRedis == nil {
		gatewayRedis = func(redis string) string { return redis }
	}
	config := writeConfig(t, providers(filepath.Join(dir, "servers")))
	common := []string{
		"BERTH_AUTH_INTERNAL_KEY=" + testInternalKey, "BERTH_AUTH_API_KEY_SHA256=" + apikey.Hash(testAPIKey), "BERTH_LOG_LEVEL=debug",
		"BERTH_TOKEN_ISSUER=" + issuer, "BERTH_GAME_INSTANCE=" + instance, "BERTH_ALLOCATION=" + allocation,
	}
	s := &stack{api: instance, key: testAPIKey, dir: dir, procs: map[string]*service{}, redis: redis}
	add := func(name, binary, admin, redis string, env ...string) {
		s.procs[name] = &service{
			name: name, binary: binary, admin: admin, log: filepath.Join(dir, name+".log"),
			env: slices.Concat([]string{"BERTH_ADMIN_ADDR=" + admin, "BERTH_REDIS_ADDRS=" + redis, "BERTH_REDIS_PARTITIONS=16"}, common, env, more(binary)),
		}
	}
	add("token-issuer", "berth-token-issuer", port[7], redis, "BERTH_GRPC_ADDR="+issuer, "BERTH_SEALING_KEY="+testSealingKey)
	add("game-instance", "berth-game-instance", port[8], redis, "BERTH_GRPC_ADDR="+instance)
	add("allocation", "berth-allocation", port[9], redis, "BERTH_GRPC_ADDR="+allocation, "BERTH_GATEWAY_URL=http://"+edges[0], "BERTH_CONFIG="+config)
	for n, name := range []string{"gateway-a", "gateway-b"} {
		add(name, "berth-gateway", port[10+n], gatewayRedis(redis), "BERTH_EDGE_ADDR="+edges[n], "BERTH_API_ADDR="+apis[n], "BERTH_LIMIT_EXEMPT=127.0.0.0/8")
		s.urls, s.edges = append(s.urls, "http://"+apis[n]), append(s.edges, "http://"+edges[n])
	}
	for _, p := range s.procs {
		p.start(t)
	}
	t.Cleanup(func() { s.stop(t) })
	for _, p := range s.procs {
		p.ready(t)
	}
	return s
}

func (p *service) start(t testing.TB) {
	t.Helper()
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	p.cmd = exec.Command(binary(p.binary))
	p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr = append([]string{"PATH=" + os.Getenv("PATH")}, p.env...), log, log
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.exited = make(chan error, 1)
	go func(cmd *exec.Cmd, exited chan<- error) { exited <- cmd.Wait() }(p.cmd, p.exited)
}

func (p *service) ready(t testing.TB) {
	t.Helper()
	eventually(t, p.name+" is ready", func() error {
		select {
		case err := <-p.exited:
			t.Fatalf("%s ended: %v\n%s", p.name, err, p.tail())
		default:
		}
		status, body, err := p.probe("/readyz")
		if err == nil && status != http.StatusOK {
			err = errors.New(body)
		}
		return err
	})
}

// probe asks the admin listener.
func (p *service) probe(path string) (int, string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.admin+path, nil)
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

func (p *service) tail() string {
	raw, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(raw[max(0, len(raw)-4000):])
}

// kill kills the process with -9 and waits for its end.
func (p *service) kill(t testing.TB) {
	t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-p.exited
}

// stop ends all processes in good order, those that others need last, and checks that they do.
func (s *stack) stop(t testing.TB) {
	for _, name := range []string{"gateway-a", "gateway-b", "allocation", "game-instance", "token-issuer"} {
		p := s.procs[name]
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case err := <-p.exited:
			if err != nil {
				t.Errorf("%s stopped with %v", p.name, err)
			}
		case <-time.After(40 * time.Second):
			t.Errorf("%s does not stop", p.name)
			_ = p.cmd.Process.Kill()
		}
	}
	killServers(t) // they outlive allocation by design, so a test that failed may leave some
	if t.Failed() {
		for _, p := range s.procs {
			t.Logf("%s:\n%s", p.name, p.tail())
		}
	}
}

// killServers kills the game servers that a test has left behind.
func killServers(t testing.TB) {
	exes, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		t.Fatal(err)
	}
	for _, exe := range exes {
		var pid int
		if target, err := os.Readlink(exe); err != nil || target != binary("gameserver") {
			continue
		}
		if _, err := fmt.Sscanf(exe, "/proc/%d/exe", &pid); err == nil {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}
