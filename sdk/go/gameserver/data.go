package gameserver

import (
	"encoding/json"
	"errors"
	"fmt"

	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"
)

// JSON makes data of a Go value that encoding/json turns into an object: a struct or a map.
func JSON(v any) (*typev1.Data, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("gameserver: data: %w", err)
	}
	object := new(structpb.Struct)
	if err := protojson.Unmarshal(b, object); err != nil {
		return nil, fmt.Errorf("gameserver: data: %T is not a JSON object", v)
	}
	return &typev1.Data{Kind: &typev1.Data_Json{Json: object}}, nil
}

// DecodeJSON stores data that is a JSON object in the value that v points to, as encoding/json does. No data is an empty object.
func DecodeJSON(data *typev1.Data, v any) error {
	if _, binary := data.GetKind().(*typev1.Data_Binary); binary {
		return errors.New("gameserver: data: it is binary, not JSON")
	}
	object := data.GetJson()
	if object == nil {
		object = new(structpb.Struct)
	}
	b, err := protojson.Marshal(object)
	if err != nil {
		return fmt.Errorf("gameserver: data: %w", err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("gameserver: data: %w", err)
	}
	return nil
}
