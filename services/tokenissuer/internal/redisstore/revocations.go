package redisstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/services/tokenissuer/internal/token"
)

// restoreBatch is how many revocations one script writes back, which bounds how long it takes.
const restoreBatch = 200

var _ token.RevocationStore = (*Store)(nil)

// RevocationsVersion implements token.RevocationStore.
func (s *Store) RevocationsVersion(ctx context.Context) (int64, error) {
	version, err := s.redis.Get(ctx, revocationVersionKey).Int64()
	if errors.Is(err, redis.Nil) {
		return 0, nil
	}
	return version, redisx.Err(err)
}

// LoadRevocations implements token.RevocationStore.
func (s *Store) LoadRevocations(ctx context.Context) (token.RevocationList, error) {
	reply, err := s.redis.Read(ctx, s.scripts.loadRevocations, []string{revocationsKey, revocationVersionKey}).Slice()
	if err != nil {
		return token.RevocationList{}, err
	}
	list, err := decodeRevocations(reply)
	if err != nil {
		return token.RevocationList{}, fmt.Errorf("load of the revocations: %w", err)
	}
	return list, nil
}

func decodeRevocations(reply []any) (token.RevocationList, error) {
	now, version, err := timed(reply)
	if err != nil {
		return token.RevocationList{}, err
	}
	list := token.RevocationList{Now: now}
	if list.Version, err = strconv.ParseInt(version, 10, 64); err != nil || len(reply) != 3 {
		return token.RevocationList{}, errors.New("unexpected reply")
	}
	fields, _ := reply[2].([]any)
	for pair := range slices.Chunk(fields, 2) {
		entry, _ := pair[len(pair)-1].(string)
		r, err := decodeRevocation(entry)
		if err != nil {
			return token.RevocationList{}, fmt.Errorf("revocation %v: %w", pair[0], err)
		}
		if r.ExpireTime.After(now) {
			list.Revocations = append(list.Revocations, r)
		}
	}
	return list, nil
}

// Revoke implements token.RevocationStore.
func (s *Store) Revoke(ctx context.Context, r token.Revocation, keep time.Duration) (token.Revocation, error) {
	doc, err := encodeRevocation(r)
	if err != nil {
		return token.Revocation{}, err
	}
	limit, come := token.MaxRevocations, int64(0)
	if r.Target.KeyID != "" { // an emergency is not refused
		limit = 0
	}
	if !r.Target.IssuedBefore.IsZero() {
		come = r.Target.IssuedBefore.UnixMicro()
	}
	reply, err := s.redis.Write(ctx, s.scripts.revoke, []string{revocationsKey, revocationExpiryKey, revocationVersionKey},
		r.ID(), doc, keep.Microseconds(), limit, come, redisx.RevocationsChannel).StringSlice()
	switch {
	case err != nil:
		return token.Revocation{}, err
	case len(reply) == 1 && reply[0] == "FULL":
		return token.Revocation{}, token.ErrFull
	case len(reply) == 1 && reply[0] == "FUTURE":
		return token.Revocation{}, token.ErrFuture
	case len(reply) != 2:
		return token.Revocation{}, errors.New("revoke: unexpected reply")
	}
	return decodeRevocation(reply[1])
}

// RestoreRevocations implements token.RevocationStore.
func (s *Store) RestoreRevocations(ctx context.Context, lost []token.Revocation) error {
	for batch := range slices.Chunk(lost, restoreBatch) {
		args := []any{redisx.RevocationsChannel}
		for _, r := range batch {
			doc, err := encodeRevocation(r)
			if err != nil {
				return err
			}
			expires := r.ExpireTime.UnixMicro()
			args = append(args, r.ID(), fmt.Sprintf("%d:%d:%d:%s", r.CreateTime.UnixMicro(), expires, r.Version, doc), expires)
		}
		if err := s.redis.Write(ctx, s.scripts.restoreRevocations, []string{revocationsKey, revocationExpiryKey, revocationVersionKey}, args...).Err(); err != nil {
			return err
		}
	}
	return nil
}

// revocationRecord is a revocation as it is stored, behind its times and version. Entries are written once, so nothing here must carry over fields of newer
// versions.
type revocationRecord struct {
	Namespace    string `json:"namespace,omitempty"`
	PairID       string `json:"pair,omitempty"`
	ServerID     string `json:"server,omitempty"`
	InstanceID   string `json:"instance,omitempty"`
	IssuedBefore int64  `json:"issued_before,omitempty"` // µs
	KeyID        string `json:"kid,omitempty"`
	Reason       string `json:"reason,omitempty"`
	Actor        string `json:"actor,omitempty"`
}

func encodeRevocation(r token.Revocation) ([]byte, error) {
	record := revocationRecord{
		Namespace: r.Target.Namespace, PairID: r.Target.PairID, ServerID: r.Target.ServerID, InstanceID: r.Target.InstanceID, KeyID: r.Target.KeyID,
		Reason: r.Reason, Actor: r.Actor,
	}
	if !r.Target.IssuedBefore.IsZero() {
		record.IssuedBefore = r.Target.IssuedBefore.UnixMicro()
	}
	return json.Marshal(record)
}

func decodeRevocation(entry string) (token.Revocation, error) {
	times, doc, err := stamps(entry, 3)
	if err != nil {
		return token.Revocation{}, err
	}
	var record revocationRecord
	if err := json.Unmarshal([]byte(doc), &record); err != nil {
		return token.Revocation{}, err
	}
	r := token.Revocation{
		Target: token.Target{
			Namespace: record.Namespace, PairID: record.PairID, ServerID: record.ServerID, InstanceID: record.InstanceID, KeyID: record.KeyID,
		},
		Reason: record.Reason, Actor: record.Actor,
		CreateTime: time.UnixMicro(times[0]).UTC(), ExpireTime: time.UnixMicro(times[1]).UTC(), Version: times[2],
	}
	if record.IssuedBefore != 0 {
		r.Target.IssuedBefore = time.UnixMicro(record.IssuedBefore).UTC()
	}
	return r, nil
}

// stamps cuts n numbers, each with a colon behind it, from the beginning of an entry.
func stamps(entry string, n int) (numbers []int64, rest string, err error) {
	for range n {
		number, behind, found := strings.Cut(entry, ":")
		value, err := strconv.ParseInt(number, 10, 64)
		if !found || err != nil {
			return nil, "", errors.New("the entry has no times")
		}
		numbers, entry = append(numbers, value), behind
	}
	return numbers, entry, nil
}
