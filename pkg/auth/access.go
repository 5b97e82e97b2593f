package auth

import (
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/berth-dev/berth/pkg/apikey"
	"github.com/berth-dev/berth/pkg/errs"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
)

// Table maps full method names ("/berth.instance.v1.GameInstanceService/GetGameInstance") to what each asks for.
type Table map[string]Access

// Access is what an rpc asks of its caller.
type Access struct {
	// Role is what the caller must hold.
	Role Role
	// Expired says that a game server's expired tokens are let through: the handler decides.
	Expired bool
}

// NewTable reads the access option of every rpc of the named services. An rpc without one is an error, and so is an audience where there must be none.
func NewTable(services ...string) (Table, error) {
	t := make(Table)
	for _, name := range services {
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(name))
		if err != nil {
			return nil, fmt.Errorf("access of %s: %w", name, err)
		}
		service, ok := d.(protoreflect.ServiceDescriptor)
		if !ok {
			return nil, fmt.Errorf("access of %s: not a service", name)
		}
		for i := range service.Methods().Len() {
			method := service.Methods().Get(i)
			access, _ := proto.GetExtension(method.Options(), typev1.E_Access).(*typev1.Access)
			if access.GetRole() == typev1.Role_ROLE_UNSPECIFIED {
				return nil, fmt.Errorf("%s: has no access option", method.FullName())
			}
			if !audienceFits(access) {
				return nil, fmt.Errorf("%s: its access option must have an audience if its role is GAME_SERVER, and none otherwise", method.FullName())
			}
			t[fmt.Sprintf("/%s/%s", name, method.Name())] = Access{Role(strings.TrimPrefix(access.GetRole().String(), "ROLE_")), access.GetExpired()}
		}
	}
	return t, nil
}

// audienceFits reports whether an option names one of a game server's two tokens, if it is for game servers, and none otherwise. The audience says what an
// rpc belongs to. It opens nothing: both tokens are verified, as a pair, on every call.
func audienceFits(a *typev1.Access) bool {
	if a.GetRole() == typev1.Role_ROLE_GAME_SERVER {
		return a.GetAudience() == typev1.Audience_AUDIENCE_GAME || a.GetAudience() == typev1.Audience_AUDIENCE_SOCIAL
	}
	return a.GetAudience() == typev1.Audience_AUDIENCE_UNSPECIFIED
}

// Authorize returns an error unless the principal may call the method.
func (t Table) Authorize(p Principal, method string) error {
	want, ok := t[method]
	if !ok {
		return errs.New(errs.MethodUnknown, "there is no method %s", method)
	}
	if p.Expired && !want.Expired {
		return errs.New(errs.CredentialsExpired, "the tokens have expired; refresh them (RefreshTokens)")
	}
	if p.Role.Includes(want.Role) {
		return nil
	}
	if p.Role == RolePublic {
		return errs.New(errs.CredentialsMissing, "%s", missing(want.Role))
	}
	return errs.New(errs.RoleRequired, "this call needs role %s, and the credentials have %s", want.Role, p.Role)
}

func missing(want Role) string {
	switch want {
	case RoleGameServer:
		return "both partner tokens are needed: the game token as \"Authorization: Bearer …\" and the social token as \"Berth-Social-Token: …\""
	case RoleInternal:
		return "this call is for Berth's own services"
	default:
		return "an API key is needed: \"Authorization: Bearer " + apikey.Prefix + "…\", or the token of an identity provider that is configured here"
	}
}
