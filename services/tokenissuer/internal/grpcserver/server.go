// Package grpcserver serves berth.token.v1.TokenService.
package grpcserver

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/berth-dev/berth/pkg/auth"
	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/ids"
	"github.com/berth-dev/berth/pkg/pagetoken"
	tokenv1 "github.com/berth-dev/berth/sdk/go/gen/berth/token/v1"
	"github.com/berth-dev/berth/services/tokenissuer/internal/caller"
	"github.com/berth-dev/berth/services/tokenissuer/internal/token"
)

// Config has what the handlers call. All fields are required.
type Config struct {
	// Issuer mints.
	Issuer *token.Issuer
	// Keys are the signing keys.
	Keys *token.Keyring
	// Revocations are what was revoked.
	Revocations *token.Revocations
	// Callers are the API keys.
	Callers *caller.Keys
	// Pages makes and checks page tokens.
	Pages pagetoken.Key
}

// Server implements tokenv1.TokenServiceServer.
type Server struct {
	tokenv1.UnimplementedTokenServiceServer

	issuer      *token.Issuer
	keys        *token.Keyring
	revocations *token.Revocations
	callers     *caller.Keys
	pages       pagetoken.Key
}

// New returns a Server.
func New(cfg Config) *Server {
	return &Server{issuer: cfg.Issuer, keys: cfg.Keys, revocations: cfg.Revocations, callers: cfg.Callers, pages: cfg.Pages}
}

// GetJsonWebKeySet implements tokenv1.TokenServiceServer.
func (s *Server) GetJsonWebKeySet(ctx context.Context, _ *tokenv1.GetJsonWebKeySetRequest) (*tokenv1.GetJsonWebKeySetResponse, error) {
	return toKeySet(s.keys.Fresh(ctx))
}

// IssueTokenPair implements tokenv1.TokenServiceServer.
func (s *Server) IssueTokenPair(ctx context.Context, req *tokenv1.IssueTokenPairRequest) (*tokenv1.IssueTokenPairResponse, error) {
	pair, err := s.issuer.IssuePair(ctx, req.GetNamespace(), req.GetAttemptId())
	if err != nil {
		return nil, err
	}
	return &tokenv1.IssueTokenPairResponse{
		ServerId: pair.ServerID, PairId: pair.PairID,
		GameToken: pair.Game.Reveal(), SocialToken: pair.Social.Reveal(),
		ExpireTime: timestamppb.New(pair.ExpireTime), RefreshTime: timestamppb.New(pair.RefreshTime),
	}, nil
}

// IssueClaimCode implements tokenv1.TokenServiceServer.
func (s *Server) IssueClaimCode(ctx context.Context, req *tokenv1.IssueClaimCodeRequest) (*tokenv1.IssueClaimCodeResponse, error) {
	claim, err := s.issuer.IssueClaim(ctx, req.GetNamespace(), req.GetAttemptId())
	if err != nil {
		return nil, err
	}
	return &tokenv1.IssueClaimCodeResponse{ServerId: claim.ServerID, Claim: claim.Code.Reveal(), ExpireTime: timestamppb.New(claim.ExpireTime)}, nil
}

// RefreshTokenPair implements tokenv1.TokenServiceServer.
func (s *Server) RefreshTokenPair(ctx context.Context, req *tokenv1.RefreshTokenPairRequest) (*tokenv1.RefreshTokenPairResponse, error) {
	pair, err := s.issuer.RefreshPair(ctx, req.GetNamespace(), req.GetServerId(), req.GetPairId())
	if err != nil {
		return nil, err
	}
	return &tokenv1.RefreshTokenPairResponse{
		ServerId: pair.ServerID, PairId: pair.PairID,
		GameToken: pair.Game.Reveal(), SocialToken: pair.Social.Reveal(),
		ExpireTime: timestamppb.New(pair.ExpireTime), RefreshTime: timestamppb.New(pair.RefreshTime),
	}, nil
}

