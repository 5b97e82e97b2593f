// Package grpcserver serves berth.token.v1.TokenService.
package grpcserver

import (
	"context"
	"encoding/base64"

	"google.golang.org/protobuf/types/known/timestamppb"

	tokenv1 "github.com/berth-dev/berth/sdk/go/gen/berth/token/v1"
	"github.com/berth-dev/berth/services/tokenissuer/internal/token"
)

// Server implements tokenv1.TokenServiceServer.
type Server struct {
	tokenv1.UnimplementedTokenServiceServer

	issuer *token.Issuer
}

// New returns a Server.
func New(issuer *token.Issuer) *Server { return &Server{issuer: issuer} }

// GetJsonWebKeySet implements tokenv1.TokenServiceServer.
func (s *Server) GetJsonWebKeySet(context.Context, *tokenv1.GetJsonWebKeySetRequest) (*tokenv1.GetJsonWebKeySetResponse, error) {
	return KeySet(s.issuer.Ring()), nil
}

// KeySet returns the public halves of the ring's keys. Its canonical JSON is a JSON Web Key Set (RFC 7517, RFC 8037).
func KeySet(ring *token.Ring) *tokenv1.GetJsonWebKeySetResponse {
	set := &tokenv1.GetJsonWebKeySetResponse{}
	for _, k := range ring.Keys() {
		set.Keys = append(set.Keys, &tokenv1.JsonWebKey{
			Kty: "OKP", Crv: "Ed25519", Use: "sig", Alg: "EdDSA",
			Kid: k.ID(), X: base64.RawURLEncoding.EncodeToString(k.Public()),
		})
	}
	return set
}

// IssueTokenPair implements tokenv1.TokenServiceServer.
func (s *Server) IssueTokenPair(_ context.Context, req *tokenv1.IssueTokenPairRequest) (*tokenv1.IssueTokenPairResponse, error) {
	pair, err := s.issuer.IssuePair(req.GetNamespace(), req.GetAttemptId())
	if err != nil {
		return nil, err
	}
	return &tokenv1.IssueTokenPairResponse{
		ServerId: pair.ServerID, PairId: pair.PairID,
		GameToken: pair.Game.Reveal(), SocialToken: pair.Social.Reveal(),
		ExpireTime: timestamppb.New(pair.ExpireTime),
	}, nil
}

// IssuePlayerTicket implements tokenv1.TokenServiceServer.
func (s *Server) IssuePlayerTicket(_ context.Context, req *tokenv1.IssuePlayerTicketRequest) (*tokenv1.IssuePlayerTicketResponse, error) {
	ticket, err := s.issuer.IssueTicket(req.GetNamespace(), req.GetInstanceId(), req.GetPlayerId())
	if err != nil {
		return nil, err
	}
	return &tokenv1.IssuePlayerTicketResponse{Ticket: ticket.Token.Reveal(), ExpireTime: timestamppb.New(ticket.ExpireTime)}, nil
}
