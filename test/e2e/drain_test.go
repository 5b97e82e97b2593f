package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-dev/berth/pkg/redisx/redistest"
	allocationv1 "github.com/berth-dev/berth/sdk/go/gen/berth/allocation/v1"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	"github.com/berth-dev/berth/test/stack"
)

// twoProviders starts the services with two providers of the same build, of which the first is preferred.
func twoProviders(t *testing.T) *berth {
	t.Helper()
	dir, redis := t.TempDir(), redistest.Server(t)
	var file strings.Builder
	file.WriteString("providers:\n")
	for _, name := range []string{"first", "second"} {
		fmt.Fprintf(&file, "  - {name: %s, kind: process, process: {state_dir: %q, builds: {hold: {command: %q, args: [\"--hold\"], endpoints: [{name: game, protocol: tcp}]}}}}\n",
			name, filepath.Join(dir, name), binary("gameserver"))
	}
	t.Cleanup(func() { killServers(t) })
	s := stack.Start(t, stack.Config{Binaries: binaries, Redis: redis, Dir: dir, File: file.String()})
	return &berth{api: s.API, urls: s.URLs, edges: s.Edges, key: testAPIKey, dir: dir, procs: s.Procs, redis: redis}
}

// provider returns how a provider is.
func (s *berth) provider(t *testing.T, name string) *allocationv1.Provider {
	t.Helper()
	var out allocationv1.ListProvidersResponse
	s.ok(t, 0, "GET", "/v1/providers", "", &out)
	for _, p := range out.GetProviders() {
		if p.GetName() == name {
			return p
		}
	}
	t.Fatalf("there is no provider %q", name)
	return nil
}

// at returns the provider of the server that an instance has now.
func at(inst *instancev1.GameInstance) string {
	attempts := inst.GetAttempts()
	return attempts[len(attempts)-1].GetProvider()
}

// A provider is drained while matches run on it: each goes on with its players and data on a server of another provider, and nothing is left on the first.
func TestMatchesAreMovedFromADrainedProvider(t *testing.T) {
	s := twoProviders(t)
	var ids, pids []string
	for n := range 3 {
		var out instancev1.CreateGameInstanceResponse
		s.ok(t, 0, "POST", instances, fmt.Sprintf(`{"placement":{"build":"hold"},"players":[{"id":"ann"},{"id":"bob"}],"gameData":{"json":{"match":"m%d"}}}`, n), &out)
		id := out.GetInstance().GetId()
		ids = append(ids, id)
		if got := at(s.becomes(t, id, running)); got != "first" {
			t.Fatalf("a match is on %q before the drain", got)
		}
		s.join(t, id, "ann")
		pids = append(pids, fmt.Sprint(serverPID(t, id)))
	}
	s.ok(t, 0, "POST", "/v1/providers/first:drain", `{"moveAfter":"0s"}`, nil)
	fresh := s.create(t, "hold", "eve").GetId()
	if got := at(s.becomes(t, fresh, running)); got != "second" {
		t.Errorf("a new match is on %q, which is drained", got)
	}
	eventually(t, "the first provider is empty", func() error {
		if p := s.provider(t, "first"); p.GetServers() != 0 || !p.GetDraining() || p.GetMoveTime() == nil {
			return fmt.Errorf("it is %v", p)
		}
		return nil
	})
	for n, id := range ids {
		inst := s.becomes(t, id, running)
		if at(inst) != "second" || len(inst.GetAttempts()) != 2 || len(inst.GetPlayers()) != 2 || inst.GetGameData().GetJson().GetFields()["match"].GetStringValue() != fmt.Sprintf("m%d", n) {
			t.Errorf("moved: %v", inst)
		}
		s.join(t, id, "ann")
		if _, err := os.Stat(filepath.Join("/proc", pids[n])); err == nil {
			t.Errorf("process %s of the first provider runs", pids[n])
		}
	}
	if p := s.provider(t, "second"); p.GetServers() != 4 {
		t.Errorf("the second has %d servers", p.GetServers())
	}
	s.ok(t, 0, "POST", "/v1/providers/first:resume", "{}", nil)
	if got := at(s.becomes(t, s.create(t, "hold", "eve").GetId(), running)); got != "first" {
		t.Errorf("after the drain a new match is on %q", got)
	}
}
