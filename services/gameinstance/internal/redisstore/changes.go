package redisstore

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/services/gameinstance/internal/instance"
)

// Follow implements watch.Feed. The driver connects and subscribes again by itself.
func (s *Store) Follow(ctx context.Context, hint func(instanceID string), subscribed func()) {
	channels := make([]string, s.redis.Partitions())
	for p := range channels {
		channels[p] = changesChannel(p)
	}
	sub := s.redis.Subscribe(ctx, channels...)
	defer func() { _ = sub.Close() }()
	messages := sub.ChannelWithSubscriptions(redis.WithChannelSize(4096))
	for {
		select {
		case <-ctx.Done():
			return
		case m, ok := <-messages:
			if !ok {
				return
			}
			switch m := m.(type) {
			case *redis.Message:
				hint(m.Payload)
			case *redis.Subscription:
				if m.Count == len(channels) { // the last of them: from here on hints arrive
					subscribed()
				}
			}
		}
	}
}

// Now implements watch.Feed.
func (s *Store) Now(ctx context.Context) (time.Time, error) {
	now, err := s.redis.Time(ctx).Result()
	return now, redisx.Err(err)
}

// sinceAtOnce is how many entries of each index are read at once.
const sinceAtOnce = 1000

// sinceRead is a part of an index of changes that is being read.
type sinceRead struct {
	key     string
	deleted bool
	from    string
	got     *redis.ZSliceCmd
}

// Since implements watch.Feed: one pipelined read of all partitions, and more of those that had more than fits into one.
func (s *Store) Since(ctx context.Context, since time.Time, visit func([]instance.Mark) error) error {
	from := strconv.FormatInt(since.UnixMicro(), 10)
	var reads []sinceRead
	for p := range s.redis.Partitions() {
		reads = append(reads, sinceRead{key: changedKey(p), from: from}, sinceRead{key: goneKey(p), deleted: true, from: from})
	}
	for len(reads) > 0 {
		pipe := s.redis.Pipeline()
		for n := range reads {
			reads[n].got = pipe.ZRangeByScoreWithScores(ctx, reads[n].key, &redis.ZRangeBy{Min: reads[n].from, Max: "+inf", Count: sinceAtOnce})
		}
		if _, err := pipe.Exec(ctx); err != nil {
			return redisx.Err(err)
		}
		var marks []instance.Mark
		var more []sinceRead
		for _, r := range reads {
			for _, z := range r.got.Val() {
				mark := instance.Mark{Revision: int64(z.Score)}
				mark.ID, _ = z.Member.(string)
				if r.deleted {
					mark.Revision = 0
				}
				marks = append(marks, mark)
			}
			if next, ok := r.next(); ok {
				more = append(more, next)
			}
		}
		if err := visit(marks); err != nil {
			return err
		}
		reads = more
	}
	return nil
}

// next says where to go on; false at the end. Entries of one score may have been cut in two, so that the last one is read again, unless there
// would be no end to it.
func (r sinceRead) next() (sinceRead, bool) {
	got := r.got.Val()
	if len(got) < sinceAtOnce {
		return r, false
	}
	last := strconv.FormatFloat(got[len(got)-1].Score, 'f', 0, 64)
	if got[0].Score == got[len(got)-1].Score {
		last = "(" + last
	}
	r.from = last
	return r, true
}

// Deleted implements watch.Heads.
func (s *Store) Deleted(ctx context.Context, id string) (bool, error) {
	err := s.redis.ZScore(ctx, goneKey(s.redis.Partition(id)), id).Err()
	if errors.Is(err, redis.Nil) {
		return false, nil
	}
	return err == nil, redisx.Err(err)
}
