package gameinstance_test

import (
	"context"
	"fmt"
	"github.com/google/uuid"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	attemptv1 "github.com/berth-dev/berth/pkg/gen/berth/attempt/v1"
	eventv1 "github.com/berth-dev/berth/pkg/gen/berth/event/v1"
	sessionv1 "github.com/berth-dev/berth/pkg/gen/berth/session/v1"

	"github.com/berth-dev/berth/pkg/auth"
	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/ids"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
)

func TestALifeOverGRPC(t *testing.T) {
	w := start(t, nil)
	inst := w.create()
	attempt := ids.Attempt(inst.GetId(), 1)
	if got := <-w.peers.created; got.GetAllocationId() != attempt || got.GetPlacement().GetBuild() != "game" || got.GetDeadline() == nil {
		t.Errorf("allocation asked for %v", got)
	}
	report := func(req *attemptv1.ReportAttemptRequest, want attemptv1.ReportAttemptResponse_Verdict) {
		t.Helper()
		req.InstanceId, req.AttemptId = inst.GetId(), attempt
		out, err := w.attempts.ReportAttempt(internally(), req)
		if err != nil || out.GetVerdict() != want {
			t.Errorf("report: %v, %v; want %v", out, err, want)
		}
	}
	allocated := &attemptv1.ReportAttemptRequest{Outcome: &attemptv1.ReportAttemptRequest_Allocated{Allocated: &attemptv1.Allocated{
		Provider: "p", Region: "r", Endpoints: []*typev1.Endpoint{{Name: "game", Host: "h", Port: 7}},
	}}}
	report(allocated, attemptv1.ReportAttemptResponse_VERDICT_OPEN)
	_, err := w.instances.GetPlayerConnection(as(apiKey), &instancev1.GetPlayerConnectionRequest{InstanceId: inst.GetId(), PlayerId: "ann"})
	reasonIs(t, err, errs.StateNotAllowed)

	w.open(inst.GetId(), &linkv1.Hello{})
	server := w.asServer(ids.Server(attempt))
	linked, err := w.link(inst.GetId())
	if err != nil || len(linked.GetInstance().GetPlayers()) != 2 || linked.GetInstance().GetEndpoints()[0].GetPort() != 7 {
		t.Fatalf("link: %v, %v", linked, err)
	}
	report(allocated, attemptv1.ReportAttemptResponse_VERDICT_ACCEPTED)
	if _, err := w.servers.ConnectPlayers(server, &gameserverv1.ConnectPlayersRequest{InstanceId: inst.GetId()}); err != nil {
		t.Fatal(err)
	}
	connection := func(player string, added time.Time) {
		t.Helper()
		conn, err := w.instances.GetPlayerConnection(as(apiKey), &instancev1.GetPlayerConnectionRequest{InstanceId: inst.GetId(), PlayerId: player})
		if err != nil || conn.GetTicket() != fmt.Sprintf("ticket of %s since %d", player, added.UnixMicro()) || conn.GetEndpoints()[0].GetHost() != "h" {
			t.Errorf("connection: %v, %v", conn, err)
		}
	}
	connection("ann", linked.GetInstance().GetPlayers()[0].GetAddTime().AsTime())
	// Whom the server adds gets tickets for the stay that the server was told of.
	added, err := w.servers.AddPlayers(server, &gameserverv1.AddPlayersRequest{InstanceId: inst.GetId(), Players: []*instancev1.Player{{Id: "eve"}}})
	if err != nil || added.GetAddTime() == nil {
		t.Fatalf("added at %v, %v", added.GetAddTime(), err)
	}
	if _, err := w.servers.ConnectPlayers(server, &gameserverv1.ConnectPlayersRequest{InstanceId: inst.GetId(), PlayerIds: []string{"eve"}}); err != nil {
		t.Fatal(err)
	}
	connection("eve", added.GetAddTime().AsTime())
	result, _ := structpb.NewStruct(map[string]any{"winner": "ann"})
	if _, err := w.servers.EndGameInstance(server, &gameserverv1.EndGameInstanceRequest{InstanceId: inst.GetId(), Result: &typev1.Data{Kind: &typev1.Data_Json{Json: result}}}); err != nil {
		t.Fatal(err)
	}
	if got := <-w.peers.released; got != attempt {
		t.Errorf("released %s", got)
	}
	report(allocated, attemptv1.ReportAttemptResponse_VERDICT_ABANDONED) // nor does it want a second server that its provider may have started
	report(&attemptv1.ReportAttemptRequest{Outcome: &attemptv1.ReportAttemptRequest_Released{Released: &attemptv1.Released{}}}, attemptv1.ReportAttemptResponse_VERDICT_ABANDONED)

	got := w.get(inst.GetId())
	if got.GetState() != instancev1.GameInstance_STATE_ENDED || got.GetResult().GetJson().GetFields()["winner"].GetStringValue() != "ann" || got.GetExpireTime() == nil {
		t.Errorf("ended as %v", got)
	}
	history, err := w.instances.ListHistory(as(viewerKey), &instancev1.ListHistoryRequest{InstanceId: inst.GetId()})
	if err != nil {
		t.Fatal(err)
	}
	var events []string
	for _, e := range history.GetEntries() {
		events = append(events, e.GetEvent())
	}
	if want := []string{"created", "allocating", "allocated", "linked", "running", "players_added", "players_connectable", "ended", "released"}; !slices.Equal(events, want) {
		t.Errorf("history %v, want %v", events, want)
	}
}

