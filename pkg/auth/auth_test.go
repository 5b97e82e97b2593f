package auth_test

import (
	"context"
	"strings"
	"testing"

	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	_ "github.com/berth-dev/berth/pkg/gen/berth/attempt/v1" // all services of the contract
	_ "github.com/berth-dev/berth/pkg/gen/berth/session/v1"

	"github.com/berth-dev/berth/pkg/apikey"
	"github.com/berth-dev/berth/pkg/auth"
	"github.com/berth-dev/berth/pkg/errs"
	_ "github.com/berth-dev/berth/sdk/go/gen/berth/allocation/v1"
	_ "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	_ "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	_ "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/token"
)

const internalKey = "0123456789abcdef0123456789abcdef"

// services returns the names of all services of the contract.
func services() []string {
	var names []string
	protoregistry.GlobalFiles.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		if strings.HasPrefix(string(f.Package()), "berth.") {
			for i := range f.Services().Len() {
				names = append(names, string(f.Services().Get(i).FullName()))
			}
		}
		return true
	})
	return names
}

// includes says which roles each role includes, written out.
var includes = map[auth.Role][]auth.Role{
	auth.RolePublic:     {auth.RolePublic},
	auth.RoleViewer:     {auth.RolePublic, auth.RoleViewer},
	auth.RoleService:    {auth.RolePublic, auth.RoleViewer, auth.RoleService},
	auth.RoleOperator:   {auth.RolePublic, auth.RoleViewer, auth.RoleService, auth.RoleOperator},
	auth.RoleAdmin:      {auth.RolePublic, auth.RoleViewer, auth.RoleService, auth.RoleOperator, auth.RoleAdmin},
	auth.RoleGameServer: {auth.RolePublic, auth.RoleGameServer},
	auth.RolePool:       {auth.RolePublic, auth.RolePool},
	auth.RoleInternal:   {auth.RolePublic, auth.RoleInternal},
	"":                  {auth.RolePublic},
}

func TestEveryRPCHasARoleAndRefusesAllOthers(t *testing.T) {
	names := services()
	table, err := auth.NewTable(names...)
	if err != nil {
		t.Fatal(err)
	}
	if len(names) < 7 || len(table) < 30 {
		t.Fatalf("only %d services with %d rpcs were found", len(names), len(table))
	}
	for method, want := range table {
		for role, has := range includes {
			err := table.Authorize(auth.Principal{Role: role}, method)
			allowed := false
			for _, r := range has {
				allowed = allowed || r == want.Role
			}
			if allowed != (err == nil) {
				t.Errorf("%s (needs %s) to %q: %v", method, want.Role, role, err)
			}
		}
	}
	for method, want := range table {
		err := table.Authorize(auth.Principal{Role: auth.RoleGameServer, Expired: true}, method)
		if wanted := method == "/berth.gameserver.v1.GameServerService/RefreshTokens"; wanted != want.Expired || wanted != (err == nil) || !wanted && !errs.Is(err, errs.CredentialsExpired) {
			t.Errorf("%s to a server whose tokens have expired: %v", method, err)
		}
	}
	if err := table.Authorize(auth.Principal{Role: auth.RoleAdmin}, "/berth.instance.v1.GameInstanceService/Invented"); !errs.Is(err, errs.MethodUnknown) {
		t.Errorf("a method that is not in the table: %v", err)
	}
}

type pairs struct{}

func (pairs) VerifyPair(_ context.Context, game, social string) (token.Server, error) {
	if game != "game" || social != "social" {
		return token.Server{}, &token.Error{Reason: token.Invalid, Message: "no"}
	}
	return token.Server{ID: "s", Namespace: "n"}, nil
}

func newAuthenticator(t *testing.T, cfg auth.Config) *auth.Authenticator {
	t.Helper()
	cfg.InternalKey = internalKey
	a, err := auth.New(cfg, pairs{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestAuthenticate(t *testing.T) {
	key := apikey.Prefix + "secret"
	a := newAuthenticator(t, auth.Config{APIKeys: []auth.APIKey{{Name: "k", SHA256: apikey.Hash(key), Role: auth.RoleService, Namespaces: []string{"a"}}}})
	for name, c := range map[string]struct {
		md    metadata.MD
		role  auth.Role
		fails errs.Reason
	}{
		"nobody":            {metadata.MD{}, auth.RolePublic, ""},
		"service":           {metadata.Pairs("berth-internal-key", internalKey), auth.RoleInternal, ""},
		"wrong service":     {metadata.Pairs("berth-internal-key", internalKey+"x"), "", errs.CredentialsInvalid},
		"key":               {metadata.Pairs("authorization", "Bearer "+key), auth.RoleService, ""},
		"key, lower case":   {metadata.Pairs("authorization", "bearer "+key), auth.RoleService, ""},
		"wrong key":         {metadata.Pairs("authorization", "Bearer "+key+"x"), "", errs.CredentialsInvalid},
		"basic":             {metadata.Pairs("authorization", "Basic eDp5"), "", errs.CredentialsInvalid},
		"no key of ours":    {metadata.Pairs("authorization", "Bearer something"), "", errs.CredentialsInvalid},
		"two keys":          {metadata.Pairs("authorization", "Bearer "+key, "authorization", "Bearer "+key), "", errs.CredentialsInvalid},
		"pair":              {metadata.Pairs("authorization", "Bearer game", "berth-social-token", "social"), auth.RoleGameServer, ""},
		"half a pair":       {metadata.Pairs("berth-social-token", "social"), "", errs.CredentialsInvalid},
		"two social tokens": {metadata.Pairs("authorization", "Bearer game", "berth-social-token", "social", "berth-social-token", "social"), "", errs.CredentialsInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := a.Authenticate(context.Background(), c.md)
			if p.Role != c.role || errs.ReasonOf(err) != c.fails {
				t.Errorf("%+v, %v", p, err)
			}
			if err != nil && (strings.Contains(err.Error(), key) || strings.Contains(err.Error(), internalKey)) {
				t.Errorf("the error has the credential: %v", err)
			}
		})
	}
}

func TestNamespacesLimitAKey(t *testing.T) {
	p := auth.Principal{Role: auth.RoleAdmin, Namespaces: []string{"a"}}
	if err := p.MayUse("a"); err != nil {
		t.Error(err)
	}
	if err := p.MayUse("b"); !errs.Is(err, errs.NamespaceDenied) {
		t.Errorf("another namespace: %v", err)
	}
}

func TestConfigurationsThatCannotWorkAreRefused(t *testing.T) {
	for name, cfg := range map[string]auth.Config{
		"no internal key":    {},
		"short internal key": {InternalKey: "short"},
		"hash":               {InternalKey: internalKey, APIKeys: []auth.APIKey{{Name: "k", SHA256: "xyz", Role: auth.RoleViewer}}},
		"role":               {InternalKey: internalKey, APIKeys: []auth.APIKey{{Name: "k", SHA256: apikey.Hash("k"), Role: "KING"}}},
		"internal role":      {InternalKey: internalKey, APIKeys: []auth.APIKey{{Name: "k", SHA256: apikey.Hash("k"), Role: auth.RoleInternal}}},
		"name":               {InternalKey: internalKey, APIKeys: []auth.APIKey{{SHA256: apikey.Hash("k"), Role: auth.RoleViewer}}},
	} {
		if _, err := auth.New(cfg, nil, nil); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
