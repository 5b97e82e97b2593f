package api

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
)

// The programs that serve gRPC.
const (
	gameInstance = "game-instance"
	tokenIssuer  = "token-issuer"
	allocations  = "allocation"
)

// services are those whose rpcs the corpus asks, the program that serves each, and whether REST has it at the gateway's edge. One that is added has no case
// until somebody writes some.
var services = []struct {
	name protoreflect.FullName
	at   string
	edge bool
}{
	{"berth.instance.v1.GameInstanceService", gameInstance, false},
	{"berth.instance.v1.MessageService", gameInstance, false},
	{"berth.gameserver.v1.GameServerRegistryService", gameInstance, false},
	{"berth.gameserver.v1.GameServerService", gameInstance, true},
	{"berth.token.v1.TokenService", tokenIssuer, false},
	{"berth.audit.v1.AuditService", gameInstance, false},
	{"berth.allocation.v1.AllocationService", allocations, false},
}

// unasked are the public services of which the corpus asks nothing, and why.
var unasked = map[protoreflect.FullName]string{
	"berth.provider.v1.ProviderService": "no service of Berth's serves it; providers do",
}

// neverGood are the rpcs that answer nobody, and why.
var neverGood = map[string]string{}

// neverRefused are the ways over which an rpc refuses nobody, and why.
var neverRefused = map[string]string{
	"TokenService.GetJsonWebKeySet over rest": "it is a document, which the gateway has and gives to everybody",
}

// servedBy returns the program that serves an rpc, and whether REST has it at the edge.
func servedBy(m protoreflect.MethodDescriptor) (program string, edge bool) {
	for _, s := range services {
		if s.name == m.Parent().FullName() {
			return s.at, s.edge
		}
	}
	return "", false
}

// keyRoles are the roles that an API key can have, each including those before it.
var keyRoles = []typev1.Role{typev1.Role_ROLE_VIEWER, typev1.Role_ROLE_SERVICE, typev1.Role_ROLE_OPERATOR, typev1.Role_ROLE_ADMIN}

// accessOf returns the role that an rpc asks for.
func accessOf(m protoreflect.MethodDescriptor) typev1.Role {
	access, _ := proto.GetExtension(m.Options(), typev1.E_Access).(*typev1.Access)
	return access.GetRole()
}

// roleOf returns the place among keyRoles of the role that an rpc asks for; -1 if no key can have it.
func roleOf(m protoreflect.MethodDescriptor) int { return slices.Index(keyRoles, accessOf(m)) }

// keyOf returns the name of the key whose role is the one at a place among keyRoles.
func keyOf(role int) string {
	return strings.ToLower(strings.TrimPrefix(keyRoles[role].String(), "ROLE_"))
}

// usualKey returns the name of the key of the least role that may call an rpc.
func usualKey(m protoreflect.MethodDescriptor) string {
	switch accessOf(m) {
	case typev1.Role_ROLE_PUBLIC:
		return noKey
	case typev1.Role_ROLE_INTERNAL:
		return serviceKey
	case typev1.Role_ROLE_POOL:
		return poolKey
	default:
		return keyOf(roleOf(m))
	}
}

// httpRule returns how an rpc is called over REST; nil if it is not.
func httpRule(m protoreflect.MethodDescriptor) *annotations.HttpRule {
	rule, _ := proto.GetExtension(m.Options(), annotations.E_Http).(*annotations.HttpRule)
	return rule
}

// asked returns the rpcs that the corpus asks: all of its services but for those that ask for a pair of tokens. These are reached over the link too, and
// test/e2e asks them at all three doors (TestEachDoorGivesTheSameAnswer).
func asked() ([]protoreflect.MethodDescriptor, error) {
	var out []protoreflect.MethodDescriptor
	for _, s := range services {
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(s.name)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
		service, ok := d.(protoreflect.ServiceDescriptor)
		if !ok {
			return nil, fmt.Errorf("%s is not a service", s.name)
		}
		for i := range service.Methods().Len() {
			if m := service.Methods().Get(i); accessOf(m) != typev1.Role_ROLE_GAME_SERVER {
				out = append(out, m)
			}
		}
	}
	return out, nil
}

// title is the name of an rpc that no other one shares.
func title(m protoreflect.MethodDescriptor) string {
	return fmt.Sprintf("%s.%s", m.Parent().Name(), m.Name())
}

// find returns the rpc of a name, which is that of its service, a dot and its own, or its own where only one has it.
func find(among []protoreflect.MethodDescriptor, name string) (protoreflect.MethodDescriptor, error) {
	var found []protoreflect.MethodDescriptor
	for _, m := range among {
		if name == string(m.Name()) || name == title(m) {
			found = append(found, m)
		}
	}
	switch len(found) {
	case 0:
		return nil, fmt.Errorf("there is no rpc %q that the corpus asks", name)
	case 1:
		return found[0], nil
	default:
		return nil, fmt.Errorf("%q is an rpc of several services: say %s or %s", name, title(found[0]), title(found[1]))
	}
}

func TestAnRPCOfTwoServicesIsNamedWithItsService(t *testing.T) {
	var all []protoreflect.MethodDescriptor
	for _, name := range []protoreflect.FullName{"berth.instance.v1.GameInstanceService", "berth.gameserver.v1.GameServerService"} {
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(name)
		if err != nil {
			t.Fatal(err)
		}
		methods := d.(protoreflect.ServiceDescriptor).Methods()
		for i := range methods.Len() {
			all = append(all, methods.Get(i))
		}
	}
	for name, want := range map[string]string{
		"GetGameInstance": "GameInstanceService.GetGameInstance", "GameServerService.AddPlayers": "GameServerService.AddPlayers", "AddPlayers": "", "Nonesuch": "",
	} {
		m, err := find(all, name)
		if err == nil && title(m) != want {
			err = errors.New(title(m))
		}
		if (err == nil) != (want != "") {
			t.Errorf("%q is %v, want %q", name, err, want)
		}
	}
}
