package gameinstance_test

import (
	"context"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	attemptv1 "github.com/berth-dev/berth/pkg/gen/berth/attempt/v1"
	eventv1 "github.com/berth-dev/berth/pkg/gen/berth/event/v1"
	poolv1 "github.com/berth-dev/berth/pkg/gen/berth/pool/v1"
	sessionv1 "github.com/berth-dev/berth/pkg/gen/berth/session/v1"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/ids"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"github.com/berth-dev/berth/services/gameinstance/internal/redisstore"
)

// join makes a server one of the pool "metal".
func (w *world) join(name string, capacity int32) *gameserverv1.JoinPoolResponse {
	w.t.Helper()
	out, err := w.registry.JoinPool(as(poolKey), &gameserverv1.JoinPoolRequest{
		Pool: "metal", Name: name, Capacity: capacity, Builds: []string{"game"}, Region: "eu",
		Endpoints: []*typev1.Endpoint{{Name: "game", Host: "192.0.2.7", Port: 7777, Protocol: typev1.Protocol_PROTOCOL_UDP}},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

// asked makes an instance for which allocation was asked, and returns it with its attempt.
func (w *world) asked() (inst *instancev1.GameInstance, attempt string) {
	w.t.Helper()
	out, err := w.instances.CreateGameInstance(as(apiKey), &instancev1.CreateGameInstanceRequest{Placement: &instancev1.Placement{Build: "game"}})
	if err != nil {
		w.t.Fatal(err)
	}
	<-w.peers.created
	return out.GetInstance(), ids.Attempt(out.GetInstance().GetId(), 1)
}

func (w *world) takeRoom(inst *instancev1.GameInstance, attempt string) (*poolv1.Room, error) {
	out, err := w.pools.TakeRoom(internally(), &poolv1.TakeRoomRequest{Pool: "metal", Namespace: "default", InstanceId: inst.GetId(), AttemptId: attempt, Build: "game"})
	return out.GetRoom(), err
}

func (w *world) reportRoom(inst *instancev1.GameInstance, attempt string, room *poolv1.Room) attemptv1.ReportAttemptResponse_Verdict {
	w.t.Helper()
	out, err := w.attempts.ReportAttempt(internally(), &attemptv1.ReportAttemptRequest{InstanceId: inst.GetId(), AttemptId: attempt, Outcome: &attemptv1.ReportAttemptRequest_Allocated{
		Allocated: &attemptv1.Allocated{Provider: "metal", Region: room.GetRegion(), Endpoints: room.GetEndpoints(), ServerId: room.GetServerId()},
	}})
	if err != nil {
		w.t.Fatal(err)
	}
	return out.GetVerdict()
}

// The whole life of an instance on a server of a pool: it is told, links, and gives its room back once, through allocation.
func TestAnInstanceOnAPoolServer(t *testing.T) {
	w := start(t, nil)
	joined := w.join("rack-7", 2)
	server := joined.GetServer()
	if joined.GetGameToken() == "" || joined.GetSocialToken() == "" || joined.GetAbsence().AsDuration() <= 0 || server.GetPool() != "metal" || server.GetName() != "rack-7" || server.GetRegion() != "eu" {
		t.Errorf("joined: %v", joined)
	}
	inst, attempt := w.asked()
	_, err := w.takeRoom(inst, attempt)
	reasonIs(t, err, errs.GameServerFull) // it is not connected
	w.arrive(server.GetId(), &linkv1.Hello{Nonce: "one process"})
	var room *poolv1.Room
	w.eventually(func() bool { var err error; room, err = w.takeRoom(inst, attempt); return err == nil }, "no room on the server that is connected")
	if room.GetServerId() != server.GetId() || !room.GetConnected() || len(room.GetEndpoints()) != 1 {
		t.Errorf("room: %v", room)
	}
	sub := w.store.Subscribe(context.Background(), "berth:gw:gw")
	defer func() { _ = sub.Close() }()
	if _, err := sub.Receive(context.Background()); err != nil {
		t.Fatal(err)
	}
	if v := w.reportRoom(inst, attempt, room); v != attemptv1.ReportAttemptResponse_VERDICT_OPEN {
		t.Errorf("verdict %v", v)
	}
	var told eventv1.Envelope
	if err := proto.Unmarshal([]byte((<-sub.Channel()).Payload), &told); err != nil {
		t.Fatal(err)
	}
	if a := told.GetAssignments(); len(a) != 1 || a[0].GetServerId() != server.GetId() || a[0].GetInstanceId() != inst.GetId() {
		t.Errorf("the server was told %v", &told)
	}
	if err := w.relayAs(server.GetId(), &linkv1.Request{Id: 1, InstanceId: inst.GetId(), Method: "Link"}, new(gameserverv1.LinkResponse)); err != nil {
		t.Fatal(err)
	}
	got := w.until(inst.GetId(), instancev1.GameInstance_STATE_LINKED)
	if a := got.GetAttempts()[0]; a.GetServerId() != server.GetId() || got.GetEndpoints()[0].GetPort() != 7777 {
		t.Errorf("linked: %v", got)
	}
	if v := w.reportRoom(inst, attempt, room); v != attemptv1.ReportAttemptResponse_VERDICT_ACCEPTED {
		t.Errorf("again: verdict %v", v)
	}
	if _, err := w.instances.TerminateGameInstance(as(apiKey), &instancev1.TerminateGameInstanceRequest{InstanceId: inst.GetId()}); err != nil {
		t.Fatal(err)
	}
	if released := <-w.peers.released; released != attempt {
		t.Errorf("released %s", released)
	}
	w.untilAssigned(server.GetId(), inst.GetId()) // the room is not taken back here: the provider gives it back
	for range 2 {
		if _, err := w.pools.GiveRoomBack(internally(), &poolv1.GiveRoomBackRequest{AttemptId: attempt}); err != nil {
			t.Fatal(err)
		}
	}
	w.untilAssigned(server.GetId())
	if out, err := w.pools.ListRooms(internally(), &poolv1.ListRoomsRequest{Pool: "metal"}); err != nil || len(out.GetRooms()) != 0 {
		t.Errorf("rooms: %v, %v", out, err)
	}
}

// An allocation that says where the room is comes too late if the room is had no longer: the instance gets another server.
func TestRoomThatIsGoneIsNotLinked(t *testing.T) {
	w := start(t, nil)
	server := w.join("rack-7", 1).GetServer()
	w.arrive(server.GetId(), &linkv1.Hello{Nonce: "one process"})
	inst, attempt := w.asked()
	room, err := w.takeRoom(inst, attempt)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.pools.GiveRoomBack(internally(), &poolv1.GiveRoomBackRequest{AttemptId: attempt}); err != nil {
		t.Fatal(err)
	}
	if v := w.reportRoom(inst, attempt, room); v != attemptv1.ReportAttemptResponse_VERDICT_ABANDONED {
		t.Errorf("verdict %v", v)
	}
	if next := <-w.peers.created; next.GetAllocationId() != ids.Attempt(inst.GetId(), 2) {
		t.Errorf("asked for %s", next.GetAllocationId())
	}
}

// Who joins under a name takes it from whoever had it, and keeps the instances.
func TestJoiningTakesTheName(t *testing.T) {
	w := start(t, nil)
	server := w.join("rack-7", 1).GetServer()
	w.arrive(server.GetId(), &linkv1.Hello{Nonce: "one process"})
	if !w.server(server.GetId()).GetConnected() {
		t.Fatal("it is not connected")
	}
	if again := w.join("rack-7", 5).GetServer(); again.GetId() != server.GetId() || again.GetCapacity() != 5 {
		t.Errorf("again: %v", again)
	}
	if w.server(server.GetId()).GetConnected() {
		t.Error("who had the name is still connected")
	}
	w.arrive(server.GetId(), &linkv1.Hello{Nonce: "another process"})
}

// The pool's credential joins, and does nothing else; others do not join.
func TestOnlyPoolKeysJoin(t *testing.T) {
	w := start(t, nil)
	for _, key := range []string{apiKey, viewerKey} {
		_, err := w.registry.JoinPool(as(key), &gameserverv1.JoinPoolRequest{Pool: "metal", Name: "n", Builds: []string{"b"}})
		reasonIs(t, err, errs.RoleRequired)
	}
	_, err := w.registry.ListGameServers(as(poolKey), &gameserverv1.ListGameServersRequest{})
	reasonIs(t, err, errs.RoleRequired)
	_, err = w.registry.JoinPool(as(poolKey), &gameserverv1.JoinPoolRequest{Pool: "metal", Namespace: "other", Name: "n", Builds: []string{"b"}})
	reasonIs(t, err, errs.NamespaceDenied)
	if _, err := w.pools.TakeRoom(as(apiKey), &poolv1.TakeRoomRequest{}); err == nil {
		t.Error("rooms are for allocation only")
	}
}

// A server that has left its pool would connect and wait for ever: it is told to join again.
func TestWhoHasLeftItsPoolHasToJoinAgain(t *testing.T) {
	w := start(t, nil)
	server := w.join("rack-7", 1).GetServer()
	store := redisstore.New(w.store)
	left, err := store.LoadServer(t.Context(), server.GetId())
	if err != nil {
		t.Fatal(err)
	}
	if forgotten, err := store.ForgetServer(t.Context(), *left); err != nil || !forgotten {
		t.Fatalf("%v, %v", forgotten, err)
	}
	open := &sessionv1.OpenSessionRequest{Namespace: "default", ServerId: server.GetId(), PairId: "pair", GatewayId: "gw", Hello: &linkv1.Hello{}}
	_, err = w.sessions.OpenSession(internally(), open)
	reasonIs(t, err, errs.CredentialsExpired)
	w.join("rack-7", 1)
	w.arrive(server.GetId(), &linkv1.Hello{})
}

// A store that has lost a pool knows nothing of its servers, not even that they left: who says that it is one of a pool is told to join again, at its next connection.
func TestWhoseServerTheStoreHasLostHasToJoinAgain(t *testing.T) {
	w := start(t, nil)
	server := w.join("rack-7", 1).GetServer()
	w.arrive(server.GetId(), &linkv1.Hello{Pool: "metal"})
	known := func() time.Time {
		t.Helper()
		renewed, err := w.sessions.RenewGateway(internally(), &sessionv1.RenewGatewayRequest{GatewayId: "gw", Lease: durationpb.New(time.Minute)})
		if err != nil || renewed.GetLapsed() || renewed.GetKnownSince() == nil {
			t.Fatalf("%v, %v", renewed, err)
		}
		return renewed.GetKnownSince().AsTime()
	}
	before := known()
	if !known().Equal(before) {
		t.Error("the lease is kept, and not known since when it was taken")
	}
	if err := w.store.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	if again := known(); again.Equal(before) || !known().Equal(again) {
		t.Errorf("the lease was lost, and is known since %v as before", again)
	}
	open := &sessionv1.OpenSessionRequest{Namespace: "default", ServerId: server.GetId(), PairId: "pair", GatewayId: "gw", Hello: &linkv1.Hello{Pool: "metal"}}
	_, err := w.sessions.OpenSession(internally(), open)
	reasonIs(t, err, errs.CredentialsExpired)
	w.join("rack-7", 1)
	w.arrive(server.GetId(), &linkv1.Hello{Pool: "metal"})
}

// A server that people have taken out of its pool does not come back by itself, however often its connection does.
func TestADeregisteredServerOfAPoolStaysOut(t *testing.T) {
	w := start(t, nil)
	server := w.join("rack-7", 1).GetServer()
	hello := &linkv1.Hello{Pool: "metal", Nonce: "a nonce of one process"}
	w.arrive(server.GetId(), hello)
	if _, err := w.registry.DeregisterGameServer(as(apiKey), &gameserverv1.DeregisterGameServerRequest{ServerId: server.GetId()}); err != nil {
		t.Fatal(err)
	}
	w.arrive(server.GetId(), hello)
	if out, err := w.registry.ListGameServers(as(apiKey), &gameserverv1.ListGameServersRequest{}); err != nil || len(out.GetServers()) != 0 {
		t.Errorf("it is back: %v, %v", out, err)
	}
	w.join("rack-7", 1) // as its process does when it is started again
	w.arrive(server.GetId(), hello)
}