func TestAnInstanceIsMovedToAnotherServer(t *testing.T) {
	w := start(t, nil)
	inst := w.running()
	first := ids.Attempt(inst.GetId(), 1)
	for range 2 { // the answer may get lost
		out, err := w.attempts.MoveInstance(internally(), &attemptv1.MoveInstanceRequest{InstanceId: inst.GetId(), AttemptId: first, Reason: "provider p is drained"})
		if err != nil || !out.GetMoved() {
			t.Fatalf("moved: %v, %v", out, err)
		}
	}
	if got := w.get(inst.GetId()); len(got.GetAttempts()) != 2 || got.GetState() != instancev1.GameInstance_STATE_ALLOCATING {
		t.Errorf("%s with attempts %v", got.GetState(), got.GetAttempts())
	}
	if got := <-w.peers.released; got != first {
		t.Errorf("released %s", got)
	}
	for n := 2; n < ids.MaxAttempts; n++ {
		if _, err := w.attempts.MoveInstance(internally(), &attemptv1.MoveInstanceRequest{InstanceId: inst.GetId(), AttemptId: ids.Attempt(inst.GetId(), n)}); err != nil {
			t.Fatal(err)
		}
	}
	out, err := w.attempts.MoveInstance(internally(), &attemptv1.MoveInstanceRequest{InstanceId: inst.GetId(), AttemptId: ids.Attempt(inst.GetId(), ids.MaxAttempts)})
	if err != nil || out.GetMoved() || out.GetMessage() == "" {
		t.Errorf("one that has had all its servers: %v, %v", out, err)
	}
	gone, err := w.attempts.MoveInstance(internally(), &attemptv1.MoveInstanceRequest{InstanceId: uuid.NewString(), AttemptId: first})
	if err != nil || !gone.GetMoved() {
		t.Errorf("one that is not there: %v, %v", gone, err)
	}
}

// Who asks for a verdict gets it, and the instance stays as it is.
func TestAskingForAVerdictChangesNothing(t *testing.T) {
	w := start(t, nil)
	verdict := func(instance string, n int) attemptv1.ReportAttemptResponse_Verdict {
		out, err := w.attempts.ReportAttempt(internally(), &attemptv1.ReportAttemptRequest{
			InstanceId: instance, AttemptId: ids.Attempt(instance, n), Outcome: &attemptv1.ReportAttemptRequest_Asked{Asked: new(attemptv1.Asked)},
		})
		if err != nil {
			t.Fatal(err)
		}
		return out.GetVerdict()
	}
	waiting, linked := w.create().GetId(), w.running().GetId()
	before := []*instancev1.GameInstance{w.get(waiting), w.get(linked)}
	for _, want := range []struct {
		instance string
		attempt  int
		verdict  attemptv1.ReportAttemptResponse_Verdict
	}{
		{waiting, 1, attemptv1.ReportAttemptResponse_VERDICT_OPEN}, {linked, 1, attemptv1.ReportAttemptResponse_VERDICT_ACCEPTED},
		{linked, 2, attemptv1.ReportAttemptResponse_VERDICT_ABANDONED}, {uuid.NewString(), 1, attemptv1.ReportAttemptResponse_VERDICT_UNKNOWN},
	} {
		if got := verdict(want.instance, want.attempt); got != want.verdict {
			t.Errorf("%+v: %v", want, got)
		}
	}
	for n, id := range []string{waiting, linked} {
		if now := w.get(id); !proto.Equal(now, before[n]) {
			t.Errorf("it was %v and is %v", before[n], now)
		}
	}
}

