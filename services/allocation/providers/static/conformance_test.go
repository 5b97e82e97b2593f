package static_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"

	"github.com/berth-dev/berth/pkg/errs"
	poolv1 "github.com/berth-dev/berth/pkg/gen/berth/pool/v1"
	"github.com/berth-dev/berth/pkg/ids"
	"github.com/berth-dev/berth/pkg/rpc"
	"github.com/berth-dev/berth/sdk/go/provider/providertest"
	"github.com/berth-dev/berth/services/allocation/providers/static"
)

// skipped are the checks that do not apply to a pool, and why.
var skipped = map[string]string{
	"bootstrap": "a server of a pool started with a document of its own, and is not given another one",
	"throttled": "game-instance counts no calls of allocation: there is nothing to throttle",
	"quota":     "servers of a pool are their owner's: there is nobody who has a quota or a bill",
}

// host is what stands behind the provider: game-instance with a pool of real servers, and the way to it.
type host struct {
	*wire
	world *world
	pool  string

	mu     sync.Mutex
	others []string // attempts that have all room that the pool had left
}

func (h *host) Throttle(context.Context, time.Duration) error {
	return providertest.NotApplicable(skipped["throttled"])
}

func (h *host) Quota(context.Context) error { return providertest.NotApplicable(skipped["quota"]) }

func (h *host) Bootstrap(context.Context, string) ([]byte, error) {
	return nil, providertest.NotApplicable(skipped["bootstrap"])
}

// Exhaust gives all room to others.
func (h *host) Exhaust(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		instance := uuid.NewString()
		attempt := ids.Attempt(instance, 1)
		_, err := h.world.pools.TakeRoom(ctx, &poolv1.TakeRoomRequest{Pool: h.pool, Namespace: "default", InstanceId: instance, AttemptId: attempt, Build: build})
		if errs.ReasonOf(rpc.FromStatus(err)) == errs.GameServerFull {
			return nil
		}
		if err != nil {
			return err
		}
		h.others = append(h.others, attempt)
	}
}

// Refuse calls with an internal key that is another deployment's, and Down where nobody listens.
func (h *host) Refuse(context.Context) error { return h.set(by(h.world.stranger)) }
func (h *host) Down(context.Context) error   { return h.set(by(h.world.nowhere)) }

func (h *host) Garble(context.Context) error    { return h.set(garbled) }
func (h *host) LoseReply(context.Context) error { return h.set(lost) }
func (h *host) Duplicate(context.Context) error { return h.set(h.twice) }
func (h *host) Hang(context.Context) error      { return h.set(hang) }

func (h *host) Late(_ context.Context, after time.Duration) error { return h.set(h.late(after)) }
func (h *host) Slow(_ context.Context, by time.Duration) error    { return h.set(slow(by)) }

func (h *host) Heal(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for ; len(h.others) > 0; h.others = h.others[1:] {
		if _, err := h.world.pools.GiveRoomBack(ctx, &poolv1.GiveRoomBackRequest{AttemptId: h.others[0]}); err != nil {
			return err
		}
	}
	return h.set(nil)
}

// Started returns on how many servers the attempt has room, as the registry says: a pool starts none.
func (h *host) Started(ctx context.Context, attempt string) (int, error) {
	servers, err := h.world.members(ctx, h.pool)
	n := 0
	for _, s := range servers {
		for _, a := range s.GetAssignments() {
			if a.GetAttemptId() == attempt {
				n++
			}
		}
	}
	return n, err
}

// A pool promises what every provider does, whether all attempts are on one server or each has one for itself.
func TestConformance(t *testing.T) {
	w := start(t)
	t.Run("packed", func(t *testing.T) {
		w.conforms(t, static.Config{Pool: "big", Strategy: "packed"}, map[string]int32{"rack-1": 3})
	})
	t.Run("spread", func(t *testing.T) {
		w.conforms(t, static.Config{Pool: "small", Strategy: "spread"}, map[string]int32{"rack-1": 1, "rack-2": 1, "rack-3": 1})
	})
}

// conforms runs the suite on a pool that has servers with these capacities.
func (w *world) conforms(t *testing.T, cfg static.Config, capacities map[string]int32) {
	cfg.Deployment, cfg.Builds, cfg.Regions = "conformance", []string{build}, []string{region}
	var waiting []*waiter
	for name, capacity := range capacities {
		waiting = append(waiting, w.join(t, cfg.Pool, name, capacity))
	}
	conn := &wire{ClientConn: w.conn}
	t.Cleanup(conn.calls.Wait)
	h := &host{wire: conn, world: w, pool: cfg.Pool}
	p, err := static.New(cfg, poolv1.NewPoolServiceClient(grpc.ClientConnInterface(conn)))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "all servers have room", func() error { return w.roomFor(cfg.Pool, capacities) })
	report, err := providertest.Verify(t.Context(), providertest.Config{Provider: p, Host: h, Deployment: cfg.Deployment}, func(r providertest.Result) {
		t.Logf("%-8s %s %s", r.Status, r.Name, r.Why)
	})
	if err != nil {
		t.Fatal(err)
	}
	without := map[string]string{}
	for _, r := range report {
		switch r.Status {
		case providertest.Failed:
			t.Errorf("%s: %s", r.Name, r.Why)
		case providertest.Skipped:
			without[r.Name] = strings.TrimPrefix(r.Why, "does not apply: ")
		}
	}
	if !maps.Equal(without, skipped) {
		t.Errorf("skipped: %q, want %q", without, skipped)
	}
	conn.calls.Wait()
	eventually(t, "all servers have room again", func() error { return w.roomFor(cfg.Pool, capacities) })
	for _, server := range waiting {
		server.stillWaits(t)
	}
}

// roomFor returns an error unless the pool has exactly these servers, all connected and empty.
func (w *world) roomFor(pool string, capacities map[string]int32) error {
	servers, err := w.members(context.Background(), pool)
	if err != nil {
		return err
	}
	names := map[string]int32{}
	for _, s := range servers {
		names[s.GetName()] = s.GetCapacity()
		if !s.GetConnected() || len(s.GetAssignments()) > 0 {
			return fmt.Errorf("%s: connected %v, with %v", s.GetName(), s.GetConnected(), s.GetAssignments())
		}
	}
	if !maps.Equal(names, capacities) {
		return errors.New("there are " + strings.Join(slices.Sorted(maps.Keys(names)), ", "))
	}
	return nil
}
