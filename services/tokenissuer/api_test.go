package tokenissuer_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/google/uuid"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/rpc"
	tokenv1 "github.com/berth-dev/berth/sdk/go/gen/berth/token/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
	sdk "github.com/berth-dev/berth/sdk/go/token"
)

func TestWhoMayCall(t *testing.T) {
	i := start(t, slog.New(slog.DiscardHandler), config(miniredis.RunT(t).Addr()))
	pair := i.pair(t)
	calls := map[string]func(context.Context) error{
		"IssueTokenPair": func(ctx context.Context) error {
			_, err := i.public.IssueTokenPair(ctx, &tokenv1.IssueTokenPairRequest{Namespace: "default", AttemptId: attempt})
			return err
		},
		"IssueClaimCode": func(ctx context.Context) error {
			_, err := i.public.IssueClaimCode(ctx, &tokenv1.IssueClaimCodeRequest{Namespace: "default", AttemptId: attempt})
			return err
		},
		"IssuePlayerTicket": func(ctx context.Context) error {
			_, err := i.public.IssuePlayerTicket(ctx, &tokenv1.IssuePlayerTicketRequest{Namespace: "default", InstanceId: uuid.NewString(), PlayerId: "p"})
			return err
		},
		"GetJsonWebKeySet": func(ctx context.Context) error {
			_, err := i.public.GetJsonWebKeySet(ctx, &tokenv1.GetJsonWebKeySetRequest{})
			return err
		},
	}
	for name, tc := range map[string]struct {
		shows  []string
		minted errs.Reason // of the calls that mint
		keys   errs.Reason // of GetJsonWebKeySet
	}{
		"nobody":             {nil, errs.CredentialsMissing, ""},
		"an API key":         {[]string{"authorization", "Bearer " + apiKey}, errs.RoleRequired, ""},
		"a game server":      {[]string{"authorization", "Bearer " + pair.GetGameToken(), "berth-social-token", pair.GetSocialToken()}, errs.RoleRequired, ""},
		"swapped tokens":     {[]string{"authorization", "Bearer " + pair.GetSocialToken(), "berth-social-token", pair.GetGameToken()}, errs.CredentialsSwapped, errs.CredentialsSwapped},
		"a wrong key":        {[]string{"berth-internal-key", "wrong"}, errs.CredentialsInvalid, errs.CredentialsInvalid},
		"the internal key":   {[]string{"berth-internal-key", internalKey.Reveal()}, "", ""},
		"an unknown API key": {[]string{"authorization", "Bearer " + apiKey + "x"}, errs.CredentialsInvalid, errs.CredentialsInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			for method, call := range calls {
				want := tc.minted
				if method == "GetJsonWebKeySet" {
					want = tc.keys
				}
				err := rpc.FromStatus(call(metadata.AppendToOutgoingContext(t.Context(), tc.shows...)))
				if errs.ReasonOf(err) != want {
					t.Errorf("%s: %v, want reason %q", method, err, want)
				}
			}
		})
	}
}

