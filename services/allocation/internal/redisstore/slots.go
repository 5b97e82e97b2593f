package redisstore

import (
	"context"
	_ "embed" // the scripts
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/services/allocation/internal/allocator"
)

var (
	//go:embed scripts/take.lua
	takeSource string
	//go:embed scripts/free.lua
	freeSource string
	//go:embed scripts/members.lua
	membersSource string
)

var _ allocator.Slots = (*Store)(nil)

// Take implements allocator.Slots.
func (s *Store) Take(ctx context.Context, provider string, most int, id string) (bool, error) {
	n, err := s.redis.Write(ctx, s.scripts.take, []string{slotsKey(s.redis.Partition(provider), provider)}, id, most).Int()
	return n == 1, err
}

// Free implements allocator.Slots.
func (s *Store) Free(ctx context.Context, provider, id string, taken time.Time) error {
	when := ""
	if !taken.IsZero() {
		when = strconv.FormatInt(taken.UnixMicro(), 10)
	}
	return s.redis.Write(ctx, s.scripts.free, []string{slotsKey(s.redis.Partition(provider), provider)}, id, when).Err()
}

// Count implements allocator.Slots.
func (s *Store) Count(ctx context.Context, provider string) (int, error) {
	n, err := s.redis.ZCard(ctx, slotsKey(s.redis.Partition(provider), provider)).Result()
	return int(n), redisx.Err(err)
}

// Members implements allocator.Slots.
func (s *Store) Members(ctx context.Context, provider string, age time.Duration, skip, limit int) ([]allocator.Slot, error) {
	reply, err := s.redis.Read(ctx, s.scripts.members, []string{slotsKey(s.redis.Partition(provider), provider)}, age.Microseconds(), skip, limit).StringSlice()
	if err != nil {
		return nil, err
	}
	slots := make([]allocator.Slot, 0, len(reply)/2)
	for i := 0; i+1 < len(reply); i += 2 {
		us, err := strconv.ParseFloat(reply[i+1], 64)
		if err != nil {
			return nil, fmt.Errorf("slots of provider %s: time: %w", provider, err)
		}
		slots = append(slots, allocator.Slot{ID: reply[i], Taken: time.UnixMicro(int64(us))})
	}
	return slots, nil
}

// Loads implements allocator.Slots.
func (s *Store) Loads(ctx context.Context, ids []string) ([]allocator.Allocation, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	pipe := s.redis.Pipeline()
	records := make([]*redis.SliceCmd, len(ids))
	for i, id := range ids {
		records[i] = pipe.HMGet(ctx, recordKey(s.partition(id), id), "rev", "head")
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, redisx.Err(err)
	}
	list, broken := make([]allocator.Allocation, len(ids)), make(map[string]error)
	for i, r := range records {
		var err error
		if list[i], err = decodeHash(r.Val()); err != nil {
			list[i], broken[ids[i]] = allocator.Allocation{}, err
		}
	}
	if len(broken) > 0 {
		return list, &allocator.UnreadableError{IDs: broken}
	}
	return list, nil
}
