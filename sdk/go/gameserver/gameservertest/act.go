package gameservertest

import (
	"time"

	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"google.golang.org/protobuf/proto"
)

// act makes a change as a backend does, and tells the server. What Berth would refuse fails the test.
func (b *Backend) act(what string, req proto.Message, change func() (*gameserverv1.InstanceEvent, *linkv1.Error)) {
	b.tb.Helper()
	b.mu.Lock()
	var e *gameserverv1.InstanceEvent
	refused := validate(req)
	if refused == nil {
		refused = b.match.change(func() (no *linkv1.Error) {
			e, no = change()
			return no
		})
	}
	if refused == nil {
		b.tell(e)
		b.notify()
	}
	b.mu.Unlock()
	if refused != nil {
		b.tb.Fatalf("gameservertest: %s: %s: %s", what, refused.GetReason(), refused.GetMessage())
	}
}

// tell puts something into the mailbox of the server, if there is one, and sends it. The caller holds mu.
func (b *Backend) tell(e *gameserverv1.InstanceEvent) {
	if !b.match.linked || b.match.folding {
		return
	}
	n := b.match.tell(e)
	if c := b.session.conn; c != nil && c.linked {
		c.deliver(n)
	}
}

// AddPlayers adds players, as a backend does. The game server is told.
func (b *Backend) AddPlayers(players ...*instancev1.Player) {
	b.tb.Helper()
	b.act("AddPlayers", &gameserverv1.AddPlayersRequest{Players: players}, func() (*gameserverv1.InstanceEvent, *linkv1.Error) {
		refused := b.match.addPlayers(players)
		added := new(gameserverv1.PlayersAdded)
		for _, p := range players {
			added.Players = append(added.Players, b.match.player(p.GetId()))
		}
		return &gameserverv1.InstanceEvent{Event: &gameserverv1.InstanceEvent_PlayersAdded{PlayersAdded: added}}, refused
	})
}

// RemovePlayers removes players, as a backend does. The game server is told.
func (b *Backend) RemovePlayers(ids ...string) {
	b.tb.Helper()
	b.act("RemovePlayers", &gameserverv1.RemovePlayersRequest{PlayerIds: ids}, func() (*gameserverv1.InstanceEvent, *linkv1.Error) {
		removed := &gameserverv1.PlayersRemoved{PlayerIds: ids}
		return &gameserverv1.InstanceEvent{Event: &gameserverv1.InstanceEvent_PlayersRemoved{PlayersRemoved: removed}}, b.match.removePlayers(ids)
	})
}

// UpdatePlayers changes players' data, as a backend does. The game server is told.
func (b *Backend) UpdatePlayers(updates ...*instancev1.PlayerUpdate) {
	b.tb.Helper()
	b.act("UpdatePlayers", &gameserverv1.UpdatePlayersRequest{Players: updates}, func() (*gameserverv1.InstanceEvent, *linkv1.Error) {
		refused := b.match.updatePlayers(updates, 0)
		changed := new(gameserverv1.PlayersUpdated)
		for _, u := range updates {
			changed.Players = append(changed.Players, b.match.player(u.GetPlayerId()))
		}
		return &gameserverv1.InstanceEvent{Event: &gameserverv1.InstanceEvent_PlayersUpdated{PlayersUpdated: changed}}, refused
	})
}

// UpdateGameData replaces the instance's custom data, as a backend does. The game server is told.
func (b *Backend) UpdateGameData(data *typev1.Data) {
	b.tb.Helper()
	b.updateGameData(data, instancev1.UpdateMode_UPDATE_MODE_REPLACE)
}

// MergeGameData merges a JSON merge patch into the instance's custom data, as a backend does. The game server is told what came of it.
func (b *Backend) MergeGameData(patch *typev1.Data) {
	b.tb.Helper()
	b.updateGameData(patch, instancev1.UpdateMode_UPDATE_MODE_MERGE)
}

func (b *Backend) updateGameData(data *typev1.Data, mode instancev1.UpdateMode) {
	b.tb.Helper()
	b.act("UpdateGameData", &gameserverv1.UpdateGameDataRequest{GameData: data, Mode: mode}, func() (*gameserverv1.InstanceEvent, *linkv1.Error) {
		refused := b.match.updateGameData(data, mode, 0)
		changed := &gameserverv1.GameDataUpdated{GameData: b.match.in.GetGameData()}
		return &gameserverv1.InstanceEvent{Event: &gameserverv1.InstanceEvent_GameDataUpdated{GameDataUpdated: changed}}, refused
	})
}

// SendMessage sends the game server a durable message, and returns its id.
func (b *Backend) SendMessage(topic string, data *typev1.Data) (id string) {
	b.tb.Helper()
	id = newID()
	b.act("SendMessage", &gameserverv1.SendMessageRequest{Topic: topic, Data: data}, func() (*gameserverv1.InstanceEvent, *linkv1.Error) {
		received := &gameserverv1.MessageReceived{MessageId: id, Topic: topic, Data: data}
		return &gameserverv1.InstanceEvent{Event: &gameserverv1.InstanceEvent_Message{Message: received}}, b.match.live()
	})
	return id
}

// Say sends the game server an ephemeral message. It is lost if the server is not linked now.
func (b *Backend) Say(topic string, data *typev1.Data) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if c := b.session.conn; c != nil && c.linked {
		c.send(&linkv1.Frame{Kind: &linkv1.Frame_Message{Message: &linkv1.Message{InstanceId: b.match.in.GetId(), Topic: topic, Data: proto.CloneOf(data)}}})
	}
}

// Terminate stops the game, as a backend does. The game server is told.
func (b *Backend) Terminate(message string) {
	b.tb.Helper()
	b.act("Terminate", nil, func() (*gameserverv1.InstanceEvent, *linkv1.Error) {
		in := b.match.in
		if refused := b.match.live(); refused != nil {
			return nil, refused
		}
		in.State, in.Reason, in.Message, in.EndTime = instancev1.GameInstance_STATE_TERMINATED, instancev1.GameInstance_REASON_REQUESTED, message, stamp(time.Now())
		terminated := &gameserverv1.Terminated{Reason: in.GetReason(), Message: message}
		return &gameserverv1.InstanceEvent{Event: &gameserverv1.InstanceEvent_Terminated{Terminated: terminated}}, nil
	})
}

// Supersede takes the instance from the game server, as when Berth has given it up. The server is told, refused from then on, and must not come back.
func (b *Backend) Supersede(message string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tell(&gameserverv1.InstanceEvent{Event: &gameserverv1.InstanceEvent_Superseded{Superseded: &gameserverv1.Superseded{Message: message}}})
	b.match.withdraw(message)
	b.match.touch()
	b.notify()
}