func TestBadRequestsNameTheField(t *testing.T) {
	i := start(t, slog.New(slog.DiscardHandler), config(miniredis.RunT(t).Addr()))
	const id = "6f1c1b53-4a2e-4c4e-9c57-0d3a0d6b1a10"
	pair, service := &tokenv1.RevokeTokensRequest_PairId{PairId: id}, typev1.Role_ROLE_SERVICE
	for _, tc := range []struct {
		field string
		req   proto.Message
	}{
		{"namespace", &tokenv1.IssueTokenPairRequest{Namespace: "No", AttemptId: attempt}},
		{"namespace", &tokenv1.IssueTokenPairRequest{AttemptId: attempt}},
		{"attempt_id", &tokenv1.IssueTokenPairRequest{Namespace: "default"}},
		{"attempt_id", &tokenv1.IssueTokenPairRequest{Namespace: "default", AttemptId: strings.Repeat("x", 65)}},
		{"namespace", &tokenv1.IssueClaimCodeRequest{AttemptId: attempt}},
		{"attempt_id", &tokenv1.IssueClaimCodeRequest{Namespace: "default", AttemptId: id}}, // a registration's
		{"attempt_id", &tokenv1.IssueClaimCodeRequest{Namespace: "default"}},
		{"instance_id", &tokenv1.IssuePlayerTicketRequest{Namespace: "default", InstanceId: "x", PlayerId: "p"}},
		{"player_id", &tokenv1.IssuePlayerTicketRequest{Namespace: "default", InstanceId: id, PlayerId: strings.Repeat("p", 129)}},
		{"namespace", &tokenv1.RefreshTokenPairRequest{ServerId: id, PairId: id}},
		{"server_id", &tokenv1.RefreshTokenPairRequest{Namespace: "default", ServerId: "x", PairId: id}},
		{"pair_id", &tokenv1.RefreshTokenPairRequest{Namespace: "default", ServerId: id, PairId: strings.ToUpper(id)}},
		{"namespace", &tokenv1.RevokeTokensRequest{Namespace: "No", Target: pair}},
		{"target", &tokenv1.RevokeTokensRequest{}},
		{"pair_id", &tokenv1.RevokeTokensRequest{Target: &tokenv1.RevokeTokensRequest_PairId{}}},
		{"server_id", &tokenv1.RevokeTokensRequest{Target: &tokenv1.RevokeTokensRequest_ServerId{ServerId: "x"}}},
		{"instance_id", &tokenv1.RevokeTokensRequest{Target: &tokenv1.RevokeTokensRequest_InstanceId{InstanceId: "x"}}},
		{"issued_before", &tokenv1.RevokeTokensRequest{Target: &tokenv1.RevokeTokensRequest_IssuedBefore{IssuedBefore: &timestamppb.Timestamp{}}}},
		{"issued_before", &tokenv1.RevokeTokensRequest{Target: &tokenv1.RevokeTokensRequest_IssuedBefore{IssuedBefore: timestamppb.New(time.Now().Add(time.Hour))}}},
		{"reason", &tokenv1.RevokeTokensRequest{Target: pair, Reason: strings.Repeat("x", 513)}},
		{"namespace", &tokenv1.ListRevocationsRequest{Namespace: "No"}},
		{"page_size", &tokenv1.ListRevocationsRequest{PageSize: 501}},
		{"page_size", &tokenv1.ListRevocationsRequest{PageSize: -1}},
		{"page_token", &tokenv1.ListRevocationsRequest{PageToken: "!"}},
		{"page_token", &tokenv1.ListRevocationsRequest{PageToken: strings.Repeat("x", 513)}},
		{"token", &tokenv1.IntrospectTokenRequest{}},
		{"known_version", &tokenv1.GetRevocationsRequest{KnownVersion: -1}},
		{"key_id", &tokenv1.RetireSigningKeyRequest{KeyId: "x"}},
		{"name", &tokenv1.CreateApiKeyRequest{Role: service}},
		{"name", &tokenv1.CreateApiKeyRequest{Name: "Upper", Role: service}},
		{"name", &tokenv1.CreateApiKeyRequest{Name: "root", Role: service}},
		{"role", &tokenv1.CreateApiKeyRequest{Name: "x"}},
		{"role", &tokenv1.CreateApiKeyRequest{Name: "x", Role: typev1.Role_ROLE_PUBLIC}},
		{"role", &tokenv1.CreateApiKeyRequest{Name: "x", Role: typev1.Role_ROLE_INTERNAL}},
		{"namespaces[0]", &tokenv1.CreateApiKeyRequest{Name: "x", Role: service, Namespaces: []string{""}}},
		{"namespaces", &tokenv1.CreateApiKeyRequest{Name: "x", Role: service, Namespaces: []string{"a", "a"}}},
		{"namespaces", &tokenv1.CreateApiKeyRequest{Name: "x", Role: service, Namespaces: numbered(101)}},
		{"expire_time", &tokenv1.CreateApiKeyRequest{Name: "x", Role: service, ExpireTime: &timestamppb.Timestamp{}}},
		{"expire_time", &tokenv1.CreateApiKeyRequest{Name: "x", Role: service, ExpireTime: timestamppb.New(time.Now().Add(-time.Minute))}},
		{"page_size", &tokenv1.ListApiKeysRequest{PageSize: 501}},
		{"page_size", &tokenv1.ListApiKeysRequest{PageSize: -1}},
		{"page_token", &tokenv1.ListApiKeysRequest{PageToken: strings.Repeat("x", 513)}},
		{"name", &tokenv1.RevokeApiKeyRequest{Name: "Upper"}},
		{"name", &tokenv1.RevokeApiKeyRequest{Name: "unknown"}},
		{"sha256", &tokenv1.LookupApiKeyRequest{Sha256: strings.Repeat("A", 64)}},
	} {
		method := strings.TrimSuffix(string(tc.req.ProtoReflect().Descriptor().Name()), "Request")
		conn, ctx := i.internal, t.Context()
		if !isInternal(method) {
			conn, ctx = i.nobody, with(t, apiKey)
		}
		err := conn.Invoke(ctx, "/"+tokenv1.TokenService_ServiceDesc.ServiceName+"/"+method, tc.req, &emptypb.Empty{})
		if err = rpc.FromStatus(err); !errs.Is(err, errs.ValidationFailed) || !strings.Contains(err.Error(), tc.field+":") {
			t.Errorf("%s: %s: got %v", method, tc.field, err)
		}
	}
}

