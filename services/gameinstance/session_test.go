package gameinstance_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	sessionv1 "github.com/berth-dev/berth/pkg/gen/berth/session/v1"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/ids"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"github.com/berth-dev/berth/services/gameinstance/internal/instance"
	"github.com/berth-dev/berth/services/gameinstance/internal/redisstore"
	"github.com/berth-dev/berth/services/gameinstance/internal/session"
)

func TestASecondSocketNeedsTheResumeKey(t *testing.T) {
	w := start(t, nil)
	inst := w.running()
	link := w.get(inst.GetId()).GetLink()
	_, err := w.sessions.OpenSession(internally(), openRequest(inst.GetId(), &linkv1.Hello{}))
	reasonIs(t, err, errs.CredentialsInUse)
	_, err = w.sessions.OpenSession(internally(), openRequest(inst.GetId(), &linkv1.Hello{ResumeKey: "guess"}))
	reasonIs(t, err, errs.CredentialsInUse)

	other := w.create()
	first := w.open(other.GetId(), &linkv1.Hello{})
	again := w.open(other.GetId(), &linkv1.Hello{ResumeKey: first.GetResumeKey()})
	if again.GetSessionId() != first.GetSessionId() || again.GetSessionEpoch() <= first.GetSessionEpoch() || again.GetResumeKey() != first.GetResumeKey() {
		t.Errorf("resumed as %v, was %v", again, first)
	}
	if got := w.get(inst.GetId()).GetLink(); !proto.Equal(got, link) {
		t.Errorf("a refused socket changed the link to %v", got)
	}
}

func TestAHelloWhoseAnswerWasLostIsSaidAgain(t *testing.T) {
	w := start(t, nil)
	inst := w.create()
	first := w.open(inst.GetId(), &linkv1.Hello{Nonce: "nonce-of-the-process"})
	again := w.open(inst.GetId(), &linkv1.Hello{Nonce: "nonce-of-the-process"})
	if again.GetSessionId() != first.GetSessionId() || again.GetSessionEpoch() <= first.GetSessionEpoch() || again.GetResumeKey() == "" {
		t.Errorf("answered %v after %v", again, first)
	}
	for _, nonce := range []string{"", "of another process"} {
		_, err := w.sessions.OpenSession(internally(), openRequest(inst.GetId(), &linkv1.Hello{Nonce: nonce}))
		reasonIs(t, err, errs.CredentialsInUse)
	}
}

