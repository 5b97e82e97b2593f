//go:build linux

package process_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/berth-dev/berth/sdk/go/bootstrap"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/providers/process"
)

func TestHandover(t *testing.T) {
	for handover, variable := range map[string]string{process.HandoverEnv: bootstrap.EnvDocument, process.HandoverPipe: bootstrap.EnvFD} {
		t.Run(handover, func(t *testing.T) {
			t.Setenv("SERVICE_SECRET", "the service's own")
			dir := t.TempDir()
			var log bytes.Buffer
			cfg := config(dir, slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})))
			cfg.Handover, cfg.AdvertiseHost = handover, "play.example.com"
			b := cfg.Builds["report"]
			b.Dir, b.Args = t.TempDir(), []string{"-map", "desert"}
			b.Endpoints = []process.Endpoint{{Name: "game", Protocol: "udp"}, {Name: "web", Protocol: "tcp"}}
			cfg.Builds["report"] = b
			p, err := process.New(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			s := allocate(t, p, "report", attempt(1))
			out := output(t, dir, attempt(1), "ready")
			for _, want := range []string{
				"tokens true true\n", "args -map desert\n", "dir " + b.Dir + "\n",
				"env PATH " + childMode + " BERTH_ATTEMPT " + variable + "\n", // and nothing else
				fmt.Sprintf("endpoint game play.example.com %d udp\n", s.GetEndpoints()[0].GetPort()),
				fmt.Sprintf("endpoint web play.example.com %d tcp\n", s.GetEndpoints()[1].GetPort()),
			} {
				if !strings.Contains(out, want) {
					t.Errorf("the server does not say %q but\n%s", want, out)
				}
			}
			seen := map[string]string{"output": out}
			for _, file := range []string{"cmdline", "environ"} {
				raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pidOf(t, s), file))
				if err != nil {
					t.Fatal(err)
				}
				seen[file] = string(raw)
			}
			if handover == process.HandoverEnv {
				delete(seen, "environ") // that is where it is, for its own user alone
			}
			state, err := os.ReadFile(filepath.Join(dir, attempt(1)+".json"))
			if err != nil {
				t.Fatal(err)
			}
			end(t, p)
			seen["state file"], seen["service's log"] = string(state), log.String()
			for where, text := range seen {
				if strings.Contains(text, gameToken) || strings.Contains(text, socialToken) {
					t.Errorf("%s has a token", where)
				}
			}
			for _, suffix := range []string{".json", ".log"} {
				info, err := os.Stat(filepath.Join(dir, attempt(1)+suffix))
				if err != nil || info.Mode().Perm() != 0o600 {
					t.Errorf("%s: %v, %v", suffix, info.Mode(), err)
				}
			}
		})
	}
}

func TestWhatCannotRunIsInvalid(t *testing.T) {
	dir := t.TempDir()
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, []byte("no program"), 0o600); err != nil {
		t.Fatal(err)
	}
	garbage := filepath.Join(t.TempDir(), "garbage")
	if err := os.WriteFile(garbage, []byte("no program"), 0o700); err != nil {
		t.Fatal(err)
	}
	cfg := config(dir, discard())
	cfg.Builds["missing"] = process.Build{Command: "/nowhere/gameserver"}
	cfg.Builds["unheard"] = process.Build{Command: "no-such-program-anywhere"}
	cfg.Builds["plain"] = process.Build{Command: plain}
	cfg.Builds["garbage"] = process.Build{Command: garbage}
	cfg.Builds["homeless"] = process.Build{Command: "/bin/sh", Dir: "/nowhere"}
	p := open(t, cfg)
	for build, want := range map[string]string{
		"missing": "command /nowhere/gameserver does not exist", "unheard": `command "no-such-program-anywhere" is not in PATH`,
		"plain": "is not executable", "garbage": "exec format error", "homeless": "dir /nowhere is no folder", "unknown": `build "unknown" is not configured`,
	} {
		_, err := p.Allocate(t.Context(), order(build, attempt(1)))
		if provider.ReasonOf(err) != provider.Invalid || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want INVALID with %q", build, err, want)
		}
	}
	files, err := filepath.Glob(filepath.Join(dir, "*-1.*"))
	if err != nil || len(files) != 0 {
		t.Errorf("left behind: %v, %v", files, err)
	}
	for _, id := range []string{"", "../x", strings.Repeat("a", 49), "a/b"} {
		if _, err := p.Allocate(t.Context(), order("serve", id)); provider.ReasonOf(err) != provider.Invalid {
			t.Errorf("attempt id %q: %v", id, err)
		}
	}
}

func TestNoCapacity(t *testing.T) {
	cfg := config(t.TempDir(), discard())
	cfg.MaxServers = 1
	p := open(t, cfg)
	allocate(t, p, "serve", attempt(1))
	if _, err := p.Allocate(t.Context(), order("serve", attempt(2))); provider.ReasonOf(err) != provider.NoCapacity {
		t.Fatalf("the second of one: %v", err)
	}
	release(t, p, attempt(1))
	allocate(t, p, "serve", attempt(2))
}