// numbered returns that many names.
func numbered(n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprint(i)
	}
	return names
}

// isInternal reports whether only Berth's own services may call the method.
func isInternal(method string) bool {
	m := tokenv1.File_berth_token_v1_token_service_proto.Services().ByName("TokenService").Methods().ByName(protoreflect.Name(method))
	access, _ := proto.GetExtension(m.Options(), typev1.E_Access).(*typev1.Access)
	return access.GetRole() == typev1.Role_ROLE_INTERNAL
}

func TestKeySetIsRFC7517(t *testing.T) {
	coordinates := map[sdk.Algorithm][]string{sdk.EdDSA: {"x"}, sdk.ES256: {"x", "y"}}
	for algorithm, want := range map[sdk.Algorithm]map[string]string{
		sdk.EdDSA: {"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA"},
		sdk.ES256: {"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256"},
	} {
		t.Run(string(algorithm), func(t *testing.T) {
			cfg := config(miniredis.RunT(t).Addr())
			cfg.Keys.Algorithm = algorithm
			i := start(t, slog.New(slog.DiscardHandler), cfg)
			doc, err := i.jwks(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			var set map[string][]map[string]string
			if err := json.Unmarshal(doc, &set); err != nil || len(set) != 1 || len(set["keys"]) != 1 {
				t.Fatalf("%s: %v", doc, err)
			}
			k := set["keys"][0]
			if len(k["kid"]) != 43 {
				t.Errorf("kid %q", k["kid"])
			}
			delete(k, "kid")
			for _, coordinate := range coordinates[algorithm] {
				raw, err := base64.RawURLEncoding.Strict().DecodeString(k[coordinate])
				if err != nil || len(raw) != 32 {
					t.Errorf("%s: %q, %v", coordinate, k[coordinate], err)
				}
				delete(k, coordinate)
			}
			if !maps.Equal(k, want) {
				t.Errorf("got %v, want %v", k, want)
			}
			if keys, err := sdk.ParseKeys(doc); err != nil || len(keys) != 1 {
				t.Errorf("the SDK reads %v, %v", keys, err)
			}
		})
	}
}
