package gameservertest

import (
	"slices"
	"time"

	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"google.golang.org/protobuf/proto"
)

// serve lets a request of the linked server take effect.
func (m *match) serve(req proto.Message) (proto.Message, *linkv1.Error) {
	if refused := validate(req); refused != nil {
		return nil, refused
	}
	switch q := req.(type) {
	case *gameserverv1.ConnectPlayersRequest:
		refused := m.change(func() *linkv1.Error { return m.connectPlayers(q.GetPlayerIds()) })
		return &gameserverv1.ConnectPlayersResponse{Revision: m.in.GetRevision()}, refused
	case *gameserverv1.AddPlayersRequest:
		refused := m.change(func() *linkv1.Error { return m.addPlayers(q.GetPlayers()) })
		out := &gameserverv1.AddPlayersResponse{Revision: m.in.GetRevision()}
		if refused == nil {
			out.AddTime = m.player(q.GetPlayers()[0].GetId()).GetAddTime()
		}
		return out, refused
	case *gameserverv1.RemovePlayersRequest:
		refused := m.change(func() *linkv1.Error { return m.removePlayers(q.GetPlayerIds()) })
		return &gameserverv1.RemovePlayersResponse{Revision: m.in.GetRevision()}, refused
	case *gameserverv1.UpdatePlayersRequest:
		refused := m.change(func() *linkv1.Error { return m.updatePlayers(q.GetPlayers(), q.GetExpectedRevision()) })
		return &gameserverv1.UpdatePlayersResponse{Revision: m.in.GetRevision()}, refused
	case *gameserverv1.UpdateGameDataRequest:
		refused := m.change(func() *linkv1.Error { return m.updateGameData(q.GetGameData(), q.GetMode(), q.GetExpectedRevision()) })
		return &gameserverv1.UpdateGameDataResponse{Revision: m.in.GetRevision()}, refused
	default:
		return m.serveEnd(req)
	}
}

// serveEnd is serve for what ends the link, and for messages.
func (m *match) serveEnd(req proto.Message) (proto.Message, *linkv1.Error) {
	switch q := req.(type) {
	case *gameserverv1.EndGameInstanceRequest:
		if m.in.GetState() == instancev1.GameInstance_STATE_ENDED { // the stored result stands
			return &gameserverv1.EndGameInstanceResponse{Revision: m.in.GetRevision(), Result: m.in.GetResult()}, nil
		}
		refused := m.change(func() *linkv1.Error { return m.end(q.GetResult()) })
		return &gameserverv1.EndGameInstanceResponse{Revision: m.in.GetRevision(), Result: m.in.GetResult()}, refused
	case *gameserverv1.UnlinkGameInstanceRequest:
		refused := m.change(m.unlink)
		return &gameserverv1.UnlinkGameInstanceResponse{Revision: m.in.GetRevision()}, refused
	case *gameserverv1.SendMessageRequest:
		refused := m.change(func() *linkv1.Error { return m.sendMessage(q) })
		return &gameserverv1.SendMessageResponse{Revision: m.in.GetRevision(), Offset: int64(len(m.posted))}, refused
	default:
		return nil, refusal(reasonNotImplemented, "the fake has no %s", req.ProtoReflect().Descriptor().Name())
	}
}

func (m *match) connectPlayers(ids []string) *linkv1.Error {
	if refused := m.live(); refused != nil {
		return refused
	}
	for _, id := range ids {
		if m.player(id) == nil {
			return unknownPlayer(id)
		}
	}
	for _, p := range m.in.GetPlayers() {
		p.Connectable = p.GetConnectable() || len(ids) == 0 || slices.Contains(ids, p.GetId())
	}
	if m.in.GetState() == instancev1.GameInstance_STATE_LINKED {
		m.in.State, m.in.StartTime = instancev1.GameInstance_STATE_RUNNING, stamp(time.Now())
	}
	return nil
}

func (m *match) addPlayers(players []*instancev1.Player) *linkv1.Error {
	if refused := m.live(); refused != nil {
		return refused
	}
	now := stamp(time.Now())
	for _, p := range players {
		switch {
		case m.player(p.GetId()) != nil:
			return refusal(reasonPlayerExists, "players: %q is in the instance already", p.GetId())
		case len(m.in.GetPlayers()) >= maxPlayers:
			return refusal(reasonLimitExceeded, "players: an instance has at most %d", maxPlayers)
		}
		p = newPlayer(p)
		p.AddTime = proto.CloneOf(now)
		m.in.Players = append(m.in.Players, p)
	}
	slices.SortFunc(m.in.Players, func(a, b *instancev1.Player) int { return compare(a.GetId(), b.GetId()) })
	return nil
}

func compare(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	default:
		return 0
	}
}

func (m *match) removePlayers(ids []string) *linkv1.Error {
	if refused := m.live(); refused != nil {
		return refused
	}
	for _, id := range ids {
		if m.player(id) == nil {
			return unknownPlayer(id)
		}
		m.in.Players = slices.DeleteFunc(m.in.GetPlayers(), func(p *instancev1.Player) bool { return p.GetId() == id })
	}
	return nil
}

func (m *match) updatePlayers(updates []*instancev1.PlayerUpdate, expected int64) *linkv1.Error {
	if refused := m.live(); refused != nil {
		return refused
	}
	if refused := m.expects(expected); refused != nil {
		return refused
	}
	for _, u := range updates {
		p := m.player(u.GetPlayerId())
		if p == nil {
			return unknownPlayer(u.GetPlayerId())
		}
		if u.GetData() != nil {
			data, refused := updated("players.data", p.GetData(), u.GetData(), u.GetMode())
			if refused != nil {
				return refused
			}
			p.Data = data
		}
		if u.GetPresence() != instancev1.Player_PRESENCE_UNSPECIFIED {
			p.Presence = u.GetPresence()
		}
	}
	return nil
}

func (m *match) updateGameData(with *typev1.Data, mode instancev1.UpdateMode, expected int64) *linkv1.Error {
	if refused := m.live(); refused != nil {
		return refused
	}
	if refused := m.expects(expected); refused != nil {
		return refused
	}
	data, refused := updated("game_data", m.in.GetGameData(), with, mode)
	if refused == nil {
		m.in.GameData = data
	}
	return refused
}

func (m *match) end(result *typev1.Data) *linkv1.Error {
	if refused := m.live(); refused != nil {
		return refused
	}
	m.in.State, m.in.Result, m.in.EndTime = instancev1.GameInstance_STATE_ENDED, proto.CloneOf(result), stamp(time.Now())
	return nil
}

func (m *match) unlink() *linkv1.Error {
	if refused := m.live(); refused != nil {
		return refused
	}
	m.withdraw("the server gave the instance up")
	return nil
}

// withdraw takes the instance from its server, and returns it to PENDING with players and data.
func (m *match) withdraw(why string) {
	m.taken, m.linked, m.mailbox = why, false, nil
	m.in.State, m.in.Endpoints = instancev1.GameInstance_STATE_PENDING, nil
	for _, p := range m.in.GetPlayers() {
		p.Connectable, p.Presence = false, instancev1.Player_PRESENCE_UNSPECIFIED
	}
}

func (m *match) sendMessage(q *gameserverv1.SendMessageRequest) *linkv1.Error {
	if refused := m.live(); refused != nil {
		return refused
	}
	if len(m.posted) >= maxMailbox {
		return refusal(reasonMailboxFull, "%d messages wait for the backends", maxMailbox)
	}
	m.posted = append(m.posted, Message{Topic: q.GetTopic(), Data: proto.CloneOf(q.GetData())})
	return nil
}
