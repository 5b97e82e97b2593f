package wire

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/berth-dev/berth/pkg/errs"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"github.com/berth-dev/berth/services/gameinstance/internal/instance"
)

// FromData reads a game's data; nil is none.
func FromData(field string, d *typev1.Data) (instance.Data, error) {
	switch k := d.GetKind().(type) {
	case *typev1.Data_Json:
		b, err := FromStruct(field, k.Json)
		return instance.Data{Set: true, JSON: b, Size: proto.Size(d), Visibility: instance.Visibility(d.GetVisibility())}, err
	case *typev1.Data_Binary:
		return instance.Data{Set: true, Binary: k.Binary, Size: proto.Size(d), Visibility: instance.Visibility(d.GetVisibility())}, nil
	default:
		if d != nil {
			return instance.Data{}, errs.New(errs.ValidationFailed, "%s: has neither json nor binary", field)
		}
		return instance.Data{}, nil
	}
}

// FromUpdate reads a change of a game's data; nil changes nothing.
func FromUpdate(field string, d *typev1.Data, mode instancev1.UpdateMode) (instance.Update, error) {
	data, err := FromData(field, d)
	if err != nil {
		return instance.Update{}, err
	}
	merge := mode == instancev1.UpdateMode_UPDATE_MODE_MERGE
	if merge && data.Set && data.JSON == nil {
		return instance.Update{}, errs.New(errs.ValidationFailed, "%s: a merge patch must be a JSON object (json), not binary", field)
	}
	return instance.Update{Data: data, Merge: merge}, nil
}

// FromStruct reads a JSON object; nil stays nil.
func FromStruct(field string, s *structpb.Struct) ([]byte, error) {
	if s == nil {
		return nil, nil
	}
	// proto.Size is a cheap first bound, so that nothing huge is encoded only to be refused.
	if proto.Size(s) > 2*instance.MaxData {
		return nil, tooLarge(field)
	}
	spaced, err := protojson.Marshal(s)
	if err != nil {
		return nil, errs.New(errs.ValidationFailed, "%s: not valid JSON data: numbers must be finite", field)
	}
	// protojson puts spaces behind commas in some builds and not in others, and what fits must not depend on that.
	var b bytes.Buffer
	if err := json.Compact(&b, spaced); err != nil {
		return nil, fmt.Errorf("%s: %w", field, err)
	}
	if b.Len() > instance.MaxData {
		return nil, tooLarge(field)
	}
	return b.Bytes(), nil
}

func tooLarge(field string) error {
	return errs.New(errs.ValidationFailed, "%s: larger than %d bytes as JSON", field, instance.MaxData)
}

// FromPlayers reads players whom somebody adds.
func FromPlayers(players []*instancev1.Player) ([]instance.Player, error) {
	out := make([]instance.Player, 0, len(players))
	seen := make(map[string]bool, len(players))
	for n, p := range players {
		if seen[p.GetId()] {
			return nil, errs.New(errs.ValidationFailed, "players[%d].id: %q is there twice", n, p.GetId())
		}
		seen[p.GetId()] = true
		data, err := FromData(fmt.Sprintf("players[%d].data", n), p.GetData())
		if err != nil {
			return nil, err
		}
		out = append(out, instance.Player{ID: p.GetId(), PartyID: p.GetPartyId(), TeamID: p.GetTeamId(), Data: data})
	}
	return out, nil
}

// FromPlayerUpdates reads changes to players.
func FromPlayerUpdates(updates []*instancev1.PlayerUpdate) ([]instance.PlayerUpdate, error) {
	out := make([]instance.PlayerUpdate, 0, len(updates))
	seen := make(map[string]bool, len(updates))
	for n, u := range updates {
		if seen[u.GetPlayerId()] {
			return nil, errs.New(errs.ValidationFailed, "players[%d].player_id: %q is there twice", n, u.GetPlayerId())
		}
		seen[u.GetPlayerId()] = true
		data, err := FromUpdate(fmt.Sprintf("players[%d].data", n), u.GetData(), u.GetMode())
		if err != nil {
			return nil, err
		}
		out = append(out, instance.PlayerUpdate{ID: u.GetPlayerId(), Data: data, Presence: instance.Presence(u.GetPresence())})
	}
	return out, nil
}

// FromPlacement reads a placement.
func FromPlacement(p *instancev1.Placement) instance.Placement {
	out := instance.Placement{Build: p.GetBuild(), Regions: p.GetRegions(), Labels: p.GetLabels(), Priority: int(p.GetPriority())}
	for region, d := range p.GetLatencies() {
		if out.Latencies == nil {
			out.Latencies = map[string]time.Duration{}
		}
		out.Latencies[region] = d.AsDuration()
	}
	return out
}

// ToPlacement returns the public message of a placement.
func ToPlacement(p instance.Placement) *instancev1.Placement { return placement(p) }

// FromTimeouts reads time-outs; unset ones are 0.
func FromTimeouts(t *instancev1.Timeouts) instance.Timeouts {
	return instance.Timeouts{
		Allocation: t.GetAllocation().AsDuration(), Link: t.GetLink().AsDuration(), ConnectPlayers: t.GetConnectPlayers().AsDuration(),
		DisconnectGrace: t.GetDisconnectGrace().AsDuration(), Lifetime: t.GetLifetime().AsDuration(), Retention: t.GetRetention().AsDuration(),
	}
}

// FromServer reads the endpoints that a server names, or is registered with: their names are unique.
func FromServer(endpoints []*typev1.Endpoint) ([]instance.Endpoint, error) {
	seen := make(map[string]bool, len(endpoints))
	for n, e := range endpoints {
		if seen[e.GetName()] {
			return nil, errs.New(errs.ValidationFailed, "endpoints[%d].name: %q is there twice", n, e.GetName())
		}
		seen[e.GetName()] = true
	}
	return FromEndpoints(endpoints), nil
}

// FromEndpoints reads endpoints.
func FromEndpoints(endpoints []*typev1.Endpoint) []instance.Endpoint {
	out := make([]instance.Endpoint, 0, len(endpoints))
	for _, e := range endpoints {
		out = append(out, instance.Endpoint{Name: e.GetName(), Host: e.GetHost(), Port: e.GetPort(), Protocol: int32(e.GetProtocol())})
	}
	return out
}
