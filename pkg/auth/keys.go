package auth

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"

	tokenv1 "github.com/berth-dev/berth/sdk/go/gen/berth/token/v1"
	"github.com/berth-dev/berth/sdk/go/token"
)

// NewTokenVerifier returns a verifier of game servers' tokens whose keys come from the token-issuer.
func NewTokenVerifier(issuer grpc.ClientConnInterface) *token.Verifier {
	return token.NewVerifier(token.NewKeySet(FetchKeys(issuer)))
}

// FetchKeys returns a fetch of the token-issuer's key set.
func FetchKeys(issuer grpc.ClientConnInterface) token.Fetch {
	client := tokenv1.NewTokenServiceClient(issuer)
	return func(ctx context.Context) ([]byte, error) {
		keys, err := client.GetJsonWebKeySet(ctx, &tokenv1.GetJsonWebKeySetRequest{})
		if err != nil {
			return nil, err
		}
		return protojson.Marshal(keys)
	}
}
