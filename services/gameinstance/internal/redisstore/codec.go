package redisstore

import (
	"fmt"
	"sort"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	recordv1 "github.com/berth-dev/berth/pkg/gen/berth/record/v1"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"github.com/berth-dev/berth/services/gameinstance/internal/instance"
)

// Fields of an instance's hash.
const (
	fieldRevision = "rev"
	fieldOffset   = "off"
	fieldHead     = "head"
	fieldData     = "data"
	fieldResult   = "result"
	playerPrefix  = "p:"
)

// encodeChange returns the fields to set (name, value, name, …) and to drop.
func encodeChange(c *instance.Change) (set, drop []any, err error) {
	put := func(field string, m proto.Message) {
		b, e := proto.MarshalOptions{Deterministic: true}.Marshal(m)
		if e != nil {
			err = fmt.Errorf("encode %s: %w", field, e)
		}
		set = append(set, field, b)
	}
	put(fieldHead, encodeHead(c.After))
	if c.Before == nil || !sameData(c.Before.GameData, c.After.GameData) {
		put(fieldData, encodeData(c.After.GameData))
	}
	if c.After.Result.Set && (c.Before == nil || !c.Before.Result.Set) {
		put(fieldResult, encodeData(c.After.Result))
	}
	touched := make([]string, 0, len(c.TouchedPlayers()))
	for id := range c.TouchedPlayers() {
		touched = append(touched, id)
	}
	sort.Strings(touched)
	for _, id := range touched {
		if p, ok := c.After.Players[id]; ok {
			put(playerPrefix+id, encodePlayer(p))
		} else {
			drop = append(drop, playerPrefix+id)
		}
	}
	return set, drop, err
}

// sameData spares the write of data that a command did not touch.
func sameData(a, b instance.Data) bool {
	return a.Set == b.Set && string(a.JSON) == string(b.JSON) && string(a.Binary) == string(b.Binary)
}

func decodeInstance(fields map[string]string) (*instance.Instance, error) {
	if len(fields) == 0 {
		return nil, nil
	}
	var head recordv1.InstanceHead
	if err := proto.Unmarshal([]byte(fields[fieldHead]), &head); err != nil {
		return nil, fmt.Errorf("decode head: %w", err)
	}
	inst := decodeHead(&head)
	var err error
	if inst.Revision, err = strconv.ParseInt(fields[fieldRevision], 10, 64); err != nil {
		return nil, fmt.Errorf("decode revision: %w", err)
	}
	if off := fields[fieldOffset]; off != "" {
		if inst.LastOffset, err = strconv.ParseInt(off, 10, 64); err != nil {
			return nil, fmt.Errorf("decode offset: %w", err)
		}
	}
	if inst.GameData, err = decodeData(fields[fieldData]); err != nil {
		return nil, err
	}
	if inst.Result, err = decodeData(fields[fieldResult]); err != nil {
		return nil, err
	}
	for field, value := range fields {
		if id, ok := strings.CutPrefix(field, playerPrefix); ok {
			var p recordv1.PlayerRecord
			if err := proto.Unmarshal([]byte(value), &p); err != nil {
				return nil, fmt.Errorf("decode player: %w", err)
			}
			inst.Players[id] = decodePlayer(&p)
		}
	}
	return inst, nil
}

