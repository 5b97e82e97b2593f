package gameinstance_test

import (
	"errors"
	"io"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/ids"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
)

func object(t *testing.T, v map[string]any) *typev1.Data {
	t.Helper()
	s, err := structpb.NewStruct(v)
	if err != nil {
		t.Fatal(err)
	}
	return &typev1.Data{Kind: &typev1.Data_Json{Json: s}}
}

const merge = instancev1.UpdateMode_UPDATE_MODE_MERGE

func TestDataIsMergedUponTheRevisionThatWasSeen(t *testing.T) {
	w := start(t, nil)
	inst := w.running()
	id, server := inst.GetId(), w.asServer(ids.Server(ids.Attempt(inst.GetId(), 1)))
	first, err := w.instances.UpdateGameData(as(apiKey), &instancev1.UpdateGameDataRequest{InstanceId: id, GameData: object(t, map[string]any{"map": "x", "round": 1})})
	if err != nil {
		t.Fatal(err)
	}
	seen := first.GetInstance().GetRevision()
	if _, err := w.servers.UpdateGameData(server, &gameserverv1.UpdateGameDataRequest{InstanceId: id, GameData: object(t, map[string]any{"round": 2, "map": nil}), Mode: merge, ExpectedRevision: seen}); err != nil {
		t.Fatal(err)
	}
	_, err = w.instances.UpdateGameData(as(apiKey), &instancev1.UpdateGameDataRequest{InstanceId: id, GameData: object(t, map[string]any{"round": 9}), Mode: merge, ExpectedRevision: seen})
	reasonIs(t, err, errs.RevisionMismatch)
	_, err = w.instances.UpdateGameData(as(apiKey), &instancev1.UpdateGameDataRequest{InstanceId: id, GameData: &typev1.Data{Kind: &typev1.Data_Binary{Binary: []byte("{}")}}, Mode: merge})
	reasonIs(t, err, errs.ValidationFailed)
	if _, err := w.servers.UpdatePlayers(server, &gameserverv1.UpdatePlayersRequest{InstanceId: id, Players: []*instancev1.PlayerUpdate{{PlayerId: "ann", Data: object(t, map[string]any{"score": 3}), Mode: merge}}}); err != nil {
		t.Fatal(err)
	}
	got := w.get(id)
	if want := object(t, map[string]any{"round": 2}); !proto.Equal(got.GetGameData(), want) {
		t.Errorf("game data %v, want %v", got.GetGameData(), want)
	}
	if want := object(t, map[string]any{"score": 3}); !proto.Equal(got.GetPlayers()[0].GetData(), want) {
		t.Errorf("player's data %v, want %v", got.GetPlayers()[0].GetData(), want)
	}
}

