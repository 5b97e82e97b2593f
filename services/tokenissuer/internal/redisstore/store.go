// Package redisstore keeps what the token-issuer owns in Redis. The scripts' headers and keys.go describe the layout.
package redisstore

import (
	"context"
	_ "embed" // the scripts
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/services/tokenissuer/internal/token"
)

var (
	//go:embed scripts/load_ring.lua
	loadRingSource string
	//go:embed scripts/swap_ring.lua
	swapRingSource string
	//go:embed scripts/load_revocations.lua
	loadRevocationsSource string
	//go:embed scripts/revoke.lua
	revokeSource string
	//go:embed scripts/restore_revocations.lua
	restoreRevocationsSource string
	//go:embed scripts/create_key.lua
	createKeySource string
	//go:embed scripts/load_keys.lua
	loadKeysSource string
	//go:embed scripts/delete_key.lua
	deleteKeySource string
)

// Store implements token.RingStore, token.RevocationStore and caller.Store. It is safe for concurrent use.
type Store struct {
	redis   *redisx.Store
	scripts scripts
}

type scripts struct {
	loadRing, swapRing                          *redis.Script
	loadRevocations, revoke, restoreRevocations *redis.Script
	createKey, loadKeys, deleteKey              *redis.Script
}

var _ token.RingStore = (*Store)(nil)

// New returns a Store.
func New(s *redisx.Store) *Store {
	return &Store{redis: s, scripts: scripts{
		loadRing: redis.NewScript(loadRingSource), swapRing: redis.NewScript(swapRingSource),
		loadRevocations: redis.NewScript(loadRevocationsSource), revoke: redis.NewScript(revokeSource), restoreRevocations: redis.NewScript(restoreRevocationsSource),
		createKey: redis.NewScript(createKeySource), loadKeys: redis.NewScript(loadKeysSource), deleteKey: redis.NewScript(deleteKeySource),
	}}
}

// LoadRing implements token.RingStore.
func (s *Store) LoadRing(ctx context.Context) (token.SealedRing, time.Time, error) {
	reply, err := s.redis.Read(ctx, s.scripts.loadRing, []string{RingKey}).Slice()
	if err != nil {
		return token.SealedRing{}, time.Time{}, err
	}
	now, raw, err := timed(reply)
	switch {
	case err != nil:
		return token.SealedRing{}, now, fmt.Errorf("load of the key ring: %w", err)
	case raw == "":
		return token.SealedRing{}, now, token.ErrNoRing
	}
	ring, err := decodeRing([]byte(raw))
	return ring, now, err
}

// timed reads the reply of a script that says the time and then a string, empty if there is none.
func timed(reply []any) (time.Time, string, error) {
	if len(reply) == 0 {
		return time.Time{}, "", errors.New("unexpected reply")
	}
	clock, _ := reply[0].(string)
	us, err := strconv.ParseInt(clock, 10, 64)
	if err != nil {
		return time.Time{}, "", fmt.Errorf("time: %w", err)
	}
	raw := ""
	if len(reply) > 1 {
		raw, _ = reply[1].(string)
	}
	return time.UnixMicro(us).UTC(), raw, nil
}

// SwapRing implements token.RingStore. The whole ring is one value, so that it is there completely or not at all.
// With durability replicated, no replica of the service signs with keys that a failover could take away.
func (s *Store) SwapRing(ctx context.Context, expected int64, ring token.SealedRing) (bool, error) {
	raw, err := encodeRing(ring)
	if err != nil {
		return false, err
	}
	return s.redis.Write(ctx, s.scripts.swapRing, []string{RingKey}, expected, raw).Bool()
}
