package wsserver

import (
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/structpb"
)

const (
	// maxDepth is how deep objects and arrays may be nested in a message's data, as in that of a request.
	maxDepth = 64
	// quickDepth is up to which depth data is looked at in place. It bounds the stack that this takes of a connection's reader.
	quickDepth = 8
)

// fields is above all numbers of fields in data. Their tags have one byte.
const fields = 8

// shape is a message of berth.type.v1.Data and of what is within it.
type shape int

const (
	opaque shape = iota // bytes, or a field that is not known
	text                // a string
	data
	object // google.protobuf.Struct
	member // an entry of its map
	value  // google.protobuf.Value
	list   // google.protobuf.ListValue
)

// within is what a shape's length-delimited fields are, by their numbers; what is not here is opaque.
var within = [list + 1][fields]shape{
	data:   {1: object},
	object: {1: member},
	member: {1: text, 2: value},
	value:  {3: text, 5: object, 6: list},
	list:   {1: value},
}

// holds reports whether raw is the shape as it is usually encoded, with objects and arrays nested at most depth deep, raw itself included. It allocates nothing.
// What it refuses may be unusual only, such as a field of a later version.
func (s shape) holds(raw []byte, depth int) bool {
	if s == object || s == list {
		if depth--; depth < 0 {
			return false
		}
	}
	for len(raw) > 0 {
		number, typ := raw[0]>>3, protowire.Type(raw[0]&7)
		if number == 0 || number >= fields {
			return false
		}
		var content []byte
		n := 0
		switch typ {
		case protowire.BytesType:
			content, n = protowire.ConsumeBytes(raw[1:])
		case protowire.VarintType, protowire.Fixed64Type:
			n = protowire.ConsumeFieldValue(protowire.Number(number), typ, raw[1:])
		default:
			return false
		}
		if n < 0 || !s.fits(number, content, depth) {
			return false
		}
		raw = raw[1+n:]
	}
	return true
}

// fits reports whether the content of a field is what it must be; that of a number is nil.
func (s shape) fits(number byte, content []byte, depth int) bool {
	switch inner := within[s][number]; inner {
	case opaque:
		return true
	case text:
		return utf8.Valid(content)
	default:
		return inner.holds(content, depth)
	}
}

// deeper reports whether a decoded value has objects and arrays nested more than depth deep.
func deeper(v *structpb.Value, depth int) bool {
	switch k := v.GetKind().(type) {
	case *structpb.Value_StructValue:
		if depth == 0 {
			return true
		}
		for _, inner := range k.StructValue.GetFields() {
			if deeper(inner, depth-1) {
				return true
			}
		}
	case *structpb.Value_ListValue:
		if depth == 0 {
			return true
		}
		for _, inner := range k.ListValue.GetValues() {
			if deeper(inner, depth-1) {
				return true
			}
		}
	}
	return false
}
