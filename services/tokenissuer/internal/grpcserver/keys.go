package grpcserver

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	tokenv1 "github.com/berth-dev/berth/sdk/go/gen/berth/token/v1"
	"github.com/berth-dev/berth/services/tokenissuer/internal/token"
)

// GetJsonWebKeySet implements tokenv1.TokenServiceServer.
func (s *Server) GetJsonWebKeySet(ctx context.Context, _ *tokenv1.GetJsonWebKeySetRequest) (*tokenv1.GetJsonWebKeySetResponse, error) {
	return KeySet(s.keys.Fresh(ctx))
}

// KeySet returns the public halves of the ring's keys. Its canonical JSON is a JSON Web Key Set (RFC 7517, RFC 7518, RFC 8037).
func KeySet(ring *token.Ring) (*tokenv1.GetJsonWebKeySetResponse, error) {
	set := &tokenv1.GetJsonWebKeySetResponse{}
	for _, k := range ring.Keys() {
		jwk, err := k.JWK()
		if err != nil {
			return nil, err
		}
		set.Keys = append(set.Keys, &tokenv1.JsonWebKey{
			Kty: jwk.Kty, Crv: jwk.Crv, X: jwk.X, Y: jwk.Y, Use: "sig", Alg: string(jwk.Alg), Kid: jwk.Kid,
		})
	}
	return set, nil
}

// ListSigningKeys implements tokenv1.TokenServiceServer.
func (s *Server) ListSigningKeys(ctx context.Context, _ *tokenv1.ListSigningKeysRequest) (*tokenv1.ListSigningKeysResponse, error) {
	if err := s.keys.Refresh(ctx); err != nil {
		return nil, err
	}
	return &tokenv1.ListSigningKeysResponse{SigningKeys: s.signingKeys()}, nil
}

// RotateSigningKey implements tokenv1.TokenServiceServer.
func (s *Server) RotateSigningKey(ctx context.Context, req *tokenv1.RotateSigningKeyRequest) (*tokenv1.RotateSigningKeyResponse, error) {
	if err := s.keys.Rotate(ctx, req.GetImmediate()); err != nil {
		return nil, err
	}
	return &tokenv1.RotateSigningKeyResponse{SigningKeys: s.signingKeys()}, nil
}

// RetireSigningKey implements tokenv1.TokenServiceServer.
func (s *Server) RetireSigningKey(ctx context.Context, req *tokenv1.RetireSigningKeyRequest) (*tokenv1.RetireSigningKeyResponse, error) {
	if err := s.keys.Withdraw(ctx, req.GetKeyId()); err != nil {
		return nil, err
	}
	return &tokenv1.RetireSigningKeyResponse{SigningKeys: s.signingKeys()}, nil
}

// signingKeys says of each key what may be said.
func (s *Server) signingKeys() []*tokenv1.SigningKey {
	sealed := s.keys.Ring().Sealed()
	keys := make([]*tokenv1.SigningKey, 0, len(sealed.Keys))
	for _, k := range sealed.Keys {
		keys = append(keys, &tokenv1.SigningKey{
			KeyId: k.ID, Algorithm: string(k.Algorithm), State: toState(k.State), CreateTime: timestamp(k.CreateTime), SignTime: timestamp(k.SignTime),
			RetireTime: timestamp(k.RetireTime), RemoveTime: timestamp(k.RemoveTime),
		})
	}
	return keys
}

func toState(s token.State) tokenv1.SigningKey_State {
	switch s {
	case token.Published:
		return tokenv1.SigningKey_STATE_PUBLISHED
	case token.Signing:
		return tokenv1.SigningKey_STATE_SIGNING
	case token.Retired:
		return tokenv1.SigningKey_STATE_RETIRED
	case token.Withdrawn:
		return tokenv1.SigningKey_STATE_WITHDRAWN
	default:
		return tokenv1.SigningKey_STATE_UNSPECIFIED
	}
}

// timestamp returns nil for the zero time.
func timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
