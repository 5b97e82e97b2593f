package redisx_test

import (
	"context"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/pkg/redisx/redistest"
)

func TestWhatIsPublishedArrivesOnEveryKindOfStore(t *testing.T) {
	redistest.Each(t, func(t *testing.T, s *redisx.Store) {
		messages := map[string][]byte{redisx.GatewayChannel("g"): []byte("to a gateway")}
		for n, channel := range redisx.MessageChannels() {
			messages[channel] = []byte{'m', byte(n)}
		}
		subscriptions := make(map[string]*redis.PubSub)
		for channel := range messages {
			sub := s.SubscribeTo(t.Context(), channel)
			t.Cleanup(func() { _ = sub.Close() })
			if _, err := sub.Receive(t.Context()); err != nil { // the confirmation
				t.Fatal(err)
			}
			subscriptions[channel] = sub
		}
		if err := s.PublishAll(context.Background(), messages); err != nil {
			t.Fatal(err)
		}
		for channel, sub := range subscriptions {
			m, err := sub.ReceiveMessage(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if m.Payload != string(messages[channel]) {
				t.Errorf("%s: got %q, want %q", channel, m.Payload, messages[channel])
			}
		}
	})
}

func TestAMessageChannelFollowsFromThePartition(t *testing.T) {
	used := make(map[string]bool)
	for p := range 256 {
		used[redisx.MessageChannel(p)] = true
	}
	all := redisx.MessageChannels()
	if len(used) != len(all) {
		t.Errorf("%d channels are used, and %d read", len(used), len(all))
	}
	for _, c := range all {
		if !used[c] {
			t.Errorf("%s is read and not used", c)
		}
	}
}
