package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/berth-dev/berth/sdk/go/bootstrap"
	"github.com/berth-dev/berth/sdk/go/gameserver"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
)

const gameServers = "/v1/namespaces/default/game-servers"

// register registers a game server and returns the bootstrap document with which it connects through a gateway.
func (s *berth) register(t testing.TB, gateway, capacity int) *bootstrap.Document {
	t.Helper()
	var out gameserverv1.RegisterGameServerResponse
	s.ok(t, 0, "POST", gameServers, fmt.Sprintf(`{"capacity":%d,"endpoints":[{"name":"game","host":"192.0.2.7","port":7777,"protocol":"PROTOCOL_UDP"}]}`, capacity), &out)
	return &bootstrap.Document{
		Version: bootstrap.Version, Namespace: out.GetServer().GetNamespace(), Server: out.GetServer().GetId(), Gateway: s.edges[gateway],
		Game: bootstrap.Secret(out.GetGameToken()), Social: bootstrap.Secret(out.GetSocialToken()),
	}
}

// place creates an instance on a registered server.
func (s *berth) place(t *testing.T, server string, players string) string {
	t.Helper()
	var out instancev1.CreateGameInstanceResponse
	s.ok(t, 0, "POST", instances, fmt.Sprintf(`{"serverId":%q,"players":[%s]}`, server, players), &out)
	return out.GetInstance().GetId()
}

func within(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// open connects a registered server.
func open(t testing.TB, doc *bootstrap.Document) *gameserver.Host {
	t.Helper()
	host, err := gameserver.Open(within(t), gameserver.WithBootstrap(doc))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := host.Close(within(t)); err != nil {
			t.Error(err)
		}
	})
	return host
}

func accept(t *testing.T, host *gameserver.Host) *gameserver.Server {
	t.Helper()
	server, err := host.Accept(within(t))
	if err != nil {
		t.Fatal(err)
	}
	return server
}

// A server that was registered has several instances over one link: of backends, and of its own making.
func TestOneServerHasSeveralInstances(t *testing.T) {
	shapes(t, func(t *testing.T, s *berth) {
		doc := s.register(t, len(s.edges)-1, 3)
		early := s.place(t, doc.Server, `{"id":"ann"}`) // before it is there
		host := open(t, doc)
		first := accept(t, host)
		if got := first.Instance(); got.GetId() != early || got.GetEndpoints()[0].GetPort() != 7777 {
			t.Errorf("linked %v, want %s", got, early)
		}
		late := s.place(t, doc.Server, `{"id":"bob"}`)
		second := accept(t, host)
		own, err := host.Create(within(t), &gameserverv1.CreateAndLinkRequest{Players: []*instancev1.Player{{Id: "eve"}}})
		if err != nil || second.Instance().GetId() != late {
			t.Fatalf("placed %s, linked %s, made %v", late, second.Instance().GetId(), err)
		}
		if status, body := s.rest(t, 0, "POST", instances, fmt.Sprintf(`{"serverId":%q}`, doc.Server)); status != 429 {
			t.Errorf("a fourth instance: %d %s", status, body)
		}
		all := map[string]*gameserver.Server{early: first, late: second, own.Instance().GetId(): own}
		for id, server := range all {
			if err := server.ConnectPlayers(within(t)); err != nil {
				t.Fatal(err)
			}
			s.becomes(t, id, running)
			// What concerns one instance reaches it, and it alone.
			s.ok(t, 0, "POST", instances+"/"+id+":addPlayers", fmt.Sprintf(`{"players":[{"id":"of %s"}]}`, id), nil)
			if added, ok := (<-server.Events()).(gameserver.PlayersAdded); !ok || added.Players[0].GetId() != "of "+id {
				t.Errorf("%s was told %v", id, added)
			}
		}
		s.ok(t, 0, "POST", instances+"/"+late+":terminate", "{}", nil)
		if _, ok := (<-second.Events()).(gameserver.Terminated); !ok {
			t.Error("the second was not told its end")
		}
		if err := first.End(within(t), nil); err != nil {
			t.Error(err)
		}
		s.becomes(t, early, ended)
		again := s.place(t, doc.Server, `{"id":"ann"}`) // on the room of those
		if got := accept(t, host).Instance().GetId(); got != again {
			t.Errorf("linked %s, want %s", got, again)
		}
		if err := own.End(within(t), nil); err != nil {
			t.Errorf("the one that went on: %v", err)
		}
		if got := s.becomes(t, own.Instance().GetId(), ended); len(got.GetPlayers()) != 2 {
			t.Errorf("players %v", got.GetPlayers())
		}
	})
}

// A gateway dies, and all instances of a server go on through the next; the server's own calls of the time in between take effect once.
func TestSeveralInstancesOutliveTheirGateway(t *testing.T) {
	s := processes(t)
	doc := s.register(t, 0, 2)
	host := open(t, doc)
	var servers []*gameserver.Server
	for range 2 {
		server, err := host.Create(within(t), nil)
		if err != nil {
			t.Fatal(err)
		}
		servers = append(servers, server)
	}
	s.procs["gateway-a"].Kill(t)
	opened := make(chan error, len(servers))
	for _, server := range servers {
		go func() { opened <- server.ConnectPlayers(within(t)) }()
	}
	s.procs["gateway-a"].Start(t)
	for range servers {
		if err := <-opened; err != nil {
			t.Error(err)
		}
	}
	for _, server := range servers {
		if err := server.End(within(t), nil); err != nil {
			t.Error(err)
		}
		s.becomes(t, server.Instance().GetId(), ended)
	}
}
