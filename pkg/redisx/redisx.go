// Package redisx opens the store and knows how its keyspace is cut into partitions.
package redisx

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/berth-dev/berth/pkg/conf"
	"github.com/berth-dev/berth/pkg/errs"
)

// Config says where the store is.
type Config struct {
	// Addrs are the addresses (host:port) of one Redis server, or of some nodes of a Redis Cluster.
	Addrs []string `yaml:"addrs" env:"ADDRS" envSeparator:","`
	// Username and Password of a Redis user; empty for none.
	Username string      `yaml:"username" env:"USERNAME"`
	Password conf.Secret `yaml:"password" env:"PASSWORD,unset"`
	// Partitions is how many partitions a new keyspace gets; an existing keyspace keeps its own. Default 256.
	Partitions int `yaml:"partitions" env:"PARTITIONS"`
}

// Store is an open keyspace. It is safe for concurrent use.
type Store struct {
	redis.UniversalClient
	partitions int
}

const (
	// format is the version of the keyspace's layout.
	format = 1

	metaKey         = "berth:meta"
	maxPartitions   = 4096
	defaultParts    = 256
	connectDeadline = 5 * time.Second
)

// Open connects to the store and checks, or on first use writes, the keyspace's format and number of partitions.
//
// The driver never repeats a command whose reply was lost: a script may have been applied, and only its caller knows how to ask.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if len(cfg.Addrs) == 0 {
		return nil, errors.New("redis: no address is configured (redis.addrs, BERTH_REDIS_ADDRS)")
	}
	if cfg.Partitions == 0 {
		cfg.Partitions = defaultParts
	}
	if cfg.Partitions < 1 || cfg.Partitions > maxPartitions {
		return nil, fmt.Errorf("redis: partitions must be 1 to %d, not %d", maxPartitions, cfg.Partitions)
	}
	client := redis.NewUniversalClient(&redis.UniversalOptions{
		Addrs: cfg.Addrs, Username: cfg.Username, Password: cfg.Password.Reveal(),
		MaxRetries: -1, DialerRetries: 1, DialTimeout: 2 * time.Second, ReadTimeout: 2 * time.Second, WriteTimeout: 2 * time.Second,
		PoolTimeout: 2 * time.Second, ContextTimeoutEnabled: true,
	})
	ctx, cancel := context.WithTimeout(ctx, connectDeadline)
	defer cancel()
	partitions, err := checkMeta(ctx, client, cfg.Partitions)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("redis at %v: %w", cfg.Addrs, err), client.Close())
	}
	return &Store{UniversalClient: client, partitions: partitions}, nil
}

// checkMeta returns the keyspace's number of partitions, and makes a new keyspace.
func checkMeta(ctx context.Context, client redis.UniversalClient, partitions int) (int, error) {
	if err := client.HSetNX(ctx, metaKey, "partitions", partitions).Err(); err != nil {
		return 0, err
	}
	if err := client.HSetNX(ctx, metaKey, "format", format).Err(); err != nil {
		return 0, err
	}
	meta, err := client.HGetAll(ctx, metaKey).Result()
	if err != nil {
		return 0, err
	}
	if f, err := strconv.Atoi(meta["format"]); err != nil || f != format {
		return 0, fmt.Errorf("the keyspace has format %q and this version of Berth knows format %d", meta["format"], format)
	}
	p, err := strconv.Atoi(meta["partitions"])
	if err != nil || p < 1 || p > maxPartitions {
		return 0, fmt.Errorf("the keyspace says it has %q partitions", meta["partitions"])
	}
	return p, nil
}

// Partitions returns how many partitions the keyspace has.
func (s *Store) Partitions() int { return s.partitions }

// Partition returns the partition that an id lives in.
func (s *Store) Partition(id string) int {
	h := fnv.New32a()
	_, _ = h.Write([]byte(id)) // fnv never fails
	return int(h.Sum32() % uint32(s.partitions))
}

// Key builds a key of a partition: all keys of one partition share a hash slot, so that one script can change them together.
func Key(partition int, name string) string { return fmt.Sprintf("berth:{%03d}:%s", partition, name) }

// Ready is a readiness probe.
func (s *Store) Ready(ctx context.Context) error { return s.Ping(ctx).Err() }

// Err turns an error of the driver into one that callers may see. redis.Nil must have been dealt with before.
func Err(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled):
		return errs.Wrap(err, errs.Cancelled, "the caller went away")
	case errors.Is(err, context.DeadlineExceeded):
		return errs.Wrap(err, errs.DeadlineExceeded, "the store did not answer before the deadline; repeating with the same request id is safe")
	default:
		return errs.Wrap(err, errs.StoreUnavailable, "the store cannot be reached; repeating with the same request id is safe").Retry(time.Second)
	}
}