func TestACallThatFailsIsRepeated(t *testing.T) {
	w := start(t, nil)
	w.peers.failures = 2
	inst := w.create()
	if got := <-w.peers.created; got.GetInstanceId() != inst.GetId() {
		t.Errorf("allocated %v", got)
	}
}

// A provider that does not know a server any more ends no match whose server is connected; it is the server's word against its own.
func TestAServerThatIsOnlyMissingStaysWhileItIsConnected(t *testing.T) {
	w := start(t, nil)
	inst := w.running().GetId()
	missing := &attemptv1.ReportAttemptRequest{
		InstanceId: inst, AttemptId: ids.Attempt(inst, 1), Outcome: &attemptv1.ReportAttemptRequest_Exited{Exited: &attemptv1.Exited{Message: "not known", Missing: true}},
	}
	if out, err := w.attempts.ReportAttempt(internally(), missing); err != nil || out.GetVerdict() != attemptv1.ReportAttemptResponse_VERDICT_ACCEPTED {
		t.Fatalf("%v, %v", out, err)
	}
	if got := w.get(inst); got.GetState() != instancev1.GameInstance_STATE_RUNNING {
		t.Fatalf("it is %s", got.GetState())
	}
	server := ids.Server(ids.Attempt(inst, 1))
	if _, err := w.sessions.CloseSession(internally(), &sessionv1.CloseSessionRequest{ServerId: server, SessionEpoch: w.epochs[server], InstanceIds: []string{inst}}); err != nil {
		t.Fatal(err)
	}
	if out, err := w.attempts.ReportAttempt(internally(), missing); err != nil || out.GetVerdict() != attemptv1.ReportAttemptResponse_VERDICT_ABANDONED {
		t.Fatalf("not connected: %v, %v", out, err)
	}
	w.until(inst, instancev1.GameInstance_STATE_TERMINATED)
}

// What is asked for is kept, said and handed on to allocation, whole.
func TestAPlacementIsHandedOnWhole(t *testing.T) {
	w := start(t, nil)
	placement := &instancev1.Placement{
		Build: "game", Regions: []string{"eu", "us"}, Labels: map[string]string{"mode": "duel"}, Latencies: map[string]*durationpb.Duration{"eu": durationpb.New(time.Millisecond)}, Priority: -7,
	}
	fields := placement.ProtoReflect().Descriptor().Fields()
	for n := range fields.Len() {
		if !placement.ProtoReflect().Has(fields.Get(n)) {
			t.Errorf("this test does not set %s", fields.Get(n).Name())
		}
	}
	out, err := w.instances.CreateGameInstance(as(apiKey), &instancev1.CreateGameInstanceRequest{Placement: placement})
	if err != nil {
		t.Fatal(err)
	}
	asked := <-w.peers.created
	for what, got := range map[string]*instancev1.Placement{"answered": out.GetInstance().GetPlacement(), "kept": w.get(out.GetInstance().GetId()).GetPlacement(), "handed on": asked.GetPlacement()} {
		if !proto.Equal(got, placement) {
			t.Errorf("%s: %v", what, got)
		}
	}
}

// What the check could not know, because allocation was away or its configuration was changed since, ends the attempt when it is known.
func TestAnAllocationThatIsRefusedIsNotAskedForAgain(t *testing.T) {
	for _, reason := range []errs.Reason{errs.BuildUnknown, errs.RegionUnknown, errs.PlacementImpossible} {
		w := start(t, nil)
		w.peers.refuse(reason)
		w.until(w.create().GetId(), instancev1.GameInstance_STATE_TERMINATED)
	}
}

