package e2e

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/berth-dev/berth/pkg/freeport"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	"github.com/berth-dev/berth/test/stack"
)

// runProgram runs a program until it ends, and returns its exit code and what it wrote.
func runProgram(t *testing.T, name string, args, env []string) (code int, stdout, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var out, errOut bytes.Buffer
	cmd := exec.CommandContext(ctx, binary(name), args...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = t.TempDir(), append([]string{"PATH=" + os.Getenv("PATH")}, env...), &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errOut.String()
}

func TestProgramsSayWhatIsWrongWithTheirSettings(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	key := "BERTH_AUTH_INTERNAL_KEY=" + testInternalKey
	for name, c := range map[string]struct {
		program   string
		args, env []string
		want      []string
	}{
		"a duration that is none":    {"berth-gateway", nil, []string{key, "BERTH_HEARTBEAT=abc"}, []string{"heartbeat (BERTH_HEARTBEAT)", "abc"}},
		"a hash that is none":        {"berth-gateway", nil, []string{key, "BERTH_AUTH_API_KEY_SHA256=zz"}, []string{"auth.api_key_sha256 (BERTH_AUTH_API_KEY_SHA256)"}},
		"a level that is none":       {"berth-gateway", nil, []string{key, "BERTH_LOG_LEVEL=loud"}, []string{"log_level (BERTH_LOG_LEVEL)", "loud"}},
		"the same, printed":          {"berth-gateway", []string{"--print-config"}, []string{key, "BERTH_LOG_LEVEL=loud"}, []string{"log_level (BERTH_LOG_LEVEL)", "loud"}},
		"a port that is taken":       {"berth-gateway", nil, []string{key, "BERTH_ADMIN_ADDR=" + taken.Addr().String()}, []string{"admin_addr (BERTH_ADMIN_ADDR)", taken.Addr().String()}},
		"far away without TLS":       {"berth-gateway", nil, []string{key, "BERTH_GAME_INSTANCE=game-instance:7101"}, []string{"game_instance (BERTH_GAME_INSTANCE)", "BERTH_TLS_CERT_FILE", "BERTH_INSECURE"}},
		"far callers without TLS":    {"berth-game-instance", nil, []string{key, "BERTH_GRPC_ADDR=0.0.0.0:0"}, []string{"grpc_addr (BERTH_GRPC_ADDR)", "0.0.0.0:0", "BERTH_INSECURE"}},
		"the same of the keys":       {"berth-token-issuer", nil, []string{key, "BERTH_SEALING_KEY=" + testSealingKey, "BERTH_GRPC_ADDR=:0"}, []string{"grpc_addr (BERTH_GRPC_ADDR)", "BERTH_INSECURE"}},
		"a certificate without key":  {"berth-gateway", nil, []string{key, "BERTH_EDGE_TLS_CERT_FILE=x"}, []string{"edge_tls.key_file (BERTH_EDGE_TLS_KEY_FILE)"}},
		"a file that is not there":   {"berth-gateway", nil, []string{key, "BERTH_ADMIN_ADDR=", "BERTH_TLS_CERT_FILE=x", "BERTH_TLS_KEY_FILE=x", "BERTH_TLS_CA_FILE=x"}, []string{"tls.cert_file (BERTH_TLS_CERT_FILE)", "x"}},
		"no address":                 {"matchmaker", nil, []string{"BERTH_API_KEY=berth_x"}, []string{"BERTH_API "}},
		"no key":                     {"matchmaker", nil, []string{"BERTH_API=127.0.0.1:1"}, []string{"BERTH_API_KEY"}},
		"no players":                 {"matchmaker", []string{"--players", "0"}, []string{"BERTH_API=127.0.0.1:1", "BERTH_API_KEY=berth_x"}, []string{"--players", "not 0"}},
		"an argument that is a flag": {"matchmaker", []string{"build"}, []string{"BERTH_API=127.0.0.1:1", "BERTH_API_KEY=berth_x"}, []string{`"build"`}},
	} {
		t.Run(name, func(t *testing.T) {
			code, _, stderr := runProgram(t, c.program, c.args, c.env)
			if code <= 0 || strings.Count(stderr, "\n") != 1 {
				t.Errorf("exit code %d, said %s", code, stderr)
			}
			for _, want := range c.want {
				if !strings.Contains(stderr, want) {
					t.Errorf("%s does not say %s", stderr, want)
				}
			}
		})
	}
}

func TestTheSettingsInForceArePrinted(t *testing.T) {
	for _, program := range []string{"berth-game-instance", "berth-token-issuer", "berth-allocation", "berth-gateway"} {
		_, stdout, _ := runProgram(t, program, []string{"--print-config"}, nil)
		for _, want := range []string{"log_level: info\n", "log_format: json\n", "partitions: 256\n"} {
			if !strings.Contains(stdout, want) {
				t.Errorf("%s does not print %s%s", program, want, stdout)
			}
		}
	}
}

// The Redis driver has a logger of its own, which knows neither level nor form.
func TestWhatIsSaidWithoutRedisIsJSON(t *testing.T) {
	_, _, stderr := runProgram(t, "berth-token-issuer", nil, []string{
		"BERTH_AUTH_INTERNAL_KEY=" + testInternalKey, "BERTH_SEALING_KEY=" + testSealingKey, "BERTH_ADMIN_ADDR=", "BERTH_GRPC_ADDR=127.0.0.1:0",
		"BERTH_REDIS_ADDRS=" + freeport.Addr(t),
	})
	lines := strings.Split(strings.TrimSpace(stderr), "\n")
	logged, driver := lines[:len(lines)-1], 0 // the last line is for people: why it ended
	for _, line := range logged {
		var entry struct{ Msg, Detail string }
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Errorf("%q: %v", line, err)
		}
		if entry.Msg == "redis driver" && entry.Detail != "" {
			driver++
		}
	}
	if driver == 0 {
		t.Errorf("the driver said nothing: %s", stderr)
	}
}

