package redisstore

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"
	"google.golang.org/protobuf/proto"

	recordv1 "github.com/berth-dev/berth/pkg/gen/berth/record/v1"
	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/services/gameinstance/internal/instance"
)

// maxMessages bounds one read of messages to backends: 16 of the largest fit into 1 MiB.
const maxMessages = 16

// Messages implements watch.Messages.
func (s *Store) Messages(ctx context.Context, instanceID string, after int64) ([]instance.Said, error) {
	entries, err := s.redis.ZRangeByScore(ctx, saidKey(s.redis.Partition(instanceID), instanceID), &redis.ZRangeBy{
		Min: "(" + strconv.FormatInt(after, 10), Max: "+inf", Count: maxMessages,
	}).Result()
	if err != nil {
		return nil, redisx.Err(err)
	}
	messages := make([]instance.Said, 0, len(entries))
	for _, e := range entries {
		m, err := decodeSaid(e)
		if err != nil {
			return nil, fmt.Errorf("messages of %s: %w", instanceID, err)
		}
		messages = append(messages, m)
	}
	return messages, nil
}

// AckMessages implements instance.Store.
func (s *Store) AckMessages(ctx context.Context, namespace, instanceID string, offset int64) error {
	p := s.redis.Partition(instanceID)
	keys := []string{instanceKey(p, instanceID), saidKey(p, instanceID), talkKey(p, namespace)}
	return s.redis.Write(ctx, s.scripts.ackMessages, keys, instanceID, offset, changesChannel(p)).Err()
}

// Newest implements watch.Messages.
func (s *Store) Newest(ctx context.Context, namespace string, instanceIDs []string) ([]int64, error) {
	if len(instanceIDs) == 0 {
		return nil, nil
	}
	pipe := s.redis.Pipeline()
	scores := make([]*redis.FloatCmd, len(instanceIDs))
	for n, id := range instanceIDs {
		scores[n] = pipe.ZScore(ctx, talkKey(s.redis.Partition(id), namespace), id)
	}
	if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
		return nil, redisx.Err(err)
	}
	out := make([]int64, len(instanceIDs))
	for n, score := range scores {
		out[n] = int64(score.Val()) // offsets are below 2^53; 0 where nothing waits
	}
	return out, nil
}

// Talking implements watch.Messages.
func (s *Store) Talking(ctx context.Context, namespace string, since int64) (map[string]int64, error) {
	pipe := s.redis.Pipeline()
	parts := make([]*redis.ZSliceCmd, s.redis.Partitions())
	for p := range parts {
		parts[p] = pipe.ZRangeByScoreWithScores(ctx, talkKey(p, namespace), &redis.ZRangeBy{Min: strconv.FormatInt(since, 10), Max: "+inf"})
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, redisx.Err(err)
	}
	out := map[string]int64{}
	for _, part := range parts {
		for _, z := range part.Val() {
			if id, ok := z.Member.(string); ok {
				out[id] = int64(z.Score)
			}
		}
	}
	return out, nil
}

func encodeSaid(m instance.Said) ([]byte, error) {
	return proto.Marshal(&recordv1.ServerMessageRecord{ServerId: m.ServerID, Topic: m.Topic, Data: encodeStored(m.Data)})
}

// decodeSaid reads "OFFSET:MESSAGE".
func decodeSaid(entry string) (instance.Said, error) {
	number, message, ok := strings.Cut(entry, ":")
	if !ok {
		return instance.Said{}, errors.New("entry without its number")
	}
	offset, err := strconv.ParseInt(number, 10, 64)
	if err != nil {
		return instance.Said{}, err
	}
	var r recordv1.ServerMessageRecord
	if err := proto.Unmarshal([]byte(message), &r); err != nil {
		return instance.Said{}, err
	}
	return instance.Said{Offset: offset, ServerID: r.GetServerId(), Topic: r.GetTopic(), Data: decodeStored(r.GetData())}, nil
}

// decodeTally reads "OFFSET:COUNT:BYTES"; of an instance that never sent a message there is none.
func decodeTally(value string, into *instance.Instance) error {
	if value == "" {
		return nil
	}
	parts := strings.Split(value, ":")
	if len(parts) != 3 {
		return fmt.Errorf("decode %s: %q", fieldSaid, value)
	}
	var n [3]int64
	for i := range n {
		if err := parse(parts[i], &n[i]); err != nil {
			return fmt.Errorf("decode %s: %w", fieldSaid, err)
		}
	}
	into.LastSaid, into.SaidCount, into.SaidBytes = n[0], int(n[1]), int(n[2])
	return nil
}