// One that has had a server is not ended because operators have drained the last place for another one: they may resume it before its time is over.
func TestAMatchThatLostItsServerWaitsForAPlace(t *testing.T) {
	w := start(t, nil)
	inst := w.running().GetId()
	<-w.peers.created
	w.peers.refuse(errs.PlacementImpossible)
	if _, err := w.instances.ReplaceGameServer(as(apiKey), &instancev1.ReplaceGameServerRequest{InstanceId: inst}); err != nil {
		t.Fatal(err)
	}
	w.eventually(w.peers.hasRefused, "no allocation was asked for")
	w.peers.refuse("")
	select {
	case got := <-w.peers.created:
		if got.GetAllocationId() != ids.Attempt(inst, 2) {
			t.Errorf("asked for %v", got)
		}
	case <-time.After(time.Minute):
		t.Errorf("nothing is asked for any more: %v", w.get(inst))
	}
}

func TestCreateIsIdempotentByRequestID(t *testing.T) {
	w := start(t, nil)
	req := &instancev1.CreateGameInstanceRequest{RequestId: "r1", Placement: &instancev1.Placement{Build: "game"}, SkipAllocation: true}
	var made []string
	var mu sync.Mutex
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			out, err := w.instances.CreateGameInstance(as(apiKey), req)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			made = append(made, out.GetInstance().GetId())
		})
	}
	all.Wait()
	if len(slices.Compact(made)) != 1 {
		t.Errorf("one request id made %v", made)
	}
	other := proto.CloneOf(req)
	other.Labels = map[string]string{"a": "b"}
	_, err := w.instances.CreateGameInstance(as(apiKey), other)
	reasonIs(t, err, errs.RequestIDReused)
}

func TestACommandRepeatedWithItsRequestIDHasNoFurtherEffect(t *testing.T) {
	w := start(t, nil)
	inst := w.running()
	add := &instancev1.AddPlayersRequest{InstanceId: inst.GetId(), RequestId: "add", Players: []*instancev1.Player{{Id: "eve"}}}
	for range 2 {
		if _, err := w.instances.AddPlayers(as(apiKey), add); err != nil {
			t.Fatal(err)
		}
	}
	add.Players[0].Id = "mal"
	_, err := w.instances.AddPlayers(as(apiKey), add)
	reasonIs(t, err, errs.RequestIDReused)
	// The id belongs to its caller and its kind of request.
	_, err = w.instances.RemovePlayers(as(apiKey), &instancev1.RemovePlayersRequest{InstanceId: inst.GetId(), RequestId: "add", PlayerIds: []string{"eve"}})
	reasonIs(t, err, errs.RequestIDReused)
}

func TestAWatcherSeesEachStateAndTheEnd(t *testing.T) {
	w := start(t, nil)
	inst := w.create()
	stream, err := w.instances.WatchGameInstance(as(viewerKey), &instancev1.WatchGameInstanceRequest{InstanceId: inst.GetId()})
	if err != nil {
		t.Fatal(err)
	}
	revision := int64(0)
	next := func() *instancev1.GameInstance {
		t.Helper()
		m, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if got := m.GetInstance().GetRevision(); got <= revision {
			t.Errorf("revision %d after %d", got, revision)
		}
		revision = m.GetInstance().GetRevision()
		return m.GetInstance()
	}
	next()
	if _, err := w.instances.TerminateGameInstance(as(apiKey), &instancev1.TerminateGameInstanceRequest{InstanceId: inst.GetId(), Message: "enough"}); err != nil {
		t.Fatal(err)
	}
	for {
		if got := next(); got.GetState() == instancev1.GameInstance_STATE_TERMINATED {
			if got.GetMessage() != "enough" || got.GetReason() != instancev1.GameInstance_REASON_REQUESTED {
				t.Errorf("terminated as %v", got)
			}
			break
		}
	}
	if m, err := stream.Recv(); err == nil {
		t.Errorf("after the end: %v", m)
	}
}

