package redisstore

import (
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
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
	fieldMail     = "mail"
	fieldSaid     = "said"
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
	if c.TouchedGameData() {
		put(fieldData, encodeData(c.After.GameData))
	}
	if c.After.Result.Set && (c.Before == nil || !c.Before.Result.Set) {
		put(fieldResult, encodeData(c.After.Result))
	}
	touched := slices.Sorted(maps.Keys(c.TouchedPlayers()))
	for _, id := range touched {
		if p, ok := c.After.Players[id]; ok {
			put(playerPrefix+id, encodePlayer(p))
		} else {
			drop = append(drop, playerPrefix+id)
		}
	}
	return set, drop, err
}

// readLoaded reads load.lua's reply.
func readLoaded(reply []any, commands []instance.CommandID) (instance.Loaded, error) {
	if len(reply) != 9 {
		return instance.Loaded{}, fmt.Errorf("load answered %d values", len(reply))
	}
	now, err := clock(texts(reply[:2]))
	if err != nil {
		return instance.Loaded{}, err
	}
	l := instance.Loaded{Now: now}
	mail, _ := reply[2].(int64)
	gone, _ := reply[3].(int64)
	l.Gone = gone == 1
	pairs, fields := texts(reply[4]), map[string]string{}
	for n := 0; n+1 < len(pairs); n += 2 {
		fields[pairs[n]] = pairs[n+1]
	}
	if l.Instance, err = decodeInstance(fields); err != nil || l.Instance == nil {
		return l, err
	}
	l.Instance.MailCount = int(mail)
	l.Instance.LastSession, _ = reply[7].(string)
	last, _ := reply[8].(string)
	if err := parse(last, &l.Instance.LastRequest); err != nil {
		return l, fmt.Errorf("decode the last request: %w", err)
	}
	l.Done, err = readDone(commands, texts(reply[5]), texts(reply[6]))
	return l, err
}

// clock reads what TIME has said: seconds and microseconds.
func clock(reply []string) (time.Time, error) {
	var n [2]int64
	for i := range n {
		if i >= len(reply) {
			return time.Time{}, errors.New("the store's time is missing")
		}
		if err := parse(reply[i], &n[i]); err != nil {
			return time.Time{}, fmt.Errorf("the store's time: %w", err)
		}
	}
	return time.Unix(n[0], n[1]*int64(time.Microsecond)), nil
}

// texts returns a list of strings within a reply.
func texts(v any) []string {
	list, _ := v.([]any)
	out := make([]string, len(list))
	for n, e := range list {
		out[n], _ = e.(string)
	}
	return out
}

// readDone reads which commands were committed before, from what is kept of backends' commands and of those over the link.
func readDone(commands []instance.CommandID, kept, window []string) (map[instance.CommandID]instance.Done, error) {
	_, session, _ := split(commands)
	done := map[instance.CommandID]instance.Done{}
	for _, c := range commands {
		var v string
		switch {
		case c.Name != "" && len(kept) > 0:
			v, kept = kept[0], kept[1:]
		case c.Session != session || len(window) == 0:
			continue
		default:
			v, window = window[0], window[1:]
			if v == "old" {
				done[c] = instance.Done{TooOld: true}
				continue
			}
			_, v, _ = strings.Cut(v, ":") // behind its number
		}
		if v == "" {
			continue
		}
		revision, digest, _ := strings.Cut(v, ":")
		n, err := strconv.ParseInt(revision, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("what is kept of a command: %w", err)
		}
		done[c] = instance.Done{Digest: []byte(digest), Revision: n}
	}
	return done, nil
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
	for field, into := range map[string]*int64{fieldRevision: &inst.Revision, fieldOffset: &inst.LastOffset} {
		if err := parse(fields[field], into); err != nil {
			return nil, fmt.Errorf("decode %s: %w", field, err)
		}
	}
	var mail int64
	if err := parse(fields[fieldMail], &mail); err != nil {
		return nil, fmt.Errorf("decode %s: %w", fieldMail, err)
	}
	inst.MailBytes = int(mail)
	if err := decodeTally(fields[fieldSaid], inst); err != nil {
		return nil, err
	}
	var err error
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

// parse reads a number; an absent one is 0.
func parse(s string, into *int64) (err error) {
	if s != "" {
		*into, err = strconv.ParseInt(s, 10, 64)
	}
	return err
}

func encodeHead(i *instance.Instance) *recordv1.InstanceHead {
	h := &recordv1.InstanceHead{
		Namespace: i.Namespace, Id: i.ID, State: instancev1.GameInstance_State(i.State), Reason: instancev1.GameInstance_Reason(i.Reason), Message: i.Message,
		Settings: i.Settings, Labels: i.Labels, CreateTime: micros(i.CreateTime), UpdateTime: micros(i.UpdateTime), StartTime: micros(i.StartTime),
		EndTime: micros(i.EndTime), ExpireTime: micros(i.ExpireTime), CreateDigest: i.CreateDigest, Traceparent: i.Traceparent,
		OnServerLoss: instancev1.GameInstance_OnServerLoss(i.OnLoss), PlayerCount: int32(i.PlayerCount), LastLinkEpoch: i.LastLinkEpoch,
		GameDataBytes: int64(i.GameDataBytes), PlayersBytes: int64(i.PlayersBytes),
		Placement: &instancev1.Placement{Build: i.Placement.Build, Regions: i.Placement.Regions, Labels: i.Placement.Labels, Priority: int32(i.Placement.Priority)},
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
			CreateTime: micros(a.CreateTime), AllocateTime: micros(a.AllocateTime), ReleaseTime: micros(a.ReleaseTime), Registered: a.Registered,
			Failure: a.Failure, Message: a.Message,
			ClaimNonceHash: a.ClaimNonceHash,
		})
	}
	for kind, at := range i.Deadlines {
		h.Deadlines = append(h.Deadlines, &recordv1.DeadlineRecord{Kind: recordv1.DeadlineKind(kind), At: micros(at)})
	}
	for _, c := range i.Outbox {
		h.Outbox = append(h.Outbox, &recordv1.OutboxCall{Kind: recordv1.OutboxKind(c.Kind), AttemptId: c.AttemptID, Due: micros(c.Due), Tries: c.Tries})
	}
	if stored, ok := i.Stored.(*recordv1.InstanceHead); ok {
		carryUnknown(stored.ProtoReflect(), h.ProtoReflect())
	}
	return h
}

