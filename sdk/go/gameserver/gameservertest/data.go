package gameservertest

import (
	"maps"

	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

const (
	maxData    = 1 << 20
	maxMessage = 64 << 10
	maxID      = 128
)

func invalid(format string, args ...any) *linkv1.Error {
	return refusal(reasonValidation, format, args...)
}

// validate refuses what Berth refuses before it looks at the instance, as far as a game server meets it by mistake.
func validate(req proto.Message) *linkv1.Error {
	switch q := req.(type) {
	case *gameserverv1.ConnectPlayersRequest:
		return uniqueIDs("player_ids", q.GetPlayerIds(), 0)
	case *gameserverv1.RemovePlayersRequest:
		return uniqueIDs("player_ids", q.GetPlayerIds(), 1)
	case *gameserverv1.AddPlayersRequest:
		ids := make([]string, 0, len(q.GetPlayers()))
		for _, p := range q.GetPlayers() {
			ids = append(ids, p.GetId())
			if refused := checkData("players.data", p.GetData()); refused != nil {
				return refused
			}
		}
		return uniqueIDs("players", ids, 1)
	case *gameserverv1.CreateAndLinkRequest:
		if refused := validate(&gameserverv1.AddPlayersRequest{Players: q.GetPlayers()}); refused != nil && len(q.GetPlayers()) > 0 {
			return refused
		}
		return checkData("game_data", q.GetGameData())
	case *gameserverv1.UpdatePlayersRequest:
		ids := make([]string, 0, len(q.GetPlayers()))
		for _, u := range q.GetPlayers() {
			ids = append(ids, u.GetPlayerId())
			if refused := checkUpdate("players.data", u.GetData(), u.GetMode()); refused != nil {
				return refused
			}
		}
		return uniqueIDs("players", ids, 1)
	case *gameserverv1.UpdateGameDataRequest:
		if q.GetGameData() == nil {
			return invalid("game_data: value is required")
		}
		return checkUpdate("game_data", q.GetGameData(), q.GetMode())
	case *gameserverv1.EndGameInstanceRequest:
		return checkData("result", q.GetResult())
	case *gameserverv1.SendMessageRequest:
		switch {
		case !topicRule.MatchString(q.GetTopic()):
			return invalid("topic: at most 64 characters A-Z a-z 0-9 . _ : / -")
		case proto.Size(q.GetData()) > maxMessage:
			return refusal(reasonLimitExceeded, "data: larger than %d bytes", maxMessage)
		}
		return checkData("data", q.GetData())
	}
	return nil
}

func uniqueIDs(field string, ids []string, atLeast int) *linkv1.Error {
	if len(ids) < atLeast || len(ids) > maxPlayers {
		return invalid("%s: must have between %d and %d", field, atLeast, maxPlayers)
	}
	seen := make(map[string]bool, len(ids))
	for _, id := range ids {
		switch {
		case id == "" || len([]rune(id)) > maxID:
			return invalid("%s: an id has 1 to %d characters", field, maxID)
		case seen[id]:
			return invalid("%s: %q is there twice", field, id)
		}
		seen[id] = true
	}
	return nil
}

func checkData(field string, d *typev1.Data) *linkv1.Error {
	switch {
	case d == nil:
		return nil
	case d.GetKind() == nil:
		return invalid("%s: has neither json nor binary", field)
	case proto.Size(d) > maxData+16:
		return invalid("%s: larger than %d bytes", field, maxData)
	}
	return nil
}

func checkUpdate(field string, d *typev1.Data, mode instancev1.UpdateMode) *linkv1.Error {
	if refused := checkData(field, d); refused != nil {
		return refused
	}
	if _, binary := d.GetKind().(*typev1.Data_Binary); binary && mode == instancev1.UpdateMode_UPDATE_MODE_MERGE {
		return invalid("%s: a merge patch must be a JSON object (json), not binary", field)
	}
	return nil
}

// updated returns what becomes of data when it is replaced by, or merged with, what is new.
func updated(field string, data, with *typev1.Data, mode instancev1.UpdateMode) (*typev1.Data, *linkv1.Error) {
	with = proto.CloneOf(with)
	if mode != instancev1.UpdateMode_UPDATE_MODE_MERGE {
		return with, nil
	}
	if _, binary := data.GetKind().(*typev1.Data_Binary); binary {
		return nil, invalid("%s: what is there is binary, and a merge patch needs JSON; replace it", field)
	}
	merged := &typev1.Data{Kind: &typev1.Data_Json{Json: mergeObject(data.GetJson(), with.GetJson())}, Visibility: with.GetVisibility()}
	if merged.GetVisibility() == typev1.Data_VISIBILITY_UNSPECIFIED {
		merged.Visibility = data.GetVisibility()
	}
	return merged, nil
}

// mergeObject applies a JSON merge patch (RFC 7396).
func mergeObject(target, patch *structpb.Struct) *structpb.Struct {
	fields := maps.Clone(target.GetFields())
	if fields == nil {
		fields = make(map[string]*structpb.Value, len(patch.GetFields()))
	}
	for name, v := range patch.GetFields() {
		switch v.GetKind().(type) {
		case *structpb.Value_NullValue:
			delete(fields, name)
		case *structpb.Value_StructValue:
			fields[name] = structpb.NewStructValue(mergeObject(fields[name].GetStructValue(), v.GetStructValue()))
		default:
			fields[name] = v
		}
	}
	return &structpb.Struct{Fields: fields}
}
