package redisstore

import (
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
	"google.golang.org/protobuf/proto"

	recordv1 "github.com/berth-dev/berth/pkg/gen/berth/record/v1"
	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/services/gameinstance/internal/session"
)

const (
	// sessionLife is how long a session is remembered after its last socket opened or closed. A server that comes back later begins a fresh one; its
	// links do not depend on it.
	sessionLife = 30 * 24 * time.Hour
	// lapsedLife is how long a life of a gateway is remembered as lapsed: longer than any process stays stopped by accident.
	lapsedLife = 24 * time.Hour
)

// LoadSession implements session.Sessions.
func (s *Store) LoadSession(ctx context.Context, serverID string) (session.Session, time.Time, error) {
	reply, err := s.redis.Read(ctx, s.scripts.loadSession, []string{serverKey(s.redis.Partition(serverID), serverID)}).StringSlice()
	if err != nil {
		return session.Session{}, time.Time{}, err
	}
	now, err := clock(reply)
	if err != nil || len(reply) != 5 {
		return session.Session{}, time.Time{}, fmt.Errorf("load of a session answered %q: %w", reply, err)
	}
	if reply[2] == "" {
		return session.Session{ServerID: serverID, Left: reply[3] != "", Known: reply[4] != ""}, now, nil
	}
	var r recordv1.SessionRecord
	if err := proto.Unmarshal([]byte(reply[2]), &r); err != nil {
		return session.Session{}, time.Time{}, fmt.Errorf("decode session of %s: %w", serverID, err)
	}
	return session.Session{
		ServerID: r.GetServerId(), Namespace: r.GetNamespace(), PairID: r.GetPairId(), ID: r.GetSessionId(), Epoch: r.GetEpoch(), GatewayID: r.GetGatewayId(),
		ResumeKeyHash: r.GetResumeKeyHash(), NonceHash: r.GetNonceHash(), Connected: r.GetConnected(), ChangeTime: at(r.GetChangeTime()), Left: reply[3] != "", Known: reply[4] != "",
	}, now, nil
}

// SaveSession implements session.Sessions.
func (s *Store) SaveSession(ctx context.Context, v session.Session, lookedAt int64) (bool, error) {
	record, err := proto.Marshal(&recordv1.SessionRecord{
		ServerId: v.ServerID, Namespace: v.Namespace, PairId: v.PairID, SessionId: v.ID, Epoch: v.Epoch, GatewayId: v.GatewayID,
		ResumeKeyHash: v.ResumeKeyHash, NonceHash: v.NonceHash, Connected: v.Connected, ChangeTime: micros(v.ChangeTime),
	})
	if err != nil {
		return false, fmt.Errorf("encode session: %w", err)
	}
	saved, err := s.redis.Write(ctx, s.scripts.session, []string{serverKey(s.redis.Partition(v.ServerID), v.ServerID)},
		lookedAt, v.Epoch, record, int64(sessionLife/time.Second)).Int()
	return saved == 1, err
}

// RenewGateway implements session.Gateways.
func (s *Store) RenewGateway(ctx context.Context, id string, lease time.Duration) (known time.Time, err error) {
	reply, err := s.redis.Write(ctx, s.scripts.renewGateway, []string{leasesKey, lapsedKey, knownKey}, id, lease.Microseconds()).Int64()
	return at(reply), err
}

// GatewayAlive implements session.Gateways.
func (s *Store) GatewayAlive(ctx context.Context, id string) (bool, error) {
	alive, _, _, err := s.gateways(ctx, id)
	return alive, err
}

// ExpiredGateways implements session.Gateways.
func (s *Store) ExpiredGateways(ctx context.Context) (released, ranOut []string, err error) {
	_, released, ranOut, err = s.gateways(ctx, "")
	return released, ranOut, err
}

func (s *Store) gateways(ctx context.Context, id string) (alive bool, released, ranOut []string, err error) {
	reply, err := s.redis.Read(ctx, s.scripts.gateways, []string{leasesKey}, id).Slice()
	if err != nil {
		return false, nil, nil, err
	}
	if len(reply) != 3 {
		return false, nil, nil, fmt.Errorf("gateways answered %d values", len(reply))
	}
	return reply[0] == int64(1), texts(reply[1]), texts(reply[2]), nil
}

// CondemnGateway implements session.Gateways.
func (s *Store) CondemnGateway(ctx context.Context, id string) (bool, error) {
	over, err := s.redis.Write(ctx, s.scripts.condemnGateway, []string{leasesKey}, id).Int()
	return over == 1, err
}

// ForgetGateway implements session.Gateways.
func (s *Store) ForgetGateway(ctx context.Context, id string) error {
	return s.redis.Write(ctx, s.scripts.forgetGateway, []string{leasesKey, lapsedKey, knownKey}, id, lapsedLife.Microseconds()).Err()
}

// Links implements session.Gateways.
func (s *Store) Links(ctx context.Context) ([]string, error) {
	return s.links(ctx, func(string) bool { return true })
}

// LinksThrough implements session.Gateways.
func (s *Store) LinksThrough(ctx context.Context, gatewayID string) ([]string, error) {
	return s.links(ctx, func(gateway string) bool { return gateway == gatewayID })
}

func (s *Store) links(ctx context.Context, wanted func(gateway string) bool) ([]string, error) {
	pipe := s.redis.Pipeline()
	cmds := make([]*redis.MapStringStringCmd, s.redis.Partitions())
	for p := range cmds {
		cmds[p] = pipe.HGetAll(ctx, linksKey(p))
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, redisx.Err(err)
	}
	var ids []string
	for _, cmd := range cmds {
		for id, gateway := range cmd.Val() {
			if wanted(gateway) {
				ids = append(ids, id)
			}
		}
	}
	return ids, nil
}
