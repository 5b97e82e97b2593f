package api

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
)

// An rpc that is added has no case until somebody writes some.
func TestEveryRPCHasGoodCasesAndRefusals(t *testing.T) {
	c := load(t)
	good, refused := map[string]bool{}, map[string]bool{}
	for _, ac := range c.cases {
		for _, way := range ac.ways() {
			key := title(ac.method) + " over " + way
			if ac.Fails == nil {
				good[key] = true
			} else {
				refused[key] = true
			}
		}
	}
	for _, m := range c.base.rpcs {
		for _, way := range []string{"grpc", "rest"} {
			if way == "rest" && httpRule(m) == nil {
				continue
			}
			key := title(m) + " over " + way
			if never := neverGood[title(m)] != ""; good[key] == never {
				t.Errorf("a case of a good %s: %v, which contradicts neverGood", key, good[key])
			}
			if never := neverRefused[key] != ""; refused[key] == never {
				t.Errorf("a case of a refused %s: %v, which contradicts neverRefused", key, refused[key])
			}
		}
	}
}

// Each rpc is refused to those who may not call it. That the role which it asks for is enough, its good cases show: it is that of their key.
func TestEveryRPCIsRefusedToOthers(t *testing.T) {
	c := load(t)
	refused := map[string]bool{}
	for _, ac := range c.cases {
		if ac.Fails != nil && (ac.Over == "" || neverRefused[title(ac.method)+" over rest"] != "") {
			refused[title(ac.method)+" with "+ac.Key+": "+ac.Fails.Reason] = true
		}
	}
	for _, m := range c.base.rpcs {
		want := []string{unknownKey + ": CREDENTIALS_INVALID"}
		role := roleOf(m)
		switch {
		case accessOf(m) == typev1.Role_ROLE_INTERNAL:
			want = append(want, noKey+": CREDENTIALS_MISSING", keyOf(len(keyRoles)-1)+": ROLE_REQUIRED")
		case role >= 0:
			want = append(want, noKey+": CREDENTIALS_MISSING")
		}
		if hasNamespace(m) && role >= 0 {
			want = append(want, elsewhereKey+": NAMESPACE_DENIED")
		}
		if role > 0 {
			want = append(want, keyOf(role-1)+": ROLE_REQUIRED")
		}
		for _, w := range want {
			if key := title(m) + " with " + w; !refused[key] {
				t.Errorf("no case of %s", key)
			}
		}
	}
}

// What only reads says so, or each call of it would be recorded as an act.
func TestWhatIsReadIsNoAct(t *testing.T) {
	for _, m := range load(t).base.rpcs {
		options, _ := m.Options().(*descriptorpb.MethodOptions)
		reads := options.GetIdempotencyLevel() == descriptorpb.MethodOptions_NO_SIDE_EFFECTS
		if asksGet := httpRule(m).GetGet() != ""; asksGet && roleOf(m) > 0 && !reads {
			t.Errorf("%s is a GET, and does not say idempotency_level = NO_SIDE_EFFECTS", title(m))
		}
	}
}

// A public service that is added is asked, or says here why not.
func TestEveryPublicServiceIsAsked(t *testing.T) {
	known := map[protoreflect.FullName]bool{}
	for _, s := range services {
		known[s.name] = true
	}
	found := 0
	protoregistry.GlobalFiles.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		options, _ := f.Options().(*descriptorpb.FileOptions)
		if !strings.HasPrefix(options.GetGoPackage(), "github.com/berth-dev/berth/sdk/go/gen/") { // the others are not public
			return true
		}
		for i := range f.Services().Len() {
			found++
			name := f.Services().Get(i).FullName()
			if known[name] == (unasked[name] != "") {
				t.Errorf("%s must be among either services or unasked", name)
			}
		}
		return true
	})
	if found != len(services)+len(unasked) {
		t.Errorf("there are %d public services, and %d are asked or excepted", found, len(services)+len(unasked))
	}
}