// IssuePlayerTicket implements tokenv1.TokenServiceServer.
func (s *Server) IssuePlayerTicket(ctx context.Context, req *tokenv1.IssuePlayerTicketRequest) (*tokenv1.IssuePlayerTicketResponse, error) {
	var added time.Time
	if at := req.GetPlayerAddTime(); at != nil {
		added = at.AsTime()
	}
	ticket, err := s.issuer.IssueTicket(ctx, req.GetNamespace(), req.GetInstanceId(), req.GetPlayerId(), added)
	if err != nil {
		return nil, err
	}
	return &tokenv1.IssuePlayerTicketResponse{Ticket: ticket.Token.Reveal(), ExpireTime: timestamppb.New(ticket.ExpireTime)}, nil
}

// RevokeTokens implements tokenv1.TokenServiceServer.
func (s *Server) RevokeTokens(ctx context.Context, req *tokenv1.RevokeTokensRequest) (*tokenv1.RevokeTokensResponse, error) {
	target, err := fromRevoke(req)
	if err != nil {
		return nil, err
	}
	r, err := s.revocations.Revoke(ctx, token.Revocation{Target: target, Reason: req.GetReason(), Actor: auth.FromContext(ctx).Actor()})
	if err != nil {
		return nil, err
	}
	return &tokenv1.RevokeTokensResponse{Revocation: toRevocation(r)}, nil
}

// ListRevocations implements tokenv1.TokenServiceServer.
func (s *Server) ListRevocations(ctx context.Context, req *tokenv1.ListRevocationsRequest) (*tokenv1.ListRevocationsResponse, error) {
	list := revocationList{ids.Namespace(req.GetNamespace())}
	below, err := s.belowOf(list, req.GetPageToken())
	if err != nil {
		return nil, err
	}
	page, next, err := s.revocations.List(ctx, list.RevocationsOf, pageSize(req.GetPageSize()), below)
	if err != nil {
		return nil, err
	}
	resp := &tokenv1.ListRevocationsResponse{Revocations: make([]*tokenv1.Revocation, 0, len(page))}
	for _, r := range page {
		resp.Revocations = append(resp.Revocations, toRevocation(r))
	}
	resp.NextPageToken, err = s.tokenOf(list, next)
	return resp, err
}

// IntrospectToken implements tokenv1.TokenServiceServer.
func (s *Server) IntrospectToken(ctx context.Context, req *tokenv1.IntrospectTokenRequest) (*tokenv1.IntrospectTokenResponse, error) {
	found, err := s.issuer.Introspect(ctx, req.GetToken())
	if err != nil {
		return nil, err
	}
	if found.Verified != nil {
		if err := auth.FromContext(ctx).MayUse(found.Verified.Namespace); err != nil {
			return nil, err
		}
	}
	return toIntrospection(found), nil
}

// GetRevocations implements tokenv1.TokenServiceServer.
func (s *Server) GetRevocations(ctx context.Context, req *tokenv1.GetRevocationsRequest) (*tokenv1.GetRevocationsResponse, error) {
	version, list, err := s.revocations.Current(ctx)
	if err != nil {
		return nil, err
	}
	if version == req.GetKnownVersion() {
		return &tokenv1.GetRevocationsResponse{Version: version, Unchanged: true}, nil
	}
	return &tokenv1.GetRevocationsResponse{Version: version, Targets: toTargets(token.Expand(list))}, nil
}

// ListSigningKeys implements tokenv1.TokenServiceServer.
func (s *Server) ListSigningKeys(ctx context.Context, _ *tokenv1.ListSigningKeysRequest) (*tokenv1.ListSigningKeysResponse, error) {
	if err := s.keys.Refresh(ctx); err != nil {
		return nil, err
	}
	return &tokenv1.ListSigningKeysResponse{SigningKeys: toSigningKeys(s.keys.Ring())}, nil
}

