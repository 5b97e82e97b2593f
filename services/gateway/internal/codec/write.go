package codec

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/structpb"
)

// appendMessage appends a message as JSON: as protojson would write it, but with 64-bit integers as numbers, what is in its codec's form already in its place,
// and the same bytes each time.
func appendMessage(b []byte, m protoreflect.Message) ([]byte, error) {
	switch known := m.Interface().(type) {
	case *structpb.Struct:
		return appendStruct(b, known), nil
	case *structpb.Value:
		return appendValue(b, known), nil
	case *structpb.ListValue:
		return appendList(b, known), nil
	}
	if m.Descriptor().FullName().Parent() == "google.protobuf" {
		return appendKnown(b, m)
	}
	b = append(b, '{')
	fields := m.Descriptor().Fields()
	first := true
	for i := range fields.Len() {
		field := fields.Get(i)
		if !m.Has(field) {
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = append(appendString(b, field.JSONName()), ':')
		var err error
		if b, err = appendField(b, field, m.Get(field)); err != nil {
			return nil, err
		}
	}
	return append(b, '}'), nil
}

// appendKnown appends a message that JSON has a form of its own for, such as a duration.
func appendKnown(b []byte, m protoreflect.Message) ([]byte, error) {
	raw, err := protojson.Marshal(m.Interface())
	if err != nil {
		return nil, err
	}
	out := bytes.NewBuffer(b)
	err = json.Compact(out, raw) // protojson puts in spaces at random
	return out.Bytes(), err
}

func appendField(b []byte, field protoreflect.FieldDescriptor, v protoreflect.Value) ([]byte, error) {
	switch {
	case field.IsMap():
		return appendMap(b, field.MapValue(), v.Map())
	case field.IsList():
		b = append(b, '[')
		for i := range v.List().Len() {
			if i > 0 {
				b = append(b, ',')
			}
			var err error
			if b, err = appendSingle(b, field, v.List().Get(i)); err != nil {
				return nil, err
			}
		}
		return append(b, ']'), nil
	default:
		return appendSingle(b, field, v)
	}
}

func appendMap(b []byte, field protoreflect.FieldDescriptor, m protoreflect.Map) ([]byte, error) {
	var keys []protoreflect.MapKey
	m.Range(func(k protoreflect.MapKey, _ protoreflect.Value) bool { keys = append(keys, k); return true })
	slices.SortFunc(keys, func(x, y protoreflect.MapKey) int { return bytes.Compare([]byte(x.String()), []byte(y.String())) })
	b = append(b, '{')
	for i, k := range keys {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(appendString(b, k.String()), ':')
		var err error
		if b, err = appendSingle(b, field, m.Get(k)); err != nil {
			return nil, err
		}
	}
	return append(b, '}'), nil
}

// appendSingle appends one value of a field.
func appendSingle(b []byte, field protoreflect.FieldDescriptor, v protoreflect.Value) ([]byte, error) {
	switch field.Kind() {
	case protoreflect.MessageKind, protoreflect.GroupKind:
		return appendMessage(b, v.Message())
	case protoreflect.BytesKind:
		if inline(field) {
			return appendInline(b, v.Bytes()), nil
		}
		return appendString(b, base64.StdEncoding.EncodeToString(v.Bytes())), nil
	case protoreflect.StringKind:
		return appendString(b, v.String()), nil
	case protoreflect.BoolKind:
		return strconv.AppendBool(b, v.Bool()), nil
	case protoreflect.EnumKind:
		if name := field.Enum().Values().ByNumber(v.Enum()); name != nil {
			return appendString(b, string(name.Name())), nil
		}
		return strconv.AppendInt(b, int64(v.Enum()), 10), nil
	case protoreflect.DoubleKind, protoreflect.FloatKind:
		return appendNumber(b, v.Float()), nil
	default: // whole numbers
		return fmt.Append(b, v.Interface()), nil
	}
}

// inline reports whether a field of bytes holds JSON.
func inline(field protoreflect.FieldDescriptor) bool {
	return field.FullName() == "berth.link.v1.Request.payload" || field.FullName() == "berth.link.v1.Response.result"
}

func appendInline(b, raw []byte) []byte {
	if len(raw) == 0 {
		return append(b, "{}"...)
	}
	return append(b, raw...)
}

func appendStruct(b []byte, s *structpb.Struct) []byte {
	names := make([]string, 0, len(s.GetFields()))
	for name := range s.GetFields() {
		names = append(names, name)
	}
	slices.Sort(names)
	b = append(b, '{')
	for i, name := range names {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendValue(append(appendString(b, name), ':'), s.GetFields()[name])
	}
	return append(b, '}')
}

func appendList(b []byte, l *structpb.ListValue) []byte {
	b = append(b, '[')
	for i, v := range l.GetValues() {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendValue(b, v)
	}
	return append(b, ']')
}

func appendValue(b []byte, v *structpb.Value) []byte {
	switch kind := v.GetKind().(type) {
	case *structpb.Value_BoolValue:
		return strconv.AppendBool(b, kind.BoolValue)
	case *structpb.Value_NumberValue:
		return appendNumber(b, kind.NumberValue)
	case *structpb.Value_StringValue:
		return appendString(b, kind.StringValue)
	case *structpb.Value_StructValue:
		return appendStruct(b, kind.StructValue)
	case *structpb.Value_ListValue:
		return appendList(b, kind.ListValue)
	default:
		return append(b, "null"...)
	}
}

// appendNumber appends null for what JSON has no number for: one such value of a game's must not cost the frame.
func appendNumber(b []byte, v float64) []byte {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return append(b, "null"...)
	}
	raw, _ := json.Marshal(v) // does not fail for these
	return append(b, raw...)
}

// appendString does not escape what only HTML needs escaped: six bytes for one would make a frame of a game's data six times as large.
func appendString(b []byte, s string) []byte {
	to := bytes.NewBuffer(b)
	e := json.NewEncoder(to)
	e.SetEscapeHTML(false)
	_ = e.Encode(s) // does not fail for strings
	return bytes.TrimSuffix(to.Bytes(), []byte("\n"))
}
