// Package grpcserver serves berth.token.v1.TokenService.
package grpcserver

import (
	"context"

	"google.golang.org/protobuf/types/known/timestamppb"

	tokenv1 "github.com/berth-dev/berth/sdk/go/gen/berth/token/v1"
	"github.com/berth-dev/berth/services/tokenissuer/internal/token"
)

// Config has what the handlers call. All fields are required.
type Config struct {
	// Issuer mints.
	Issuer *token.Issuer
	// Keys are the signing keys.
	Keys *token.Keyring
}

// Server implements tokenv1.TokenServiceServer.
type Server struct {
	tokenv1.UnimplementedTokenServiceServer

	issuer *token.Issuer
	keys   *token.Keyring
}

// New returns a Server.
func New(cfg Config) *Server { return &Server{issuer: cfg.Issuer, keys: cfg.Keys} }

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