// RotateSigningKey implements tokenv1.TokenServiceServer.
func (s *Server) RotateSigningKey(ctx context.Context, req *tokenv1.RotateSigningKeyRequest) (*tokenv1.RotateSigningKeyResponse, error) {
	if err := mayUseAll(ctx); err != nil {
		return nil, err
	}
	if err := s.keys.Rotate(ctx, req.GetImmediate()); err != nil {
		return nil, err
	}
	return &tokenv1.RotateSigningKeyResponse{SigningKeys: toSigningKeys(s.keys.Ring())}, nil
}

// RetireSigningKey implements tokenv1.TokenServiceServer.
func (s *Server) RetireSigningKey(ctx context.Context, req *tokenv1.RetireSigningKeyRequest) (*tokenv1.RetireSigningKeyResponse, error) {
	if err := mayUseAll(ctx); err != nil {
		return nil, err
	}
	if err := s.issuer.RetireKey(ctx, req.GetKeyId(), auth.FromContext(ctx).Actor()); err != nil {
		return nil, err
	}
	return &tokenv1.RetireSigningKeyResponse{SigningKeys: toSigningKeys(s.keys.Ring())}, nil
}

// mayUseAll returns an error if the caller is limited to some namespaces: the signing keys are those of all.
func mayUseAll(ctx context.Context) error {
	if len(auth.FromContext(ctx).Namespaces) == 0 {
		return nil
	}
	return errs.New(errs.NamespaceDenied, "signing keys are those of all namespaces, and this API key is limited to some")
}

// CreateApiKey implements tokenv1.TokenServiceServer.
func (s *Server) CreateApiKey(ctx context.Context, req *tokenv1.CreateApiKeyRequest) (*tokenv1.CreateApiKeyResponse, error) {
	want, err := fromCreate(req)
	if err != nil {
		return nil, err
	}
	made, key, err := s.callers.Create(ctx, admin(ctx), want)
	if err != nil {
		return nil, err
	}
	return &tokenv1.CreateApiKeyResponse{ApiKey: toApiKey(made), Key: key.Reveal()}, nil
}

// ListApiKeys implements tokenv1.TokenServiceServer.
func (s *Server) ListApiKeys(ctx context.Context, req *tokenv1.ListApiKeysRequest) (*tokenv1.ListApiKeysResponse, error) {
	by := admin(ctx)
	list := keyList(by)
	after, err := s.pages.Place(list, req.GetPageToken())
	if err != nil {
		return nil, err
	}
	page, next, err := s.callers.List(ctx, by, pageSize(req.GetPageSize()), after)
	if err != nil {
		return nil, err
	}
	resp := &tokenv1.ListApiKeysResponse{ApiKeys: make([]*tokenv1.ApiKey, 0, len(page))}
	for _, k := range page {
		resp.ApiKeys = append(resp.ApiKeys, toApiKey(k))
	}
	resp.NextPageToken, err = s.pages.Token(list, next)
	return resp, err
}

// RevokeApiKey implements tokenv1.TokenServiceServer.
func (s *Server) RevokeApiKey(ctx context.Context, req *tokenv1.RevokeApiKeyRequest) (*tokenv1.RevokeApiKeyResponse, error) {
	revoked, err := s.callers.Revoke(ctx, admin(ctx), req.GetName())
	if err != nil {
		return nil, err
	}
	return &tokenv1.RevokeApiKeyResponse{ApiKey: toApiKey(revoked)}, nil
}

// LookupApiKey implements tokenv1.TokenServiceServer.
func (s *Server) LookupApiKey(ctx context.Context, req *tokenv1.LookupApiKeyRequest) (*tokenv1.LookupApiKeyResponse, error) {
	found, ok, err := s.callers.Lookup(ctx, req.GetSha256())
	if err != nil {
		return nil, err
	}
	if !ok {
		return &tokenv1.LookupApiKeyResponse{}, nil
	}
	return &tokenv1.LookupApiKeyResponse{ApiKey: toApiKey(found)}, nil
}

// admin is who calls.
func admin(ctx context.Context) caller.Admin {
	p := auth.FromContext(ctx)
	return caller.Admin{Name: p.Actor(), Namespaces: p.Namespaces}
}
