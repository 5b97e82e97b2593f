package redisx

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"
)

// checkServers asks each server that takes writes whether it keeps them. INFO is allowed where CONFIG is not, as with hosted Redis.
func (s *Store) checkServers(ctx context.Context) error {
	var mu sync.Mutex
	var found []error
	err := s.eachMaster(ctx, func(ctx context.Context, c *redis.Client) error {
		info, err := c.Info(ctx).Result()
		if err != nil {
			return fmt.Errorf("INFO of %s: %w", c.Options().Addr, err)
		}
		mu.Lock()
		defer mu.Unlock()
		if err := s.checkServer(info); err != nil {
			found = append(found, fmt.Errorf("%s: %w", c.Options().Addr, err))
		}
		if infoField(info, "aof_enabled") == "0" {
			s.warnings = append(s.warnings, fmt.Sprintf("redis at %s keeps no append-only file: a crash loses everything since its last snapshot; set appendonly yes", c.Options().Addr))
		}
		return nil
	})
	return errors.Join(append(found, err)...)
}

// checkServer judges the answer to INFO. The embedded store has none of these fields, and is taken as it is.
func (s *Store) checkServer(info string) error {
	if policy := infoField(info, "maxmemory_policy"); policy != "" && policy != "noeviction" {
		return fmt.Errorf("maxmemory-policy is %s, which throws live matches away when memory is short; set maxmemory-policy noeviction", policy)
	}
	if n := infoField(info, "connected_slaves"); s.replicated && (n == "" || n == "0") {
		return errors.New("durability is replicated and no replica is connected; add a replica, or set durability (redis.durability, BERTH_REDIS_DURABILITY) to fast")
	}
	return nil
}

// eachMaster calls fn for every server that takes writes; on a Cluster at the same time.
func (s *Store) eachMaster(ctx context.Context, fn func(context.Context, *redis.Client) error) error {
	switch c := s.UniversalClient.(type) {
	case *redis.ClusterClient:
		return c.ForEachMaster(ctx, fn)
	case *redis.Client:
		return fn(ctx, c)
	default:
		return fmt.Errorf("a %T has no known servers", c)
	}
}

// infoField returns a field of the answer to INFO, or "" if it is not there.
func infoField(info, name string) string {
	for line := range strings.Lines(info) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
