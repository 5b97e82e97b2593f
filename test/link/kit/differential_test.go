package kit_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berth-dev/berth/sdk/go/bootstrap"
	"github.com/berth-dev/berth/sdk/go/gameserver"
	"github.com/berth-dev/berth/sdk/go/gameserver/gameservertest"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"google.golang.org/protobuf/types/known/structpb"
)

// world is Berth, the real one or the fake, as a backend sees it.
type world struct {
	doc            *bootstrap.Document
	registered     *bootstrap.Document // of a server that has no instance yet
	addPlayer      func(id string)
	removePlayer   func(id string)
	updatePlayer   func(id string, data map[string]any)
	updateGameData func(data map[string]any, mode instancev1.UpdateMode)
	terminate      func(message string)
	overflow       func(last map[string]any) // more changes of the game data than are kept one by one, to this at last
}

// script is a game server that writes down what it sees.
type script struct {
	t   *testing.T
	ctx context.Context
	w   world
	s   *gameserver.Server
	log []string
}

func (p *script) note(what string, v any) { p.log = append(p.log, fmt.Sprintf("%s: %v", what, v)) }

// call notes how a call went.
func (p *script) call(what string, err error) {
	var e *gameserver.Error
	switch {
	case errors.As(err, &e):
		p.note(what, fmt.Sprintf("%s %s", e.Code, e.Reason))
	default:
		p.note(what, err)
	}
	p.note("the instance", show(p.s.Instance()))
}

// event notes the next event.
func (p *script) event() {
	p.t.Helper()
	select {
	case e, ok := <-p.s.Events():
		if !ok {
			p.note("events", "closed")
			return
		}
		p.note("event", showEvent(e))
	case <-p.ctx.Done():
		p.t.Fatalf("no event came after %v", p.log)
	}
	p.note("the instance", show(p.s.Instance()))
}

func showEvent(e gameserver.Event) string {
	switch e := e.(type) {
	case gameserver.PlayersAdded:
		return "added " + showPlayers(e.Players)
	case gameserver.PlayersRemoved:
		return fmt.Sprint("removed ", e.PlayerIDs)
	case gameserver.PlayersUpdated:
		return "updated " + showPlayers(e.Players)
	case gameserver.GameDataUpdated:
		return "data " + showData(e.GameData)
	case gameserver.Terminated:
		return fmt.Sprint("terminated ", e.Reason, " ", e.Message)
	default:
		return fmt.Sprintf("%T", e)
	}
}

func show(in *instancev1.GameInstance) string {
	return fmt.Sprint(in.GetState(), " ", showPlayers(in.GetPlayers()), " data ", showData(in.GetGameData()), " result ", showData(in.GetResult()),
		" settings ", in.GetSettings().AsMap(), " ", in.GetReason(), " ", in.GetMessage())
}

func showPlayers(players []*instancev1.Player) string {
	var out []string
	for _, p := range players {
		out = append(out, fmt.Sprint(p.GetId(), " ", showData(p.GetData()), " ", p.GetConnectable(), " ", p.GetPresence(), " ", p.GetAddTime() != nil))
	}
	slices.Sort(out)
	return fmt.Sprint(out)
}

func showData(d *typev1.Data) string {
	if d == nil {
		return "none"
	}
	return fmt.Sprint(d.GetJson().AsMap(), " ", string(d.GetBinary()), " ", d.GetVisibility())
}

func data(v map[string]any) *typev1.Data {
	s, err := structpb.NewStruct(v)
	if err != nil {
		panic(err)
	}
	return &typev1.Data{Kind: &typev1.Data_Json{Json: s}}
}

const (
	replace = instancev1.UpdateMode_UPDATE_MODE_REPLACE
	merge   = instancev1.UpdateMode_UPDATE_MODE_MERGE
)

