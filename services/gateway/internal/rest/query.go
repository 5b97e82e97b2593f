package rest

import (
	"maps"
	"net/url"
	"strconv"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/grpc-ecosystem/grpc-gateway/v2/utilities"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// queryParser reads query parameters as grpc-gateway does, but lets numbers pass that no value of an enum has, as they do in a body and over gRPC: it is for
// the service to refuse them, in the same words.
type queryParser struct{ runtime.DefaultQueryParser }

// Parse implements runtime.QueryParameterParser.
func (p *queryParser) Parse(target proto.Message, values url.Values, filter *utilities.DoubleArray) error {
	left := maps.Clone(values)
	for name, given := range values {
		path := strings.Split(name, ".")
		if !filter.HasCommonPrefix(path) && setEnums(target.ProtoReflect(), path, given) {
			delete(left, name)
		}
	}
	return p.DefaultQueryParser.Parse(target, left, filter)
}

// setEnums sets a list of enums that is deep in a message, and reports whether it is one and all values are either names or numbers.
func setEnums(m protoreflect.Message, path, given []string) bool {
	field := m.Descriptor().Fields().ByJSONName(path[0])
	if field == nil {
		field = m.Descriptor().Fields().ByTextName(path[0])
	}
	switch {
	case field == nil:
		return false
	case len(path) > 1:
		return field.Message() != nil && !field.IsList() && !field.IsMap() && setEnums(m.Mutable(field).Message(), path[1:], given)
	case field.Enum() == nil || !field.IsList():
		return false
	}
	list := m.NewField(field).List()
	for _, text := range given {
		number, err := strconv.ParseInt(text, 10, 32)
		if value := field.Enum().Values().ByName(protoreflect.Name(text)); value != nil {
			number, err = int64(value.Number()), nil
		}
		if err != nil {
			return false
		}
		list.Append(protoreflect.ValueOfEnum(protoreflect.EnumNumber(number)))
	}
	m.Set(field, protoreflect.ValueOfList(list))
	return true
}
