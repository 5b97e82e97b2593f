package gameserver_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"

	"github.com/berth-dev/berth/sdk/go/gameserver"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
)

// merge has the server merge {name: n} into the game data and answers with a revision. It returns the request.
func merge(t *testing.T, s *gameserver.Server, p *peer, name string, n int, revision int64) *linkv1.Request {
	t.Helper()
	call := async(func() error { return s.MergeGameData(t.Context(), data(t, map[string]any{name: n})) })
	r := p.request("UpdateGameData")
	p.reply(r, &gameserverv1.UpdateGameDataResponse{Revision: revision})
	if err := receive(t, call, "the answer"); err != nil {
		t.Fatal(err)
	}
	return r
}

// wantAgain waits for a request that was sent before, and answers it.
func (p *peer) wantAgain(sent *linkv1.Request, answer proto.Message) {
	p.t.Helper()
	again := p.request(sent.GetMethod())
	if again.GetId() != sent.GetId() || !bytes.Equal(again.GetPayload(), sent.GetPayload()) {
		p.t.Fatalf("got %v, want again %v", again, sent)
	}
	p.reply(again, answer)
}

// wantNothingElse makes a new call, whose request must be the next that comes.
func (p *peer) wantNothingElse(s *gameserver.Server) {
	p.t.Helper()
	call := async(func() error { return s.ConnectPlayers(p.t.Context()) })
	p.reply(p.request("ConnectPlayers"), &gameserverv1.ConnectPlayersResponse{Revision: 1000})
	if err := receive(p.t, call, "the answer"); err != nil {
		p.t.Fatal(err)
	}
}

// relink plays the gateway's part until the server has linked again.
func (g *gateway) relink(start *gameserverv1.LinkResponse, change ...func(*linkv1.Welcome)) (*peer, *linkv1.Hello) {
	g.t.Helper()
	p := g.accept()
	h := p.hello()
	p.welcome("again", change...)
	p.epoch = 0 // Link has none
	p.reply(p.request("Link"), start)
	return p, h
}

func wantRelinked(t *testing.T, s *gameserver.Server, lost bool) *instancev1.GameInstance {
	t.Helper()
	e, ok := receive(t, s.Events(), "an event").(gameserver.Relinked)
	if !ok || e.LostWrites != lost {
		t.Errorf("got %v, want Relinked, lost writes: %v", e, lost)
	}
	return e.Instance
}

// The store crashed and came back without its last second. What it had answered in that second is made again: no more than that, in
// its order, and before anything newer.
func TestLostWritesAreMadeAgain(t *testing.T) {
	g := newGateway(t)
	s, p := g.connect([]string{"ann"})
	merge(t, s, p, "a", 1, 10)
	second, third := merge(t, s, p, "a", 2, 20), merge(t, s, p, "b", 3, 30)
	call := async(func() error { return s.UpdateGameData(t.Context(), data(t, map[string]any{"c": 4})) })
	open := p.request("UpdateGameData")
	p.cut()

	p, h := g.relink(snapshot(10, func(in *instancev1.GameInstance) { in.GameData = data(t, map[string]any{"a": 1}) }), rolledBack)
	if in := h.GetInstances()[0]; in.GetRevision() != 30 {
		t.Errorf("Hello is %v, want revision 30", in)
	}
	// The game does not see its writes undone.
	if in := wantRelinked(t, s, true); !proto.Equal(in.GetGameData(), data(t, map[string]any{"a": 2, "b": 3})) || in.GetRevision() != 10 {
		t.Errorf("relinked to %v", in)
	}
	p.wantAgain(second, &gameserverv1.UpdateGameDataResponse{Revision: 110})
	p.wantAgain(third, &gameserverv1.UpdateGameDataResponse{Revision: 120})
	p.wantAgain(open, &gameserverv1.UpdateGameDataResponse{Revision: 130})
	if err := receive(t, call, "the answer"); err != nil {
		t.Error(err)
	}
	if in := s.Instance(); !proto.Equal(in.GetGameData(), data(t, map[string]any{"c": 4})) || in.GetRevision() != 130 {
		t.Errorf("the instance is %v", in)
	}
	p.wantNothingElse(s)

	// It happens again: what was made again is kept as before.
	p.cut()
	p, h = g.relink(snapshot(110), rolledBack)
	if in := h.GetInstances()[0]; in.GetRevision() != 1000 || in.GetLinkEpoch() != 200 {
		t.Errorf("Hello is %v, want revision 1000 and epoch 200", in)
	}
	p.wantAgain(third, &gameserverv1.UpdateGameDataResponse{Revision: 210})
}