func TestDataIsGivenToThoseWhomItIsFor(t *testing.T) {
	w := start(t, nil)
	inst := w.running()
	id, server := inst.GetId(), w.asServer(ids.Server(ids.Attempt(inst.GetId(), 1)))
	show := func(v typev1.Data_Visibility) *typev1.Data {
		d := object(t, map[string]any{"a": 1})
		d.Visibility = v
		return d
	}
	for v, want := range map[typev1.Data_Visibility]struct{ backend, ofGame, ofPlayer bool }{
		typev1.Data_VISIBILITY_UNSPECIFIED: {true, false, true},
		typev1.Data_VISIBILITY_SERVER:      {false, false, false},
		typev1.Data_VISIBILITY_BACKEND:     {true, false, false},
		typev1.Data_VISIBILITY_PLAYERS:     {true, true, true},
	} {
		if _, err := w.servers.UpdateGameData(server, &gameserverv1.UpdateGameDataRequest{InstanceId: id, GameData: show(v)}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.servers.UpdatePlayers(server, &gameserverv1.UpdatePlayersRequest{InstanceId: id, Players: []*instancev1.PlayerUpdate{{PlayerId: "ann", Data: show(v)}}}); err != nil {
			t.Fatal(err)
		}
		got := w.get(id)
		if got.GetGameData() != nil != want.backend || got.GetPlayers()[0].GetData() != nil != want.backend {
			t.Errorf("%s: a backend is given %v and %v", v, got.GetGameData(), got.GetPlayers()[0].GetData())
		}
		joined, err := w.instances.GetPlayerConnection(as(apiKey), &instancev1.GetPlayerConnectionRequest{InstanceId: id, PlayerId: "ann"})
		if err != nil {
			t.Fatal(err)
		}
		if joined.GetGameData() != nil != want.ofGame || joined.GetPlayer().GetData() != nil != want.ofPlayer {
			t.Errorf("%s: a player is given %v and %v", v, joined.GetGameData(), joined.GetPlayer().GetData())
		}
	}
	if _, err := w.servers.UpdateGameData(server, &gameserverv1.UpdateGameDataRequest{InstanceId: id, GameData: show(typev1.Data_VISIBILITY_SERVER)}); err != nil {
		t.Fatal(err)
	}
	linked, err := w.link(id)
	if err != nil || linked.GetInstance().GetGameData() == nil {
		t.Errorf("the server's own start data: %v, %v", linked.GetInstance().GetGameData(), err)
	}
}

func TestAHistoryIsExportedWhole(t *testing.T) {
	w := start(t, nil)
	id := w.running().GetId()
	listed, err := w.instances.ListHistory(as(viewerKey), &instancev1.ListHistoryRequest{InstanceId: id})
	if err != nil {
		t.Fatal(err)
	}
	stream, err := w.instances.ExportHistory(as(viewerKey), &instancev1.ExportHistoryRequest{InstanceId: id})
	if err != nil {
		t.Fatal(err)
	}
	var exported []*instancev1.HistoryEntry
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		exported = append(exported, m.GetEntry())
	}
	if want := (&instancev1.ListHistoryResponse{Entries: exported}); len(exported) < 4 || !proto.Equal(listed, want) {
		t.Errorf("exported %v\nlisted %v", exported, listed)
	}
}

func TestAnInstanceGetsAnotherServer(t *testing.T) {
	w := start(t, nil)
	inst := w.running()
	id := inst.GetId()
	first, second := ids.Server(ids.Attempt(id, 1)), ids.Server(ids.Attempt(id, 2))
	<-w.peers.created
	out, err := w.instances.ReplaceGameServer(as(apiKey), &instancev1.ReplaceGameServerRequest{InstanceId: id, RequestId: "r", Message: "slow host"})
	if err != nil || out.GetInstance().GetState() != instancev1.GameInstance_STATE_ALLOCATING || out.GetInstance().GetLink() != nil {
		t.Fatalf("replace: %v, %v", out, err)
	}
	if got := <-w.peers.released; got != ids.Attempt(id, 1) {
		t.Errorf("given back: %s", got)
	}
	if got := <-w.peers.created; got.GetAllocationId() != ids.Attempt(id, 2) {
		t.Errorf("asked for: %v", got)
	}
	if again, err := w.instances.ReplaceGameServer(as(apiKey), &instancev1.ReplaceGameServerRequest{InstanceId: id, RequestId: "r", Message: "slow host"}); err != nil || len(again.GetInstance().GetAttempts()) != 2 {
		t.Errorf("repeated: %v, %v", again, err)
	}
	_, err = w.servers.UpdateGameData(w.asServer(first), &gameserverv1.UpdateGameDataRequest{InstanceId: id, GameData: object(t, nil)})
	reasonIs(t, err, errs.Superseded)
	if got := w.get(id).GetAttempts(); got[0].GetFate() != instancev1.Attempt_FATE_ABANDONED || got[1].GetServerId() != second || got[1].GetFate() != instancev1.Attempt_FATE_OPEN {
		t.Errorf("attempts: %v", got)
	}
}

func TestAServerGivesItsInstanceUp(t *testing.T) {
	w := start(t, nil)
	inst := w.running()
	server := w.asServer(ids.Server(ids.Attempt(inst.GetId(), 1)))
	if _, err := w.servers.UnlinkGameInstance(server, &gameserverv1.UnlinkGameInstanceRequest{InstanceId: inst.GetId(), Message: "going home"}); err != nil {
		t.Fatal(err)
	}
	got := w.get(inst.GetId())
	if got.GetState() != instancev1.GameInstance_STATE_PENDING || len(got.GetPlayers()) != 2 || got.GetPlayers()[0].GetConnectable() {
		t.Errorf("after the server has unlinked: %v", got)
	}
	if id := <-w.peers.released; id != ids.Attempt(inst.GetId(), 1) {
		t.Errorf("given back: %s", id)
	}
	if _, err := w.instances.AllocateGameServer(as(apiKey), &instancev1.AllocateGameServerRequest{InstanceId: inst.GetId()}); err != nil {
		t.Error(err)
	}
}

