package attach_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-dev/berth/pkg/ids"
	"github.com/berth-dev/berth/sdk/go/bootstrap"
	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/providers/attach"
)

const (
	instance = "6c1f9a52-6f3e-4c64-9d5c-3f0d6f3f5a10"
	game     = "GAME-TOKEN-MUST-NOT-BE-SEEN"
)

var running = providerv1.ServerState_SERVER_STATE_RUNNING

func open(t *testing.T, file string, log *slog.Logger) *attach.Provider {
	t.Helper()
	p, err := attach.New(t.Context(), attach.Config{
		File: file, Log: log, Builds: []string{"demo"}, Endpoints: []attach.Endpoint{{Name: "game", Port: 7777, Protocol: "udp"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

func order(t *testing.T, n int) *providerv1.AllocateRequest {
	t.Helper()
	id := ids.Attempt(instance, n)
	doc, err := json.Marshal(bootstrap.Document{
		Version: 1, Namespace: "default", Instance: instance, Server: ids.Server(id), Gateway: "http://127.0.0.1:7001", Game: game, Social: "social",
	})
	if err != nil {
		t.Fatal(err)
	}
	return &providerv1.AllocateRequest{AttemptId: id, Namespace: "default", InstanceId: instance, Build: "demo", Region: "local", Bootstrap: doc}
}

func release(t *testing.T, p *attach.Provider, n int) {
	t.Helper()
	resp, err := p.Release(t.Context(), &providerv1.ReleaseRequest{AttemptId: ids.Attempt(instance, n)})
	if err != nil || resp.GetState() != providerv1.ServerState_SERVER_STATE_EXITED {
		t.Fatalf("release: %v, %v", resp, err)
	}
}

func TestTheFileHasTheBootstrap(t *testing.T) {
	file := filepath.Join(t.TempDir(), ".berth", "bootstrap.json")
	var log bytes.Buffer
	p := open(t, file, slog.New(slog.NewTextHandler(&log, nil)))
	resp, err := p.Allocate(t.Context(), order(t, 1))
	if err != nil || resp.GetServer().GetState() != running || resp.GetServer().GetEndpoints()[0].GetPort() != 7777 {
		t.Fatalf("allocate: %v, %v", resp, err)
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := bootstrap.Parse(raw)
	if err != nil || doc.Game.Reveal() != game || doc.Endpoints[0] != (bootstrap.Endpoint{Name: "game", Host: "127.0.0.1", Port: 7777, Protocol: "udp"}) {
		t.Errorf("document %v, %v", doc, err)
	}
	for path, mode := range map[string]os.FileMode{file: 0o600, filepath.Dir(file): 0o700} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
	if said := log.String(); !strings.Contains(said, file) || !strings.Contains(said, instance) || strings.Contains(said, game) {
		t.Errorf("log: %s", said)
	}
	release(t, p, 1)
	if _, err := os.Stat(file); !os.IsNotExist(err) {
		t.Errorf("after the release: %v", err)
	}
	release(t, p, 1)
}

// What allocation would take for nonsense later is refused at the start.
func TestPortsHaveNamesOfTheirOwn(t *testing.T) {
	for _, ports := range [][]attach.Endpoint{
		{{Name: "Game", Port: 7777, Protocol: "udp"}}, {{Name: "game", Port: 7777, Protocol: "udp"}, {Name: "game", Port: 7778, Protocol: "tcp"}},
	} {
		_, err := attach.New(t.Context(), attach.Config{File: filepath.Join(t.TempDir(), "b.json"), Log: discard(), Builds: []string{"demo"}, Endpoints: ports})
		if err == nil || !strings.Contains(err.Error(), "attach.endpoints: ") {
			t.Errorf("%v: %v", ports, err)
		}
	}
}

func TestOneAtATime(t *testing.T) {
	file := filepath.Join(t.TempDir(), "bootstrap.json")
	p := open(t, file, discard())
	if _, err := p.Allocate(t.Context(), order(t, 1)); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Allocate(t.Context(), order(t, 1)); err != nil {
		t.Errorf("the same again: %v", err)
	}
	if _, err := p.Allocate(t.Context(), order(t, 2)); provider.ReasonOf(err) != provider.NoCapacity {
		t.Errorf("another one: %v", err)
	}
	release(t, p, 2) // not the one that waits
	if got, err := p.Get(t.Context(), &providerv1.GetRequest{AttemptId: ids.Attempt(instance, 1)}); err != nil || got.GetServer().GetState() != running {
		t.Errorf("get: %v, %v", got, err)
	}
	if list, err := p.List(t.Context(), nil); err != nil || len(list.GetServers()) != 1 {
		t.Errorf("list: %v, %v", list, err)
	}
	release(t, p, 1)
	if _, err := p.Get(t.Context(), &providerv1.GetRequest{AttemptId: ids.Attempt(instance, 1)}); provider.ReasonOf(err) != provider.NotFound {
		t.Errorf("get after the release: %v", err)
	}
	if _, err := p.Allocate(t.Context(), order(t, 3)); err != nil {
		t.Errorf("the next one: %v", err)
	}
}

// The next life of a service that remembers the attempt takes it up; one that does not overwrites what is left over.
func TestRestart(t *testing.T) {
	file := filepath.Join(t.TempDir(), "bootstrap.json")
	if _, err := open(t, file, discard()).Allocate(t.Context(), order(t, 1)); err != nil {
		t.Fatal(err)
	}
	remembers, forgot := open(t, file, discard()), open(t, file, discard())
	if got, err := remembers.Get(t.Context(), &providerv1.GetRequest{AttemptId: ids.Attempt(instance, 1)}); err != nil || got.GetServer().GetState() != running {
		t.Errorf("get: %v, %v", got, err)
	}
	if list, err := remembers.List(t.Context(), &providerv1.ListRequest{Deployment: "d"}); err != nil || len(list.GetServers()) != 1 {
		t.Errorf("list: %v, %v", list, err)
	}
	if _, err := remembers.Allocate(t.Context(), order(t, 2)); provider.ReasonOf(err) != provider.NoCapacity {
		t.Errorf("another one while the first is known: %v", err)
	}
	if _, err := forgot.Allocate(t.Context(), order(t, 2)); err != nil {
		t.Errorf("over a file that nobody claims: %v", err)
	}
}

func TestCloseTakesTheFileAwayIfToldTo(t *testing.T) {
	for _, stop := range []bool{true, false} {
		file := filepath.Join(t.TempDir(), "bootstrap.json")
		p, err := attach.New(t.Context(), attach.Config{File: file, Log: discard(), Builds: []string{"demo"}, StopWithService: stop})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Allocate(t.Context(), order(t, 1)); err != nil {
			t.Fatal(err)
		}
		if err := p.Close(context.Background()); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(file); os.IsNotExist(err) != stop {
			t.Errorf("stop_with_service %v: %v", stop, err)
		}
	}
}

// A server that is started with a claim code is taken up after a restart, too.
func TestADocumentWithAClaimCodeIsTakenUp(t *testing.T) {
	file := filepath.Join(t.TempDir(), "bootstrap.json")
	o := order(t, 1)
	doc, err := json.Marshal(bootstrap.Document{
		Version: 1, Namespace: "default", Instance: instance, Server: ids.Server(o.GetAttemptId()), Gateway: "http://127.0.0.1:7001", Claim: "claim",
	})
	if err != nil {
		t.Fatal(err)
	}
	o.Bootstrap = doc
	if _, err := open(t, file, discard()).Allocate(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, file, discard()).Get(t.Context(), &providerv1.GetRequest{AttemptId: o.GetAttemptId()}); err != nil {
		t.Error(err)
	}
}