// Losing a link is no loss of writes.
func TestNothingIsMadeAgainWhereNothingWasLost(t *testing.T) {
	g := newGateway(t)
	s, p := g.connect(nil)
	merge(t, s, p, "a", 1, 10)
	p.cut()
	p, _ = g.relink(snapshot(10))
	wantRelinked(t, s, false)
	p.wantNothingElse(s)
}

// A gateway that does not say so, or cannot, is seen through: a revision that went back means the same.
func TestASnapshotBelowWhatIsKnownIsALoss(t *testing.T) {
	g := newGateway(t)
	s, p := g.connect(nil)
	first := merge(t, s, p, "a", 1, 10)
	p.cut()
	p, _ = g.relink(snapshot(9))
	wantRelinked(t, s, true)
	p.wantAgain(first, &gameserverv1.UpdateGameDataResponse{Revision: 11})
	p.wantNothingElse(s)
}

// Somebody wrote to the instance after the loss, so that its revision is above all that this server knows and tells nothing. Then all
// that is kept is sent: what the store has it recognises by its number.
func TestASnapshotAboveWhatIsKnownTellsNothing(t *testing.T) {
	g := newGateway(t)
	s, p := g.connect(nil)
	first, second := merge(t, s, p, "a", 1, 10), merge(t, s, p, "b", 2, 20)
	p.cut()
	p, _ = g.relink(snapshot(500), rolledBack)
	p.wantAgain(first, &gameserverv1.UpdateGameDataResponse{Revision: 500})
	p.wantAgain(second, &gameserverv1.UpdateGameDataResponse{Revision: 501})
	p.wantNothingElse(s)
}

// A call that is told of the loss waits until the server has linked again, even where the session itself goes on.
func TestRolledBackAsAnAnswer(t *testing.T) {
	g := newGateway(t)
	s, p := g.connect(nil)
	first := merge(t, s, p, "a", 1, 10)
	call := async(func() error { return s.ConnectPlayers(t.Context()) })
	sent := p.request("ConnectPlayers")
	p.fail(sent, &linkv1.Error{Code: int32(codes.FailedPrecondition), Reason: "STATE_ROLLED_BACK"})

	p = g.accept()
	p.hello()
	p.welcome("2", resumed(150))
	p.epoch = 0 // the link that goes on is not used
	link := p.request("Link")
	if link.GetId() <= sent.GetId() {
		t.Errorf("Link has number %d, which is not new", link.GetId())
	}
	p.cut() // and even if that takes more than one try
	p, _ = g.relink(snapshot(9), resumed(100))
	p.wantAgain(first, &gameserverv1.UpdateGameDataResponse{Revision: 210})
	p.wantAgain(sent, &gameserverv1.ConnectPlayersResponse{Revision: 220}) // with the new epoch
	if err := receive(t, call, "the answer"); err != nil {
		t.Error(err)
	}
	wantRelinked(t, s, true)
}

// A result that was acknowledged and lost is told again by a server that is still there.
func TestALostEndIsMadeAgain(t *testing.T) {
	g := newGateway(t)
	s, p := g.connect(nil)
	result := data(t, map[string]any{"winner": "ann"})
	call := async(func() error { return s.End(t.Context(), result) })
	sent := p.request("EndGameInstance")
	p.reply(sent, &gameserverv1.EndGameInstanceResponse{Revision: 10, Result: result})
	if err := receive(t, call, "the answer"); err != nil {
		t.Fatal(err)
	}
	p.cut()
	p, _ = g.relink(snapshot(5, func(in *instancev1.GameInstance) { in.State = instancev1.GameInstance_STATE_RUNNING }), rolledBack)
	in := wantRelinked(t, s, true)
	if in.GetState() != instancev1.GameInstance_STATE_ENDED || !proto.Equal(in.GetResult(), result) {
		t.Errorf("relinked to %v", in)
	}
	p.wantAgain(sent, &gameserverv1.EndGameInstanceResponse{Revision: 20, Result: result})
	p.bye(linkv1.CloseCode_CLOSE_CODE_SUPERSEDED, true)
	closedSoon(t, s.Done(), "the link's end")
	if s.Err() != nil {
		t.Errorf("Err is %v", s.Err())
	}
}

