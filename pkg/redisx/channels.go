package redisx

import (
	"context"
	"strconv"

	"github.com/redis/go-redis/v9"
)

// RevocationsChannel is where token-issuer publishes that there is a new list of what was revoked, for all who verify tokens. It is a hint; the list is
// the truth.
const RevocationsChannel = "berth:revocations"

// messageChannels is how many channels carry the messages of game servers. Every game-instance that has somebody to pass them on to reads them
// all, so more channels would only make smaller batches. All versions that run together must agree on it.
const messageChannels = 4

// GatewayChannel returns the channel on which a life of a gateway is sent what concerns its servers.
func GatewayChannel(gatewayID string) string { return "berth:gw:" + gatewayID }

// MessageChannel returns the channel on which gateways publish the messages of game servers about instances of a partition.
func MessageChannel(partition int) string {
	return "berth:msg:" + strconv.Itoa(partition%messageChannels)
}

// MessageChannels returns all channels of MessageChannel.
func MessageChannels() []string {
	all := make([]string, messageChannels)
	for n := range all {
		all[n] = MessageChannel(n)
	}
	return all
}

// SubscribeTo subscribes to one channel. On a Cluster it is a sharded one, because the others are broadcast to every node there; so only what
// PublishAll publishes arrives.
func (s *Store) SubscribeTo(ctx context.Context, channel string) *redis.PubSub {
	if s.cluster() {
		return s.SSubscribe(ctx, channel)
	}
	return s.Subscribe(ctx, channel)
}

// PublishAll publishes one message on each of several channels of SubscribeTo, in one go. Nobody may be there to read them.
func (s *Store) PublishAll(ctx context.Context, messages map[string][]byte) error {
	pipe := s.Pipeline()
	for channel, m := range messages {
		if s.cluster() {
			pipe.SPublish(ctx, channel, m)
		} else {
			pipe.Publish(ctx, channel, m)
		}
	}
	_, err := pipe.Exec(ctx)
	return Err(err)
}

// cluster reports whether the store is a Redis Cluster.
func (s *Store) cluster() bool {
	_, ok := s.UniversalClient.(*redis.ClusterClient)
	return ok
}