// playMatch is a match with everything that a game server does, and much that it should not.
func playMatch(p *script) {
	s, ctx := p.s, p.ctx
	p.call("open to somebody unknown", s.ConnectPlayers(ctx, "eve"))
	p.call("open", s.ConnectPlayers(ctx))
	p.call("add who is there", s.AddPlayers(ctx, &instancev1.Player{Id: "ann"}))
	p.call("add nobody", s.AddPlayers(ctx))
	p.call("add one twice", s.AddPlayers(ctx, &instancev1.Player{Id: "zoe"}, &instancev1.Player{Id: "zoe"}))
	p.call("add", s.AddPlayers(ctx, &instancev1.Player{Id: "zoe", Data: data(map[string]any{"team": "red"})}))
	p.w.addPlayer("bob")
	p.event()
	p.w.updatePlayer("bob", map[string]any{"skin": "blue"})
	p.event()
	p.call("open to one", s.ConnectPlayers(ctx, "bob"))
	p.call("presence", s.UpdatePlayers(ctx, &instancev1.PlayerUpdate{PlayerId: "bob", Presence: instancev1.Player_PRESENCE_PRESENT}))
	p.call("update somebody unknown", s.UpdatePlayers(ctx, &instancev1.PlayerUpdate{PlayerId: "eve"}))
	p.call("merge a player", s.UpdatePlayers(ctx, &instancev1.PlayerUpdate{PlayerId: "bob", Mode: merge, Data: data(map[string]any{"skin": nil, "hat": 1})}))
	p.call("merge", s.MergeGameData(ctx, data(map[string]any{"map": nil, "round": map[string]any{"n": 1, "x": nil}})))
	p.call("an old revision", s.AtRevision(1).UpdateGameData(ctx, data(map[string]any{"a": 1})))
	p.w.updateGameData(map[string]any{"round": map[string]any{"n": 2}}, merge)
	p.event()
	p.call("no data", s.UpdateGameData(ctx, nil))
	p.call("data of no kind", s.UpdateGameData(ctx, &typev1.Data{}))
	p.call("binary", s.UpdateGameData(ctx, &typev1.Data{Kind: &typev1.Data_Binary{Binary: []byte{1, 2}}, Visibility: typev1.Data_VISIBILITY_SERVER}))
	p.call("merge into binary", s.MergeGameData(ctx, data(map[string]any{"a": 1})))
	p.call("merge binary", s.MergeGameData(ctx, &typev1.Data{Kind: &typev1.Data_Binary{Binary: []byte{1}}}))
	p.w.updateGameData(map[string]any{"round": 3}, replace)
	p.event()
	p.w.removePlayer("bob")
	p.event()
	p.call("remove somebody unknown", s.RemovePlayers(ctx, "bob"))
	p.call("remove nobody", s.RemovePlayers(ctx))
	p.call("remove", s.RemovePlayers(ctx, "zoe"))
	p.call("end", s.End(ctx, data(map[string]any{"winner": "ann"})))
	p.call("end again", s.End(ctx, data(map[string]any{"winner": "bob"})))
	p.call("after the end", s.UpdateGameData(ctx, data(map[string]any{"a": 1})))
}

func playTerminated(p *script) {
	p.call("open", p.s.ConnectPlayers(p.ctx))
	p.w.terminate("enough")
	p.event()
	p.call("end what is terminated", p.s.End(p.ctx, nil))
}

func playUnlinked(p *script) {
	p.call("open", p.s.ConnectPlayers(p.ctx))
	p.call("unlink", p.s.Unlink(p.ctx, "not today"))
	<-p.s.Done()
	p.note("why it is over", p.s.Err())
	p.event()
}

// playOverflow is a game that does not look at its events until there are more than Berth keeps.
func playOverflow(p *script) {
	p.call("open", p.s.ConnectPlayers(p.ctx))
	p.w.overflow(map[string]any{"last": true})
	eventually := func(what string, is func(gameserver.Event) bool) {
		for {
			select {
			case e := <-p.s.Events():
				if is(e) {
					return
				}
			case <-p.ctx.Done():
				p.t.Fatalf("the game never heard %s", what)
			}
		}
	}
	eventually("to look anew", func(e gameserver.Event) bool {
		relinked, ok := e.(gameserver.Relinked)
		return ok && !relinked.LostWrites
	})
	p.w.addPlayer("later")
	eventually("what came later", func(e gameserver.Event) bool {
		switch e := e.(type) {
		case gameserver.PlayersAdded:
			return e.Players[0].GetId() == "later"
		case gameserver.Relinked: // so much at once may cost the connection, too
			return strings.Contains(show(e.Instance), "later")
		default:
			return false
		}
	})
	p.call("end", p.s.End(p.ctx, nil))
}

// playCreated is a registered server that makes its instance itself.
func playCreated(t *testing.T, w world) (log []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	h, err := gameserver.Open(ctx, gameserver.WithBootstrap(w.registered))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = h.Close(ctx) }()
	create := func(what string, req *gameserverv1.CreateAndLinkRequest) *gameserver.Server {
		s, err := h.Create(ctx, req)
		var e *gameserver.Error
		if errors.As(err, &e) {
			log = append(log, fmt.Sprint(what, ": ", e.Code, " ", e.Reason))
		} else {
			log = append(log, fmt.Sprint(what, ": ", err))
		}
		if s != nil {
			log = append(log, show(s.Instance()))
		}
		return s
	}
	twice := []*instancev1.Player{{Id: "zoe"}, {Id: "zoe"}}
	create("one player twice", &gameserverv1.CreateAndLinkRequest{Players: twice})
	create("data of no kind", &gameserverv1.CreateAndLinkRequest{GameData: &typev1.Data{}})
	one := &gameserverv1.CreateAndLinkRequest{
		RequestId: "one", Players: []*instancev1.Player{{Id: "ann", Data: data(map[string]any{"team": "red"})}}, GameData: data(map[string]any{"map": "harbour"}),
		Settings: data(map[string]any{"rounds": 3}).GetJson(),
	}
	s := create("one", one)
	if s == nil {
		t.Fatal(log)
	}
	p := &script{t: t, ctx: ctx, s: s}
	p.call("open", s.ConnectPlayers(ctx))
	if again := create("the same again", one); again != s {
		log = append(log, "it is another one")
	}
	create("another one", &gameserverv1.CreateAndLinkRequest{RequestId: "two"})
	p.call("end", s.End(ctx, data(map[string]any{"winner": "ann"})))
	return append(log, p.log...)
}