// Each repair waits for the one before, however long Berth puts that off; a refusal holds nobody up.
func TestRepairsThatAreRefused(t *testing.T) {
	var out lockedBuffer
	g := newGateway(t)
	s, p := g.connect(nil, gameserver.WithLogger(slog.New(slog.NewJSONHandler(&out, nil))))
	var sent []*linkv1.Request
	for n := range 3 {
		sent = append(sent, merge(t, s, p, "a", n, int64(10+n)))
	}
	p.cut()
	p, _ = g.relink(snapshot(9), rolledBack)
	call := async(func() error { return s.ConnectPlayers(t.Context()) })
	for range 3 {
		r := p.request("UpdateGameData")
		if r.GetId() != sent[0].GetId() {
			t.Fatalf("got number %d, want %d until it is answered", r.GetId(), sent[0].GetId())
		}
		p.fail(r, &linkv1.Error{Code: int32(codes.Unavailable), Reason: "STORE_UNAVAILABLE", RetryAfter: durationpb.New(1)})
	}
	p.fail(p.request("UpdateGameData"), &linkv1.Error{Code: int32(codes.FailedPrecondition), Reason: "REQUEST_TOO_OLD"})
	p.fail(p.request("UpdateGameData"), &linkv1.Error{Code: int32(codes.FailedPrecondition), Reason: "STATE_NOT_ALLOWED"})
	p.wantAgain(sent[2], &gameserverv1.UpdateGameDataResponse{Revision: 20})
	p.reply(p.request("ConnectPlayers"), &gameserverv1.ConnectPlayersResponse{Revision: 21})
	if err := receive(t, call, "the answer"); err != nil {
		t.Error(err)
	}
	if log := out.String(); strings.Contains(log, "TOO_OLD") || strings.Count(log, "STATE_NOT_ALLOWED") != 1 || !strings.Contains(log, `"level":"WARN"`) {
		t.Errorf("the log is:\n%s", log)
	}
}

// A write on condition of a revision that is lost will hardly be accepted, so it counts as undone until it is.
func TestALostConditionalWriteIsNotTakenForGranted(t *testing.T) {
	g := newGateway(t)
	s, p := g.connect(nil)
	merge(t, s, p, "a", 1, 10)
	call := async(func() error { return s.AtRevision(10).MergeGameData(t.Context(), data(t, map[string]any{"b": 2})) })
	p.reply(p.request("UpdateGameData"), &gameserverv1.UpdateGameDataResponse{Revision: 20})
	if err := receive(t, call, "the answer"); err != nil {
		t.Fatal(err)
	}
	p.cut()
	p, _ = g.relink(snapshot(9), rolledBack)
	if in := wantRelinked(t, s, true); !proto.Equal(in.GetGameData(), data(t, map[string]any{"a": 1})) {
		t.Errorf("relinked to %v", in)
	}
	p.reply(p.request("UpdateGameData"), &gameserverv1.UpdateGameDataResponse{Revision: 110})
	p.fail(p.request("UpdateGameData"), &linkv1.Error{Code: int32(codes.Aborted), Reason: "REVISION_MISMATCH"})
	p.wantNothingElse(s)
	if in := s.Instance(); !proto.Equal(in.GetGameData(), data(t, map[string]any{"a": 1})) {
		t.Errorf("the instance is %v", in)
	}
}

// The next loss may come in the midst of the repair of the last one.
func TestLostAgainDuringARepair(t *testing.T) {
	g := newGateway(t)
	s, p := g.connect(nil)
	first, second, third := merge(t, s, p, "a", 1, 10), merge(t, s, p, "a", 2, 20), merge(t, s, p, "a", 3, 30)
	p.cut()
	p, _ = g.relink(snapshot(9), rolledBack)
	p.wantAgain(first, &gameserverv1.UpdateGameDataResponse{Revision: 110})
	if r := p.request("UpdateGameData"); r.GetId() != second.GetId() {
		t.Fatalf("got %v", r)
	}
	p.cut()
	p, _ = g.relink(snapshot(100), rolledBack)
	for n, sent := range []*linkv1.Request{first, second, third} {
		p.wantAgain(sent, &gameserverv1.UpdateGameDataResponse{Revision: int64(210 + n)})
	}
	p.wantNothingElse(s)
}

// What a caller is told when its number is too old is an end, not something to repeat.
func TestTooOldIsFinalForACaller(t *testing.T) {
	g := newGateway(t)
	s, p := g.connect(nil)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	call := async(func() error { return s.ConnectPlayers(ctx) })
	p.fail(p.request("ConnectPlayers"), &linkv1.Error{Code: int32(codes.FailedPrecondition), Reason: "REQUEST_TOO_OLD"})
	if err := receive(t, call, "the refusal"); err == nil || !strings.Contains(err.Error(), "REQUEST_TOO_OLD") {
		t.Errorf("got %v", err)
	}
	p.wantNothingElse(s)
}
