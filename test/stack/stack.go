// Package stack starts Berth for tests: as it runs in production (Start), four services, one of them twice, each a process of its own, which speak over
// loopback with the internal key and share a Redis that the test has started; or all in the test's own process (AllInOne).
package stack

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/berth-dev/berth/pkg/apikey"
	"github.com/berth-dev/berth/pkg/freeport"
)

// Secrets of the stack, long and easy to find in a scan.
const (
	APIKey      = apikey.Prefix + "e2eApiKeyThatMustNotBeFoundAnywhere"
	InternalKey = "e2eInternalKeyThatMustNotBeFoundAnywhere"
	SealingKey  = "e2eSealingKeyThatMustNotBeFoundAnywhere"
)

// Names of the processes. There are two gateways.
const (
	TokenIssuer  = "token-issuer"
	GameInstance = "game-instance"
	Allocation   = "allocation"
	GatewayA     = "gateway-a"
	GatewayB     = "gateway-b"
)

// Config configures a Stack.
type Config struct {
	// Binaries is the folder with the programs; see Build.
	Binaries string
	// Redis is the addresses of the store, by commas.
	Redis string
	// GatewayRedis is another way for the gateways to it; empty: the same.
	GatewayRedis string
	// Dir is where the logs are kept. Empty: a folder of the test's.
	Dir string
	// File is the content of allocation's configuration file, which names its providers. Empty: none.
	File string
	// Env is more for the environment of each binary, and may be nil.
	Env func(binary string) []string
}

// Stack is a running Berth of five processes.
type Stack struct {
	// Procs are the processes, by name.
	Procs map[string]*Process
	// API is the gRPC address of game-instance, with the API for backends.
	API string
	// AllocationAPI is the gRPC address of allocation.
	AllocationAPI string
	// URLs are the REST base URLs of the gateways' API listeners, Edges those of their edge listeners: gateway-a's and gateway-b's.
	URLs, Edges []string
	// Dir has the logs.
	Dir string
}

// build builds programs into a folder.
func build(root, dir string, packages ...string) ([]byte, error) {
	cmd := exec.Command("go", append([]string{"build", "-o", dir + string(filepath.Separator)}, packages...)...)
	cmd.Dir = root
	return cmd.CombinedOutput()
}

// Main builds programs of this tree into a folder of its own, whose name it sets, runs the tests of a package two folders below the tree's root, and returns
// their status.
func Main(m *testing.M, binaries *string, packages ...string) int {
	dir, err := os.MkdirTemp("", "berth-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	*binaries = dir
	if out, err := build(filepath.Join("..", ".."), dir, packages...); err != nil {
		fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// Leakless is a status of tests, or that of a failure if goroutines are left.
func Leakless(code int) int {
	if err := goleak.Find(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// Start starts the processes and waits until all are ready. They are stopped with the test, which fails where one does not stop in good order.
func Start(t testing.TB, cfg Config) *Stack {
	t.Helper()
	if cfg.GatewayRedis == "" {
		cfg.GatewayRedis = cfg.Redis
	}
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	s := &Stack{Procs: map[string]*Process{}, Dir: cfg.Dir}
	s.configure(t, cfg)
	for _, p := range s.Procs {
		p.Start(t)
	}
	t.Cleanup(func() { s.stop(t) })
	for _, p := range s.Procs {
		p.Ready(t)
	}
	return s
}

// configure gives each process its addresses.
func (s *Stack) configure(t testing.TB, cfg Config) {
	addr := func() string { return freeport.Addr(t) }
	issuer, allocation, edges, apis := addr(), addr(), []string{addr(), addr()}, []string{addr(), addr()}
	s.API, s.AllocationAPI = addr(), allocation
	common := []string{
		"BERTH_AUTH_INTERNAL_KEY=" + InternalKey, "BERTH_AUTH_API_KEY_SHA256=" + apikey.Hash(APIKey), "BERTH_LOG_LEVEL=debug", "BERTH_REDIS_PARTITIONS=16",
		"BERTH_TOKEN_ISSUER=" + issuer, "BERTH_GAME_INSTANCE=" + s.API, "BERTH_ALLOCATION=" + allocation,
	}
	add := func(name, binary, redis string, env ...string) {
		p := &Process{Name: name, Admin: addr(), Log: filepath.Join(cfg.Dir, name+".log"), binary: filepath.Join(cfg.Binaries, binary)}
		p.env = slices.Concat([]string{"BERTH_ADMIN_ADDR=" + p.Admin, "BERTH_REDIS_ADDRS=" + redis}, common, env)
		if cfg.Env != nil {
			p.env = append(p.env, cfg.Env(binary)...)
		}
		s.Procs[name] = p
	}
	add(TokenIssuer, "berth-token-issuer", cfg.Redis, "BERTH_GRPC_ADDR="+issuer, "BERTH_SEALING_KEY="+SealingKey)
	add(GameInstance, "berth-game-instance", cfg.Redis, "BERTH_GRPC_ADDR="+s.API)
	var file []string
	if cfg.File != "" {
		file = append(file, "BERTH_CONFIG="+WriteConfig(t, cfg.File))
	}
	add(Allocation, "berth-allocation", cfg.Redis, append(file, "BERTH_GRPC_ADDR="+allocation, "BERTH_GATEWAY_URL=http://"+edges[0])...)
	for n, name := range []string{GatewayA, GatewayB} {
		add(name, "berth-gateway", cfg.GatewayRedis, "BERTH_EDGE_ADDR="+edges[n], "BERTH_API_ADDR="+apis[n], "BERTH_LIMIT_EXEMPT=127.0.0.0/8")
		s.URLs, s.Edges = append(s.URLs, "http://"+apis[n]), append(s.Edges, "http://"+edges[n])
	}
}

// WriteConfig writes a configuration file and returns its path.
func WriteConfig(t testing.TB, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "berth.yaml")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// stop ends all processes in good order, those that others need last, and checks that they do.
func (s *Stack) stop(t testing.TB) {
	for _, name := range []string{GatewayA, GatewayB, Allocation, GameInstance, TokenIssuer} {
		if err := s.Procs[name].Stop(); err != nil {
			t.Error(err)
		}
	}
	if t.Failed() {
		for _, p := range s.Procs {
			t.Logf("%s:\n%s", p.Name, p.Tail())
		}
	}
}

// Eventually waits, for a minute at most, until a condition holds.
func Eventually(t testing.TB, what string, condition func() error) {
	t.Helper()
	EventuallyIn(t, time.Minute, what, condition)
}

// EventuallyIn is Eventually with another limit.
func EventuallyIn(t testing.TB, limit time.Duration, what string, condition func() error) {
	t.Helper()
	deadline := time.Now().Add(limit)
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for {
		err := condition()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s: %v", what, err)
		}
		<-poll.C
	}
}