func TestEachBuildHasItsOwnLimits(t *testing.T) {
	dir := t.TempDir()
	cfg := config(dir, discard())
	b := cfg.Builds["greedy"]
	b.MaxServers, b.Limits = 1, process.Limits{MemoryBytes: 512 << 20, OpenFiles: 64}
	cfg.Builds["greedy"] = b
	p := open(t, cfg)
	allocate(t, p, "greedy", attempt(1))
	if out := output(t, dir, attempt(1), "ready"); !strings.Contains(out, "memory: cannot allocate memory") {
		t.Errorf("it got a GiB and had 512 MiB: %s", out)
	}
	if _, err := p.Allocate(t.Context(), order("greedy", attempt(2))); provider.ReasonOf(err) != provider.NoCapacity || !strings.Contains(err.Error(), "builds.greedy.max_servers") {
		t.Errorf("the second of one: %v", err)
	}
	allocate(t, p, "serve", attempt(2)) // others have their own
}

func TestPortsComeFromTheRange(t *testing.T) {
	taken, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	_, port, _ := net.SplitHostPort(taken.Addr().String())
	first, _ := strconv.Atoi(port)
	cfg := config(t.TempDir(), discard())
	cfg.Ports = fmt.Sprintf("%d-%d", first, first+2)
	b := cfg.Builds["serve"]
	b.Endpoints = []process.Endpoint{{Name: "a", Protocol: "tcp"}}
	cfg.Builds["serve"] = b
	p := open(t, cfg)
	seen := make(map[uint32]bool)
	for n := range 3 {
		resp, err := p.Allocate(t.Context(), order("serve", attempt(n)))
		if err != nil { // one is not ours, and others may be somebody else's
			if provider.ReasonOf(err) != provider.NoCapacity || !strings.Contains(err.Error(), cfg.Ports) {
				t.Errorf("when all are taken: %v", err)
			}
			continue
		}
		got := resp.GetServer().GetEndpoints()[0].GetPort()
		if got <= uint32(first) || got > uint32(first+2) || seen[got] {
			t.Errorf("port %d of %s", got, cfg.Ports)
		}
		seen[got] = true
	}
	if _, err := p.Allocate(t.Context(), order("serve", attempt(9))); provider.ReasonOf(err) != provider.NoCapacity {
		t.Errorf("when all are taken: %v", err)
	}
}

func TestOutputIsBounded(t *testing.T) {
	dir := t.TempDir()
	cfg := config(dir, discard())
	cfg.OutputBytes = 64 << 10
	p := open(t, cfg)
	s := allocate(t, p, "talk", attempt(1))
	older := filepath.Join(dir, attempt(1)+".log.1")
	eventually(t, "an older file", func() bool {
		raw, err := os.ReadFile(older)
		return err == nil && bytes.Contains(raw, []byte("line"))
	})
	if !alive(pidOf(t, s)) {
		t.Error("the server did not survive it")
	}
	output(t, dir, attempt(1), "line") // it goes on in the same file
	if info, err := os.Stat(older); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("older file: %v, %v", info, err)
	}
	release(t, p, attempt(1))
}

// Two servers never get one port, also while the first has not opened it yet.
func TestPortsAreFreeAndNobodyElses(t *testing.T) {
	cfg := config(t.TempDir(), discard())
	b := cfg.Builds["serve"]
	b.Endpoints = []process.Endpoint{{Name: "a", Protocol: "udp"}, {Name: "b", Protocol: "tcp"}, {Name: "c", Protocol: "tcp"}}
	cfg.Builds["serve"] = b
	p := open(t, cfg)
	seen := make(map[string]bool)
	for n := range 5 {
		for _, e := range allocate(t, p, "serve", attempt(n)).GetEndpoints() {
			key := fmt.Sprint(e.GetProtocol(), e.GetPort())
			if seen[key] || e.GetHost() != "127.0.0.1" {
				t.Errorf("endpoint %v", e)
			}
			seen[key] = true
			if e.GetName() == "b" {
				ln, err := net.Listen("tcp", fmt.Sprintf(":%d", e.GetPort()))
				if err != nil {
					t.Errorf("the port is not free: %v", err)
					continue
				}
				_ = ln.Close()
			}
		}
	}
}

func TestConfigNamesWhatIsWrong(t *testing.T) {
	for want, change := range map[string]func(*process.Config){
		"process.state_dir":            func(c *process.Config) { c.StateDir = "" },
		"process.handover":             func(c *process.Config) { c.Handover = "argv" },
		"process.builds: at least one": func(c *process.Config) { c.Builds = nil },
		"process.regions":              func(c *process.Config) { c.Regions = []string{"EU West"} },
		"process.ports":                func(c *process.Config) { c.Ports = "7000" },
		"process.builds.a.max_servers": func(c *process.Config) { c.Builds["a"] = process.Build{Command: "x", MaxServers: -1} },
		"process.max_servers":          func(c *process.Config) { c.MaxServers = -1 },
		"process.builds.a.command":     func(c *process.Config) { c.Builds["a"] = process.Build{} },
		"process.builds.a.env": func(c *process.Config) {
			c.Builds["a"] = process.Build{Command: "x", Env: map[string]string{"BERTH_BOOTSTRAP_FILE": "x"}}
		},
		"process.builds.a.endpoints[0].name": func(c *process.Config) {
			c.Builds["a"] = process.Build{Command: "x", Endpoints: []process.Endpoint{{Name: "A", Protocol: "tcp"}}}
		},
		"process.builds.a.endpoints[0].protocol": func(c *process.Config) {
			c.Builds["a"] = process.Build{Command: "x", Endpoints: []process.Endpoint{{Name: "a", Protocol: "sctp"}}}
		},
	} {
		cfg := config(t.TempDir(), discard())
		change(&cfg)
		if _, err := process.New(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not name %q", err, want)
		}
	}
}