func TestADeletedInstanceIsSaidToBeDeleted(t *testing.T) {
	w := start(t, nil)
	create := &instancev1.CreateGameInstanceRequest{
		RequestId: "once", Placement: &instancev1.Placement{Build: "game"}, SkipAllocation: true, Timeouts: &instancev1.Timeouts{Retention: durationpb.New(time.Second)},
	}
	out, err := w.instances.CreateGameInstance(as(apiKey), create)
	if err != nil {
		t.Fatal(err)
	}
	id := out.GetInstance().GetId()
	if _, err := w.instances.TerminateGameInstance(as(apiKey), &instancev1.TerminateGameInstanceRequest{InstanceId: id}); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; {
		_, err = w.instances.GetGameInstance(as(viewerKey), &instancev1.GetGameInstanceRequest{InstanceId: id})
		if err != nil || time.Now().After(deadline) {
			break
		}
	}
	reasonIs(t, err, errs.InstanceDeleted)
	_, err = w.instances.CreateGameInstance(as(apiKey), create)
	reasonIs(t, err, errs.InstanceDeleted)
	_, err = w.instances.ListHistory(as(viewerKey), &instancev1.ListHistoryRequest{InstanceId: id})
	reasonIs(t, err, errs.InstanceDeleted)
}

// The store is put back to where it was before the server's last calls, as a failover to a replica that lags would do.
func TestAServerIsToldThatTheStoreHasLostWrites(t *testing.T) {
	w := start(t, nil)
	inst := w.create()
	id := inst.GetId()
	opened := w.open(id, &linkv1.Hello{})
	server := w.asServer(ids.Server(ids.Attempt(id, 1)))
	linked, err := w.link(id)
	if err != nil {
		t.Fatal(err)
	}
	restore := w.remember(id)
	connected, err := w.servers.ConnectPlayers(server, &gameserverv1.ConnectPlayersRequest{InstanceId: id})
	if err != nil {
		t.Fatal(err)
	}
	restore()
	// Whatever is written afterwards, the number of the server's last request shows the loss.
	if _, err := w.instances.AddPlayers(as(apiKey), &instancev1.AddPlayersRequest{InstanceId: id, Players: []*instancev1.Player{{Id: "eve"}}}); err != nil {
		t.Fatal(err)
	}
	hello := &linkv1.Hello{ResumeKey: opened.GetResumeKey(), Instances: []*linkv1.HelloInstance{
		{InstanceId: id, LinkEpoch: linked.GetLinkEpoch(), LastOffset: linked.GetOffset(), LastRequest: 2},
	}}
	again := w.open(id, hello)
	if got := again.GetRolledBackInstanceIds(); len(got) != 1 || got[0] != id || len(again.GetLinks()) != 0 {
		t.Fatalf("a server that knows more is answered %v", again)
	}
	relinked, err := w.link(id)
	if err != nil || relinked.GetInstance().GetRevision() <= connected.GetRevision() || relinked.GetInstance().GetState() != instancev1.GameInstance_STATE_LINKED {
		t.Errorf("linked again: %v, %v", relinked, err)
	}
	if _, err := w.servers.ConnectPlayers(server, &gameserverv1.ConnectPlayersRequest{InstanceId: id}); err != nil {
		t.Error(err)
	}
	history, err := w.instances.ListHistory(as(viewerKey), &instancev1.ListHistoryRequest{InstanceId: id})
	if err != nil {
		t.Fatal(err)
	}
	said := false
	for _, e := range history.GetEntries() {
		said = said || e.GetEvent() == "state_rolled_back"
	}
	if !said {
		t.Errorf("the history does not say so: %v", history)
	}
}
