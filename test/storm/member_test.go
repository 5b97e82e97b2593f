package storm

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/berth-dev/berth/sdk/go/bootstrap"
	"github.com/berth-dev/berth/sdk/go/gameserver"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
)

// member is one game server of the fleet, with its one instance and the backend that talks to it.
type member struct {
	fleet  *fleet
	ledger *Ledger
	host   *gameserver.Host
	server *gameserver.Server
	id     string // of the instance

	orphaned atomic.Bool // the game was told that Berth does not know the instance any more
}

// join registers the server, connects it, makes its instance and opens it to players.
func (m *member) join(ctx context.Context) error {
	out, err := m.fleet.registry.RegisterGameServer(ctx, &gameserverv1.RegisterGameServerRequest{Capacity: 1})
	if err != nil {
		return err
	}
	doc := &bootstrap.Document{
		Version: bootstrap.Version, Namespace: out.GetServer().GetNamespace(), Server: out.GetServer().GetId(), Gateway: m.fleet.gateway,
		Game: bootstrap.Secret(out.GetGameToken()), Social: bootstrap.Secret(out.GetSocialToken()),
	}
	if m.host, err = gameserver.Open(ctx, gameserver.WithBootstrap(doc), gameserver.WithLogger(m.fleet.log.With("server", m.ledger.Name))); err != nil {
		return err
	}
	if m.server, err = m.host.Create(ctx, &gameserverv1.CreateAndLinkRequest{GameData: note(0)}); err != nil {
		return err
	}
	m.id = m.server.Instance().GetId()
	return m.server.ConnectPlayers(ctx)
}

// live plays the parts of backend and game until stop is closed, and what was under way is answered.
func (m *member) live(ctx context.Context, stop <-chan struct{}) {
	var parts sync.WaitGroup
	parts.Go(func() { m.write(ctx, stop) })
	parts.Go(func() { m.say(ctx, stop) })
	parts.Go(func() { m.ask(ctx, stop) })
	parts.Go(func() { m.report(ctx, stop) })
	parts.Wait()
}

// note is game data with a note, or a patch for it.
func note(n int64) *typev1.Data {
	d, err := gameserver.JSON(map[string]int64{"note": n})
	if err != nil {
		panic(err) // a map of numbers is an object
	}
	return d
}

// noteIn returns the note in game data.
func noteIn(d *typev1.Data) int64 { return int64(d.GetJson().GetFields()["note"].GetNumberValue()) }

// write is the backend: it writes notes, each until Berth has accepted it.
func (m *member) write(ctx context.Context, stop <-chan struct{}) {
	for n := int64(1); wait(ctx, stop, m.fleet.pace); n++ {
		req := &instancev1.UpdateGameDataRequest{
			InstanceId: m.id, RequestId: fmt.Sprint("note-", n), GameData: note(n), Mode: instancev1.UpdateMode_UPDATE_MODE_MERGE,
		}
		err := insist(ctx, func(ctx context.Context) error {
			_, err := m.fleet.instances.UpdateGameData(ctx, req)
			return err
		})
		if err != nil {
			m.ledger.Refused("note", n, err)
			return
		}
		m.ledger.Written(n)
	}
}

// say is the backend, too: it sends durable messages.
func (m *member) say(ctx context.Context, stop <-chan struct{}) {
	for n := int64(1); wait(ctx, stop, m.fleet.pace); n++ {
		req := &instancev1.SendMessageRequest{InstanceId: m.id, RequestId: fmt.Sprint("message-", n), Topic: "storm", Data: note(n)}
		err := insist(ctx, func(ctx context.Context) error {
			_, err := m.fleet.messages.SendMessage(ctx, req)
			return err
		})
		if err != nil {
			m.ledger.Refused("message", n, err)
			return
		}
		m.ledger.Said(n)
	}
}