func TestTheFakeMakesInstancesLikeBerth(t *testing.T) {
	alike(t, playCreated(t, start(t).world(t)), playCreated(t, fakeWorld(t)))
}

// The fake must not drift from Berth: a game server that plays the same match on both sees the same.
func TestTheFakeIsLikeBerth(t *testing.T) {
	s := start(t)
	for name, play := range map[string]func(*script){"match": playMatch, "terminated": playTerminated, "unlinked": playUnlinked, "overflow": playOverflow} {
		t.Run(name, func(t *testing.T) {
			alike(t, perform(t, s.world(t), play), perform(t, fakeWorld(t), play))
		})
	}
}

func alike(t *testing.T, real, fake []string) {
	t.Helper()
	for i := range max(len(real), len(fake)) {
		if i >= len(real) || i >= len(fake) || real[i] != fake[i] {
			t.Fatalf("step %d:\nBerth: %s\nfake:  %s", i, at(real, i), at(fake, i))
		}
	}
}

func at(log []string, i int) string {
	if i < len(log) {
		return log[max(0, i-1)] + " | " + log[i]
	}
	return "nothing"
}

func perform(t *testing.T, w world, play func(*script)) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s, err := gameserver.Connect(ctx, gameserver.WithBootstrap(w.doc))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(ctx); err != nil {
			t.Errorf("close: %v", err)
		}
	}()
	p := &script{t: t, ctx: ctx, w: w, s: s}
	p.note("start", show(s.Instance()))
	play(p)
	return p.log
}

func fakeWorld(t *testing.T) world {
	b := gameservertest.Start(t, gameservertest.Config{Players: []*instancev1.Player{{Id: "ann"}}, GameData: data(map[string]any{"map": "harbour"}), Settings: data(map[string]any{"rounds": 3}).GetJson()})
	return world{
		doc: b.Bootstrap(), terminate: b.Terminate, registered: gameservertest.Start(t, gameservertest.Config{Registered: true}).Bootstrap(),
		overflow: func(last map[string]any) {
			b.Resync(func() { b.UpdateGameData(data(last)) })
		},
		addPlayer:    func(id string) { b.AddPlayers(&instancev1.Player{Id: id}) },
		removePlayer: func(id string) { b.RemovePlayers(id) },
		updatePlayer: func(id string, v map[string]any) {
			b.UpdatePlayers(&instancev1.PlayerUpdate{PlayerId: id, Data: data(v)})
		},
		updateGameData: func(v map[string]any, mode instancev1.UpdateMode) {
			if mode == merge {
				b.MergeGameData(data(v))
			} else {
				b.UpdateGameData(data(v))
			}
		},
	}
}

func (s *berth) world(t *testing.T) world {
	t.Helper()
	ctx := t.Context()
	doc, err := s.server(ctx, map[string]any{
		"players": []any{map[string]any{"id": "ann"}}, "gameData": map[string]any{"json": map[string]any{"map": "harbour"}}, "settings": map[string]any{"rounds": 3},
	})
	if err != nil {
		t.Fatal(err)
	}
	act := func(verb string, body map[string]any) {
		t.Helper()
		if err := s.call(ctx, "instances/"+doc.Instance+":"+verb, body, nil); err != nil {
			t.Fatal(err)
		}
	}
	registered, err := s.registered(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return world{
		doc:          doc,
		registered:   registered,
		terminate:    func(message string) { act("terminate", map[string]any{"message": message}) },
		addPlayer:    func(id string) { act("addPlayers", map[string]any{"players": []any{map[string]any{"id": id}}}) },
		removePlayer: func(id string) { act("removePlayers", map[string]any{"playerIds": []any{id}}) },
		updatePlayer: func(id string, v map[string]any) {
			act("updatePlayers", map[string]any{"players": []any{map[string]any{"playerId": id, "data": map[string]any{"json": v}}}})
		},
		updateGameData: func(v map[string]any, mode instancev1.UpdateMode) {
			act("updateGameData", map[string]any{"gameData": map[string]any{"json": v}, "mode": mode.String()})
		},
		overflow: func(last map[string]any) {
			large := map[string]any{"json": map[string]any{"x": strings.Repeat("x", 1<<20-1024)}}
			for range 9 { // 8 MiB wait at most
				act("updateGameData", map[string]any{"gameData": large})
			}
			act("updateGameData", map[string]any{"gameData": map[string]any{"json": last}})
		},
	}
}
