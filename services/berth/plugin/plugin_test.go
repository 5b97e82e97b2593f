package plugin_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/berth-dev/berth/pkg/tlsx/tlsxtest"
	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/sdk/go/provider/chaos"
	"github.com/berth-dev/berth/sdk/go/provider/chaos/chaoshost"
	"github.com/berth-dev/berth/sdk/go/provider/providertest"
	"github.com/berth-dev/berth/services/berth/plugin"
)

// childScript makes this binary a chaos provider with that script.
const childScript = "PLUGIN_TEST_SCRIPT"

func TestMain(m *testing.M) {
	if script, ok := os.LookupEnv(childScript); ok {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		err := plugin.Chaos(ctx, plugin.ChaosOptions{
			Listen: "unix://" + filepath.Join(filepath.Dir(script), "s"), Script: script, Stats: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler), Out: os.Stdout,
		})
		stop()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// program is a chaos provider that runs as a process.
type program struct {
	cmd            *exec.Cmd
	out            *bufio.Reader
	address, stats string
}

func start(t *testing.T, script string) *program {
	t.Helper()
	dir, err := os.MkdirTemp("", "chaos") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "script.yaml")
	if err := os.WriteFile(path, []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	p := &program{cmd: exec.CommandContext(context.WithoutCancel(t.Context()), os.Args[0])}
	p.cmd.Env, p.cmd.Stderr = append(os.Environ(), childScript+"="+path), os.Stderr
	out, err := p.cmd.StdoutPipe()
	if err == nil {
		err = p.cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.cmd.Process.Kill(); _ = p.cmd.Wait() })
	p.out = bufio.NewReader(out)
	for p.address == "" {
		line, err := p.out.ReadString('\n')
		if err != nil {
			t.Fatalf("the program said %q: %v", line, err)
		}
		if url, ok := strings.CutPrefix(line, "stats "); ok {
			p.stats = strings.TrimSpace(url)
		}
		if address, ok := strings.CutPrefix(line, "listening "); ok {
			p.address = strings.TrimSpace(address)
		}
	}
	return p
}

// stop ends the program and returns the counts that it prints then.
func (p *program) stop(t *testing.T) chaos.Stats {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(p.out)
	if err != nil {
		t.Fatal(err)
	}
	var s chaos.Stats
	if err := json.Unmarshal(raw, &s); err != nil {
		t.Fatalf("it said %q: %v", raw, err)
	}
	if err := p.cmd.Wait(); err != nil {
		t.Error(err)
	}
	return s
}

// The suite passes through a real socket, at a provider that is a process and whose servers are processes.
func TestConformanceOfAPluginInItsOwnProcess(t *testing.T) {
	dir := t.TempDir()
	base := chaos.Script{
		PageSize: 2, PollInterval: 10 * time.Millisecond,
		Command: []string{"/bin/sh", "-c", `printf %s "$BERTH_BOOTSTRAP" > "$0/$BERTH_ATTEMPT.part" && mv "$0/$BERTH_ATTEMPT.part" "$0/$BERTH_ATTEMPT" && exec sleep 1000`, dir},
	}
	p := start(t, "")
	host := chaoshost.Remote(p.stats, base)
	if err := host.Heal(t.Context()); err != nil { // the first script was empty
		t.Fatal(err)
	}
	host.Document = func(ctx context.Context, attempt string) ([]byte, error) {
		for ctx.Err() == nil {
			if raw, err := os.ReadFile(filepath.Join(dir, attempt)); err == nil {
				return raw, nil
			}
			time.Sleep(time.Millisecond)
		}
		return nil, ctx.Err()
	}
	conn, err := grpc.NewClient(p.address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	providertest.Run(t, providertest.Config{Provider: provider.Client(conn), Host: host})
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	if s := p.stop(t); s.Alive != 0 || s.Doubled != 0 || s.Started < 10 {
		t.Errorf("at the end: %+v", s)
	}
}

func TestVerifyTellsWhatHolds(t *testing.T) {
	dir := t.TempDir()
	p := start(t, fmt.Sprintf("poll_interval: 10ms\ncommand: [/bin/sh, -c, 'printf %%s \"$BERTH_BOOTSTRAP\" > %s/$BERTH_ATTEMPT; exec sleep 1000']\n", dir))
	var out bytes.Buffer
	err := plugin.Verify(t.Context(), plugin.VerifyOptions{
		Address: p.address, Out: &out, BootstrapCommand: []string{"/bin/sh", "-c", fmt.Sprintf(`until [ -s %[1]s/$0 ]; do sleep 0.01; done; cat %[1]s/$0`, dir)},
	})
	if err != nil {
		t.Errorf("%v\n%s", err, out.String())
	}
	for _, want := range []string{"passed   allocate-twice ", "passed   bootstrap ", "skipped  hanging-host ", "needs a host that can be controlled", "0 failed"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("it does not say %q but\n%s", want, out.String())
		}
	}
	if s := p.stop(t); s.Alive != 0 {
		t.Errorf("at the end: %+v", s)
	}
}

