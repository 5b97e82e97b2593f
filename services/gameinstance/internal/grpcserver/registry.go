package grpcserver

import (
	"context"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/berth-dev/berth/pkg/auth"
	"github.com/berth-dev/berth/pkg/ids"
	"github.com/berth-dev/berth/pkg/pagetoken"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	tokenv1 "github.com/berth-dev/berth/sdk/go/gen/berth/token/v1"
	"github.com/berth-dev/berth/sdk/go/token"
	"github.com/berth-dev/berth/services/gameinstance/internal/registry"
	"github.com/berth-dev/berth/services/gameinstance/internal/wire"
)

// Pairs mints the token pairs of game servers.
type Pairs interface {
	// Pair mints that of an attempt's server, or of a registration's.
	Pair(ctx context.Context, namespace, attemptID string) (*tokenv1.IssueTokenPairResponse, error)
	// Renew mints the pair that a server has anew.
	Renew(ctx context.Context, server token.Server) (*tokenv1.RefreshTokenPairResponse, error)
}

// Registry serves berth.gameserver.v1.GameServerRegistryService.
type Registry struct {
	gameserverv1.UnimplementedGameServerRegistryServiceServer
	servers *registry.Service
	pools   *registry.Pools
	pairs   Pairs
	tokens  pagetoken.Key
}

// NewRegistry returns the handlers of GameServerRegistryService.
func NewRegistry(servers *registry.Service, pools *registry.Pools, pairs Pairs, tokens pagetoken.Key) *Registry {
	return &Registry{servers: servers, pools: pools, pairs: pairs, tokens: tokens}
}

// RegisterGameServer implements the rpc.
func (s *Registry) RegisterGameServer(ctx context.Context, req *gameserverv1.RegisterGameServerRequest) (*gameserverv1.RegisterGameServerResponse, error) {
	digest, err := digest(req)
	if err != nil {
		return nil, err
	}
	endpoints, err := wire.FromServer(req.GetEndpoints())
	if err != nil {
		return nil, err
	}
	namespace, actor := ids.Namespace(req.GetNamespace()), auth.FromContext(ctx).Actor()
	registration := ids.Registration(namespace, actor, req.GetRequestId())
	server, err := s.servers.Register(ctx, registry.Server{
		Namespace: namespace, ID: ids.Server(registration), Capacity: max(1, int(req.GetCapacity())), Labels: req.GetLabels(),
		Endpoints: endpoints, Actor: actor, Digest: digest,
	})
	if err != nil {
		return nil, err
	}
	pair, err := s.pairs.Pair(ctx, namespace, registration)
	if err != nil {
		return nil, err
	}
	return &gameserverv1.RegisterGameServerResponse{
		Server: wire.Server(server), GameToken: pair.GetGameToken(), SocialToken: pair.GetSocialToken(), ExpireTime: pair.GetExpireTime(),
	}, nil
}

// GetGameServer implements the rpc.
func (s *Registry) GetGameServer(ctx context.Context, req *gameserverv1.GetGameServerRequest) (*gameserverv1.GetGameServerResponse, error) {
	server, err := s.servers.Get(ctx, ids.Namespace(req.GetNamespace()), req.GetServerId())
	return &gameserverv1.GetGameServerResponse{Server: wire.Server(server)}, err
}

// serverList names a list of game servers.
type serverList struct{ GameServersOf string }

// ListGameServers implements the rpc.
func (s *Registry) ListGameServers(ctx context.Context, req *gameserverv1.ListGameServersRequest) (*gameserverv1.ListGameServersResponse, error) {
	list, limit := serverList{ids.Namespace(req.GetNamespace())}, int(req.GetPageSize())
	if limit == 0 {
		limit = 50
	}
	after, err := placeOf(s.tokens, list, req.GetPageToken())
	if err != nil {
		return nil, err
	}
	page, next, err := s.servers.Page(ctx, list.GameServersOf, limit, after)
	if err != nil {
		return nil, err
	}
	out := &gameserverv1.ListGameServersResponse{}
	for _, server := range page {
		out.Servers = append(out.Servers, wire.Server(server))
	}
	out.NextPageToken, err = tokenOf(s.tokens, list, next)
	return out, err
}

// DeregisterGameServer implements the rpc.
func (s *Registry) DeregisterGameServer(ctx context.Context, req *gameserverv1.DeregisterGameServerRequest) (*gameserverv1.DeregisterGameServerResponse, error) {
	server, err := s.servers.Deregister(ctx, ids.Namespace(req.GetNamespace()), req.GetServerId())
	return &gameserverv1.DeregisterGameServerResponse{Server: wire.Server(server)}, err
}

// JoinPool implements the rpc.
func (s *Registry) JoinPool(ctx context.Context, req *gameserverv1.JoinPoolRequest) (*gameserverv1.JoinPoolResponse, error) {
	endpoints, err := wire.FromServer(req.GetEndpoints())
	if err != nil {
		return nil, err
	}
	namespace := ids.Namespace(req.GetNamespace())
	member := ids.Member(namespace, req.GetPool(), req.GetName())
	pair, err := s.pairs.Pair(ctx, namespace, member) // first: who gets no pair takes the name from nobody
	if err != nil {
		return nil, err
	}
	server, err := s.pools.Join(ctx, registry.Server{
		Namespace: namespace, ID: ids.Server(member), Capacity: max(1, int(req.GetCapacity())), Labels: req.GetLabels(), Endpoints: endpoints,
		Actor: auth.FromContext(ctx).Actor(), Pool: req.GetPool(), Name: req.GetName(), Builds: req.GetBuilds(), Region: req.GetRegion(),
	})
	if err != nil {
		return nil, err
	}
	return &gameserverv1.JoinPoolResponse{
		Server: wire.Server(server), GameToken: pair.GetGameToken(), SocialToken: pair.GetSocialToken(), ExpireTime: pair.GetExpireTime(),
		Absence: durationpb.New(registry.Absence),
	}, nil
}