// Each validation rule of each message that a request can have is broken by a case that breaks nothing else and names the field.
func TestEveryValidationRuleIsBrokenByACase(t *testing.T) {
	validator, err := protovalidate.New()
	if err != nil {
		t.Fatal(err)
	}
	c := load(t)
	broken := map[string]int{}
	for _, ac := range c.cases {
		m := c.offline(t, ac)
		if m == nil || ac.Over == "rest" { // what only REST can say is no message
			continue
		}
		var v *protovalidate.ValidationError
		if err := validator.Validate(m); err == nil {
			continue
		} else if !errors.As(err, &v) {
			t.Fatalf("%s: %v", ac.Name, err)
		}
		if ac.Fails == nil || ac.Fails.Reason != "VALIDATION_FAILED" {
			t.Errorf("%s/%s breaks a validation rule and expects something else: %v", ac.file, ac.Name, v)
			continue
		}
		rules := map[string]bool{}
		for _, violation := range v.Violations {
			if field := protovalidate.FieldPathString(violation.Proto.GetField()); field != ac.Fails.Field {
				t.Errorf("%s/%s breaks a rule of %s, and not only of %s", ac.file, ac.Name, field, ac.Fails.Field)
			}
			rules[ruleOf(ac.method.Input(), violation.Proto)] = true
		}
		for rule := range rules {
			broken[rule]++
		}
	}
	wanted, seen := map[string]int{}, map[protoreflect.FullName]bool{}
	for _, m := range c.base.rpcs {
		rulesOf(m.Input(), wanted, seen)
	}
	if len(wanted) < 100 {
		t.Fatalf("only %d rules were found", len(wanted))
	}
	for _, rule := range slices.Sorted(maps.Keys(wanted)) {
		if broken[rule] < wanted[rule] {
			t.Errorf("%s is broken by %d cases, want %d", rule, broken[rule], wanted[rule])
		}
	}
	for rule := range broken {
		if wanted[rule] == 0 {
			t.Errorf("%s is broken by a case, but was not found in the messages", rule)
		}
	}
}

// offline returns a case's request with likely values in the places of what steps would answer; nil for one that is not JSON of its type.
func (c *corpus) offline(t *testing.T, ac apiCase) proto.Message {
	t.Helper()
	request, err := c.base.request(ac.method, &ac.Request)
	if err != nil {
		t.Fatal(err)
	}
	likely := mapStrings(request, func(s string) any {
		return reference.ReplaceAllStringFunc(s, func(ref string) string {
			switch {
			case ref == "${namespace}":
				return "n0"
			case strings.HasSuffix(ref, ".keyId}"):
				return strings.Repeat("k", 43)
			case strings.HasSuffix(ref, ".id}"), strings.HasSuffix(ref, "Id}"):
				return "5f0e4a63-0b8f-4e52-9f0c-0e4d2a6f1c12"
			default:
				return "1"
			}
		})
	})
	m, err := message(ac.method.Input(), likely)
	if err != nil {
		return nil
	}
	return m
}

// rulesOf notes the rules of a message and of those inside it: field, rule, and how many cases it takes to break it. The two ends of a range
// count as one rule that takes two.
func rulesOf(m protoreflect.MessageDescriptor, out map[string]int, seen map[protoreflect.FullName]bool) {
	if seen[m.FullName()] || m.ParentFile().Package() == "google.protobuf" {
		return
	}
	seen[m.FullName()] = true
	for i := range m.Oneofs().Len() {
		o := m.Oneofs().Get(i)
		if rules, ok := proto.GetExtension(o.Options(), validate.E_Oneof).(*validate.OneofRules); ok && rules.GetRequired() {
			out[string(o.FullName())+" required"]++
		}
	}
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		if rules, ok := proto.GetExtension(f.Options(), validate.E_Field).(*validate.FieldRules); ok && rules != nil {
			noteRules(string(f.FullName())+" ", rules.ProtoReflect(), out)
		}
		inner := f.Message()
		if f.IsMap() {
			inner = f.MapValue().Message()
		}
		if inner != nil {
			rulesOf(inner, out, seen)
		}
	}
}

func noteRules(at string, rules protoreflect.Message, out map[string]int) {
	rules.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		name := string(f.Name())
		if f.Message() != nil && f.ParentFile().Path() == "buf/validate/validate.proto" && f.Message().ParentFile() == f.ParentFile() {
			noteRules(at+name+".", v.Message(), out)
			return true
		}
		switch name {
		case "ignore": // is when the others count
		case "gt", "gte", "lt", "lte":
			out[at+"range"]++
		default:
			out[at+name]++
		}
		return true
	})
}

// ruleOf names the rule of a violation as rulesOf does.
func ruleOf(m protoreflect.MessageDescriptor, v *validate.Violation) string {
	var field protoreflect.FieldDescriptor
	for _, e := range v.GetField().GetElements() {
		if field = m.Fields().ByName(protoreflect.Name(e.GetFieldName())); field == nil { // a oneof
			return fmt.Sprintf("%s.%s required", m.FullName(), e.GetFieldName())
		}
		if m = field.Message(); field.IsMap() {
			m = field.MapValue().Message()
		}
	}
	rule := protovalidate.FieldPathString(v.GetRule())
	at := strings.LastIndex(rule, ".") + 1
	switch rule[at:] {
	case "gt", "gte", "lt", "lte":
		rule = rule[:at] + "range"
	}
	return string(field.FullName()) + " " + rule
}