// insist repeats a call for as long as Berth says that it makes sense.
func insist(ctx context.Context, call func(context.Context) error) error {
	for {
		trying, cancel := context.WithTimeout(ctx, 10*time.Second)
		err := call(trying)
		cancel()
		switch status.Code(err) {
		case codes.Unavailable, codes.DeadlineExceeded, codes.Aborted:
			if !wait(ctx, nil, 100*time.Millisecond) {
				return err
			}
		default:
			return err
		}
	}
}

// ask is the game: it makes requests, one after the other. The SDK insists.
func (m *member) ask(ctx context.Context, stop <-chan struct{}) {
	for n := int64(1); wait(ctx, stop, m.fleet.pace); n++ {
		player := fmt.Sprint("player-", (n+1)/2)
		var err error
		if n%2 == 1 {
			err = m.server.AddPlayers(ctx, &instancev1.Player{Id: player})
		} else {
			err = m.server.RemovePlayers(ctx, player)
		}
		m.ledger.Asked(n, err)
		if err != nil {
			return
		}
	}
}

// report is the game, too: it sends durable messages to its backend, few, for the history has an entry for each. The SDK insists.
func (m *member) report(ctx context.Context, stop <-chan struct{}) {
	for n := int64(1); wait(ctx, stop, 4*m.fleet.pace); n++ {
		err := m.server.SendMessage(ctx, reports, note(n))
		m.ledger.Reported(n, err)
		if err != nil {
			return
		}
	}
}

// hear is the game's other ear: it reads what it is notified of until the link is over.
func (m *member) hear() {
	for e := range m.server.Events() {
		switch e := e.(type) {
		case gameserver.GameDataUpdated:
			m.ledger.Heard(noteIn(e.GameData))
		case gameserver.MessageReceived:
			m.ledger.Told(noteIn(e.Data))
		case gameserver.Relinked:
			m.ledger.Relinked(noteIn(e.Instance.GetGameData()))
		case gameserver.Orphaned:
			m.orphaned.Store(true)
		case gameserver.Terminated:
			m.ledger.Ended(errors.New(e.Message))
		case gameserver.Superseded:
			m.ledger.Ended(errors.New(e.Message))
		}
	}
	if err := m.server.Err(); err != nil {
		m.ledger.Ended(err)
	}
}

// stored returns what Berth has of the instance, and the server's copy.
func (m *member) stored(ctx context.Context) (Stored, error) {
	var got *instancev1.GetGameInstanceResponse
	var history *instancev1.ListHistoryResponse
	err := insist(ctx, func(ctx context.Context) (err error) {
		if got, err = m.fleet.instances.GetGameInstance(ctx, &instancev1.GetGameInstanceRequest{InstanceId: m.id}); err != nil {
			return err
		}
		history, err = m.fleet.instances.ListHistory(ctx, &instancev1.ListHistoryRequest{InstanceId: m.id})
		return err
	})
	if err != nil {
		return Stored{}, err
	}
	s := Stored{
		State: got.GetInstance().GetState().String(), Note: noteIn(got.GetInstance().GetGameData()), Present: int64(len(got.GetInstance().GetPlayers())),
		Told: noteIn(m.server.Instance().GetGameData()),
	}
	for _, e := range history.GetEntries() {
		server := strings.HasPrefix(e.GetActor(), "server:")
		switch e.GetEvent() {
		case "server_message":
			s.Reports += e.GetCount()
		case "game_data_updated":
			s.Notes += e.GetCount()
		case "players_added", "players_removed":
			if !server {
				continue
			}
			if e.GetEvent() == "players_added" {
				s.Added += e.GetCount()
			} else {
				s.Removed += e.GetCount()
			}
		case "server_lost", "server_replaced", "terminated", "unlinked", "state_rolled_back", "elided":
			s.Ends = append(s.Ends, e.GetEvent()+": "+e.GetDetail())
		}
	}
	return s, nil
}

// wait waits, and returns false once stop or ctx is over.
func wait(ctx context.Context, stop <-chan struct{}, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-stop:
		return false
	case <-ctx.Done():
		return false
	}
}
