package redisx

import (
	"context"
	"errors"
	"net"
	"strconv"
	"sync"
	"time"

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

// Silences is how many intervals in a row nothing may arrive for a subscription of Listen to count as dead.
const Silences = 3

// Listen holds one subscription to a channel, as SubscribeTo makes it, until it is dead or ctx ends, and returns why. That it works is proven and not
// believed: after a failover it may be on a server that nobody publishes to. So an empty message is published on the channel when the subscription stands,
// and every interval; a failure shows in what does not arrive. receive is handed every message, these too. It must not block: while it does, the store's
// buffer for this subscriber fills, and it is cut off when that is full.
func (s *Store) Listen(ctx context.Context, channel string, interval time.Duration, receive func(payload string)) error {
	ctx, cancel := context.WithCancel(ctx)
	sub := s.SubscribeTo(ctx, channel)
	defer context.AfterFunc(ctx, func() { _ = sub.Close() })() // a read in the driver does not end with its context
	defer func() { _ = sub.Close() }()
	confirmed := make(chan struct{}, 1)
	var proving sync.WaitGroup
	proving.Go(func() { s.prove(ctx, channel, interval, confirmed) })
	defer proving.Wait()
	defer cancel()

	heard := time.Now()
	for {
		// The driver keeps nothing of a message of which only a part came in time: it would read on from its middle, and take what somebody else wrote for
		// what the store says. So the read that runs out of time is the last.
		msg, err := sub.ReceiveTimeout(ctx, max(interval, Silences*interval-time.Since(heard)))
		var timeout net.Error
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.As(err, &timeout) && timeout.Timeout():
			return errors.New("it went silent")
		case err != nil:
			return err
		}
		switch m := msg.(type) {
		case *redis.Subscription:
			select {
			case confirmed <- struct{}{}:
			default:
			}
		case *redis.Message:
			heard = time.Now()
			receive(m.Payload)
		}
	}
}

// prove publishes an empty message when a subscription is confirmed, and again and again.
func (s *Store) prove(ctx context.Context, channel string, interval time.Duration, confirmed <-chan struct{}) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-confirmed:
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		publishCtx, cancel := context.WithTimeout(ctx, interval)
		_ = s.PublishAll(publishCtx, map[string][]byte{channel: nil})
		cancel()
	}
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
