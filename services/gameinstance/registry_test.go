package gameinstance_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	eventv1 "github.com/berth-dev/berth/pkg/gen/berth/event/v1"
	sessionv1 "github.com/berth-dev/berth/pkg/gen/berth/session/v1"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/ids"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
)

// register registers a server that can have so many instances.
func (w *world) register(capacity int32) *gameserverv1.GameServer {
	w.t.Helper()
	out, err := w.registry.RegisterGameServer(as(apiKey), &gameserverv1.RegisterGameServerRequest{
		Capacity: capacity, Endpoints: []*typev1.Endpoint{{Name: "game", Host: "192.0.2.7", Port: 7777, Protocol: typev1.Protocol_PROTOCOL_UDP}},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return out.GetServer()
}

func (w *world) server(id string) *gameserverv1.GameServer {
	w.t.Helper()
	out, err := w.registry.GetGameServer(as(viewerKey), &gameserverv1.GetGameServerRequest{ServerId: id})
	if err != nil {
		w.t.Fatal(err)
	}
	return out.GetServer()
}

// assignments returns the instances that have room on a server.
func (w *world) assignments(id string) []string {
	w.t.Helper()
	var out []string
	for _, a := range w.server(id).GetAssignments() {
		out = append(out, a.GetInstanceId())
	}
	return out
}

func (w *world) arrive(server string, hello *linkv1.Hello) *sessionv1.OpenSessionResponse {
	w.t.Helper()
	return w.openAs(&sessionv1.OpenSessionRequest{Namespace: "default", ServerId: server, PairId: "pair", GatewayId: "gw", Hello: hello})
}

// place asks for an instance on a registered server.
func (w *world) place(server string) (*instancev1.GameInstance, error) {
	out, err := w.instances.CreateGameInstance(as(apiKey), &instancev1.CreateGameInstanceRequest{ServerId: server, Players: []*instancev1.Player{{Id: "ann"}}})
	return out.GetInstance(), err
}

// until waits until an instance is in a state.
func (w *world) until(id string, want instancev1.GameInstance_State) *instancev1.GameInstance {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(as(viewerKey), time.Minute)
	defer cancel()
	watch, err := w.instances.WatchGameInstance(ctx, &instancev1.WatchGameInstanceRequest{InstanceId: id})
	if err != nil {
		w.t.Fatal(err)
	}
	for {
		out, err := watch.Recv()
		if err != nil {
			w.t.Fatalf("instance %s does not become %v: %v", id, want, err)
		}
		if out.GetInstance().GetState() == want {
			return out.GetInstance()
		}
	}
}

// untilAssigned waits until exactly these instances have room on a server.
func (w *world) untilAssigned(server string, want ...string) {
	w.t.Helper()
	slices.Sort(want)
	w.eventually(func() bool {
		got := w.assignments(server)
		slices.Sort(got)
		return slices.Equal(got, want)
	}, "the server's instances are not %v", want)
}

// eventually waits until something holds.
func (w *world) eventually(holds func() bool, format string, args ...any) {
	w.t.Helper()
	tick, late := time.NewTicker(20*time.Millisecond), time.After(time.Minute)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-late:
			w.t.Fatalf(format, args...)
		}
	}
}

func TestRegisteringAgainIsTheSameServer(t *testing.T) {
	w := start(t, nil)
	req := &gameserverv1.RegisterGameServerRequest{RequestId: "r", Capacity: 3, Labels: map[string]string{"rack": "7"}}
	first, err := w.registry.RegisterGameServer(as(apiKey), req)
	if err != nil || first.GetGameToken() == "" || first.GetSocialToken() == "" || first.GetServer().GetCapacity() != 3 {
		t.Fatalf("%v, %v", first, err)
	}
	again, err := w.registry.RegisterGameServer(as(apiKey), req)
	if err != nil || !proto.Equal(again.GetServer(), first.GetServer()) {
		t.Errorf("%v, %v", again, err)
	}
	_, err = w.registry.RegisterGameServer(as(apiKey), &gameserverv1.RegisterGameServerRequest{RequestId: "r", Capacity: 4})
	reasonIs(t, err, errs.RequestIDReused)
	if one := w.register(0); one.GetCapacity() != 1 || one.GetId() == first.GetServer().GetId() {
		t.Errorf("without a capacity: %v", one)
	}
}

