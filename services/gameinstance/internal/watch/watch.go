// Package watch tells watchers that an instance has changed. One subscription a process feeds them all.
package watch

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// Store has the change hints.
type Store interface {
	Changes(ctx context.Context) *redis.PubSub
}

// Hub is safe for concurrent use.
type Hub struct {
	store Store
	log   *slog.Logger

	mu       sync.Mutex
	watchers map[string]map[chan struct{}]struct{}
}

// New returns a Hub. Run must be called for hints to arrive.
func New(store Store, log *slog.Logger) *Hub {
	return &Hub{store: store, log: log, watchers: map[string]map[chan struct{}]struct{}{}}
}

// Watch returns a channel that gets a value after the instance has changed, possibly more often than it has and once for several changes. stop
// must be called when it is not needed any more.
func (h *Hub) Watch(instanceID string) (changed <-chan struct{}, stop func()) {
	ch := make(chan struct{}, 1) // a hint that waits stands for all that follow
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.watchers[instanceID] == nil {
		h.watchers[instanceID] = map[chan struct{}]struct{}{}
	}
	h.watchers[instanceID][ch] = struct{}{}
	return ch, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.watchers[instanceID], ch)
		if len(h.watchers[instanceID]) == 0 {
			delete(h.watchers, instanceID)
		}
	}
}

func (h *Hub) hint(instanceID string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for ch := range h.watchers[instanceID] {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
}

// Recheck is how often a watcher should look by itself: a hint may be lost.
const Recheck = 2 * time.Second

// Run feeds watchers until ctx is cancelled. The driver reconnects and subscribes again by itself; what is missed meanwhile is found by rechecks.
func (h *Hub) Run(ctx context.Context) error {
	sub := h.store.Changes(ctx)
	defer func() { _ = sub.Close() }()
	messages := sub.Channel(redis.WithChannelSize(4096))
	for {
		select {
		case <-ctx.Done():
			return nil
		case m, ok := <-messages:
			if !ok {
				return nil
			}
			h.hint(m.Payload)
		}
	}
}
