package gameserver

import (
	"slices"
	"sync"

	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// match is the instance as the server knows it. Messages that go in or come out are copied, since both sides may change theirs.
type match struct {
	mu       sync.RWMutex
	instance *instancev1.GameInstance // nil before the first link
	// gone are players whom a backend removed before the answer came to the call that had added them, and the newest number of a call by then;
	// so there are no more than such calls brought in.
	gone map[string]int64
}

func (m *match) snapshot() *instancev1.GameInstance {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return proto.CloneOf(m.instance)
}

// player returns nil for somebody who is not in the instance.
func (m *match) player(id string) *instancev1.Player {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return proto.CloneOf(m.find(id))
}

// over reports whether the game has come to its end.
func (m *match) over() bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	state := m.instance.GetState()
	return state == instancev1.GameInstance_STATE_ENDED || state == instancev1.GameInstance_STATE_TERMINATED
}

// start takes over the start data. An instance that is not there counts as empty.
func (m *match) start(in *instancev1.GameInstance) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if in == nil {
		in = new(instancev1.GameInstance)
	}
	m.instance, m.gone = in, nil
}

// apply takes over what a backend did. newest is the newest number of a call.
func (m *match) apply(e *gameserverv1.InstanceEvent, newest int64) {
	switch e := e.GetEvent().(type) {
	case *gameserverv1.InstanceEvent_PlayersAdded:
		m.added(e.PlayersAdded.GetPlayers(), nil)
	case *gameserverv1.InstanceEvent_PlayersRemoved:
		m.noteGone(e.PlayersRemoved.GetPlayerIds(), newest)
		m.removed(e.PlayersRemoved.GetPlayerIds())
	case *gameserverv1.InstanceEvent_PlayersUpdated:
		m.added(e.PlayersUpdated.GetPlayers(), nil)
	case *gameserverv1.InstanceEvent_GameDataUpdated:
		m.setData(e.GameDataUpdated.GetGameData(), instancev1.UpdateMode_UPDATE_MODE_REPLACE)
	case *gameserverv1.InstanceEvent_Terminated:
		m.update(func(in *instancev1.GameInstance) {
			in.State, in.Reason = instancev1.GameInstance_STATE_TERMINATED, e.Terminated.GetReason()
			in.Message = e.Terminated.GetMessage()
		})
	}
}

// added adds players, or replaces those who are there. at is when they were added; nil: they say so themselves.
func (m *match) added(players []*instancev1.Player, at *timestamppb.Timestamp) {
	m.update(func(in *instancev1.GameInstance) {
		for _, p := range players {
			delete(m.gone, p.GetId())
			p = proto.CloneOf(p)
			if at != nil {
				p.AddTime = proto.CloneOf(at)
			}
			if i := slices.IndexFunc(in.GetPlayers(), is(p.GetId())); i >= 0 {
				if p.GetAddTime() == nil {
					p.AddTime = in.GetPlayers()[i].GetAddTime()
				}
				in.Players[i] = p
			} else {
				in.Players = append(in.Players, p)
			}
		}
	})
}

// noteGone notes who of those whom a backend removed was not known to be here.
func (m *match) noteGone(ids []string, newest int64) {
	m.update(func(*instancev1.GameInstance) {
		for _, id := range ids {
			if m.find(id) != nil {
				continue
			}
			if m.gone == nil {
				m.gone = make(map[string]int64)
			}
			m.gone[id] = newest
		}
	})
}

// stillThere returns those of the players whom a call has added who were not removed before its answer came.
func (m *match) stillThere(number int64, players []*instancev1.Player) (there []*instancev1.Player) {
	m.update(func(*instancev1.GameInstance) {
		for _, p := range players {
			if newest, gone := m.gone[p.GetId()]; gone && number <= newest {
				delete(m.gone, p.GetId())
			} else {
				there = append(there, p)
			}
		}
	})
	return there
}

func (m *match) removed(ids []string) {
	m.update(func(in *instancev1.GameInstance) {
		in.Players = slices.DeleteFunc(in.GetPlayers(), func(p *instancev1.Player) bool { return slices.Contains(ids, p.GetId()) })
	})
}

// opened notes to whom the server has opened: to all if none is named.
func (m *match) opened(ids []string) {
	m.update(func(in *instancev1.GameInstance) {
		in.State = instancev1.GameInstance_STATE_RUNNING
		for _, p := range in.GetPlayers() {
			p.Connectable = p.GetConnectable() || len(ids) == 0 || slices.Contains(ids, p.GetId())
		}
	})
}

func (m *match) changed(updates []*instancev1.PlayerUpdate) {
	m.update(func(*instancev1.GameInstance) {
		for _, u := range updates {
			p := m.find(u.GetPlayerId())
			if p == nil {
				continue
			}
			if u.GetData() != nil {
				p.Data = updated(p.GetData(), u.GetData(), u.GetMode())
			}
			if u.GetPresence() != instancev1.Player_PRESENCE_UNSPECIFIED {
				p.Presence = u.GetPresence()
			}
		}
	})
}

func (m *match) setData(data *typev1.Data, mode instancev1.UpdateMode) {
	m.update(func(in *instancev1.GameInstance) { in.GameData = updated(in.GetGameData(), data, mode) })
}

// updated returns what becomes of data when it is replaced by, or merged with, what is new.
func updated(data, with *typev1.Data, mode instancev1.UpdateMode) *typev1.Data {
	with = proto.CloneOf(with)
	if mode == instancev1.UpdateMode_UPDATE_MODE_MERGE {
		return mergeData(data, with)
	}
	return with
}

func (m *match) ended(result *typev1.Data) {
	m.update(func(in *instancev1.GameInstance) {
		in.State, in.Result = instancev1.GameInstance_STATE_ENDED, proto.CloneOf(result)
	})
}

func (m *match) update(f func(*instancev1.GameInstance)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f(m.instance)
}

// find returns the player itself; the caller holds the lock.
func (m *match) find(id string) *instancev1.Player {
	players := m.instance.GetPlayers()
	if i := slices.IndexFunc(players, is(id)); i >= 0 {
		return players[i]
	}
	return nil
}

func is(id string) func(*instancev1.Player) bool {
	return func(p *instancev1.Player) bool { return p.GetId() == id }
}
