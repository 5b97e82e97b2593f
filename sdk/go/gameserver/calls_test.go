package gameserver_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/berth-dev/berth/sdk/go/gameserver"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
)

func data(t *testing.T, v any) *typev1.Data {
	t.Helper()
	d, err := gameserver.JSON(v)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// Each call sends its request, with the next number and both credentials, and is taken over into Instance.
func TestCalls(t *testing.T) {
	g := newGateway(t)
	s, p := g.connect([]string{"ann", "bob"})
	score := data(t, map[string]any{"score": 3})
	result := data(t, map[string]any{"winner": "ann"})
	for i, tc := range []struct {
		method string
		call   func() error
		sent   proto.Message // what must be in the frame
		answer proto.Message
		check  func(*instancev1.GameInstance) bool
	}{
		{
			"ConnectPlayers", func() error { return s.ConnectPlayers(t.Context(), "ann") },
			&gameserverv1.ConnectPlayersRequest{PlayerIds: []string{"ann"}}, &gameserverv1.ConnectPlayersResponse{},
			func(in *instancev1.GameInstance) bool {
				return in.GetState() == instancev1.GameInstance_STATE_RUNNING && in.GetPlayers()[0].GetConnectable() && !in.GetPlayers()[1].GetConnectable()
			},
		},
		{
			"AddPlayers", func() error { return s.AddPlayers(t.Context(), &instancev1.Player{Id: "cid"}) },
			&gameserverv1.AddPlayersRequest{Players: []*instancev1.Player{{Id: "cid"}}}, &gameserverv1.AddPlayersResponse{},
			func(in *instancev1.GameInstance) bool { return len(in.GetPlayers()) == 3 },
		},
		{
			"RemovePlayers", func() error { return s.RemovePlayers(t.Context(), "bob") },
			&gameserverv1.RemovePlayersRequest{PlayerIds: []string{"bob"}}, &gameserverv1.RemovePlayersResponse{},
			func(in *instancev1.GameInstance) bool {
				return len(in.GetPlayers()) == 2 && in.GetPlayers()[1].GetId() == "cid"
			},
		},
		{
			"UpdatePlayers", func() error {
				return s.UpdatePlayers(t.Context(), &instancev1.PlayerUpdate{PlayerId: "ann", Data: score, Presence: instancev1.Player_PRESENCE_PRESENT})
			},
			&gameserverv1.UpdatePlayersRequest{Players: []*instancev1.PlayerUpdate{{PlayerId: "ann", Data: score, Presence: instancev1.Player_PRESENCE_PRESENT}}},
			&gameserverv1.UpdatePlayersResponse{},
			func(in *instancev1.GameInstance) bool {
				ann := in.GetPlayers()[0]
				return proto.Equal(ann.GetData(), score) && ann.GetPresence() == instancev1.Player_PRESENCE_PRESENT
			},
		},
		{
			"UpdateGameData", func() error { return s.UpdateGameData(t.Context(), score) },
			&gameserverv1.UpdateGameDataRequest{GameData: score}, &gameserverv1.UpdateGameDataResponse{},
			func(in *instancev1.GameInstance) bool { return proto.Equal(in.GetGameData(), score) },
		},
		{
			"UpdateGameData", func() error {
				return s.MergeGameData(t.Context(), data(t, map[string]any{"score": nil, "map": "dust"}))
			},
			&gameserverv1.UpdateGameDataRequest{
				GameData: data(t, map[string]any{"score": nil, "map": "dust"}), Mode: instancev1.UpdateMode_UPDATE_MODE_MERGE,
			},
			&gameserverv1.UpdateGameDataResponse{},
			func(in *instancev1.GameInstance) bool {
				return proto.Equal(in.GetGameData(), data(t, map[string]any{"map": "dust"}))
			},
		},
		{
			"UpdatePlayers", func() error {
				return s.UpdatePlayers(t.Context(), &instancev1.PlayerUpdate{
					PlayerId: "ann", Data: data(t, map[string]any{"hat": "red"}), Mode: instancev1.UpdateMode_UPDATE_MODE_MERGE,
				})
			},
			&gameserverv1.UpdatePlayersRequest{Players: []*instancev1.PlayerUpdate{{
				PlayerId: "ann", Data: data(t, map[string]any{"hat": "red"}), Mode: instancev1.UpdateMode_UPDATE_MODE_MERGE,
			}}},
			&gameserverv1.UpdatePlayersResponse{},
			func(in *instancev1.GameInstance) bool {
				return proto.Equal(in.GetPlayers()[0].GetData(), data(t, map[string]any{"score": 3, "hat": "red"}))
			},
		},
		{
			"EndGameInstance", func() error { return s.End(t.Context(), score) },
			&gameserverv1.EndGameInstanceRequest{Result: score}, &gameserverv1.EndGameInstanceResponse{Result: result},
			func(in *instancev1.GameInstance) bool {
				return in.GetState() == instancev1.GameInstance_STATE_ENDED && proto.Equal(in.GetResult(), result)
			},
		},
	} {
		call := async(tc.call)
		r := p.request(tc.method)
		if r.GetId() != int64(i+2) {
			t.Errorf("%s has number %d, want %d", tc.method, r.GetId(), i+2)
		}
		got := tc.sent.ProtoReflect().New().Interface()
		if err := proto.Unmarshal(r.GetPayload(), got); err != nil || !proto.Equal(got, tc.sent) {
			t.Errorf("%s sent %v (%v), want %v", tc.method, got, err, tc.sent)
		}
		p.reply(r, tc.answer)
		if err := receive(t, call, tc.method); err != nil {
			t.Errorf("%s: %v", tc.method, err)
		}
		if in := s.Instance(); !tc.check(in) {
			t.Errorf("after %s the instance is %v", tc.method, in)
		}
	}
	// The gateway lets the server go once the game has ended: that is no error.
	p.bye(linkv1.CloseCode_CLOSE_CODE_SUPERSEDED, true)
	closedSoon(t, s.Done(), "the link's end")
	if s.Err() != nil {
		t.Errorf("Err is %v", s.Err())
	}
}

func TestCallIsRefused(t *testing.T) {
	g := newGateway(t)
	s, p := g.connect([]string{"ann"})
	call := async(func() error { return s.RemovePlayers(t.Context(), "ann") })
	p.fail(p.request("RemovePlayers"), &linkv1.Error{Code: int32(codes.NotFound), Reason: "PLAYER_UNKNOWN", Message: "ann is not in the instance"})
	err := receive(t, call, "the refusal")
	var refused *gameserver.Error
	if !errors.As(err, &refused) || refused.Code != codes.NotFound || refused.Reason != "PLAYER_UNKNOWN" || refused.Message == "" {
		t.Errorf("got %v", err)
	}
	if len(s.Instance().GetPlayers()) != 1 {
		t.Error("a refused call changed the instance")
	}
}

// On condition of a revision a call takes effect only there. It is not repeated: it would only fail again.
func TestCallsOnConditionOfARevision(t *testing.T) {
	g := newGateway(t)
	s, p := g.connect([]string{"ann"})
	score := data(t, map[string]any{"score": 3})
	call := async(func() error { return s.ConnectPlayers(t.Context()) })
	p.reply(p.request("ConnectPlayers"), &gameserverv1.ConnectPlayersResponse{Revision: 40})
	if err := receive(t, call, "the answer"); err != nil {
		t.Fatal(err)
	}
	if got := s.Instance().GetRevision(); got != 40 {
		t.Errorf("the revision is %d, want that of the answer", got)
	}
	at := s.AtRevision(s.Instance().GetRevision())
	for _, tc := range []struct {
		method string
		call   func() error
		want   proto.Message
	}{
		{
			"UpdateGameData", func() error { return at.UpdateGameData(t.Context(), score) },
			&gameserverv1.UpdateGameDataRequest{GameData: score, ExpectedRevision: 40},
		},
		{
			"UpdateGameData", func() error { return at.MergeGameData(t.Context(), score) },
			&gameserverv1.UpdateGameDataRequest{GameData: score, ExpectedRevision: 40, Mode: instancev1.UpdateMode_UPDATE_MODE_MERGE},
		},
		{
			"UpdatePlayers", func() error {
				return at.UpdatePlayers(t.Context(), &instancev1.PlayerUpdate{PlayerId: "ann", Data: score})
			},
			&gameserverv1.UpdatePlayersRequest{Players: []*instancev1.PlayerUpdate{{PlayerId: "ann", Data: score}}, ExpectedRevision: 40},
		},
	} {
		call := async(tc.call)
		r := p.request(tc.method)
		got := tc.want.ProtoReflect().New().Interface()
		if err := proto.Unmarshal(r.GetPayload(), got); err != nil || !proto.Equal(got, tc.want) {
			t.Errorf("sent %v (%v), want %v", got, err, tc.want)
		}
		p.fail(r, &linkv1.Error{Code: int32(codes.Aborted), Reason: "REVISION_MISMATCH", Message: "it is at 41"})
		var refused *gameserver.Error
		if err := receive(t, call, "the refusal"); !errors.As(err, &refused) || refused.Reason != "REVISION_MISMATCH" {
			t.Errorf("got %v", err)
		}
	}
	if in := s.Instance(); in.GetGameData() != nil || in.GetPlayers()[0].GetData() != nil {
		t.Errorf("a refused call changed the instance: %v", in)
	}
}

// A caller may use its messages for other things as soon as the call has returned, or given up.
func TestCallsMeanWhatWasSent(t *testing.T) {
	g := newGateway(t)
	s, p := g.connect(nil)
	ctx, cancel := context.WithCancel(t.Context())
	score := data(t, map[string]any{"score": 3})
	call := async(func() error { return s.UpdateGameData(ctx, score) })
	sent := p.request("UpdateGameData")
	cancel()
	receive(t, call, "the call's end")
	score.Kind = nil
	p.reply(sent, new(gameserverv1.UpdateGameDataResponse))
	call = async(func() error { return s.ConnectPlayers(t.Context()) })
	p.reply(p.request("ConnectPlayers"), new(gameserverv1.ConnectPlayersResponse))
	receive(t, call, "the answer")
	if got := s.Instance().GetGameData(); !proto.Equal(got, data(t, map[string]any{"score": 3})) {
		t.Errorf("game data is %v", got)
	}
}

// A call that may have taken effect or not is repeated under its number, because under another it might take effect twice.
func TestCallIsRepeatedUnderItsNumberWhileBerthIsAway(t *testing.T) {
	g := newGateway(t)
	s, p := g.connect(nil)
	call := async(func() error { return s.ConnectPlayers(t.Context()) })
	first := p.request("ConnectPlayers")
	p.fail(first, &linkv1.Error{Code: int32(codes.Unavailable), Reason: "STORE_UNAVAILABLE", RetryAfter: durationpb.New(1)})
	again := p.request("ConnectPlayers")
	if again.GetId() != first.GetId() {
		t.Errorf("number %d, then %d", first.GetId(), again.GetId())
	}
	p.reply(again, new(gameserverv1.ConnectPlayersResponse))
	if err := receive(t, call, "the answer"); err != nil {
		t.Error(err)
	}
}

func TestCallEndsWithItsContext(t *testing.T) {
	g := newGateway(t)
	s, p := g.connect(nil)
	ctx, cancel := context.WithCancel(t.Context())
	call := async(func() error { return s.ConnectPlayers(ctx) })
	abandoned := p.request("ConnectPlayers")
	cancel()
	if err := receive(t, call, "the call's end"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	p.reply(abandoned, new(gameserverv1.ConnectPlayersResponse)) // too late, and harmless
	call = async(func() error { return s.ConnectPlayers(t.Context()) })
	p.reply(p.request("ConnectPlayers"), new(gameserverv1.ConnectPlayersResponse))
	if err := receive(t, call, "the answer"); err != nil {
		t.Error(err)
	}

	// What Berth said before is told too.
	ctx, cancel = context.WithCancel(t.Context())
	call = async(func() error { return s.ConnectPlayers(ctx) })
	p.fail(p.request("ConnectPlayers"), &linkv1.Error{Code: int32(codes.Unavailable), Reason: "STORE_UNAVAILABLE"})
	p.request("ConnectPlayers")
	cancel()
	err := receive(t, call, "the call's end")
	var refused *gameserver.Error
	if !errors.As(err, &refused) || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// A stale epoch means that Berth knows a newer link than this connection: resuming brings both together again.
func TestStaleEpochResumes(t *testing.T) {
	for _, reason := range []string{"STALE_LINK_EPOCH", "NOT_CONNECTED"} {
		t.Run(reason, func(t *testing.T) {
			g := newGateway(t)
			s, p := g.connect(nil)
			call := async(func() error { return s.ConnectPlayers(t.Context()) })
			sent := p.request("ConnectPlayers")
			p.fail(sent, &linkv1.Error{Code: int32(codes.FailedPrecondition), Reason: reason})
			p = g.accept()
			p.hello()
			p.welcome("2", resumed(107))
			again := p.request("ConnectPlayers")
			if again.GetId() != sent.GetId() {
				t.Errorf("number %d, then %d", sent.GetId(), again.GetId())
			}
			p.reply(again, new(gameserverv1.ConnectPlayersResponse))
			if err := receive(t, call, "the answer"); err != nil {
				t.Error(err)
			}
		})
	}
}

// The gateway closes on a server that has too many requests open, so the server must not.
func TestCallsWaitForTheWindow(t *testing.T) {
	g := newGateway(t)
	c := g.connecting()
	p := g.accept()
	p.hello()
	p.welcome("1", func(w *linkv1.Welcome) { w.Limits.MaxInFlight = 2 })
	p.reply(p.request("Link"), startData())
	s := c.server()

	const n = 6
	calls := make(chan error, n)
	for range n {
		go func() { calls <- s.ConnectPlayers(t.Context()) }()
	}
	open := []*linkv1.Request{p.request("ConnectPlayers"), p.request("ConnectPlayers")}
	for answered := range n {
		if len(p.frames) > 0 {
			t.Fatalf("a third request came while two were open")
		}
		p.reply(open[0], new(gameserverv1.ConnectPlayersResponse))
		if err := receive(t, calls, "an answer"); err != nil {
			t.Fatal(err)
		}
		open = open[1:]
		if answered < n-2 {
			open = append(open, p.request("ConnectPlayers"))
		}
	}
}

func TestCallTooLargeIsNotSent(t *testing.T) {
	g := newGateway(t)
	s, p := g.connect(nil)
	big := &typev1.Data{Kind: &typev1.Data_Binary{Binary: make([]byte, 2<<20)}}
	var refused *gameserver.Error
	if err := s.UpdateGameData(t.Context(), big); !errors.As(err, &refused) || refused.Reason != "LIMIT_EXCEEDED" {
		t.Errorf("got %v", err)
	}
	call := async(func() error { return s.ConnectPlayers(t.Context()) })
	p.reply(p.request("ConnectPlayers"), new(gameserverv1.ConnectPlayersResponse)) // the link lives, and this is the first frame
	if err := receive(t, call, "the answer"); err != nil {
		t.Error(err)
	}
}

func TestJSON(t *testing.T) {
	type score struct {
		Player string `json:"player"`
		Points int    `json:"points"`
	}
	var got score
	if err := gameserver.DecodeJSON(data(t, score{"ann", 3}), &got); err != nil || got != (score{"ann", 3}) {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := gameserver.JSON([]int{1}); err == nil || !strings.Contains(err.Error(), "object") {
		t.Errorf("a list was taken: %v", err)
	}
	if err := gameserver.DecodeJSON(&typev1.Data{Kind: &typev1.Data_Binary{Binary: []byte("x")}}, &got); err == nil {
		t.Error("binary data was decoded")
	}
	if err := gameserver.DecodeJSON(nil, &got); err != nil {
		t.Errorf("no data: %v", err)
	}
}

// The answer to a call may come after the news of what became of it, as when it was lost and the call is repeated.
func TestPlayersWhoWereRemovedMeanwhileAreNotAddedByTheAnswer(t *testing.T) {
	g := newGateway(t)
	s, p := g.connect([]string{"ann"})
	add := func() error {
		return s.AddPlayers(t.Context(), &instancev1.Player{Id: "bob"}, &instancev1.Player{Id: "cid"})
	}
	call := async(add)
	p.request("AddPlayers")
	p.cut() // it took effect, but the answer is lost
	p = g.accept()
	p.hello()
	p.welcome("2", resumed(100))
	again := p.request("AddPlayers")
	p.notify(1001, 1000, playersRemoved("bob"))
	p.reply(again, new(gameserverv1.AddPlayersResponse))
	if err := receive(t, call, "the answer"); err != nil {
		t.Fatal(err)
	}
	if in := s.Instance().GetPlayers(); len(in) != 2 || in[1].GetId() != "cid" {
		t.Errorf("players are %v, want ann and cid", in)
	}
	// Whoever is added later is here.
	receive(t, s.Events(), "an event")
	p.wantAck(1001)
	call = async(func() error { return s.AddPlayers(t.Context(), &instancev1.Player{Id: "bob"}) })
	p.reply(p.request("AddPlayers"), new(gameserverv1.AddPlayersResponse))
	if err := receive(t, call, "the answer"); err != nil {
		t.Fatal(err)
	}
	if in := s.Instance().GetPlayers(); len(in) != 3 {
		t.Errorf("players are %v, want bob, too", in)
	}
}
