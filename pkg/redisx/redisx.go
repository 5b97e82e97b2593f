// Package redisx opens the store, runs its scripts with the promise that is configured, and knows how its keyspace is cut into partitions.
package redisx

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/berth-dev/berth/pkg/conf"
	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/tlsx"
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
	// Durability is what the answer to a write promises: Fast or Replicated. Default Fast.
	Durability string `yaml:"durability" env:"DURABILITY"`
	// TLS is the TLS to Redis; default none. A Cluster's nodes all have to speak it.
	TLS tlsx.ClientConfig `yaml:"tls" envPrefix:"TLS_"`
	// Log, where set, is told of TLS files that cannot be used.
	Log *slog.Logger `yaml:"-"`
}

// What the answer to a write promises.
const (
	// Fast: the Redis server has the change. A crash or failover may lose the newest ones.
	Fast = "fast"
	// Replicated: a replica has the change as well.
	Replicated = "replicated"
)

// Store is an open keyspace. It is safe for concurrent use. What has to be kept is written by Write; the commands of the embedded client promise
// nothing, and on a Cluster the driver may repeat them.
type Store struct {
	redis.UniversalClient
	addrs      []string
	partitions int
	replicated bool
	warnings   []string
	reloading  chan struct{} // holds a token while the Cluster's layout is read anew
}

const (
	// format is the version of the keyspace's layout.
	format = 1

	metaKey         = "berth:meta"
	maxPartitions   = 4096
	defaultParts    = 256
	connectDeadline = 5 * time.Second

	// poolSize bounds the connections to one Redis server; those beyond the driver's few for pipelines are made when they are wanted. Each carries one command at a
	// time: over a line of 125 ms it is good for 8 a second, and the driver's own default, 10 for each core, would let hundreds of servers wait for each other,
	// and the leases of gateways wait with them, with a Redis that has nothing to do.
	poolSize = 256
)

// openMeta makes a new keyspace in one step, so that no service finds half of it.
var openMeta = redis.NewScript(`
redis.call('HSETNX', KEYS[1], 'partitions', ARGV[1])
redis.call('HSETNX', KEYS[1], 'format', ARGV[2])
return redis.call('HMGET', KEYS[1], 'partitions', 'format')`)

// Open connects to the store, refuses one that may lose what it is given, and checks, or on first use writes, the keyspace's format and number of
// partitions.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, connectDeadline)
	defer cancel()
	client, err := connect(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("redis at %v: %w", cfg.Addrs, err)
	}
	s := &Store{UniversalClient: client, addrs: cfg.Addrs, replicated: cfg.Durability == Replicated, warnings: exposed(cfg), reloading: make(chan struct{}, 1)}
	if err = s.checkServers(ctx); err == nil {
		err = s.checkMeta(ctx, cfg.Partitions)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("redis at %v: %w", cfg.Addrs, err), client.Close())
	}
	return s, nil
}

// complete fills in the defaults and checks the rest.
func (cfg *Config) complete() error {
	if len(cfg.Addrs) == 0 {
		return errors.New("redis: no address is configured (redis.addrs, BERTH_REDIS_ADDRS)")
	}
	if cfg.Partitions == 0 {
		cfg.Partitions = defaultParts
	}
	if cfg.Partitions < 1 || cfg.Partitions > maxPartitions {
		return fmt.Errorf("redis: partitions must be 1 to %d, not %d", maxPartitions, cfg.Partitions)
	}
	switch cfg.Durability {
	case "", Fast, Replicated:
	default:
		return fmt.Errorf("redis: durability (redis.durability, BERTH_REDIS_DURABILITY) must be %s or %s, not %q", Fast, Replicated, cfg.Durability)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return cfg.TLS.Validate("redis.tls")
}

// exposed returns a warning if the store is reached without TLS off this machine.
func exposed(cfg Config) []string {
	if cfg.TLS.Enabled || !slices.ContainsFunc(cfg.Addrs, func(addr string) bool { return !tlsx.Loopback(addr) }) {
		return nil
	}
	return []string{fmt.Sprintf("redis at %v is reached without TLS: who can read in that network reads players' data and Redis' password; set redis.tls.enabled", cfg.Addrs)}
}

// connect returns a client for what is at the addresses: a single one may be that of a server or of any node of a Cluster.
func connect(ctx context.Context, cfg Config) (redis.UniversalClient, error) {
	opts := &redis.UniversalOptions{
		Addrs: cfg.Addrs, Username: cfg.Username, Password: cfg.Password.Reveal(),
		MaxRetries: -1, DialerRetries: 1, DialTimeout: 2 * time.Second, ReadTimeout: 2 * time.Second, WriteTimeout: 2 * time.Second,
		PoolTimeout: 2 * time.Second, PoolSize: poolSize, ContextTimeoutEnabled: true,
	}
	files, err := cfg.TLS.Open("redis.tls", cfg.Log)
	if err != nil {
		return nil, err
	}
	if files != nil {
		opts.Dialer = dialTLS(files, cfg.TLS.ServerName, opts.DialTimeout)
	}
	if len(cfg.Addrs) > 1 {
		return newCluster(opts.Cluster()), nil
	}
	client := redis.NewClient(opts.Simple())
	info, err := client.Info(ctx).Result()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("INFO: %w", err), client.Close())
	}
	if infoField(info, "cluster_enabled") != "1" {
		return client, nil
	}
	return newCluster(opts.Cluster()), client.Close()
}

// dialTLS returns a dialer whose connections go by the files as they are when each is made.
func dialTLS(files *tlsx.Source, serverName string, timeout time.Duration) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		d := tls.Dialer{NetDialer: &net.Dialer{Timeout: timeout, KeepAlive: 5 * time.Minute}, Config: files.OutsideConfig(serverName)}
		ctx, cancel := context.WithTimeout(ctx, timeout) // of the handshake too
		defer cancel()
		return d.DialContext(ctx, network, addr)
	}
}

// checkMeta reads the keyspace's number of partitions, and makes a new keyspace.
func (s *Store) checkMeta(ctx context.Context, partitions int) error {
	meta, err := s.Write(ctx, openMeta, []string{metaKey}, partitions, format).StringSlice()
	if err != nil {
		return err
	}
	if f, err := strconv.Atoi(meta[1]); err != nil || f != format {
		return fmt.Errorf("the keyspace has format %q and this version of Berth knows format %d", meta[1], format)
	}
	p, err := strconv.Atoi(meta[0])
	if err != nil || p < 1 || p > maxPartitions {
		return fmt.Errorf("the keyspace says it has %q partitions", meta[0])
	}
	s.partitions = p
	return nil
}

// Addrs returns the addresses that the store was opened with.
func (s *Store) Addrs() []string { return s.addrs }

// Partitions returns how many partitions the keyspace has.
func (s *Store) Partitions() int { return s.partitions }

// Warnings returns what is allowed and still not advisable about the store, as found when it was opened: sentences for the log.
func (s *Store) Warnings() []string { return s.warnings }

// Warn logs the warnings.
func (s *Store) Warn(log *slog.Logger) {
	for _, w := range s.warnings {
		log.Warn("the store is not set up as it should be", "warning", w)
	}
}

// Of 32-bit FNV-1a.
const (
	fnvOffset = 2166136261
	fnvPrime  = 16777619
)

// Partition returns the partition that an id lives in.
func (s *Store) Partition(id string) int {
	h := uint32(fnvOffset) // FNV-1a by hand: hash/fnv allocates twice, and every message asks
	for i := range len(id) {
		h = (h ^ uint32(id[i])) * fnvPrime
	}
	return int(h % uint32(s.partitions))
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
