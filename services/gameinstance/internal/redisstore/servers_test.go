package redisstore_test

import (
	"context"
	"log/slog"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/ids"
	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/pkg/redisx/redistest"
	"github.com/berth-dev/berth/services/gameinstance/internal/instance"
	"github.com/berth-dev/berth/services/gameinstance/internal/redisstore"
	"github.com/berth-dev/berth/services/gameinstance/internal/registry"
	"github.com/berth-dev/berth/services/gameinstance/internal/session"
)

// later is a store whose clock is two minutes ahead.
type later struct{ *redisstore.Store }

func (s later) AssignedServers(ctx context.Context) ([]registry.Server, time.Time, error) {
	servers, now, err := s.Store.AssignedServers(ctx)
	return servers, now.Add(2 * time.Minute), err
}

func registered(t *testing.T, s *redisstore.Store, capacity int) registry.Server {
	t.Helper()
	server, err := s.RegisterServer(t.Context(), registry.Server{
		Namespace: "default", ID: uuid.NewString(), Capacity: capacity, Labels: map[string]string{"rack": "7"},
		Endpoints: []instance.Endpoint{{Name: "game", Host: "h", Port: 7, Protocol: 1}}, Actor: "key:k", Digest: []byte("d"),
	})
	if err != nil {
		t.Fatal(err)
	}
	return server
}

func room(instanceID string, attempt int) registry.Assignment {
	return registry.Assignment{InstanceID: instanceID, AttemptID: ids.Attempt(instanceID, attempt)}
}

// holders returns which attempts have room on a server.
func holders(t *testing.T, s *redisstore.Store, id string) []string {
	t.Helper()
	server, err := s.LoadServer(t.Context(), id)
	if err != nil || server == nil {
		t.Fatalf("load: %v, %v", server, err)
	}
	var attempts []string
	for _, a := range server.Assignments {
		attempts = append(attempts, a.AttemptID)
	}
	return attempts
}

func TestAServerIsRegisteredOnce(t *testing.T) {
	each(t, func(t *testing.T, s *redisstore.Store) {
		first := registered(t, s, 2)
		again, err := s.RegisterServer(t.Context(), registry.Server{Namespace: "default", ID: first.ID, Capacity: 9, Digest: []byte("other")})
		if err != nil || !reflect.DeepEqual(again, first) || first.Capacity != 2 || first.CreateTime.IsZero() || first.Endpoints[0].Port != 7 {
			t.Errorf("first %+v, then %+v, %v", first, again, err)
		}
		if none, err := s.LoadServer(t.Context(), uuid.NewString()); none != nil || err != nil {
			t.Errorf("a server that is not there: %+v, %v", none, err)
		}
	})
}

func TestRoomIsBounded(t *testing.T) {
	each(t, func(t *testing.T, s *redisstore.Store) {
		server, ctx := registered(t, s, 2), t.Context()
		a, b, c := uuid.NewString(), uuid.NewString(), uuid.NewString()
		for _, want := range []struct {
			room registry.Assignment
			err  errs.Reason
		}{{room(a, 1), ""}, {room(b, 1), ""}, {room(c, 1), errs.GameServerFull}, {room(a, 1), ""}, {room(a, 2), ""}, {room(a, 1), errs.StateNotAllowed}, {room(a, 10), ""}, {room(a, 2), errs.StateNotAllowed}} {
			if _, err := s.Assign(ctx, "default", server.ID, want.room); errs.ReasonOf(err) != want.err {
				t.Errorf("%s: %v, want %q", want.room.AttemptID, err, want.err)
			}
		}
		if _, err := s.Assign(ctx, "other", server.ID, room(c, 1)); !errs.Is(err, errs.GameServerUnknown) {
			t.Errorf("from another namespace: %v", err)
		}
		if _, err := s.Assign(ctx, "default", uuid.NewString(), room(c, 1)); !errs.Is(err, errs.GameServerUnknown) {
			t.Errorf("on a server that is not there: %v", err)
		}
		// The room is the tenth attempt's now: what comes late of others takes nothing.
		for _, r := range []registry.Assignment{room(a, 1), room(a, 2), room(c, 1)} {
			if err := s.Unassign(ctx, "default", server.ID, r); err != nil {
				t.Error(err)
			}
		}
		if got, want := holders(t, s, server.ID), []string{ids.Attempt(a, 10), ids.Attempt(b, 1)}; len(got) != 2 || !slices.Contains(got, want[0]) || !slices.Contains(got, want[1]) {
			t.Errorf("room is %v's, want %v", got, want)
		}
		for range 2 {
			if err := s.Unassign(ctx, "default", server.ID, room(b, 1)); err != nil {
				t.Error(err)
			}
		}
		if _, err := s.Assign(ctx, "default", server.ID, room(c, 1)); err != nil {
			t.Errorf("room that was given back twice: %v", err)
		}
		if _, err := s.Assign(ctx, "default", server.ID, room(b, 2)); !errs.Is(err, errs.GameServerFull) {
			t.Errorf("room that was given back twice was counted twice: %v", err)
		}
	})
}

