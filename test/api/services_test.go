package api

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

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

// services are those whose rpcs the corpus asks, and the program that serves each. One that is added has no case until somebody writes some.
var services = []struct {
	name protoreflect.FullName
	at   string
}{
	{"berth.instance.v1.GameInstanceService", gameInstance},
	{"berth.gameserver.v1.GameServerRegistryService", gameInstance},
}

// claimTokens is asked beside them: it needs no key, is for game servers, and so is at the edge.
const claimTokens protoreflect.FullName = "berth.gameserver.v1.GameServerService.ClaimTokens"

// programOf returns the program that serves an rpc.
func programOf(m protoreflect.MethodDescriptor) string {
	for _, s := range services {
		if s.name == m.Parent().FullName() {
			return s.at
		}
	}
	if m.FullName() == claimTokens {
		return gameInstance
	}
	return ""
}

// keyRoles are the roles that an API key can have, each including those before it.
var keyRoles = []typev1.Role{typev1.Role_ROLE_VIEWER, typev1.Role_ROLE_SERVICE, typev1.Role_ROLE_OPERATOR, typev1.Role_ROLE_ADMIN}

// roleOf returns the place among keyRoles of the role that an rpc asks for; -1 if no key can have it.
func roleOf(m protoreflect.MethodDescriptor) int {
	access, _ := proto.GetExtension(m.Options(), typev1.E_Access).(*typev1.Access)
	return slices.Index(keyRoles, access.GetRole())
}

// keyOf returns the name of the key whose role is the one at a place among keyRoles; that of none below.
func keyOf(role int) string {
	if role < 0 {
		return noKey
	}
	return strings.ToLower(strings.TrimPrefix(keyRoles[role].String(), "ROLE_"))
}

// asked returns the rpcs that the corpus asks: all of its services that can be called with an API key, and claimTokens.
func asked() ([]protoreflect.MethodDescriptor, error) {
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(claimTokens)
	if err != nil {
		return nil, err
	}
	claim, ok := d.(protoreflect.MethodDescriptor)
	if !ok {
		return nil, fmt.Errorf("%s is not an rpc", claimTokens)
	}
	out := []protoreflect.MethodDescriptor{claim}
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
			if m := service.Methods().Get(i); roleOf(m) >= 0 {
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
		return nil, fmt.Errorf("there is no rpc %q that an API key can call", name)
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