func decodeHead(h *recordv1.InstanceHead) *instance.Instance {
	t := h.GetTimeouts()
	i := &instance.Instance{
		Namespace: h.GetNamespace(), ID: h.GetId(), State: instance.State(h.GetState()), Reason: instance.Reason(h.GetReason()), Message: h.GetMessage(),
		Settings: h.GetSettings(), Labels: h.GetLabels(), CreateTime: at(h.GetCreateTime()), UpdateTime: at(h.GetUpdateTime()), StartTime: at(h.GetStartTime()),
		EndTime: at(h.GetEndTime()), ExpireTime: at(h.GetExpireTime()), CreateDigest: h.GetCreateDigest(), Traceparent: h.GetTraceparent(),
		OnLoss: instance.OnLoss(h.GetOnServerLoss()), PlayerCount: int(h.GetPlayerCount()), LastLinkEpoch: h.GetLastLinkEpoch(),
		GameDataBytes: int(h.GetGameDataBytes()), PlayersBytes: int(h.GetPlayersBytes()), Stored: h,
		Placement: instance.Placement{Build: h.GetPlacement().GetBuild(), Regions: h.GetPlacement().GetRegions(), Labels: h.GetPlacement().GetLabels(), Priority: int(h.GetPlacement().GetPriority())},
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
			CreateTime: at(a.GetCreateTime()), AllocateTime: at(a.GetAllocateTime()), ReleaseTime: at(a.GetReleaseTime()), Registered: a.GetRegistered(),
			Failure: a.GetFailure(), Message: a.GetMessage(),
			ClaimNonceHash: a.GetClaimNonceHash(),
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
	r := &recordv1.PlayerRecord{
		Id: p.ID, PartyId: p.PartyID, TeamId: p.TeamID, Data: encodeStored(p.Data), Connectable: p.Connectable,
		Presence: instancev1.Player_Presence(p.Presence), AddTime: micros(p.AddTime),
	}
	if stored, ok := p.Stored.(*recordv1.PlayerRecord); ok {
		carryUnknown(stored.ProtoReflect(), r.ProtoReflect())
	}
	return r
}

func decodePlayer(p *recordv1.PlayerRecord) instance.Player {
	return instance.Player{
		ID: p.GetId(), PartyID: p.GetPartyId(), TeamID: p.GetTeamId(), Data: decodeStored(p.GetData()), Connectable: p.GetConnectable(),
		Presence: instance.Presence(p.GetPresence()), AddTime: at(p.GetAddTime()), Stored: p,
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
		return &recordv1.StoredData{Kind: &recordv1.StoredData_Json{Json: d.JSON}, Size: int64(d.Size), Visibility: typev1.Data_Visibility(d.Visibility)}
	default:
		return &recordv1.StoredData{Kind: &recordv1.StoredData_Binary{Binary: d.Binary}, Size: int64(d.Size), Visibility: typev1.Data_Visibility(d.Visibility)}
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
		return instance.Data{Set: true, JSON: k.Json, Size: int(s.GetSize()), Visibility: instance.Visibility(s.GetVisibility())}
	case *recordv1.StoredData_Binary:
		return instance.Data{Set: true, Binary: k.Binary, Size: int(s.GetSize()), Visibility: instance.Visibility(s.GetVisibility())}
	default:
		return instance.Data{}
	}
}

func encodeHistory(h instance.HistoryEntry) ([]byte, error) {
	return proto.Marshal(&recordv1.HistoryRecord{
		Time: micros(h.Time), Event: h.Event, FromState: instancev1.GameInstance_State(h.From), ToState: instancev1.GameInstance_State(h.To), Actor: h.Actor, Detail: h.Detail,
	})
}

// decodeHistory reads "REVISION:COUNT:FIRST:FOLD:RECORD".
func decodeHistory(line string) (instance.HistoryEntry, error) {
	parts := strings.SplitN(line, ":", 5)
	if len(parts) != 5 {
		return instance.HistoryEntry{}, errors.New("entry without its numbers")
	}
	var n [3]int64
	for i := range n {
		if err := parse(parts[i], &n[i]); err != nil {
			return instance.HistoryEntry{}, err
		}
	}
	var h recordv1.HistoryRecord
	if err := proto.Unmarshal([]byte(parts[4]), &h); err != nil {
		return instance.HistoryEntry{}, err
	}
	return instance.HistoryEntry{
		Time: at(h.GetTime()), Revision: n[0], Event: h.GetEvent(), From: instance.State(h.GetFromState()), To: instance.State(h.GetToState()), Actor: h.GetActor(),
		Detail: h.GetDetail(), Fold: parts[3] != "", Count: n[1], FirstTime: at(n[2]),
	}, nil
}

// foldKey tells which entries may be folded into one: the same event by the same actor.
func foldKey(h instance.HistoryEntry) string {
	if !h.Fold {
		return ""
	}
	sum := fnv.New64a()
	_, _ = sum.Write([]byte(h.Event + " " + h.Actor)) // fnv never fails
	return strconv.FormatUint(sum.Sum64(), 16)
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