func TestManyWantTheLastRoom(t *testing.T) {
	each(t, func(t *testing.T, s *redisstore.Store) {
		server := registered(t, s, 5)
		var got atomic.Int32
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				_, err := s.Assign(context.Background(), "default", server.ID, room(uuid.NewString(), 1))
				if err == nil {
					got.Add(1)
				} else if !errs.Is(err, errs.GameServerFull) {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if got.Load() != 5 || len(holders(t, s, server.ID)) != 5 {
			t.Errorf("%d got room, want 5", got.Load())
		}
	})
}

func TestADeregisteredServerGoesWithItsLastInstance(t *testing.T) {
	each(t, func(t *testing.T, s *redisstore.Store) {
		server, ctx, a := registered(t, s, 2), t.Context(), uuid.NewString()
		if _, err := s.Assign(ctx, "default", server.ID, room(a, 1)); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if left, err := s.DeregisterServer(ctx, "default", server.ID); err != nil || !left.Draining || len(left.Assignments) != 1 {
				t.Fatalf("%+v, %v", left, err)
			}
		}
		if _, err := s.Assign(ctx, "default", server.ID, room(uuid.NewString(), 1)); !errs.Is(err, errs.GameServerFull) {
			t.Errorf("further instance: %v", err)
		}
		if _, err := s.Assign(ctx, "default", server.ID, room(a, 2)); err != nil {
			t.Errorf("the instance that it has: %v", err)
		}
		if err := s.Unassign(ctx, "default", server.ID, room(a, 2)); err != nil {
			t.Fatal(err)
		}
		if left, err := s.LoadServer(ctx, server.ID); left != nil || err != nil {
			t.Errorf("left %+v, %v", left, err)
		}
		if page, _, err := s.ServersPage(ctx, "default", 10, instance.Cursor{}); err != nil || len(page) != 0 {
			t.Errorf("listed %v, %v", page, err)
		}
		idle := registered(t, s, 1)
		if last, err := s.DeregisterServer(ctx, "default", idle.ID); err != nil || last.ID != idle.ID {
			t.Errorf("%+v, %v", last, err)
		}
		if left, err := s.LoadServer(ctx, idle.ID); left != nil || err != nil {
			t.Errorf("left %+v, %v", left, err)
		}
	})
}

// A session may be forgotten after a while, a registration not; and neither takes the other with it.
func TestARegistrationDoesNotExpire(t *testing.T) {
	redistest.Each(t, func(t *testing.T, raw *redisx.Store) {
		s, ctx := redisstore.New(raw), t.Context()
		server := registered(t, s, 1)
		key := redisx.Key(raw.Partition(server.ID), "s:"+server.ID)
		if ok, err := s.SaveSession(ctx, session.Session{ServerID: server.ID, Epoch: 5, GatewayID: "gw", Connected: true, ChangeTime: time.UnixMicro(7)}, 0); !ok || err != nil {
			t.Fatal(ok, err)
		}
		if ttl := raw.TTL(ctx, key).Val(); ttl != -1 {
			t.Errorf("a registered server expires in %v", ttl)
		}
		if got, err := s.LoadServer(ctx, server.ID); err != nil || !got.Connected || got.GatewayID != "gw" || !got.ChangeTime.Equal(time.UnixMicro(7)) {
			t.Errorf("%+v, %v", got, err)
		}
		if _, err := s.DeregisterServer(ctx, "default", server.ID); err != nil {
			t.Fatal(err)
		}
		if ttl := raw.TTL(ctx, key).Val(); ttl <= 0 {
			t.Errorf("the session of a forgotten server has a TTL of %v", ttl)
		}
		if current, _, err := s.LoadSession(ctx, server.ID); err != nil || current.Epoch != 5 {
			t.Errorf("its session is %+v, %v", current, err)
		}
		again, err := s.RegisterServer(ctx, registry.Server{Namespace: "default", ID: server.ID, Capacity: 1})
		if err != nil || !again.Connected || again.Draining {
			t.Errorf("registered again: %+v, %v", again, err)
		}
		if ttl := raw.TTL(ctx, key).Val(); ttl != -1 {
			t.Errorf("registered again, it expires in %v", ttl)
		}
	})
}