func TestAnInstanceIsPlacedOnARegisteredServer(t *testing.T) {
	w := start(t, nil)
	server := w.register(2).GetId()
	early, err := w.place(server) // before the server is there
	if err != nil {
		t.Fatal(err)
	}
	w.until(early.GetId(), instancev1.GameInstance_STATE_ALLOCATED)

	sub := w.store.Subscribe(context.Background(), "berth:gw:gw")
	defer func() { _ = sub.Close() }()
	if _, err := sub.Receive(context.Background()); err != nil {
		t.Fatal(err)
	}
	opened := w.arrive(server, &linkv1.Hello{})
	if got := opened.GetAssignedInstanceIds(); !slices.Equal(got, []string{early.GetId()}) {
		t.Errorf("on its arrival the server is told of %v", got)
	}
	late, err := w.place(server)
	if err != nil {
		t.Fatal(err)
	}
	told := map[string]bool{} // both: the first one has not been linked either
	for !told[early.GetId()] || !told[late.GetId()] {
		var e eventv1.Envelope
		if err := proto.Unmarshal([]byte((<-sub.Channel()).Payload), &e); err != nil {
			t.Fatal(err)
		}
		for _, a := range e.GetAssignments() {
			if a.GetServerId() != server {
				t.Errorf("told %v", a)
			}
			told[a.GetInstanceId()] = true
		}
	}
	_, err = w.place(server)
	reasonIs(t, err, errs.GameServerFull)
	for n, inst := range []string{early.GetId(), late.GetId()} {
		var start gameserverv1.LinkResponse
		if err := w.relayAs(server, &linkv1.Request{Id: int64(n + 1), InstanceId: inst, Method: "Link"}, &start); err != nil {
			t.Fatal(err)
		}
		got := start.GetInstance()
		if e := got.GetEndpoints(); len(e) != 1 || e[0].GetPort() != 7777 || got.GetState() != instancev1.GameInstance_STATE_LINKED || !got.GetAttempts()[0].GetRegistered() {
			t.Errorf("linked %v", got)
		}
	}

	// One ends, and its room is for the next; the other does not notice.
	end := &linkv1.Request{Id: 3, InstanceId: early.GetId(), LinkEpoch: w.get(early.GetId()).GetLink().GetEpoch(), Method: "EndGameInstance"}
	if err := w.relayAs(server, end, new(gameserverv1.EndGameInstanceResponse)); err != nil {
		t.Fatal(err)
	}
	w.untilAssigned(server, late.GetId())
	w.eventually(func() bool { return w.get(early.GetId()).GetAttempts()[0].GetReleaseTime() != nil }, "the attempt is not released")
	if got := w.get(late.GetId()); got.GetState() != instancev1.GameInstance_STATE_LINKED || !got.GetLink().GetConnected() {
		t.Errorf("the other one is %v", got)
	}
	if _, err := w.place(server); err != nil {
		t.Errorf("on the room of the first: %v", err)
	}
	if len(w.peers.created) != 0 || len(w.peers.released) != 0 {
		t.Error("allocation was asked for a server that no provider starts")
	}
}

