// Package redisstore keeps the sealed key ring in Redis.
package redisstore

import (
	"context"
	_ "embed" // the script
	"errors"

	"github.com/redis/go-redis/v9"

	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/services/tokenissuer/internal/token"
)

//go:embed scripts/create.lua
var createSource string

// Store implements token.Store. It is safe for concurrent use.
type Store struct {
	redis  *redisx.Store
	create *redis.Script
}

var _ token.Store = (*Store)(nil)

// New returns a Store.
func New(s *redisx.Store) *Store { return &Store{s, redis.NewScript(createSource)} }

// LoadRing implements token.Store.
func (s *Store) LoadRing(ctx context.Context) (token.SealedRing, error) {
	raw, err := s.redis.Get(ctx, RingKey).Bytes()
	switch {
	case errors.Is(err, redis.Nil):
		return token.SealedRing{}, token.ErrNoRing
	case err != nil:
		return token.SealedRing{}, redisx.Err(err)
	default:
		return decode(raw)
	}
}

// CreateRing implements token.Store. The whole ring is one value, so that it is there completely or not at all.
// With durability replicated, no replica of the service signs with keys that a failover could take away.
func (s *Store) CreateRing(ctx context.Context, ring token.SealedRing) error {
	raw, err := encode(ring)
	if err != nil {
		return err
	}
	return s.redis.Write(ctx, s.create, []string{RingKey}, raw).Err()
}
