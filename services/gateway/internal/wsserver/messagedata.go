package wsserver

import (
	"encoding/binary"
	"math"
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

// memberValue is the field without which a member of an object has no value.
const memberValue = 2

// numberValue is the field of a value that has a number.
const numberValue = 2

// holds reports whether raw is the shape as it is usually encoded, with objects and arrays nested at most depth deep, raw itself included. It allocates nothing.
// What it refuses may be unusual only, such as a field of a later version.
func (s shape) holds(raw []byte, depth int) bool {
	if s == object || s == list {
		if depth--; depth < 0 {
			return false
		}
	}
	whole := s != member && s != value
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
		if s == value && number == numberValue && (typ != protowire.Fixed64Type || !finite(math.Float64frombits(binary.LittleEndian.Uint64(raw[1:])))) {
			return false
		}
		whole = whole || s.filledBy(number, typ)
		raw = raw[1+n:]
	}
	return whole
}

// filledBy reports whether a field is one of which a member or a value must have one.
func (s shape) filledBy(number byte, typ protowire.Type) bool {
	if s == member {
		return number == memberValue && typ == protowire.BytesType
	}
	switch number {
	case 1, 4: // null and a boolean
		return typ == protowire.VarintType
	case numberValue:
		return typ == protowire.Fixed64Type
	default:
		return number <= 6 && typ == protowire.BytesType
	}
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

// plain reports whether a decoded value is one in JSON: who reads it so could not, and with it all that follows.
func plain(v *structpb.Value) bool {
	switch k := v.GetKind().(type) {
	case nil:
		return false
	case *structpb.Value_NumberValue:
		return finite(k.NumberValue)
	case *structpb.Value_StructValue:
		for _, inner := range k.StructValue.GetFields() {
			if !plain(inner) {
				return false
			}
		}
	case *structpb.Value_ListValue:
		for _, inner := range k.ListValue.GetValues() {
			if !plain(inner) {
				return false
			}
		}
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