func TestServersAreListedNewestFirst(t *testing.T) {
	each(t, func(t *testing.T, s *redisstore.Store) {
		var want []string
		for range 12 {
			want = append([]string{registered(t, s, 1).ID}, want...)
		}
		var got []string
		for at := (instance.Cursor{}); ; {
			page, next, err := s.ServersPage(t.Context(), "default", 5, at)
			if err != nil || len(page) > 5 {
				t.Fatal(len(page), err)
			}
			for _, server := range page {
				got = append(got, server.ID)
			}
			if at = next; next == (instance.Cursor{}) {
				break
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("listed\n%v, want\n%v", got, want)
		}
	})
}

// Room that was had for an instance which was never made, or has let go of it, is taken back, and no other.
func TestRoomForNobodyIsTakenBack(t *testing.T) {
	each(t, func(t *testing.T, s *redisstore.Store) {
		server, ctx := registered(t, s, 10), t.Context()
		service := registry.New(s, s, nil, slog.New(slog.DiscardHandler))
		onServer := func() string {
			id := uuid.NewString()
			must(t, s, id, instance.Create{Namespace: "default", ID: id, ServerID: server.ID, Timeouts: timeouts})
			return id
		}
		live, over, released := onServer(), onServer(), onServer()
		must(t, s, over, instance.Terminate{})
		must(t, s, released, instance.Terminate{})
		must(t, s, released, instance.ReportReleased{AttemptID: ids.Attempt(released, 1)})
		for name, c := range map[string]struct {
			room registry.Assignment
			kept bool
		}{
			"live":          {room(live, 1), true},
			"over":          {room(over, 1), true}, // gives it back itself
			"released":      {room(released, 1), false},
			"never made":    {room(uuid.NewString(), 1), false},
			"other attempt": {room(live, 2), false},
		} {
			if _, err := s.Assign(ctx, "default", server.ID, c.room); err != nil {
				t.Fatal(err)
			}
			if err := service.Settle(ctx, instance.Room{Namespace: "default", ServerID: server.ID, InstanceID: c.room.InstanceID, AttemptID: c.room.AttemptID}); err != nil {
				t.Error(err)
			}
			if got := slices.Contains(holders(t, s, server.ID), c.room.AttemptID); got != c.kept {
				t.Errorf("%s: kept %v", name, got)
			}
			if err := s.Unassign(ctx, "default", server.ID, c.room); err != nil {
				t.Error(err)
			}
		}
		// The audit finds the server by itself, and leaves alone what is fresh: its instance may be on its way.
		if _, err := s.Assign(ctx, "default", server.ID, room(uuid.NewString(), 1)); err != nil {
			t.Fatal(err)
		}
		if found, now, err := s.AssignedServers(ctx); err != nil || len(found) != 1 || found[0].ID != server.ID || now.IsZero() {
			t.Errorf("%v, %v, %v", found, now, err)
		}
		if err := service.Audit(ctx); err != nil || len(holders(t, s, server.ID)) != 1 {
			t.Errorf("fresh room: %v, %v", holders(t, s, server.ID), err)
		}
		minutesLater := registry.New(later{s}, s, nil, slog.New(slog.DiscardHandler))
		if err := minutesLater.Audit(ctx); err != nil || len(holders(t, s, server.ID)) != 0 {
			t.Errorf("room that nobody wanted for minutes: %v, %v", holders(t, s, server.ID), err)
		}
	})
}
