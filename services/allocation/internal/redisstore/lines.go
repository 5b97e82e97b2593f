package redisstore

import (
	"context"
	_ "embed" // the scripts
	"fmt"
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
	//go:embed scripts/front.lua
	frontSource string
	//go:embed scripts/crowd.lua
	crowdSource string
)

var _ allocator.Lines = (*Store)(nil)

// Enter implements allocator.Lines.
func (s *Store) Enter(ctx context.Context, w allocator.Waiter, turn time.Time, limit int) (bool, error) {
	n, err := s.redis.Write(ctx, s.scripts.enter, s.lineKeys(w.Line), w.ID, w.Line.Where, turn.UnixMicro(), w.Since.UnixMicro(), limit).Int()
	return n == 1, err
}

// Leave implements allocator.Lines.
func (s *Store) Leave(ctx context.Context, w allocator.Waiter) error {
	since := ""
	if !w.Since.IsZero() {
		since = strconv.FormatInt(w.Since.UnixMicro(), 10)
	}
	return s.redis.Write(ctx, s.scripts.leave, s.lineKeys(w.Line), w.ID, w.Line.Where, since).Err()
}

// lineKeys are the keys that change with a line.
func (s *Store) lineKeys(l allocator.Line) []string {
	p := s.redis.Partition(l.Build)
	return []string{lineKey(p, l.Build, l.Where), waitingKey(p, l.Build), linesKey(p, l.Build)}
}

// Ahead implements allocator.Lines.
func (s *Store) Ahead(ctx context.Context, l allocator.Line, turn time.Time) (int, error) {
	n, err := s.redis.ZCount(ctx, lineKey(s.redis.Partition(l.Build), l.Build, l.Where), "-inf", "("+strconv.FormatInt(turn.UnixMicro(), 10)).Result()
	return int(n), redisx.Err(err)
}

// Front implements allocator.Lines.
func (s *Store) Front(ctx context.Context, l allocator.Line, n int) ([]allocator.Waiter, error) {
	reply, err := s.redis.Read(ctx, s.scripts.front, s.lineKeys(l)[:2], l.Where, n).StringSlice()
	if err != nil {
		return nil, err
	}
	front := make([]allocator.Waiter, 0, len(reply)/2)
	for i := 0; i+1 < len(reply); i += 2 {
		w := allocator.Waiter{ID: reply[i], Line: l}
		if us, err := strconv.ParseFloat(reply[i+1], 64); err == nil {
			w.Since = time.UnixMicro(int64(us))
		}
		front = append(front, w)
	}
	return front, nil
}

// Waiting implements allocator.Store.
func (s *Store) Waiting(ctx context.Context, build string) (int, error) {
	n, err := s.redis.ZCard(ctx, waitingKey(s.redis.Partition(build), build)).Result()
	return int(n), redisx.Err(err)
}

// Waiters implements allocator.Lines.
func (s *Store) Waiters(ctx context.Context, build string, skip, limit int) ([]allocator.Waiter, error) {
	members, err := s.redis.ZRangeWithScores(ctx, waitingKey(s.redis.Partition(build), build), int64(skip), int64(skip+limit-1)).Result()
	if err != nil {
		return nil, redisx.Err(err)
	}
	list := make([]allocator.Waiter, 0, len(members))
	for _, m := range members {
		member, _ := m.Member.(string)
		where, id, _ := strings.Cut(member, " ")
		list = append(list, allocator.Waiter{ID: id, Line: allocator.Line{Build: build, Where: where}, Since: time.UnixMicro(int64(m.Score))})
	}
	return list, nil
}

// Crowds implements allocator.Lines. With a part of a Cluster away it returns what waits for the builds of the rest, and the error.
func (s *Store) Crowds(ctx context.Context, builds []string) ([]allocator.Crowd, error) {
	keys := make([][]string, len(builds))
	for i, build := range builds {
		keys[i] = s.lineKeys(allocator.Line{Build: build})[1:]
	}
	var crowds []allocator.Crowd
	var failed error
	for i, r := range s.redis.ReadEach(ctx, s.scripts.crowd, keys) {
		reply, err := r.StringSlice()
		if err != nil {
			failed = err
			continue
		}
		c, err := crowd(builds[i], reply)
		if err != nil {
			failed = err
			continue
		}
		crowds = append(crowds, c)
	}
	return crowds, failed
}

func crowd(build string, reply []string) (allocator.Crowd, error) {
	c := allocator.Crowd{Build: build}
	if len(reply) < 2 {
		return c, fmt.Errorf("who waits for build %s: unexpected reply", build)
	}
	waiting, err := strconv.Atoi(reply[0])
	if err != nil {
		return c, fmt.Errorf("who waits for build %s: %w", build, err)
	}
	us, err := strconv.ParseInt(reply[1], 10, 64)
	if err != nil {
		return c, fmt.Errorf("who waits for build %s: %w", build, err)
	}
	c.Waiting, c.Longest = waiting, time.Duration(us)*time.Microsecond
	for _, where := range reply[2:] {
		c.Lines = append(c.Lines, allocator.Line{Build: build, Where: where})
	}
	return c, nil
}