func TestALongHistoryIsElidedAndSaysSo(t *testing.T) {
	w := start(t, nil)
	inst := w.create()
	for range 505 {
		if _, err := w.instances.AddPlayers(as(apiKey), &instancev1.AddPlayersRequest{InstanceId: inst.GetId(), Players: []*instancev1.Player{{Id: "eve"}}}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.instances.RemovePlayers(as(apiKey), &instancev1.RemovePlayersRequest{InstanceId: inst.GetId(), PlayerIds: []string{"eve"}}); err != nil {
			t.Fatal(err)
		}
	}
	history, err := w.instances.ListHistory(as(viewerKey), &instancev1.ListHistoryRequest{InstanceId: inst.GetId()})
	if err != nil {
		t.Fatal(err)
	}
	if e := history.GetEntries(); len(e) != 1001 || e[0].GetEvent() != "elided" || e[1000].GetEvent() != "players_removed" {
		t.Errorf("%d entries, the first %v", len(e), e[0])
	}
}

func TestNewsReachTheGatewayAndStayInTheMailbox(t *testing.T) {
	w := start(t, nil)
	inst := w.running()
	sub := w.store.Subscribe(context.Background(), "berth:gw:gw")
	defer func() { _ = sub.Close() }()
	if _, err := sub.Receive(context.Background()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.instances.AddPlayers(as(apiKey), &instancev1.AddPlayersRequest{InstanceId: inst.GetId(), Players: []*instancev1.Player{{Id: "eve"}}}); err != nil {
		t.Fatal(err)
	}
	var e eventv1.Envelope
	if err := proto.Unmarshal([]byte((<-sub.Channel()).Payload), &e); err != nil || len(e.GetDeliveries()) != 1 {
		t.Fatalf("published %v, %v", &e, err)
	}
	d := e.GetDeliveries()[0]
	pulled, err := w.sessions.PullNotifications(internally(), &sessionv1.PullNotificationsRequest{InstanceId: inst.GetId(), LinkEpoch: inst.GetLink().GetEpoch()})
	if err != nil || len(pulled.GetDeliveries()) != 1 || !proto.Equal(pulled.GetDeliveries()[0], d) {
		t.Errorf("pulled %v, %v; published %v", pulled, err, d)
	}
	ack := &sessionv1.AckNotificationsRequest{Acks: []*sessionv1.MailboxAck{{InstanceId: inst.GetId(), LinkEpoch: inst.GetLink().GetEpoch(), Offset: d.GetOffset()}}}
	if _, err := w.sessions.AckNotifications(internally(), ack); err != nil {
		t.Fatal(err)
	}
	if pulled, err = w.sessions.PullNotifications(internally(), &sessionv1.PullNotificationsRequest{InstanceId: inst.GetId(), LinkEpoch: inst.GetLink().GetEpoch()}); err != nil || len(pulled.GetDeliveries()) != 0 {
		t.Errorf("pulled after the ack: %v, %v", pulled, err)
	}
}

func TestBadInputIsRefusedWithItsReason(t *testing.T) {
	w := start(t, nil)
	inst := w.running()
	id := inst.GetId()
	server, stranger := ids.Server(ids.Attempt(id, 1)), ids.Server("stranger-1")
	game, social := w.peers.token(t, "game", server), w.peers.token(t, "social", server)
	pair := func(game, social string) context.Context {
		return metadata.AppendToOutgoingContext(as(game), auth.MetadataSocialToken, social)
	}
	get := func(ctx context.Context, id string) error {
		_, err := w.instances.GetGameInstance(ctx, &instancev1.GetGameInstanceRequest{InstanceId: id})
		return err
	}
	update := func(ctx context.Context) error {
		_, err := w.servers.UpdateGameData(ctx, &gameserverv1.UpdateGameDataRequest{InstanceId: id, GameData: &typev1.Data{Kind: &typev1.Data_Binary{}}})
		return err
	}
	create := func(ctx context.Context, req *instancev1.CreateGameInstanceRequest) error {
		_, err := w.instances.CreateGameInstance(ctx, req)
		return err
	}
	for name, c := range map[string]struct {
		err  error
		want errs.Reason
	}{
		"no key":            {get(context.Background(), id), errs.CredentialsMissing},
		"wrong key":         {get(as(apiKey+"x"), id), errs.CredentialsInvalid},
		"no bearer":         {get(metadata.AppendToOutgoingContext(context.Background(), auth.MetadataAuthorization, apiKey), id), errs.CredentialsInvalid},
		"two keys":          {get(metadata.AppendToOutgoingContext(as(apiKey), auth.MetadataAuthorization, "Bearer "+apiKey), id), errs.CredentialsInvalid},
		"role":              {create(as(viewerKey), &instancev1.CreateGameInstanceRequest{Placement: &instancev1.Placement{Build: "game"}}), errs.RoleRequired},
		"server as backend": {get(pair(game, social), id), errs.RoleRequired},
		"backend as server": {update(as(apiKey)), errs.RoleRequired},
		"backend as service": {func() error {
			_, err := w.sessions.CloseSession(as(apiKey), &sessionv1.CloseSessionRequest{})
			return err
		}(), errs.RoleRequired},
		"namespace": {func() error {
			_, err := w.instances.ListGameInstances(as(viewerKey), &instancev1.ListGameInstancesRequest{Namespace: "other"})
			return err
		}(), errs.NamespaceDenied},
		"unknown instance": {get(as(apiKey), stranger), errs.InstanceUnknown},
		"other namespace": {func() error {
			_, err := w.instances.GetGameInstance(as(apiKey), &instancev1.GetGameInstanceRequest{InstanceId: id, Namespace: "other"})
			return err
		}(), errs.InstanceUnknown},
		"no uuid":         {get(as(apiKey), "x"), errs.ValidationFailed},
		"unknown build":   {create(as(apiKey), &instancev1.CreateGameInstanceRequest{Placement: &instancev1.Placement{Build: "nothing"}}), errs.BuildUnknown},
		"unknown region":  {create(as(apiKey), &instancev1.CreateGameInstanceRequest{Placement: &instancev1.Placement{Build: "far"}}), errs.RegionUnknown},
		"no provider":     {create(as(apiKey), &instancev1.CreateGameInstanceRequest{Placement: &instancev1.Placement{Build: "drained"}}), errs.PlacementImpossible},
		"no room to wait": {create(as(apiKey), &instancev1.CreateGameInstanceRequest{Placement: &instancev1.Placement{Build: "busy"}}), errs.AllocationQueueFull},
		"no placement":    {create(as(apiKey), &instancev1.CreateGameInstanceRequest{}), errs.ValidationFailed},
		"player twice":    {create(as(apiKey), &instancev1.CreateGameInstanceRequest{Placement: &instancev1.Placement{Build: "game"}, Players: []*instancev1.Player{{Id: "a"}, {Id: "a"}}}), errs.ValidationFailed},
		"page token": {func() error {
			_, err := w.instances.ListGameInstances(as(apiKey), &instancev1.ListGameInstancesRequest{PageToken: "x"})
			return err
		}(), errs.ValidationFailed},
		"missing social":     {update(as(game)), errs.CredentialsMissing},
		"missing game":       {update(metadata.AppendToOutgoingContext(context.Background(), auth.MetadataSocialToken, social)), errs.CredentialsMissing},
		"swapped":            {update(pair(social, game)), errs.CredentialsSwapped},
		"halves":             {update(pair(game, w.peers.token(t, "social", stranger))), errs.CredentialsMismatch},
		"another's instance": {update(w.asServer(stranger)), errs.NotAssigned},
		"not implemented": {func() error {
			_, err := w.servers.RequestBackfill(w.asServer(server), &gameserverv1.RequestBackfillRequest{InstanceId: id})
			return err
		}(), errs.NotImplemented},
		"unknown method":  {w.conn.Invoke(as(apiKey), "/berth.instance.v1.GameInstanceService/DropTables", &structpb.Struct{}, &structpb.Struct{}), errs.MethodUnknown},
		"unknown service": {w.conn.Invoke(as(apiKey), "/nobody/Knows", &structpb.Struct{}, &structpb.Struct{}), errs.MethodUnknown},
		"malformed":       {w.conn.Invoke(as(apiKey), instancev1.GameInstanceService_GetGameInstance_FullMethodName, []byte{0x0a, 0x7f}, &[]byte{}, grpc.ForceCodec(rawCodec{})), errs.Malformed},
		"presence": {func() error {
			_, err := w.instances.UpdatePlayers(as(apiKey), &instancev1.UpdatePlayersRequest{InstanceId: id, Players: []*instancev1.PlayerUpdate{{PlayerId: "ann", Presence: instancev1.Player_PRESENCE_PRESENT}}})
			return err
		}(), errs.ValidationFailed},
	} {
		t.Run(name, func(t *testing.T) { reasonIs(t, c.err, c.want) })
	}
	if after := w.get(id); !proto.Equal(after, inst) {
		t.Errorf("refused calls changed the instance to %v\nwas %v", after, inst)
	}
}
