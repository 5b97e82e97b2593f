// Package wire turns instances into the public messages and back. It decides nothing.
package wire

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	eventv1 "github.com/berth-dev/berth/pkg/gen/berth/event/v1"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"github.com/berth-dev/berth/services/gameinstance/internal/instance"
)

// Instance returns the public message of an instance.
func Instance(i *instance.Instance) (*instancev1.GameInstance, error) {
	out := &instancev1.GameInstance{
		Namespace: i.Namespace, Id: i.ID, Revision: i.Revision, State: instancev1.GameInstance_State(i.State),
		Reason: instancev1.GameInstance_Reason(i.Reason), Message: i.Message, Placement: placement(i.Placement), Labels: i.Labels,
		Endpoints: Endpoints(i.Endpoints), Link: link(i.Link), Timeouts: timeouts(i.Timeouts),
		CreateTime: timestamp(i.CreateTime), UpdateTime: timestamp(i.UpdateTime), StartTime: timestamp(i.StartTime), EndTime: timestamp(i.EndTime),
		ExpireTime: timestamp(i.ExpireTime), OnServerLoss: instancev1.GameInstance_OnServerLoss(i.OnLoss), PlayerCount: int32(i.PlayerCount),
	}
	for _, a := range i.Attempts {
		out.Attempts = append(out.Attempts, &instancev1.Attempt{
			Id: a.ID, ServerId: a.ServerID, Fate: instancev1.Attempt_Fate(a.Fate), Provider: a.Provider, Region: a.Region,
			CreateTime: timestamp(a.CreateTime), AllocateTime: timestamp(a.AllocateTime), ReleaseTime: timestamp(a.ReleaseTime), Registered: a.Registered,
			Failure: a.Failure, Message: a.Message,
		})
	}
	var err error
	if out.Settings, err = structOf(i.Settings); err != nil {
		return nil, err
	}
	if out.GameData, err = Data(i.GameData); err != nil {
		return nil, err
	}
	if out.Result, err = Data(i.Result); err != nil {
		return nil, err
	}
	out.Players, err = Players(slices.SortedFunc(maps.Values(i.Players), func(a, b instance.Player) int {
		if a.ID < b.ID {
			return -1
		}
		return 1
	}))
	return out, err
}