// berthDev is a `berth dev` in a process of its own.
type berthDev struct {
	cmd      *exec.Cmd
	url, key string
	ended    chan error
}

var (
	bannerURL = regexp.MustCompile(`API \(REST\)\s+(\S+)`)
	bannerKey = regexp.MustCompile(`API key\s+(\S+)`)
)

// startDev starts one in a folder and waits for its banner.
func startDev(t *testing.T, dir string) *berthDev {
	t.Helper()
	config := stack.WriteConfig(t, providers(""))
	out := filepath.Join(t.TempDir(), "out")
	file, err := os.Create(out)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	d := &berthDev{cmd: exec.Command(binary("berth"), "dev", "--any-port", "--config", config), ended: make(chan error, 1)}
	d.cmd.Dir, d.cmd.Stdout, d.cmd.Stderr = dir, file, file
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { d.ended <- d.cmd.Wait() }()
	t.Cleanup(func() { _ = d.cmd.Process.Kill() })
	eventually(t, "berth dev is up", func() error {
		raw, err := os.ReadFile(out)
		url, key := bannerURL.FindSubmatch(raw), bannerKey.FindSubmatch(raw)
		if err != nil || url == nil || key == nil {
			return errors.Join(err, errors.New(string(raw)))
		}
		d.url, d.key = string(url[1]), string(key[1])
		return nil
	})
	return d
}

// A terminal that was closed took berth with it, and left the game servers running.
func TestATerminalThatIsClosedLeavesNothingBehind(t *testing.T) {
	// A child inherits that SIGHUP is ignored, as it is where nohup runs the tests, but not that it is caught.
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, syscall.SIGHUP)
	defer signal.Stop(caught)
	dir, temp := t.TempDir(), t.TempDir()
	t.Setenv("TMPDIR", temp)
	d := startDev(t, dir)
	beside := startDev(t, dir) // two at once, each in a folder of its own
	s := &berth{urls: []string{d.url}, key: d.key}
	id := s.create(t, "hold", "ann").GetId()
	s.becomes(t, id, instancev1.GameInstance_STATE_RUNNING)
	for _, one := range []*berthDev{d, beside} {
		if err := one.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-one.ended:
			if err != nil {
				t.Errorf("berth dev ended with %v", err)
			}
		case <-time.After(time.Minute):
			t.Fatal("berth dev does not end")
		}
	}
	gone(t, id)
	for _, folder := range []string{dir, temp} {
		if left, err := os.ReadDir(folder); err != nil || len(left) != 0 {
			t.Errorf("left in %s: %v, %v", folder, left, err)
		}
	}
}

func TestTokensOfBerthDevOutliveADayAtTheDebugger(t *testing.T) {
	s := allInOne(t)
	p := s.silentServer(t)
	for _, token := range []string{p.game, p.social} {
		raw, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
		if err != nil {
			t.Fatal(err)
		}
		var claims struct{ Exp, Iat int64 }
		if err := json.Unmarshal(raw, &claims); err != nil {
			t.Fatal(err)
		}
		if left := time.Until(time.Unix(claims.Exp, 0)); left < 23*time.Hour {
			t.Errorf("valid for %v", left)
		}
	}
	s.ok(t, 0, "POST", instances+"/"+p.instance+":terminate", "{}", nil)
	gone(t, p.instance)
}