func TestALinkWhoseSocketIsGoneIsLost(t *testing.T) {
	w := start(t, nil)
	inst := w.running()
	// The end of the socket was told without the link: the gateway had not seen the answer to Link.
	server := inst.GetLink().GetServerId()
	if _, err := w.sessions.CloseSession(internally(), &sessionv1.CloseSessionRequest{ServerId: server, SessionEpoch: w.epochs[server]}); err != nil {
		t.Fatal(err)
	}
	store := redisstoreOf(w)
	instances := instance.NewService(instance.Config{Store: store})
	audit := session.New(session.Config{Sessions: store, Gateways: store, Mailboxes: store, Instances: instances, Log: slog.New(slog.DiscardHandler)})
	if err := audit.Audit(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got := w.get(inst.GetId()).GetLink(); got.GetConnected() {
		t.Error("the link counts as connected")
	}
}

func redisstoreOf(w *world) *redisstore.Store { return redisstore.New(w.store) }

func TestCallsOfOneServerTakeEffectInTheirOrder(t *testing.T) {
	w := start(t, nil)
	inst := w.running()
	server := inst.GetLink().GetServerId()
	stream, err := w.sessions.Relay(internally())
	if err != nil {
		t.Fatal(err)
	}
	for round := range 10 {
		const calls = 16
		for n := range calls {
			payload, err := proto.Marshal(&gameserverv1.UpdateGameDataRequest{GameData: &typev1.Data{Kind: &typev1.Data_Binary{Binary: []byte{byte(n)}}}})
			if err != nil {
				t.Fatal(err)
			}
			if err := stream.Send(&sessionv1.RelayRequest{
				Id: uint64(n), Identity: &sessionv1.ServerIdentity{Namespace: "default", ServerId: server, SessionId: "s"},
				Request: &linkv1.Request{Id: int64(100*round + n), InstanceId: inst.GetId(), LinkEpoch: inst.GetLink().GetEpoch(), Method: "UpdateGameData", Payload: payload},
			}); err != nil {
				t.Fatal(err)
			}
		}
		for range calls {
			if out, err := stream.Recv(); err != nil || out.GetResponse().GetError() != nil {
				t.Fatalf("%v, %v", out, err)
			}
		}
		if got := w.get(inst.GetId()).GetGameData().GetBinary(); got[0] != calls-1 {
			t.Fatalf("round %d ended with the data of call %d", round, got[0])
		}
	}
}

func TestALostSocketIsResumedWithItsLinks(t *testing.T) {
	w := start(t, nil)
	inst := w.create()
	first := w.open(inst.GetId(), &linkv1.Hello{})
	server := ids.Server(ids.Attempt(inst.GetId(), 1))
	linked, err := w.link(inst.GetId())
	if err != nil {
		t.Fatal(err)
	}
	closing := &sessionv1.CloseSessionRequest{ServerId: server, SessionEpoch: first.GetSessionEpoch(), InstanceIds: []string{inst.GetId()}}
	if _, err := w.sessions.CloseSession(internally(), closing); err != nil {
		t.Fatal(err)
	}
	if got := w.get(inst.GetId()).GetLink(); got.GetConnected() {
		t.Error("connected after its socket was closed")
	}
	_, err = w.link(inst.GetId())
	reasonIs(t, err, errs.NotConnected)

	hello := &linkv1.Hello{ResumeKey: first.GetResumeKey(), Instances: []*linkv1.HelloInstance{
		{InstanceId: inst.GetId(), LinkEpoch: linked.GetLinkEpoch(), LastOffset: linked.GetOffset()},
		{InstanceId: ids.Instance("default", "x", ""), LinkEpoch: 1},
	}}
	second := w.open(inst.GetId(), hello)
	if got := second.GetLinks(); len(got) != 1 || got[0].GetInstanceId() != inst.GetId() || got[0].GetLinkEpoch() <= linked.GetLinkEpoch() {
		t.Errorf("resumed links: %v", got)
	}
	if _, err := w.sessions.CloseSession(internally(), closing); err != nil { // told twice, and late
		t.Fatal(err)
	}
	if got := w.get(inst.GetId()).GetLink(); !got.GetConnected() {
		t.Error("the end of an old socket cut the newer one")
	}
}

func TestAGatewayThatIsGoneLosesItsLinks(t *testing.T) {
	w := start(t, nil)
	inst := w.running()
	if _, err := w.sessions.RenewGateway(internally(), &sessionv1.RenewGatewayRequest{GatewayId: "gw", Release: true, Lease: durationpb.New(0)}); err != nil {
		t.Fatal(err)
	}
	stream, err := w.instances.WatchGameInstance(as(viewerKey), &instancev1.WatchGameInstanceRequest{InstanceId: inst.GetId()})
	if err != nil {
		t.Fatal(err)
	}
	for {
		m, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if !m.GetInstance().GetLink().GetConnected() {
			break
		}
	}
	out, err := w.sessions.RenewGateway(internally(), &sessionv1.RenewGatewayRequest{GatewayId: "gw", Lease: durationpb.New(time.Minute)})
	if err != nil || !out.GetLapsed() {
		t.Errorf("renewal of a life that is over: %v, %v", out, err)
	}
}

func TestRelayedCallsReachTheSameHandlers(t *testing.T) {
	w := start(t, nil)
	inst := w.create()
	session := w.open(inst.GetId(), &linkv1.Hello{})
	server := ids.Server(ids.Attempt(inst.GetId(), 1))
	stream, err := w.sessions.Relay(internally())
	if err != nil {
		t.Fatal(err)
	}
	next := uint64(0)
	send := func(frameID, epoch int64, method string, payload []byte) *sessionv1.RelayResponse {
		t.Helper()
		next++
		if err := stream.Send(&sessionv1.RelayRequest{
			Id: next, Identity: &sessionv1.ServerIdentity{Namespace: "default", ServerId: server, PairId: "p", SessionId: session.GetSessionId(), SessionEpoch: session.GetSessionEpoch()},
			Request: &linkv1.Request{Id: frameID, InstanceId: inst.GetId(), LinkEpoch: epoch, Method: method, Payload: payload},
		}); err != nil {
			t.Fatal(err)
		}
		out, err := stream.Recv()
		if err != nil || out.GetId() != next || out.GetResponse().GetId() != frameID {
			t.Fatalf("relay: %v, %v", out, err)
		}
		return out
	}
	call := func(frameID, epoch int64, method string, req proto.Message) *sessionv1.RelayResponse {
		t.Helper()
		payload, err := proto.Marshal(req)
		if err != nil {
			t.Fatal(err)
		}
		return send(frameID, epoch, method, payload)
	}
	fails := func(out *sessionv1.RelayResponse, want errs.Reason) {
		t.Helper()
		if e := out.GetResponse().GetError(); e.GetReason() != string(want) || e.GetCode() != int32(want.Kind()) || e.GetMessage() == "" {
			t.Errorf("relay answered %v, want %s", out, want)
		}
	}
	linked := call(1, 0, "Link", &gameserverv1.LinkRequest{})
	if linked.GetLink().GetInstanceId() != inst.GetId() {
		t.Fatalf("link: %v", linked)
	}
	epoch := linked.GetLink().GetLinkEpoch()
	add := &gameserverv1.AddPlayersRequest{Players: []*instancev1.Player{{Id: "eve"}}}
	for range 2 { // the repeat of a frame whose answer was lost
		if out := call(2, epoch, "AddPlayers", add); out.GetResponse().GetError() != nil {
			t.Errorf("add: %v", out)
		}
	}
	fails(call(3, epoch, "AddPlayers", add), errs.PlayerExists)
	fails(call(4, epoch-1, "UpdateGameData", &gameserverv1.UpdateGameDataRequest{GameData: &typev1.Data{Kind: &typev1.Data_Binary{}}}), errs.StaleLinkEpoch)
	fails(call(5, epoch, "DropTables", &gameserverv1.LinkRequest{}), errs.MethodUnknown)
	fails(call(6, epoch, "RequestBackfill", &gameserverv1.RequestBackfillRequest{}), errs.NotImplemented)
	fails(call(7, epoch, "AddPlayers", &gameserverv1.AddPlayersRequest{}), errs.ValidationFailed)
	fails(send(8, epoch, "AddPlayers", []byte{0x0a, 0x7f}), errs.Malformed)
	fails(call(9, epoch, "AddPlayers", &gameserverv1.AddPlayersRequest{InstanceId: ids.Instance("a", "b", ""), Players: add.GetPlayers()}), errs.ValidationFailed)
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err == nil {
		t.Error("the stream goes on after its end")
	}
}
