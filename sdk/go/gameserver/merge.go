package gameserver

import (
	"maps"

	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	"google.golang.org/protobuf/types/known/structpb"
)

// mergeData returns what Berth makes of data when patch is merged into it. Neither is changed, and the result shares parts with both.
// Binary data cannot be merged: Berth refuses that.
func mergeData(data, patch *typev1.Data) *typev1.Data {
	if data.GetBinary() != nil || patch.GetBinary() != nil {
		return data
	}
	visibility := data.GetVisibility()
	if patch.GetVisibility() != typev1.Data_VISIBILITY_UNSPECIFIED {
		visibility = patch.GetVisibility()
	}
	merged := mergeObject(data.GetJson(), patch.GetJson())
	return &typev1.Data{Kind: &typev1.Data_Json{Json: merged}, Visibility: visibility}
}

// mergeObject applies a JSON merge patch (RFC 7396) to an object: members are set, those that are null removed, objects merged.
func mergeObject(target, patch *structpb.Struct) *structpb.Struct {
	fields := maps.Clone(target.GetFields())
	if fields == nil {
		fields = make(map[string]*structpb.Value, len(patch.GetFields()))
	}
	for name, v := range patch.GetFields() {
		if _, null := v.GetKind().(*structpb.Value_NullValue); null {
			delete(fields, name)
		} else {
			fields[name] = mergeValue(fields[name], v)
		}
	}
	return &structpb.Struct{Fields: fields}
}

// mergeValue is mergeObject for any value: what is no object takes the place of what was there.
func mergeValue(target, patch *structpb.Value) *structpb.Value {
	if object, ok := patch.GetKind().(*structpb.Value_StructValue); ok {
		return structpb.NewStructValue(mergeObject(target.GetStructValue(), object.StructValue))
	}
	return patch
}