func TestAServerMakesAnInstanceAndLinksIt(t *testing.T) {
	w := start(t, nil)
	server := w.register(1).GetId()
	w.arrive(server, &linkv1.Hello{Nonce: "nonce of the process"})
	payload, err := proto.Marshal(&gameserverv1.CreateAndLinkRequest{RequestId: "r", Players: []*instancev1.Player{{Id: "ann"}}})
	if err != nil {
		t.Fatal(err)
	}
	req := &linkv1.Request{Id: 1, Method: "CreateAndLink", Payload: payload}
	var first, again gameserverv1.CreateAndLinkResponse
	if err := w.relayAs(server, req, &first); err != nil {
		t.Fatal(err)
	}
	inst := first.GetInstance()
	if inst.GetState() != instancev1.GameInstance_STATE_LINKED || inst.GetEndpoints()[0].GetPort() != 7777 || first.GetLinkEpoch() == 0 || inst.GetAttempts()[0].GetServerId() != server {
		t.Errorf("made %v", &first)
	}
	if err := w.relayAs(server, req, &again); err != nil || again.GetInstance().GetId() != inst.GetId() || again.GetLinkEpoch() != first.GetLinkEpoch() {
		t.Errorf("a repeat made %v, %v", &again, err)
	}
	err = w.relayAs(server, &linkv1.Request{Id: 2, Method: "CreateAndLink"}, new(gameserverv1.CreateAndLinkResponse))
	reasonIs(t, err, errs.GameServerFull)
	w.untilAssigned(server, inst.GetId())

	// The answer was lost with the socket: the repeat links over the next one.
	w.arrive(server, &linkv1.Hello{Nonce: "nonce of the process"})
	if err := w.relayAs(server, req, &again); err != nil || again.GetInstance().GetId() != inst.GetId() || again.GetLinkEpoch() <= first.GetLinkEpoch() {
		t.Errorf("over the next socket: %v, %v", &again, err)
	}

	for name, c := range map[string]struct {
		server string
		req    *gameserverv1.CreateAndLinkRequest
		want   errs.Reason
	}{
		"other body":           {server, &gameserverv1.CreateAndLinkRequest{RequestId: "r"}, errs.RequestIDReused},
		"replace without what": {w.spare(), &gameserverv1.CreateAndLinkRequest{OnServerLoss: instancev1.GameInstance_ON_SERVER_LOSS_REPLACE}, errs.ValidationFailed},
		"build":                {w.spare(), &gameserverv1.CreateAndLinkRequest{Placement: &instancev1.Placement{Build: "nonesuch"}}, errs.BuildUnknown},
		"player twice":         {w.spare(), &gameserverv1.CreateAndLinkRequest{Players: []*instancev1.Player{{Id: "a"}, {Id: "a"}}}, errs.ValidationFailed},
		"a provider's server":  {ids.Server(ids.Attempt(w.running().GetId(), 1)), &gameserverv1.CreateAndLinkRequest{}, errs.GameServerUnknown},
	} {
		payload, err := proto.Marshal(c.req)
		if err != nil {
			t.Fatal(err)
		}
		err = w.relayAs(c.server, &linkv1.Request{Id: 9, Method: "CreateAndLink", Payload: payload}, new(gameserverv1.CreateAndLinkResponse))
		t.Run(name, func(t *testing.T) { reasonIs(t, err, c.want) })
		if name != "a provider's server" && c.server != server {
			w.untilAssigned(c.server)
		}
	}
	_, err = w.servers.CreateAndLink(w.asServer(server), &gameserverv1.CreateAndLinkRequest{})
	reasonIs(t, err, errs.NotConnected)
}

// spare returns a connected server with room.
func (w *world) spare() string {
	w.t.Helper()
	id := w.register(1).GetId()
	w.arrive(id, &linkv1.Hello{})
	return id
}

