package redisstore

import (
	"fmt"

	"google.golang.org/protobuf/reflect/protoreflect"

	recordv1 "github.com/berth-dev/berth/pkg/gen/berth/record/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
)

// carryUnknown copies fields that this version does not know from a stored record into the one that takes its place, so that replicas one version apart
// may write the same instance in any order. Messages within are matched by what names them; maps have scalars in them, or messages that do not grow.
func carryUnknown(stored, next protoreflect.Message) {
	next.SetUnknown(stored.GetUnknown())
	next.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.Kind() != protoreflect.MessageKind || f.IsMap() || !stored.Has(f):
		case f.IsList():
			carryList(stored.Get(f).List(), v.List())
		case identity(stored.Get(f).Message()) == identity(v.Message()):
			carryUnknown(stored.Get(f).Message(), v.Message())
		}
		return true
	})
}

func carryList(stored, next protoreflect.List) {
	byIdentity := make(map[string]protoreflect.Message, stored.Len())
	for n := range stored.Len() {
		m := stored.Get(n).Message()
		byIdentity[identity(m)] = m
	}
	for n := range next.Len() {
		m := next.Get(n).Message()
		if before, ok := byIdentity[identity(m)]; ok {
			carryUnknown(before, m)
		}
	}
}

// identity names a message among its like. Data has none: when it is replaced, all of it is new.
func identity(m protoreflect.Message) string {
	switch r := m.Interface().(type) {
	case *recordv1.LinkRecord:
		return r.GetServerId()
	case *recordv1.AttemptRecord:
		return r.GetId()
	case *recordv1.DeadlineRecord:
		return r.GetKind().String()
	case *recordv1.OutboxCall:
		return fmt.Sprint(r.GetKind(), r.GetAttemptId())
	case *typev1.Endpoint:
		return r.GetName()
	case *recordv1.StoredData:
		return fmt.Sprintf("%p", r)
	default:
		return ""
	}
}
