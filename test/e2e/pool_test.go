package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/berth-dev/berth/sdk/go/bootstrap"
	"github.com/berth-dev/berth/sdk/go/gameserver"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	tokenv1 "github.com/berth-dev/berth/sdk/go/gen/berth/token/v1"
)

// envPoolServer makes a process of this test a game server that takes what it is given.
const envPoolServer = "BERTH_E2E_POOL_SERVER"

func poolServer() int {
	ctx := context.Background()
	host, err := gameserver.Open(ctx)
	for err == nil {
		var server *gameserver.Server
		if server, err = host.Accept(ctx); err == nil {
			err = server.ConnectPlayers(ctx)
		}
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// startPoolServer starts a server that joins the pool "metal" by itself, and returns how to kill it.
func (s *berth) startPoolServer(t *testing.T, key, name string) (kill func()) {
	t.Helper()
	doc, err := json.Marshal(bootstrap.Document{
		Version: bootstrap.Version, Namespace: "default", Gateway: s.edges[len(s.edges)-1], Pool: &bootstrap.Pool{
			Name: "metal", Server: name, Key: bootstrap.Secret(key), Builds: []string{"pooled"}, Capacity: 2,
			Endpoints: []bootstrap.Endpoint{{Name: "game", Host: "192.0.2.7", Port: 7777, Protocol: "udp"}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), envPoolServer+"=1", bootstrap.EnvDocument+"="+string(doc))
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill = func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }
	t.Cleanup(kill)
	return kill
}

// poolServers returns the servers of the pool by their names.
func (s *berth) poolServers(t *testing.T) map[string]*gameserverv1.GameServer {
	t.Helper()
	var out gameserverv1.ListGameServersResponse
	s.ok(t, 0, "GET", gameServers, "", &out)
	servers := map[string]*gameserverv1.GameServer{}
	for _, server := range out.GetServers() {
		if server.GetPool() == "metal" {
			servers[server.GetName()] = server
		}
	}
	return servers
}

// createPooled creates an instance on a server of the pool.
func (s *berth) createPooled(t *testing.T) string {
	t.Helper()
	var out instancev1.CreateGameInstanceResponse
	s.ok(t, 0, "POST", instances, `{"placement":{"build":"pooled"},"timeouts":{"disconnectGrace":"2s"},"players":[{"id":"ann"}]}`, &out)
	return out.GetInstance().GetId()
}

func (s *berth) untilState(t *testing.T, id string, want instancev1.GameInstance_State) *instancev1.GameInstance {
	t.Helper()
	var out instancev1.GetGameInstanceResponse
	eventually(t, fmt.Sprintf("instance %s is %s", id, want), func() error {
		s.ok(t, 0, "GET", instances+"/"+id, "", &out)
		if got := out.GetInstance().GetState(); got != want {
			return fmt.Errorf("it is %s", got)
		}
		return nil
	})
	return out.GetInstance()
}

// Two servers that started by themselves take four instances, one of them first; one that is killed loses its own and gets no others.
func TestAPoolOfServers(t *testing.T) {
	shapes(t, func(t *testing.T, s *berth) {
		var key tokenv1.CreateApiKeyResponse
		s.ok(t, 0, "POST", "/v1/api-keys", `{"name":"metal","role":"ROLE_POOL","namespaces":["default"]}`, &key)
		kills := map[string]func(){}
		for _, name := range []string{"rack-7", "rack-8"} {
			kills[name] = s.startPoolServer(t, key.GetKey(), name)
		}
		eventually(t, "both are connected", func() error {
			servers := s.poolServers(t)
			if len(servers) != 2 || !servers["rack-7"].GetConnected() || !servers["rack-8"].GetConnected() {
				return errors.New("not both")
			}
			return nil
		})
		on := map[string][]string{} // instances by server
		var order []string
		for range 4 {
			id := s.createPooled(t)
			got := s.untilState(t, id, instancev1.GameInstance_STATE_RUNNING)
			server := got.GetAttempts()[0].GetServerId()
			on[server], order = append(on[server], id), append(order, server)
			if got.GetEndpoints()[0].GetPort() != 7777 || got.GetAttempts()[0].GetProvider() != "metal" {
				t.Errorf("running: %v", got)
			}
		}
		if order[0] != order[1] || order[2] != order[3] || order[0] == order[2] {
			t.Errorf("one server is filled before the other: %v", order)
		}
		killed := s.poolServers(t)["rack-7"]
		kills["rack-7"]()
		for _, id := range on[killed.GetId()] {
			if got := s.untilState(t, id, instancev1.GameInstance_STATE_TERMINATED); got.GetReason() != instancev1.GameInstance_REASON_SERVER_LOST {
				t.Errorf("it ended with %s", got.GetReason())
			}
		}
		eventually(t, "its room is given back", func() error {
			if n := len(s.poolServers(t)["rack-7"].GetAssignments()); n != 0 {
				return fmt.Errorf("%d are had", n)
			}
			return nil
		})
		left := s.poolServers(t)["rack-8"]
		s.ok(t, 0, "POST", instances+"/"+on[left.GetId()][0]+":terminate", "{}", nil)
		if got := s.untilState(t, s.createPooled(t), instancev1.GameInstance_STATE_RUNNING); got.GetAttempts()[0].GetServerId() != left.GetId() {
			t.Errorf("a killed server got an instance: %v", got.GetAttempts())
		}
	})
}