// Players returns the public messages of players.
func Players(players []instance.Player) ([]*instancev1.Player, error) {
	out := make([]*instancev1.Player, 0, len(players))
	for _, p := range players {
		m, err := Player(p)
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	return out, nil
}

// Player returns the public message of a player.
func Player(p instance.Player) (*instancev1.Player, error) {
	data, err := Data(p.Data)
	return &instancev1.Player{
		Id: p.ID, PartyId: p.PartyID, TeamId: p.TeamID, Data: data, Connectable: p.Connectable, Presence: instancev1.Player_Presence(p.Presence), AddTime: timestamp(p.AddTime),
	}, err
}

// Data returns the public message of a game's data; nil for none.
func Data(d instance.Data) (*typev1.Data, error) {
	switch {
	case !d.Set:
		return nil, nil
	case d.JSON == nil:
		return &typev1.Data{Kind: &typev1.Data_Binary{Binary: d.Binary}, Visibility: typev1.Data_Visibility(d.Visibility)}, nil
	}
	s, err := structOf(d.JSON)
	return &typev1.Data{Kind: &typev1.Data_Json{Json: s}, Visibility: typev1.Data_Visibility(d.Visibility)}, err
}

// ForBackend returns the instance as backends are given it: without what is visible to the game server only.
func ForBackend(i *instance.Instance) *instance.Instance {
	out := *i
	out.GameData, out.Result = forBackend(i.GameData), forBackend(i.Result)
	out.Players = make(map[string]instance.Player, len(i.Players))
	for id, p := range i.Players {
		p.Data = forBackend(p.Data)
		out.Players[id] = p
	}
	return &out
}

func forBackend(d instance.Data) instance.Data {
	if d.Visibility == instance.VisibleToServer {
		return instance.Data{}
	}
	return d
}

// ForPlayer returns what a player is given of the instance's own data and of the player's.
func ForPlayer(game instance.Data, p instance.Player) (instance.Data, instance.Player) {
	if game.Visibility != instance.VisibleToPlayers {
		game = instance.Data{}
	}
	if v := p.Data.Visibility; v != instance.VisibleToPlayers && v != instance.VisibilityDefault {
		p.Data = instance.Data{}
	}
	return game, p
}

func structOf(object []byte) (*structpb.Struct, error) {
	if object == nil {
		return nil, nil
	}
	var s structpb.Struct
	if err := protojson.Unmarshal(object, &s); err != nil {
		return nil, fmt.Errorf("stored JSON: %w", err)
	}
	return &s, nil
}

// Endpoints returns the public messages of endpoints.
func Endpoints(endpoints []instance.Endpoint) []*typev1.Endpoint {
	out := make([]*typev1.Endpoint, 0, len(endpoints))
	for _, e := range endpoints {
		out = append(out, &typev1.Endpoint{Name: e.Name, Host: e.Host, Port: e.Port, Protocol: typev1.Protocol(e.Protocol)})
	}
	return out
}

// History returns the public messages of history entries.
func History(entries []instance.HistoryEntry) []*instancev1.HistoryEntry {
	out := make([]*instancev1.HistoryEntry, 0, len(entries))
	for _, e := range entries {
		out = append(out, &instancev1.HistoryEntry{
			Time: timestamp(e.Time), Revision: e.Revision, Event: e.Event, FromState: instancev1.GameInstance_State(e.From), ToState: instancev1.GameInstance_State(e.To),
			Actor: e.Actor, Detail: e.Detail, Count: e.Count, FirstTime: timestamp(e.FirstTime),
		})
	}
	return out
}

// Delivery returns the message of a mailbox entry.
func Delivery(d instance.Delivery) (*eventv1.Delivery, error) {
	event, err := event(d.Event)
	return &eventv1.Delivery{InstanceId: d.InstanceID, Offset: d.Offset, Previous: d.Previous, Event: event}, err
}

func event(e instance.Event) (*gameserverv1.InstanceEvent, error) {
	switch {
	case e.PlayersAdded != nil:
		players, err := Players(e.PlayersAdded)
		return &gameserverv1.InstanceEvent{Event: &gameserverv1.InstanceEvent_PlayersAdded{PlayersAdded: &gameserverv1.PlayersAdded{Players: players}}}, err
	case e.PlayersRemoved != nil:
		return &gameserverv1.InstanceEvent{Event: &gameserverv1.InstanceEvent_PlayersRemoved{PlayersRemoved: &gameserverv1.PlayersRemoved{PlayerIds: e.PlayersRemoved}}}, nil
	case e.PlayersUpdated != nil:
		players, err := Players(e.PlayersUpdated)
		return &gameserverv1.InstanceEvent{Event: &gameserverv1.InstanceEvent_PlayersUpdated{PlayersUpdated: &gameserverv1.PlayersUpdated{Players: players}}}, err
	case e.GameDataUpdated != nil:
		data, err := Data(*e.GameDataUpdated)
		return &gameserverv1.InstanceEvent{Event: &gameserverv1.InstanceEvent_GameDataUpdated{GameDataUpdated: &gameserverv1.GameDataUpdated{GameData: data}}}, err
	case e.Message != nil:
		data, err := Data(e.Message.Data)
		return &gameserverv1.InstanceEvent{Event: &gameserverv1.InstanceEvent_Message{Message: &gameserverv1.MessageReceived{
			MessageId: e.Message.ID, Topic: e.Message.Topic, Data: data,
		}}}, err
	case e.Resync != nil:
		return &gameserverv1.InstanceEvent{Event: &gameserverv1.InstanceEvent_Resync{Resync: &gameserverv1.Resync{Revision: e.Resync.Revision}}}, nil
	case e.Superseded != nil:
		return &gameserverv1.InstanceEvent{Event: &gameserverv1.InstanceEvent_Superseded{Superseded: &gameserverv1.Superseded{Message: e.Superseded.Message}}}, nil
	case e.Terminated != nil:
		return &gameserverv1.InstanceEvent{Event: &gameserverv1.InstanceEvent_Terminated{Terminated: &gameserverv1.Terminated{
			Reason: instancev1.GameInstance_Reason(e.Terminated.Reason), Message: e.Terminated.Message,
		}}}, nil
	default:
		return &gameserverv1.InstanceEvent{}, nil // of a newer version: the server ignores it, and the sequence stays whole
	}
}

func placement(p instance.Placement) *instancev1.Placement {
	out := &instancev1.Placement{Build: p.Build, Regions: p.Regions, Labels: p.Labels, Priority: int32(p.Priority)}
	for region, d := range p.Latencies {
		if out.Latencies == nil {
			out.Latencies = make(map[string]*durationpb.Duration, len(p.Latencies))
		}
		out.Latencies[region] = durationpb.New(d)
	}
	return out
}

func link(l *instance.Link) *instancev1.Link {
	if l == nil {
		return nil
	}
	return &instancev1.Link{ServerId: l.ServerID, Connected: l.Connected, Epoch: l.Epoch, LinkTime: timestamp(l.LinkTime), ConnectedChangeTime: timestamp(l.ChangeTime)}
}

func timeouts(t instance.Timeouts) *instancev1.Timeouts {
	return &instancev1.Timeouts{
		Allocation: duration(t.Allocation), Link: duration(t.Link), ConnectPlayers: duration(t.ConnectPlayers),
		DisconnectGrace: duration(t.DisconnectGrace), Lifetime: duration(t.Lifetime), Retention: duration(t.Retention),
	}
}

func duration(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}

func timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
