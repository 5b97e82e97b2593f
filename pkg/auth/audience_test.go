package auth_test

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/berth-dev/berth/pkg/auth"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
)

// serviceWith returns the name of a service with one rpc that has an access option.
func serviceWith(t *testing.T, name string, access *typev1.Access) string {
	t.Helper()
	options := &descriptorpb.MethodOptions{}
	if access != nil {
		proto.SetExtension(options, typev1.E_Access, access)
	}
	empty := proto.String(".test." + name + ".Empty")
	f, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: proto.String("test/" + name + ".proto"), Package: proto.String("test." + name),
		MessageType: []*descriptorpb.DescriptorProto{{Name: proto.String("Empty")}},
		Service: []*descriptorpb.ServiceDescriptorProto{{Name: proto.String("Service"), Method: []*descriptorpb.MethodDescriptorProto{{
			Name: proto.String("Call"), InputType: empty, OutputType: empty, Options: options,
		}}}},
	}, protoregistry.GlobalFiles)
	if err == nil {
		err = protoregistry.GlobalFiles.RegisterFile(f)
	}
	if err != nil {
		t.Fatal(err)
	}
	return "test." + name + ".Service"
}

// Who writes an rpc for game servers has to think about which of the two tokens it belongs to; on any other rpc an audience would say something untrue.
func TestOnlyRPCsOfGameServersHaveAnAudience(t *testing.T) {
	for name, tc := range map[string]struct {
		access *typev1.Access
		fails  string
	}{
		"game":    {&typev1.Access{Role: typev1.Role_ROLE_GAME_SERVER, Audience: typev1.Audience_AUDIENCE_GAME}, ""},
		"social":  {&typev1.Access{Role: typev1.Role_ROLE_GAME_SERVER, Audience: typev1.Audience_AUDIENCE_SOCIAL}, ""},
		"without": {&typev1.Access{Role: typev1.Role_ROLE_GAME_SERVER}, "audience"},
		"unknown": {&typev1.Access{Role: typev1.Role_ROLE_GAME_SERVER, Audience: 9}, "audience"},
		"service": {&typev1.Access{Role: typev1.Role_ROLE_SERVICE}, ""},
		"backend": {&typev1.Access{Role: typev1.Role_ROLE_SERVICE, Audience: typev1.Audience_AUDIENCE_GAME}, "audience"},
		"beside":  {&typev1.Access{Role: typev1.Role_ROLE_SERVICE, Audience: 9}, "audience"},
		"public":  {&typev1.Access{Role: typev1.Role_ROLE_PUBLIC, Audience: typev1.Audience_AUDIENCE_SOCIAL}, "audience"},
		"nothing": {nil, "access option"},
	} {
		t.Run(name, func(t *testing.T) {
			table, err := auth.NewTable(serviceWith(t, name, tc.access))
			switch {
			case tc.fails == "" && (err != nil || len(table) != 1):
				t.Errorf("%v, %v", table, err)
			case tc.fails != "" && (err == nil || !strings.Contains(err.Error(), tc.fails) || !strings.Contains(err.Error(), "test."+name+".Service.Call")):
				t.Errorf("%v, want an error about %s", err, tc.fails)
			}
		})
	}
}
