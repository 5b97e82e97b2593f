package watch_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/pkg/redisx/redistest"
	"github.com/berth-dev/berth/services/gameinstance/internal/instance"
	"github.com/berth-dev/berth/services/gameinstance/internal/redisstore"
	"github.com/berth-dev/berth/services/gameinstance/internal/watch"
)

// deaf is a store whose subscription delivers nothing.
type deaf struct{ *redisstore.Store }

func (deaf) Follow(ctx context.Context, _ func(string), _ func()) { <-ctx.Done() }

// hub returns a running hub on a real store.
func hub(t *testing.T, r *redisx.Store, feed func(*redisstore.Store) watch.Feed, recheck time.Duration) (*watch.Hub, *redisstore.Store) {
	t.Helper()
	return hubOf(t, r, feed, recheck, 0)
}

// hubOf is hub for watchers for which so much may wait; 0: the default.
func hubOf(t *testing.T, r *redisx.Store, feed func(*redisstore.Store) watch.Feed, recheck time.Duration, maxPending int) (*watch.Hub, *redisstore.Store) {
	t.Helper()
	s := redisstore.New(r)
	h := watch.New(watch.Config{
		Feed: feed(s), Records: s, Messages: s, Instances: instance.NewService(instance.Config{Store: s}), Log: slog.New(slog.DiscardHandler), Recheck: recheck, MaxPending: maxPending,
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- h.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
	return h, s
}

func hearing(s *redisstore.Store) watch.Feed { return s }
func hearingNothing(s *redisstore.Store) watch.Feed {
	return deaf{s}
}

// apply decides a command and commits it, again when somebody else was first.
func apply(t *testing.T, s *redisstore.Store, id string, cmd instance.Command) int64 {
	for {
		l, err := s.Load(context.Background(), id, instance.Needs{Everything: true}, nil)
		if err != nil {
			t.Error(err)
			return 0
		}
		c, err := instance.Decide(l.Instance, cmd, "test", l.Now)
		if err != nil || c.Empty() {
			return 0
		}
		done, err := s.Commit(context.Background(), c, nil)
		if errors.Is(err, instance.ErrConflict) {
			continue
		}
		if err != nil {
			t.Error(err)
		}
		return done.Revision
	}
}

func create(t *testing.T, s *redisstore.Store) string {
	id := uuid.NewString()
	apply(t, s, id, instance.Create{
		Namespace: "default", ID: id, SkipAllocation: true, Timeouts: instance.Timeouts{Retention: time.Microsecond}, Players: []instance.Player{{ID: "ann"}},
	})
	return id
}

func update(t *testing.T, s *redisstore.Store, id string) int64 {
	return apply(t, s, id, instance.UpdateGameData{Data: instance.Update{Data: instance.Data{Set: true, Binary: []byte(uuid.NewString())}}})
}

// stream is a watch of many that is read as it comes.
func stream(t *testing.T, h *watch.Hub, filter instance.Filter) <-chan watch.Update {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	updates, ended := make(chan watch.Update), make(chan struct{})
	go func() {
		defer close(ended)
		_ = h.Many(ctx, "default", filter, func(u watch.Update) error {
			select {
			case updates <- u:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	t.Cleanup(func() { cancel(); <-ended })
	return updates
}

func receive[T any](t *testing.T, from <-chan T) (out T) {
	t.Helper()
	select {
	case out = <-from:
	case <-time.After(10 * time.Second):
		t.Fatal("nothing arrives")
	}
	return out
}

func TestChangesArriveWithoutPubSub(t *testing.T) {
	redistest.Each(t, func(t *testing.T, r *redisx.Store) {
		h, s := hub(t, r, hearingNothing, 10*time.Millisecond)
		id := create(t, s)
		all := stream(t, h, instance.Filter{PlayerID: "ann"})
		if u := receive(t, all); u.Instance.ID != id || !receive(t, all).SnapshotComplete {
			t.Fatalf("snapshot %+v", u)
		}
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		single, ended := make(chan int64, 100), make(chan error)
		go func() {
			ended <- h.One(ctx, "default", id, 0, func(i *instance.Instance) error { single <- i.Revision; return nil })
		}()
		receive(t, single)
		for range 5 {
			revision := update(t, s, id)
			if u := receive(t, all); u.Instance.Revision != revision {
				t.Errorf("%+v arrives, want revision %d", u, revision)
			}
			if got := receive(t, single); got != revision {
				t.Errorf("revision %d arrives, want %d", got, revision)
			}
		}
		apply(t, s, id, instance.RemovePlayers{IDs: []string{"ann"}})
		if u := receive(t, all); u.Removed != id {
			t.Errorf("%+v arrives of an instance that matches no more", u)
		}
		apply(t, s, id, instance.AddPlayers{Players: []instance.Player{{ID: "ann"}}})
		if u := receive(t, all); u.Instance == nil {
			t.Errorf("%+v arrives of an instance that matches again", u)
		}
		apply(t, s, id, instance.Terminate{})
		if u := receive(t, all); u.Instance.State != instance.Terminated {
			t.Errorf("%+v arrives of an end", u)
		}
		apply(t, s, id, instance.Expire{})
		if u := receive(t, all); u.Removed != id {
			t.Errorf("%+v arrives of a deletion", u)
		}
		if err := receive(t, ended); err != nil {
			t.Errorf("the watch of one ended with %v", err)
		}
	})
}

// The recheck comes once an hour here: what is lost with the connection is found because it is made again.
func TestAKilledSubscriptionLosesNothing(t *testing.T) {
	r := redistest.Open(t, redistest.Server(t))
	h, s := hub(t, r, hearing, time.Hour)
	id := create(t, s)
	all := stream(t, h, instance.Filter{})
	receive(t, all)
	receive(t, all)
	for range 20 {
		if err := r.Do(context.Background(), "CLIENT", "KILL", "TYPE", "pubsub").Err(); err != nil {
			t.Fatal(err)
		}
		revision := update(t, s, id)
		if u := receive(t, all); u.Instance.Revision != revision {
			t.Fatalf("%+v arrives, want revision %d", u, revision)
		}
	}
}

// A watch of one that is broken off again and again, while others write: revisions only grow, and the last one arrives.
func TestAWatchThatIsBrokenOffGoesOnWithoutGapOrRepeat(t *testing.T) {
	redistest.Each(t, func(t *testing.T, r *redisx.Store) {
		h, s := hub(t, r, hearing, 20*time.Millisecond)
		id := create(t, s)
		last := make(chan int64, 1)
		go func() {
			for range 300 {
				update(t, s, id)
			}
			last <- apply(t, s, id, instance.Terminate{})
		}()
		errBroken := errors.New("broken off")
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		sent, breaks := int64(0), 0
		for ; ; breaks++ {
			left := 1 + breaks%3
			err := h.One(ctx, "default", id, sent, func(i *instance.Instance) error {
				if i.Revision <= sent {
					t.Errorf("revision %d after %d", i.Revision, sent)
				}
				sent = i.Revision
				if left--; left == 0 && !i.State.Final() {
					return errBroken
				}
				return nil
			})
			if err == nil {
				break
			}
			if !errors.Is(err, errBroken) {
				t.Fatal(err)
			}
		}
		if want := <-last; sent != want || breaks < 10 {
			t.Errorf("after %d breaks the last revision sent is %d, want %d", breaks, sent, want)
		}
	})
}

// What a watcher makes of snapshot and changes is what is there in the end, whatever happened meanwhile.
func TestSnapshotAndChangesAreTheTruth(t *testing.T) {
	redistest.Each(t, func(t *testing.T, r *redisx.Store) {
		for _, filter := range []instance.Filter{{}, {PlayerID: "ann"}, {States: []instance.State{instance.Pending}}} {
			h, s := hub(t, r, hearing, 20*time.Millisecond)
			for range 40 {
				create(t, s)
			}
			var writers sync.WaitGroup
			for range 4 {
				writers.Go(func() { churn(t, s, 60) })
			}
			views := []*view{follow(t, h, filter), follow(t, h, filter), follow(t, h, filter)}
			writers.Wait()
			last := create(t, s) // what all of them see is newer than everything before
			for _, v := range views {
				v.settle(t, s, filter, last)
			}
		}
	})
}

// churn creates, changes, ends and deletes instances.
func churn(t *testing.T, s *redisstore.Store, steps int) {
	ids := []string{create(t, s)}
	for range steps {
		n := rand.N(len(ids))
		switch rand.N(6) {
		case 0:
			ids = append(ids, create(t, s))
		case 1:
			apply(t, s, ids[n], instance.RemovePlayers{IDs: []string{"ann"}})
		case 2:
			apply(t, s, ids[n], instance.AddPlayers{Players: []instance.Player{{ID: "ann"}}})
		case 3:
			apply(t, s, ids[n], instance.Terminate{})
			apply(t, s, ids[n], instance.Expire{})
			if ids = slices.Delete(ids, n, n+1); len(ids) == 0 {
				ids = append(ids, create(t, s))
			}
		default:
			update(t, s, ids[n])
		}
	}
}

// view is what one watcher makes of what it is sent.
type view struct {
	mu       sync.Mutex
	now      map[string]int64
	highest  map[string]int64
	complete bool
	changed  chan struct{} // a value: look again
}

func follow(t *testing.T, h *watch.Hub, filter instance.Filter) *view {
	v := &view{now: map[string]int64{}, highest: map[string]int64{}, changed: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- h.Many(ctx, "default", filter, func(u watch.Update) error {
			v.mu.Lock()
			defer v.mu.Unlock()
			select {
			case v.changed <- struct{}{}:
			default:
			}
			switch {
			case u.SnapshotComplete:
				v.complete = true
			case u.Removed != "":
				if _, ok := v.now[u.Removed]; !ok {
					t.Errorf("%s is removed and was not there", u.Removed)
				}
				delete(v.now, u.Removed)
			default:
				if u.Instance.Revision <= v.highest[u.Instance.ID] {
					t.Errorf("%s at revision %d after %d", u.Instance.ID, u.Instance.Revision, v.highest[u.Instance.ID])
				}
				v.now[u.Instance.ID], v.highest[u.Instance.ID] = u.Instance.Revision, u.Instance.Revision
			}
			return nil
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("the watch ended with %v", err)
		}
	})
	return v
}

// settle waits until the view is what a list says.
func (v *view) settle(t *testing.T, s *redisstore.Store, filter instance.Filter, last string) {
	t.Helper()
	truth := map[string]int64{}
	for q := (instance.Query{Namespace: "default", Filter: filter, Limit: 100}); ; {
		page, next, err := s.Page(context.Background(), q)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range page {
			truth[i.ID] = i.Revision
		}
		if q.After = next; next == (instance.Cursor{}) {
			break
		}
	}
	if _, ok := truth[last]; !ok {
		t.Fatal("the list has not the newest instance")
	}
	timeout := time.After(10 * time.Second)
	for wrong := v.differs(truth); wrong != ""; wrong = v.differs(truth) {
		select {
		case <-v.changed:
		case <-timeout:
			t.Error(wrong)
			return
		}
	}
}

func (v *view) differs(truth map[string]int64) string {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.complete {
		return "the snapshot is not complete"
	}
	for id, revision := range truth {
		if v.now[id] != revision {
			return fmt.Sprintf("%s is at %d for the watcher, and at %d", id, v.now[id], revision)
		}
	}
	if len(v.now) != len(truth) {
		return fmt.Sprintf("the watcher has %d instances, there are %d", len(v.now), len(truth))
	}
	return ""
}
