package main

import (
	"bufio"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/sdk/go/provider/providertest"
)

const running = "TEST_RUN_PLUGIN"

// TestMain is the plugin itself where a test starts it as a process of its own.
func TestMain(m *testing.M) {
	if os.Getenv(running) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// plugin starts the plugin, and returns a client once it listens and what kills it. There are two machines in eu, on one host, and one in us, and more as said.
func plugin(t *testing.T, dir string, more ...string) (p provider.Provider, kill func()) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	address := "unix://" + filepath.Join(dir, "p.sock")
	cmd := exec.Command(self, "-address", address, "-dir", filepath.Join(dir, "machines"), "-machine", "eu/10.0.0.5:7777", "-machine", "eu/10.0.0.5:7778", "-machine", "us/10.1.0.5:7777")
	cmd.Args = append(cmd.Args, more...)
	cmd.Env = append(os.Environ(), running+"=1")
	log, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill = func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }
	t.Cleanup(kill)
	if line, err := bufio.NewReader(log).ReadString('\n'); err != nil || !strings.Contains(line, "listening") {
		t.Fatalf("%q, %v", line, err)
	}
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return provider.Client(conn), kill
}

func allocate(p provider.Provider, attempt, region, deployment string) (*providerv1.Server, error) {
	resp, err := p.Allocate(context.Background(), &providerv1.AllocateRequest{
		AttemptId: attempt, Build: "example", Region: region, Deployment: deployment, Bootstrap: []byte(`{"secret": true}`),
	})
	return resp.GetServer(), err
}

// host looks into the machines' files. Nothing else stands behind the plugin that could misbehave.
type host struct {
	providertest.Unsupported
	machines string
	p        provider.Provider
}

func (h host) Bootstrap(ctx context.Context, attempt string) ([]byte, error) {
	got, err := h.p.Get(ctx, &providerv1.GetRequest{AttemptId: attempt})
	if err != nil {
		return nil, err
	}
	raw, err := os.ReadFile(filepath.Join(h.machines, strings.ReplaceAll(got.GetServer().GetExternalId(), ":", "_")+".json"))
	if err != nil {
		return nil, err
	}
	var o order
	err = json.Unmarshal(raw, &o)
	return o.Bootstrap, err
}

func TestConformance(t *testing.T) {
	dir := t.TempDir()
	p, _ := plugin(t, dir, "-machine", "eu/10.0.0.7:7777")
	providertest.Run(t, providertest.Config{Provider: p, Host: host{machines: filepath.Join(dir, "machines"), p: p}, Region: "eu"})
}

func TestAMachineIsHandedOutOnceAlsoAfterACrash(t *testing.T) {
	dir := t.TempDir()
	p, kill := plugin(t, dir)
	first, err := allocate(p, "a-1", "eu", "blue")
	if err != nil || first.GetEndpoints()[0].GetHost() != "10.0.0.5" {
		t.Fatalf("%v, %v", first, err)
	}
	info, err := os.Stat(filepath.Join(dir, "machines", "10.0.0.5_7777.json"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file with the secret: %v, %v", info, err)
	}
	kill()
	p, _ = plugin(t, dir)
	if again, err := allocate(p, "a-1", "eu", "blue"); err != nil || again.GetExternalId() != first.GetExternalId() {
		t.Errorf("a repeat got another machine: %v, %v", again, err)
	}
	if second, err := allocate(p, "a-2", "eu", "green"); err != nil || second.GetExternalId() == first.GetExternalId() {
		t.Errorf("%v, %v", second, err)
	}
	if third, err := allocate(p, "a-3", "eu", "blue"); provider.ReasonOf(err) != provider.NoCapacity {
		t.Errorf("there are two machines: %v, %v", third, err)
	}
	list, err := p.List(t.Context(), &providerv1.ListRequest{Deployment: "blue"})
	if err != nil || len(list.GetServers()) != 1 || list.GetServers()[0].GetAttemptId() != "a-1" {
		t.Errorf("marked blue: %v, %v", list, err)
	}
	for range 2 {
		if r, err := p.Release(t.Context(), &providerv1.ReleaseRequest{AttemptId: "a-1"}); err != nil || r.GetState() != providerv1.ServerState_SERVER_STATE_EXITED {
			t.Errorf("%v, %v", r, err)
		}
	}
	if _, err := p.Get(t.Context(), &providerv1.GetRequest{AttemptId: "a-1"}); provider.ReasonOf(err) != provider.NotFound {
		t.Error(err)
	}
	if third, err := allocate(p, "a-3", "eu", "blue"); err != nil || third.GetExternalId() != "10.0.0.5:7777" {
		t.Errorf("after the release: %v, %v", third, err)
	}
}

// A disk has spoiled the file of one machine. The servers of the others go on as before; only what the file may say is not known.
func TestAFileThatCannotBeReadStopsNoOtherMachine(t *testing.T) {
	m := &machines{dir: t.TempDir(), build: "example", list: []machine{{"eu", "10.0.0.5", 7777}, {"eu", "10.0.0.6", 7777}, {"eu", "10.0.0.7", 7777}}}
	for _, attempt := range []string{"a-1", "a-2"} {
		if _, err := allocate(m, attempt, "eu", "blue"); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(m.file(m.list[0]), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if again, err := allocate(m, "a-2", "eu", "blue"); err != nil || again.GetExternalId() != "10.0.0.6:7777" {
		t.Errorf("a repeat: %v, %v", again, err)
	}
	if got, err := m.Get(t.Context(), &providerv1.GetRequest{AttemptId: "a-2"}); err != nil || got.GetServer().GetExternalId() != "10.0.0.6:7777" {
		t.Errorf("get: %v, %v", got, err)
	}
	if list, err := m.List(t.Context(), &providerv1.ListRequest{Deployment: "blue"}); err != nil || len(list.GetServers()) != 1 || list.GetServers()[0].GetAttemptId() != "a-2" {
		t.Errorf("list: %v, %v", list, err)
	}
	if _, err := m.Release(t.Context(), &providerv1.ReleaseRequest{AttemptId: "a-2"}); err != nil {
		t.Errorf("release: %v", err)
	}
	// The file may be that of a-1, and of any attempt that no other file names.
	if _, err := m.Get(t.Context(), &providerv1.GetRequest{AttemptId: "a-1"}); provider.ReasonOf(err) != provider.Ambiguous || !strings.Contains(err.Error(), "10.0.0.5_7777.json") {
		t.Errorf("the server whose file it is: %v", err)
	}
	if s, err := allocate(m, "a-1", "eu", "blue"); provider.ReasonOf(err) != provider.Ambiguous {
		t.Errorf("its server got a second machine: %v, %v", s, err)
	}
}