// The page has each check, in the order in which they run, and a script that is one.
func TestThePageIsRight(t *testing.T) {
	raw, err := os.ReadFile("../../../docs/provider-conformance.md")
	if err != nil {
		t.Fatal(err)
	}
	var documented, run []string
	for line := range strings.Lines(string(raw)) {
		if cells := strings.Split(line, "`"); strings.HasPrefix(line, "| `") {
			documented = append(documented, cells[1])
		}
	}
	cut, cancel := context.WithCancel(t.Context())
	cancel() // the names are all that is wanted
	report, err := providertest.Verify(cut, providertest.Config{Provider: nothing{}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range report {
		run = append(run, r.Name)
	}
	if !slices.Equal(documented, run) {
		t.Errorf("the page has the checks\n%q\nand these are run\n%q", documented, run)
	}
	_, script, _ := strings.Cut(string(raw), "```yaml\n")
	script, _, _ = strings.Cut(script, "```")
	if s, err := chaos.Parse([]byte(script)); err != nil || len(s.Allocate) == 0 {
		t.Errorf("the page's script: %+v, %v", s, err)
	}
}

// nothing is a provider that is away.
type nothing struct{ provider.Provider }

func (nothing) Describe(context.Context, *providerv1.DescribeRequest) (*providerv1.DescribeResponse, error) {
	return nil, provider.Failure(provider.Unavailable, "away")
}

func TestVerifyTellsWhatDoesNot(t *testing.T) {
	p := start(t, "poll_interval: 10ms\nallocate:\n  - {garble: true}\nrelease:\n  - {at: [1, 2], fail: NOT_FOUND}\n")
	var out bytes.Buffer
	err := plugin.Verify(t.Context(), plugin.VerifyOptions{Address: p.address, Out: &out, Checks: []string{"allocate", "release-unknown"}})
	if err == nil || !strings.Contains(err.Error(), "of 3 checks failed") {
		t.Errorf("%v", err)
	}
	for _, want := range []string{"failed   allocate ", `for attempt "nonsense"`, "1 passed, 2 failed, 0 skipped"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("it does not say %q but\n%s", want, out.String())
		}
	}
}

func TestVerifyWithoutAProvider(t *testing.T) {
	var out bytes.Buffer
	err := plugin.Verify(t.Context(), plugin.VerifyOptions{Address: "unix:///nowhere/plugin.sock", Out: &out, Limit: time.Second})
	if err == nil || !strings.Contains(out.String(), "failed   describe ") || !strings.Contains(out.String(), "/nowhere/plugin.sock") {
		t.Errorf("%v\n%s", err, out.String())
	}
}

func TestVerifyThatIsInterruptedSaysSo(t *testing.T) {
	o, address := serve(t)
	ctx, cancel := context.WithCancel(t.Context())
	interrupt := func(*providerv1.Server) { cancel() } // while a check runs
	o.server.Store(&interrupt)
	var out bytes.Buffer
	err := plugin.Verify(ctx, plugin.VerifyOptions{Address: address, Out: &out, Checks: []string{"allocate", "list"}})
	if err == nil || !strings.Contains(err.Error(), "interrupted") {
		t.Errorf("%v", err)
	}
	if strings.Count(out.String(), "the run was cut off") != 2 || !strings.Contains(out.String(), "passed   clean-up") || o.Stats().Started != 1 || o.Stats().Alive != 0 {
		t.Errorf("%+v, and it says\n%s", o.Stats(), out.String())
	}
}

// The provider is reached by an address that its certificate does not name.
func TestVerifySpeaksTLSAsTheServiceDoes(t *testing.T) {
	authority := tlsxtest.NewAuthority(t)
	files := tlsxtest.NewFiles(t, authority, "plugin.example.com")
	p, err := chaos.New(chaos.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	ctx, cancel := context.WithCancel(t.Context())
	ready, served := make(chan net.Addr, 1), make(chan error, 1) // one each
	go func() {
		served <- provider.Serve(ctx, provider.ServeConfig{
			Address: "127.0.0.1:0", Ready: func(a net.Addr) { ready <- a }, TLS: provider.TLS{CertFile: files.CertFile, KeyFile: files.KeyFile, CAFile: files.CAFile},
		}, p)
	}()
	t.Cleanup(func() { cancel(); <-served })
	address := (<-ready).String()
	for name, test := range map[string]struct {
		o    plugin.VerifyOptions
		says string // empty: it passes
	}{
		"the host of the address":  {plugin.VerifyOptions{CA: files.CAFile}, ""},
		"its name":                 {plugin.VerifyOptions{CA: files.CAFile, ServerName: "plugin.example.com"}, ""},
		"another name":             {plugin.VerifyOptions{CA: files.CAFile, ServerName: "other.example.com"}, "not other.example.com"},
		"the system's authorities": {plugin.VerifyOptions{}, "unknown authority"},
	} {
		var out bytes.Buffer
		test.o.Address, test.o.Cert, test.o.Key, test.o.Checks, test.o.Out = address, files.CertFile, files.KeyFile, []string{"describe"}, &out
		if err := plugin.Verify(t.Context(), test.o); (err == nil) != (test.says == "") || !strings.Contains(out.String(), test.says) {
			t.Errorf("%s: %v\n%s", name, err, out.String())
		}
	}
}

func TestOptionsNameWhatIsWrong(t *testing.T) {
	script := filepath.Join(t.TempDir(), "script.yaml")
	if err := os.WriteFile(script, []byte("allocate: [{fail: NONE}]"), 0o600); err != nil {
		t.Fatal(err)
	}
	verify := func(o plugin.VerifyOptions) error {
		o.Out = io.Discard
		return plugin.Verify(t.Context(), o)
	}
	run := func(o plugin.ChaosOptions) error {
		o.Out, o.Log = io.Discard, slog.New(slog.DiscardHandler)
		return plugin.Chaos(t.Context(), o)
	}
	for want, err := range map[string]error{
		"--ca: open /nowhere":                      verify(plugin.VerifyOptions{Address: "127.0.0.1:1", CA: "/nowhere"}),
		"has no certificate":                       verify(plugin.VerifyOptions{Address: "127.0.0.1:1", CA: script}),
		"--cert, --key: open /nowhere":             verify(plugin.VerifyOptions{Address: "127.0.0.1:1", Cert: "/nowhere", Key: "/nowhere"}),
		`"speed" is none of`:                       verify(plugin.VerifyOptions{Address: "127.0.0.1:1", Checks: []string{"speed"}}),
		"allocate[0].fail":                         run(plugin.ChaosOptions{Listen: "127.0.0.1:0", Script: script}),
		"script: open /nowhere":                    run(plugin.ChaosOptions{Listen: "127.0.0.1:0", Script: "/nowhere"}),
		`stats: "0.0.0.0:0" is no host:port of th`: run(plugin.ChaosOptions{Listen: "127.0.0.1:0", Stats: "0.0.0.0:0"}),
		"reached from other machines":              run(plugin.ChaosOptions{Listen: "0.0.0.0:0"}),
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
}
