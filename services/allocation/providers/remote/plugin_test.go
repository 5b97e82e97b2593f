package remote_test

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/providers/remote"
)

const (
	addressVariable = "TEST_PLUGIN_ADDRESS"
	buildVariable   = "TEST_PLUGIN_BUILD"
	// hang is the attempt about which a plugin never answers.
	hang     = "hang"
	patience = 20 * time.Second
	running  = providerv1.ServerState_SERVER_STATE_RUNNING
)

// TestMain is a plugin too: some tests start it as a process of its own.
func TestMain(m *testing.M) {
	if address := os.Getenv(addressVariable); address != "" {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
		defer stop()
		if err := provider.Serve(ctx, provider.ServeConfig{Address: address}, plugin{build: os.Getenv(buildVariable), begun: func() { fmt.Println("begun") }}); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// plugin has a server for whatever attempt it is asked about.
type plugin struct {
	build string
	begun func()
}

func (p plugin) Describe(context.Context, *providerv1.DescribeRequest) (*providerv1.DescribeResponse, error) {
	return &providerv1.DescribeResponse{Kind: "theirs", Builds: []string{p.build}, Regions: []string{"eu"}}, nil
}

func (p plugin) Allocate(_ context.Context, req *providerv1.AllocateRequest) (*providerv1.AllocateResponse, error) {
	return &providerv1.AllocateResponse{Server: &providerv1.Server{AttemptId: req.GetAttemptId(), State: running, Message: req.GetDeployment() + string(req.GetBootstrap())}}, nil
}

func (p plugin) Get(ctx context.Context, req *providerv1.GetRequest) (*providerv1.GetResponse, error) {
	if req.GetAttemptId() == hang {
		p.begun()
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return &providerv1.GetResponse{Server: &providerv1.Server{AttemptId: req.GetAttemptId(), State: running}}, nil
}

func (p plugin) List(_ context.Context, req *providerv1.ListRequest) (*providerv1.ListResponse, error) {
	return &providerv1.ListResponse{Servers: []*providerv1.Server{{AttemptId: "a", State: running}}, NextPageToken: req.GetDeployment()}, nil
}

func (p plugin) Release(context.Context, *providerv1.ReleaseRequest) (*providerv1.ReleaseResponse, error) {
	return &providerv1.ReleaseResponse{State: providerv1.ServerState_SERVER_STATE_EXITED}, nil
}

// process is a plugin that is a process of its own.
type process struct {
	cmd   *exec.Cmd
	lines *bufio.Reader
}

func spawn(t *testing.T, address, build string) *process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), addressVariable+"="+address, buildVariable+"="+build)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{cmd, bufio.NewReader(out)}
	t.Cleanup(p.kill)
	return p
}

// kill ends it as kill -9 does.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

func (p *process) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// begun waits until the plugin has begun a call that hangs.
func (p *process) begun(t *testing.T) {
	t.Helper()
	if line, err := p.lines.ReadString('\n'); err != nil || line != "begun\n" {
		t.Fatalf("%q, %v", line, err)
	}
}

func open(t *testing.T, cfg remote.Config) *remote.Provider {
	t.Helper()
	cfg.Name, cfg.Log = "mine", slog.New(slog.DiscardHandler)
	p, err := remote.New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return p
}

// builds waits until the plugin is there with a build.
func builds(t *testing.T, p *remote.Provider, want string) {
	t.Helper()
	status(t, p, func(d *providerv1.DescribeResponse, problem string) bool {
		return problem == "" && strings.Join(d.GetBuilds(), ",") == want
	})
}

// status waits until the plugin is so.
func status(t *testing.T, p *remote.Provider, so func(*providerv1.DescribeResponse, string) bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); ; <-tick.C {
		d, problem := p.Status()
		if so(d, problem) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("waited in vain; last seen: %v, %q", d, problem)
		}
	}
}

func get(ctx context.Context, p *remote.Provider, attempt string) error {
	_, err := p.Get(ctx, &providerv1.GetRequest{AttemptId: attempt})
	return err
}

func expect(t *testing.T, what string, err error, reason providerv1.FailureReason, says ...string) {
	t.Helper()
	if provider.ReasonOf(err) != reason {
		t.Errorf("%s: %v is %v and not %v", what, err, provider.ReasonOf(err), reason)
		return
	}
	for _, word := range says {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%s: %v does not say %q", what, err, word)
		}
	}
}
