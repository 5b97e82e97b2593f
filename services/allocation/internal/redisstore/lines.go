package redisstore

import (
	"context"
	_ "embed" // the scripts
	"strconv"
	"strings"
	"time"

	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/services/allocation/internal/allocator"
)

var (
	//go:embed scripts/enter.lua
	enterSource string
	//go:embed scripts/leave.lua
	leaveSource string
)

var _ allocator.Lines = (*Store)(nil)

// Enter implements allocator.Lines.
func (s *Store) Enter(ctx context.Context, l allocator.Line, id string, turn time.Time, limit int) (bool, error) {
	n, err := s.redis.Write(ctx, s.scripts.enter, []string{lineKey(s.redis.Partition(l.Build), l.Build, l.Where), waitingKey(s.redis.Partition(l.Build), l.Build)}, id, l.Where, turn.UnixMicro(), limit).Int()
	return n == 1, err
}

// Leave implements allocator.Lines.
func (s *Store) Leave(ctx context.Context, l allocator.Line, id string) error {
	return s.redis.Write(ctx, s.scripts.leave, []string{lineKey(s.redis.Partition(l.Build), l.Build, l.Where), waitingKey(s.redis.Partition(l.Build), l.Build)}, id, l.Where).Err()
}

// Ahead implements allocator.Lines.
func (s *Store) Ahead(ctx context.Context, l allocator.Line, turn time.Time) (int, error) {
	n, err := s.redis.ZCount(ctx, lineKey(s.redis.Partition(l.Build), l.Build, l.Where), "-inf", "("+strconv.FormatInt(turn.UnixMicro(), 10)).Result()
	return int(n), redisx.Err(err)
}

// Front implements allocator.Lines.
func (s *Store) Front(ctx context.Context, l allocator.Line, n int) ([]string, error) {
	ids, err := s.redis.ZRange(ctx, lineKey(s.redis.Partition(l.Build), l.Build, l.Where), 0, int64(n-1)).Result()
	return ids, redisx.Err(err)
}

// Waiting implements allocator.Lines and allocator.Store.
func (s *Store) Waiting(ctx context.Context, build string) (int, error) {
	n, err := s.redis.ZCard(ctx, waitingKey(s.redis.Partition(build), build)).Result()
	return int(n), redisx.Err(err)
}

// Waiters implements allocator.Lines.
func (s *Store) Waiters(ctx context.Context, build string, skip, limit int) ([]allocator.Waiter, error) {
	members, err := s.redis.ZRange(ctx, waitingKey(s.redis.Partition(build), build), int64(skip), int64(skip+limit-1)).Result()
	if err != nil {
		return nil, redisx.Err(err)
	}
	list := make([]allocator.Waiter, 0, len(members))
	for _, m := range members {
		where, id, _ := strings.Cut(m, " ")
		list = append(list, allocator.Waiter{ID: id, Line: allocator.Line{Build: build, Where: where}})
	}
	return list, nil
}
