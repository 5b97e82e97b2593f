package redisstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/berth-dev/berth/services/tokenissuer/internal/caller"
)

var _ caller.Store = (*Store)(nil)

// CreateKey implements caller.Store.
func (s *Store) CreateKey(ctx context.Context, k caller.Key) (caller.Key, error) {
	doc, err := json.Marshal(keyEntry{Name: k.Name, Role: k.Role, Namespaces: k.Namespaces, Creator: k.Creator})
	if err != nil {
		return caller.Key{}, err
	}
	expires := int64(0)
	if !k.ExpireTime.IsZero() {
		expires = k.ExpireTime.UnixMicro()
	}
	reply, err := s.redis.Write(ctx, s.scripts.createKey, []string{apiKeysKey, apiKeyNamesKey, apiKeyExpiryKey},
		k.Hash, k.Name, doc, expires, caller.MaxKeys).StringSlice()
	switch {
	case err != nil:
		return caller.Key{}, err
	case len(reply) == 1 && reply[0] == "PAST":
		return caller.Key{}, caller.ErrPast
	case len(reply) == 1 && reply[0] == "TAKEN":
		return caller.Key{}, caller.ErrTaken
	case len(reply) == 1 && reply[0] == "FULL":
		return caller.Key{}, caller.ErrFull
	case len(reply) != 2:
		return caller.Key{}, errors.New("create an API key: unexpected reply")
	}
	return decodeKey(k.Hash, reply[1])
}

// Keys implements caller.Store.
func (s *Store) Keys(ctx context.Context) ([]caller.Key, error) { return s.loadKeys(ctx, "") }

// KeyByHash implements caller.Store.
func (s *Store) KeyByHash(ctx context.Context, hash string) (caller.Key, bool, error) {
	found, err := s.loadKeys(ctx, hash)
	if err != nil || len(found) == 0 {
		return caller.Key{}, false, err
	}
	return found[0], true, nil
}

// loadKeys reads the keys that have not expired: one, or all if hash is empty.
func (s *Store) loadKeys(ctx context.Context, hash string) ([]caller.Key, error) {
	reply, err := s.redis.Read(ctx, s.scripts.loadKeys, []string{apiKeysKey}, hash).Slice()
	if err != nil {
		return nil, err
	}
	now, _, err := timed(reply)
	if err != nil || len(reply) != 2 {
		return nil, errors.New("load of API keys: unexpected reply")
	}
	fields, _ := reply[1].([]any)
	var keys []caller.Key
	for pair := range slices.Chunk(fields, 2) {
		hash, _ := pair[0].(string)
		entry, _ := pair[len(pair)-1].(string)
		k, err := decodeKey(hash, entry)
		if err != nil {
			return nil, fmt.Errorf("API key with hash %s: %w", hash, err)
		}
		if k.ExpireTime.IsZero() || k.ExpireTime.After(now) {
			keys = append(keys, k)
		}
	}
	return keys, nil
}

// DeleteKey implements caller.Store.
func (s *Store) DeleteKey(ctx context.Context, k caller.Key) (bool, error) {
	return s.redis.Write(ctx, s.scripts.deleteKey, []string{apiKeysKey, apiKeyNamesKey, apiKeyExpiryKey}, k.Hash, k.Name).Bool()
}

// keyEntry is an API key as it is stored under its hash, behind its times. Entries are written once, so nothing here must carry over fields of newer versions.
type keyEntry struct {
	Name       string      `json:"name"`
	Role       caller.Role `json:"role"`
	Namespaces []string    `json:"namespaces,omitempty"`
	Creator    string      `json:"creator,omitempty"`
}

func decodeKey(hash, entry string) (caller.Key, error) {
	times, doc, err := stamps(entry, 2)
	if err != nil {
		return caller.Key{}, err
	}
	var e keyEntry
	if err := json.Unmarshal([]byte(doc), &e); err != nil {
		return caller.Key{}, err
	}
	k := caller.Key{Name: e.Name, Hash: hash, Role: e.Role, Namespaces: e.Namespaces, Creator: e.Creator, CreateTime: time.UnixMicro(times[0]).UTC()}
	if times[1] != 0 {
		k.ExpireTime = time.UnixMicro(times[1]).UTC()
	}
	return k, nil
}