func encodeHead(i *instance.Instance) *recordv1.InstanceHead {
	h := &recordv1.InstanceHead{
		Namespace: i.Namespace, Id: i.ID, State: instancev1.GameInstance_State(i.State), Reason: instancev1.GameInstance_Reason(i.Reason), Message: i.Message,
		Settings: i.Settings, Labels: i.Labels, CreateTime: micros(i.CreateTime), UpdateTime: micros(i.UpdateTime), StartTime: micros(i.StartTime),
		EndTime: micros(i.EndTime), ExpireTime: micros(i.ExpireTime), CreateDigest: i.CreateDigest, Traceparent: i.Traceparent,
		Placement: &instancev1.Placement{Build: i.Placement.Build, Regions: i.Placement.Regions, Labels: i.Placement.Labels},
		Timeouts: &recordv1.TimeoutsRecord{
			Allocation: i.Timeouts.Allocation.Microseconds(), Link: i.Timeouts.Link.Microseconds(), ConnectPlayers: i.Timeouts.ConnectPlayers.Microseconds(),
			DisconnectGrace: i.Timeouts.DisconnectGrace.Microseconds(), Lifetime: i.Timeouts.Lifetime.Microseconds(), Retention: i.Timeouts.Retention.Microseconds(),
		},
	}
	for region, d := range i.Placement.Latencies {
		if h.Placement.Latencies == nil {
			h.Placement.Latencies = map[string]*durationpb.Duration{}
		}
		h.Placement.Latencies[region] = durationpb.New(d)
	}
	for _, e := range i.Endpoints {
		h.Endpoints = append(h.Endpoints, &typev1.Endpoint{Name: e.Name, Host: e.Host, Port: e.Port, Protocol: typev1.Protocol(e.Protocol)})
	}
	if l := i.Link; l != nil {
		h.Link = &recordv1.LinkRecord{ServerId: l.ServerID, SessionEpoch: l.SessionEpoch, GatewayId: l.GatewayID, Epoch: l.Epoch, Connected: l.Connected, LinkTime: micros(l.LinkTime), ConnectedChangeTime: micros(l.ChangeTime), Floor: l.Floor}
	}
	for _, a := range i.Attempts {
		h.Attempts = append(h.Attempts, &recordv1.AttemptRecord{
			Id: a.ID, ServerId: a.ServerID, Fate: instancev1.Attempt_Fate(a.Fate), Provider: a.Provider, Region: a.Region,
			CreateTime: micros(a.CreateTime), AllocateTime: micros(a.AllocateTime), ReleaseTime: micros(a.ReleaseTime),
		})
	}
	for kind, at := range i.Deadlines {
		h.Deadlines = append(h.Deadlines, &recordv1.DeadlineRecord{Kind: recordv1.DeadlineKind(kind), At: micros(at)})
	}
	for _, c := range i.Outbox {
		h.Outbox = append(h.Outbox, &recordv1.OutboxCall{Kind: recordv1.OutboxKind(c.Kind), AttemptId: c.AttemptID, Due: micros(c.Due), Tries: c.Tries})
	}
	return h
}

func decodeHead(h *recordv1.InstanceHead) *instance.Instance {
	t := h.GetTimeouts()
	i := &instance.Instance{
		Namespace: h.GetNamespace(), ID: h.GetId(), State: instance.State(h.GetState()), Reason: instance.Reason(h.GetReason()), Message: h.GetMessage(),
		Settings: h.GetSettings(), Labels: h.GetLabels(), CreateTime: at(h.GetCreateTime()), UpdateTime: at(h.GetUpdateTime()), StartTime: at(h.GetStartTime()),
		EndTime: at(h.GetEndTime()), ExpireTime: at(h.GetExpireTime()), CreateDigest: h.GetCreateDigest(), Traceparent: h.GetTraceparent(),
		Placement: instance.Placement{Build: h.GetPlacement().GetBuild(), Regions: h.GetPlacement().GetRegions(), Labels: h.GetPlacement().GetLabels()},
		Timeouts: instance.Timeouts{
			Allocation: span(t.GetAllocation()), Link: span(t.GetLink()), ConnectPlayers: span(t.GetConnectPlayers()),
			DisconnectGrace: span(t.GetDisconnectGrace()), Lifetime: span(t.GetLifetime()), Retention: span(t.GetRetention()),
		},
		Players: map[string]instance.Player{}, Deadlines: map[instance.DeadlineKind]time.Time{},
	}
	for region, d := range h.GetPlacement().GetLatencies() {
		if i.Placement.Latencies == nil {
			i.Placement.Latencies = map[string]time.Duration{}
		}
		i.Placement.Latencies[region] = d.AsDuration()
	}
	for _, e := range h.GetEndpoints() {
		i.Endpoints = append(i.Endpoints, instance.Endpoint{Name: e.GetName(), Host: e.GetHost(), Port: e.GetPort(), Protocol: int32(e.GetProtocol())})
	}
	if l := h.GetLink(); l != nil {
		i.Link = &instance.Link{ServerID: l.GetServerId(), SessionEpoch: l.GetSessionEpoch(), GatewayID: l.GetGatewayId(), Epoch: l.GetEpoch(), Connected: l.GetConnected(), LinkTime: at(l.GetLinkTime()), ChangeTime: at(l.GetConnectedChangeTime()), Floor: l.GetFloor()}
	}
	for _, a := range h.GetAttempts() {
		i.Attempts = append(i.Attempts, instance.Attempt{
			ID: a.GetId(), ServerID: a.GetServerId(), Fate: instance.Fate(a.GetFate()), Provider: a.GetProvider(), Region: a.GetRegion(),
			CreateTime: at(a.GetCreateTime()), AllocateTime: at(a.GetAllocateTime()), ReleaseTime: at(a.GetReleaseTime()),
		})
	}
	for _, d := range h.GetDeadlines() {
		i.Deadlines[instance.DeadlineKind(d.GetKind())] = at(d.GetAt())
	}
	for _, c := range h.GetOutbox() {
		i.Outbox = append(i.Outbox, instance.Call{Kind: instance.CallKind(c.GetKind()), AttemptID: c.GetAttemptId(), Due: at(c.GetDue()), Tries: c.GetTries()})
	}
	return i
}

