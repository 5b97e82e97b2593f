package tokenissuer_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"maps"
	"strings"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/google/uuid"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/rpc"
	tokenv1 "github.com/berth-dev/berth/sdk/go/gen/berth/token/v1"
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
		minted errs.Reason // of the two calls that mint
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
	for want, req := range map[string]proto.Message{
		"namespace":   &tokenv1.IssueTokenPairRequest{Namespace: "No", AttemptId: attempt},
		"attempt_id":  &tokenv1.IssueTokenPairRequest{Namespace: "default"},
		"instance_id": &tokenv1.IssuePlayerTicketRequest{Namespace: "default", InstanceId: "x", PlayerId: "p"},
		"player_id":   &tokenv1.IssuePlayerTicketRequest{Namespace: "default", InstanceId: uuid.NewString(), PlayerId: strings.Repeat("p", 129)},
	} {
		var err error
		switch req := req.(type) {
		case *tokenv1.IssueTokenPairRequest:
			_, err = i.IssueTokenPair(t.Context(), req)
		case *tokenv1.IssuePlayerTicketRequest:
			_, err = i.IssuePlayerTicket(t.Context(), req)
		}
		if err = rpc.FromStatus(err); !errs.Is(err, errs.ValidationFailed) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", want, err)
		}
	}
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