func TestServersThatCannotHaveAnInstanceAreRefusedAtOnce(t *testing.T) {
	w := start(t, nil)
	nobody := ids.Server("nobody")
	_, err := w.place(nobody)
	reasonIs(t, err, errs.GameServerUnknown)
	_, err = w.place("not a uuid")
	reasonIs(t, err, errs.ValidationFailed)
	_, err = w.place("") // nor a build
	reasonIs(t, err, errs.ValidationFailed)

	server := w.register(1).GetId()
	pending, err := w.instances.CreateGameInstance(as(apiKey), &instancev1.CreateGameInstanceRequest{SkipAllocation: true, Placement: &instancev1.Placement{Build: "game"}})
	if err != nil {
		t.Fatal(err)
	}
	allocate := &instancev1.AllocateGameServerRequest{InstanceId: pending.GetInstance().GetId(), ServerId: nobody, RequestId: "r1"}
	_, err = w.instances.AllocateGameServer(as(apiKey), allocate)
	reasonIs(t, err, errs.GameServerUnknown)
	allocate = &instancev1.AllocateGameServerRequest{InstanceId: pending.GetInstance().GetId(), ServerId: server, RequestId: "r2"}
	for range 2 { // the second is a repeat, which finds the server full of its own instance
		if _, err := w.instances.AllocateGameServer(as(apiKey), allocate); err != nil {
			t.Fatal(err)
		}
		w.untilAssigned(server, pending.GetInstance().GetId())
	}
	_, err = w.place(server)
	reasonIs(t, err, errs.GameServerFull)
	if _, err := w.instances.ReplaceGameServer(as(apiKey), &instancev1.ReplaceGameServerRequest{InstanceId: pending.GetInstance().GetId()}); err != nil {
		t.Fatal(err)
	}
	w.untilAssigned(server)
	if again, err := w.instances.AllocateGameServer(as(apiKey), allocate); err != nil || len(again.GetInstance().GetAttempts()) != 2 {
		t.Errorf("a late repeat: %v, %v", again, err)
	}
	if got := <-w.peers.created; got.GetInstanceId() != pending.GetInstance().GetId() {
		t.Errorf("allocated %v", got)
	}
}

func TestADeregisteredServerGetsNoFurtherInstance(t *testing.T) {
	w := start(t, nil)
	server := w.register(2).GetId()
	inst, err := w.place(server)
	if err != nil {
		t.Fatal(err)
	}
	w.untilAssigned(server, inst.GetId())
	out, err := w.registry.DeregisterGameServer(as(apiKey), &gameserverv1.DeregisterGameServerRequest{ServerId: server})
	if err != nil || !out.GetServer().GetDraining() {
		t.Fatalf("%v, %v", out, err)
	}
	_, err = w.place(server)
	reasonIs(t, err, errs.GameServerFull)
	if _, err := w.instances.TerminateGameInstance(as(apiKey), &instancev1.TerminateGameInstanceRequest{InstanceId: inst.GetId()}); err != nil {
		t.Fatal(err)
	}
	w.eventually(func() bool {
		_, err := w.registry.GetGameServer(as(viewerKey), &gameserverv1.GetGameServerRequest{ServerId: server})
		if err != nil {
			reasonIs(t, err, errs.GameServerUnknown)
		}
		return err != nil
	}, "the server is not forgotten with its last instance")
}

// A registered server that comes back loses what was taken from it, and nothing else.
func TestARegisteredServerOutlivesAnInstanceThatWasTakenFromIt(t *testing.T) {
	w := start(t, nil)
	server := w.register(2).GetId()
	first := w.arrive(server, &linkv1.Hello{})
	hello := &linkv1.Hello{ResumeKey: first.GetResumeKey()}
	var insts []string
	for n := range 2 {
		out := new(gameserverv1.CreateAndLinkResponse)
		if err := w.relayAs(server, &linkv1.Request{Id: int64(n + 1), Method: "CreateAndLink"}, out); err != nil {
			t.Fatal(err)
		}
		insts = append(insts, out.GetInstance().GetId())
		hello.Instances = append(hello.Instances, &linkv1.HelloInstance{InstanceId: out.GetInstance().GetId(), LinkEpoch: out.GetLinkEpoch(), LastOffset: out.GetOffset()})
	}
	other := w.register(1).GetId()
	if _, err := w.instances.ReplaceGameServer(as(apiKey), &instancev1.ReplaceGameServerRequest{InstanceId: insts[0], ServerId: other}); err != nil {
		t.Fatal(err)
	}
	w.untilAssigned(other, insts[0])
	w.untilAssigned(server, insts[1])
	again := w.arrive(server, hello)
	if l := again.GetLinks(); len(l) != 1 || l[0].GetInstanceId() != insts[1] || len(again.GetAssignedInstanceIds()) != 0 {
		t.Errorf("resumed %v", again)
	}
	err := w.relayAs(server, &linkv1.Request{Id: 3, InstanceId: insts[0], Method: "Link"}, new(gameserverv1.LinkResponse))
	reasonIs(t, err, errs.Superseded)
}
