package rpc

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/berth-dev/berth/pkg/errs"
)

// maxDepth is how deep objects and arrays may be nested in a google.protobuf.Struct, Value or ListValue of a request. Decoders give up at a depth
// of their own, which a record, an event or an answer around the same data reaches sooner than the request did: what was accepted deeper than
// this could be stored and never read again.
const maxDepth = 64

// carriers knows, for each message of requests that has JSON in it, in which of its fields to look. Messages that are not in it have none.
type carriers map[protoreflect.FullName][]protoreflect.FieldDescriptor

// newCarriers looks through the requests of the services, so that none has to be looked through when it comes.
func newCarriers(services []string) (carriers, error) {
	c := make(carriers)
	for _, name := range services {
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(name))
		if err != nil {
			return nil, fmt.Errorf("requests of %s: %w", name, err)
		}
		service, ok := d.(protoreflect.ServiceDescriptor)
		if !ok {
			return nil, fmt.Errorf("requests of %s: not a service", name)
		}
		for i := range service.Methods().Len() {
			c.add(service.Methods().Get(i).Input())
		}
	}
	return c, nil
}

// add notes a message and those inside it, and reports whether there is JSON anywhere in it.
func (c carriers) add(m protoreflect.MessageDescriptor) bool {
	if isJSON(m) {
		return true
	}
	if _, known := c[m.FullName()]; known {
		return true
	}
	if !carries(m, make(map[protoreflect.FullName]bool)) {
		return false
	}
	c[m.FullName()] = nil // before its fields: it may have itself inside
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		if inner := messageOf(f); inner != nil && c.add(inner) {
			c[m.FullName()] = append(c[m.FullName()], f)
		}
	}
	return true
}

// carries reports whether JSON is anywhere inside a message; seen are the messages that are being looked at already.
func carries(m protoreflect.MessageDescriptor, seen map[protoreflect.FullName]bool) bool {
	if isJSON(m) {
		return true
	}
	if seen[m.FullName()] {
		return false
	}
	seen[m.FullName()] = true
	for i := range m.Fields().Len() {
		if inner := messageOf(m.Fields().Get(i)); inner != nil && carries(inner, seen) {
			return true
		}
	}
	return false
}

// messageOf returns the message that a field, or each of its entries, has; nil for scalars.
func messageOf(f protoreflect.FieldDescriptor) protoreflect.MessageDescriptor {
	if f.IsMap() {
		f = f.MapValue()
	}
	return f.Message()
}

func isJSON(m protoreflect.MessageDescriptor) bool {
	switch m.FullName() {
	case "google.protobuf.Struct", "google.protobuf.Value", "google.protobuf.ListValue":
		return true
	default:
		return false
	}
}

// check refuses a request with JSON that is nested too deep, and names the field.
func (c carriers) check(m proto.Message) error {
	if path, deep := c.tooDeep(m.ProtoReflect()); deep {
		return errs.New(errs.ValidationFailed, "%s: objects and arrays may be nested at most %d deep", strings.TrimPrefix(path, "."), maxDepth)
	}
	return nil
}

// tooDeep reports whether a message has JSON that is nested too deep, and the path to it from that message: ".players[0].data.json".
func (c carriers) tooDeep(m protoreflect.Message) (path string, deep bool) {
	switch v := m.Interface().(type) {
	case *structpb.Struct:
		return "", structDeeper(v, maxDepth)
	case *structpb.ListValue:
		return "", listDeeper(v, maxDepth)
	case *structpb.Value:
		return "", valueDeeper(v, maxDepth)
	}
	for _, f := range c[m.Descriptor().FullName()] {
		if !m.Has(f) {
			continue
		}
		if path, deep := c.fieldTooDeep(f, m.Get(f)); deep {
			return "." + string(f.Name()) + path, true
		}
	}
	return "", false
}

func (c carriers) fieldTooDeep(f protoreflect.FieldDescriptor, v protoreflect.Value) (path string, deep bool) {
	switch {
	case f.IsList():
		for i := range v.List().Len() {
			if path, deep := c.tooDeep(v.List().Get(i).Message()); deep {
				return fmt.Sprintf("[%d]%s", i, path), true
			}
		}
		return "", false
	case f.IsMap():
		v.Map().Range(func(key protoreflect.MapKey, v protoreflect.Value) bool {
			if path, deep = c.tooDeep(v.Message()); deep {
				path = fmt.Sprintf("[%q]%s", key.String(), path)
			}
			return !deep
		})
		return path, deep
	default:
		return c.tooDeep(v.Message())
	}
}

// structDeeper reports whether a Struct has more than depth levels, itself the first.
func structDeeper(s *structpb.Struct, depth int) bool {
	if depth == 0 {
		return true
	}
	for _, v := range s.GetFields() {
		if valueDeeper(v, depth-1) {
			return true
		}
	}
	return false
}

func listDeeper(l *structpb.ListValue, depth int) bool {
	if depth == 0 {
		return true
	}
	for _, v := range l.GetValues() {
		if valueDeeper(v, depth-1) {
			return true
		}
	}
	return false
}

func valueDeeper(v *structpb.Value, depth int) bool {
	switch k := v.GetKind().(type) {
	case *structpb.Value_StructValue:
		return structDeeper(k.StructValue, depth)
	case *structpb.Value_ListValue:
		return listDeeper(k.ListValue, depth)
	default:
		return false
	}
}