func encodePlayer(p instance.Player) *recordv1.PlayerRecord {
	return &recordv1.PlayerRecord{
		Id: p.ID, PartyId: p.PartyID, TeamId: p.TeamID, Data: encodeStored(p.Data), Connectable: p.Connectable,
		Presence: instancev1.Player_Presence(p.Presence), AddTime: micros(p.AddTime),
	}
}

func decodePlayer(p *recordv1.PlayerRecord) instance.Player {
	return instance.Player{
		ID: p.GetId(), PartyID: p.GetPartyId(), TeamID: p.GetTeamId(), Data: decodeStored(p.GetData()), Connectable: p.GetConnectable(),
		Presence: instance.Presence(p.GetPresence()), AddTime: at(p.GetAddTime()),
	}
}

// StoredData carries JSON as the bytes that it came in: the store has no business in building trees of it.
func encodeData(d instance.Data) *recordv1.StoredData {
	if s := encodeStored(d); s != nil {
		return s
	}
	return &recordv1.StoredData{}
}

func encodeStored(d instance.Data) *recordv1.StoredData {
	switch {
	case !d.Set:
		return nil
	case d.JSON != nil:
		return &recordv1.StoredData{Kind: &recordv1.StoredData_Json{Json: d.JSON}, Size: int64(d.Size)}
	default:
		return &recordv1.StoredData{Kind: &recordv1.StoredData_Binary{Binary: d.Binary}, Size: int64(d.Size)}
	}
}

func decodeData(value string) (instance.Data, error) {
	var s recordv1.StoredData
	if err := proto.Unmarshal([]byte(value), &s); err != nil {
		return instance.Data{}, fmt.Errorf("decode data: %w", err)
	}
	return decodeStored(&s), nil
}

func decodeStored(s *recordv1.StoredData) instance.Data {
	switch k := s.GetKind().(type) {
	case *recordv1.StoredData_Json:
		return instance.Data{Set: true, JSON: k.Json, Size: int(s.GetSize())}
	case *recordv1.StoredData_Binary:
		return instance.Data{Set: true, Binary: k.Binary, Size: int(s.GetSize())}
	default:
		return instance.Data{}
	}
}

func encodeHistory(h instance.HistoryEntry) ([]byte, error) {
	return proto.Marshal(&recordv1.HistoryRecord{
		Time: micros(h.Time), Event: h.Event, FromState: instancev1.GameInstance_State(h.From), ToState: instancev1.GameInstance_State(h.To), Actor: h.Actor, Detail: h.Detail,
	})
}

func decodeHistory(line string) (instance.HistoryEntry, error) {
	rev, rest, _ := strings.Cut(line, ":")
	revision, err := strconv.ParseInt(rev, 10, 64)
	if err != nil {
		return instance.HistoryEntry{}, err
	}
	var h recordv1.HistoryRecord
	if err := proto.Unmarshal([]byte(rest), &h); err != nil {
		return instance.HistoryEntry{}, err
	}
	return instance.HistoryEntry{
		Time: at(h.GetTime()), Revision: revision, Event: h.GetEvent(), From: instance.State(h.GetFromState()), To: instance.State(h.GetToState()), Actor: h.GetActor(), Detail: h.GetDetail(),
	}, nil
}

func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func at(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us)
}

func span(us int64) time.Duration { return time.Duration(us) * time.Microsecond }
