package audit

import (
	"context"
	_ "embed" // the script
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	recordv1 "github.com/berth-dev/berth/pkg/gen/berth/record/v1"
	"github.com/berth-dev/berth/pkg/redisx"
)

// streamKey is the stream of all services.
const streamKey = "berth:audit"

// field is the one field of the stream's entries: an AuditRecord.
const field = "e"

//go:embed scripts/append.lua
var appendSource string

// Stream is the audit in Redis. It is safe for concurrent use.
type Stream struct {
	store  *redisx.Store
	script *redis.Script
}

// NewStream returns the stream in a store.
func NewStream(store *redisx.Store) *Stream {
	return &Stream{store: store, script: redis.NewScript(appendSource)}
}

// Append implements Appender. When its answer is lost, a repeat writes the entries twice, with the same ids.
func (s *Stream) Append(ctx context.Context, length int, entries []Entry) error {
	args := make([]any, 1, len(entries)+1)
	args[0] = length
	for _, e := range entries {
		raw, err := proto.Marshal(encode(e))
		if err != nil {
			return fmt.Errorf("audit entry: %w", err)
		}
		args = append(args, raw)
	}
	return s.store.Write(ctx, s.script, []string{streamKey}, args...).Err()
}

const (
	// readAtOnce is how many entries one read has, and maxLooked how many a page is looked for in.
	readAtOnce = 500
	maxLooked  = 5_000
)

// Page returns up to limit entries that match, newest first, after a place; empty: from the newest. next is the place after them; it is empty at the end
// of the stream. Of a page, at most 5,000 entries are looked at.
func (s *Stream) Page(ctx context.Context, after string, limit int, match func(Entry) bool) (page []Entry, next string, err error) {
	end := "+"
	if after != "" {
		end = "(" + after
	}
	for looked := 0; looked < maxLooked; {
		read, err := s.store.XRevRangeN(ctx, streamKey, end, "-", readAtOnce).Result()
		if err != nil {
			return nil, "", redisx.Err(err)
		}
		for _, m := range read {
			end = "(" + m.ID
			looked++
			e, err := decode(m)
			if err != nil {
				return nil, "", err
			}
			if !match(e) {
				continue
			}
			if page = append(page, e); len(page) == limit {
				return page, m.ID, nil
			}
		}
		if len(read) < readAtOnce {
			return page, "", nil
		}
	}
	return page, end[1:], nil
}

func encode(e Entry) *recordv1.AuditRecord {
	return &recordv1.AuditRecord{
		Id: e.ID, Time: timestamppb.New(e.Time), LastTime: timestamppb.New(e.LastTime), Count: e.Count, Service: e.Service, Namespace: e.Namespace,
		Actor: e.Actor, Role: e.Role, Action: e.Action, Resource: e.Resource, Address: e.Address, ForwardedFor: e.ForwardedFor, Outcome: e.Outcome,
		Detail: e.Detail, RequestId: e.RequestID,
	}
}

func decode(m redis.XMessage) (Entry, error) {
	raw, ok := m.Values[field].(string)
	if !ok {
		return Entry{}, fmt.Errorf("audit entry %s: %w", m.ID, errors.New("has no record"))
	}
	var r recordv1.AuditRecord
	if err := proto.Unmarshal([]byte(raw), &r); err != nil {
		return Entry{}, fmt.Errorf("audit entry %s: %w", m.ID, err)
	}
	at := func(t *timestamppb.Timestamp) time.Time {
		if t == nil {
			return time.Time{}
		}
		return t.AsTime()
	}
	return Entry{
		ID: r.GetId(), Time: at(r.GetTime()), LastTime: at(r.GetLastTime()), Count: r.GetCount(), Service: r.GetService(), Namespace: r.GetNamespace(),
		Actor: r.GetActor(), Role: r.GetRole(), Action: r.GetAction(), Resource: r.GetResource(), Address: r.GetAddress(), ForwardedFor: r.GetForwardedFor(),
		Outcome: r.GetOutcome(), Detail: r.GetDetail(), RequestID: r.GetRequestId(),
	}, nil
}
