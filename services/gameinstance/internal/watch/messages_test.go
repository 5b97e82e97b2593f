package watch_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/pkg/redisx/redistest"
	"github.com/berth-dev/berth/services/gameinstance/internal/instance"
	"github.com/berth-dev/berth/services/gameinstance/internal/redisstore"
	"github.com/berth-dev/berth/services/gameinstance/internal/watch"
)

// talker returns an instance whose server is linked, and what that server says.
func talker(t *testing.T, s *redisstore.Store) (id string, say func(what string)) {
	id = uuid.NewString()
	apply(t, s, id, instance.Create{Namespace: "default", ID: id, Placement: instance.Placement{Build: "b"}})
	l, err := s.Load(context.Background(), id, instance.Needs{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	server := instance.Caller{ServerID: l.Instance.Attempt().ServerID}
	apply(t, s, id, instance.LinkServer{Server: server, SessionEpoch: 1, GatewayID: "gw"})
	return id, func(what string) {
		apply(t, s, id, instance.MessageBackends{Server: server, Topic: what})
	}
}

type spoken struct {
	id string
	instance.Said
}

// listen is a watch of messages that is read as it comes; its end arrives as well.
func listen(t *testing.T, h *watch.Hub, id string) (<-chan spoken, <-chan error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	messages, done, ended := make(chan spoken), make(chan error, 1), make(chan struct{})
	go func() {
		defer close(ended)
		done <- h.Messages(ctx, "default", id, func() error { return nil }, func(id string, m instance.Said) error {
			select {
			case messages <- spoken{id, m}:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	t.Cleanup(func() { cancel(); <-ended })
	return messages, done
}

func TestMessagesArriveWithAndWithoutPubSub(t *testing.T) {
	redistest.Each(t, func(t *testing.T, r *redisx.Store) {
		for name, c := range map[string]struct {
			feed    func(*redisstore.Store) watch.Feed
			recheck time.Duration
		}{"hints": {hearing, time.Hour}, "rechecks": {hearingNothing, 10 * time.Millisecond}} {
			t.Run(name, func(t *testing.T) {
				h, s := hub(t, r, c.feed, c.recheck)
				first, say := talker(t, s)
				say("one")
				ofOne, done := listen(t, h, first)
				if m := receive(t, ofOne); m.Topic != "one" {
					t.Fatalf("heard %+v", m)
				}
				second, sayElse := talker(t, s)
				say("two")
				two := receive(t, ofOne)
				ofAll, _ := listen(t, h, "")
				for _, want := range []string{"one", "two"} {
					m := receive(t, ofAll)
					for m.id != first { // of an earlier turn
						m = receive(t, ofAll)
					}
					if m.Topic != want {
						t.Fatalf("heard %+v, want %s", m, want)
					}
				}
				sayElse("three")
				if m := receive(t, ofAll); m.id != second || m.Topic != "three" {
					t.Errorf("heard %+v", m)
				}
				apply(t, s, first, instance.Terminate{})
				if err := s.AckMessages(context.Background(), "default", first, two.Offset); err != nil {
					t.Fatal(err)
				}
				if err := receive(t, done); err != nil {
					t.Errorf("the watch of what is over and acknowledged ended with %v", err)
				}
				if err := s.AckMessages(context.Background(), "default", second, 1<<52); err != nil {
					t.Fatal(err)
				}
			})
		}
	})
}

func TestAWatcherOfMessagesThatTakesNothingIsDropped(t *testing.T) {
	h := watch.New(watch.Config{Stall: time.Millisecond, Log: slog.New(slog.DiscardHandler)})
	stuck := make(chan struct{})
	left := make(chan struct{})
	err := h.Serve(context.Background(), func(_ context.Context, give func(func() error) error) error {
		defer close(left)
		return give(func() error { <-stuck; return nil })
	})
	if !errs.Is(err, errs.WatchTooSlow) {
		t.Errorf("a watcher that takes nothing: %v", err)
	}
	close(stuck)
	<-left
}

// ticking is a feed that tells of each look at the store.
type ticking struct {
	watch.Feed
	looks chan struct{}
}

func (f ticking) Now(ctx context.Context) (time.Time, error) {
	select {
	case f.looks <- struct{}{}:
	default:
	}
	return f.Feed.Now(ctx)
}

// What waits when a watch begins may be more than may wait for it later: it is read at the watcher's own speed.
func TestAWatchOfABacklogIsNotDroppedForIt(t *testing.T) {
	looks := make(chan struct{})
	h, s := hubOf(t, redistest.Embedded(t), func(s *redisstore.Store) watch.Feed { return ticking{hearingNothing(s), looks} }, 10*time.Millisecond, 2)
	waiting := make(map[string]bool)
	var say func(string)
	for range 6 {
		id, sayThere := talker(t, s)
		sayThere("backlog")
		waiting[id], say = true, sayThere
	}
	all, done := listen(t, h, "")
	delete(waiting, receive(t, all).id)
	for range 6 { // the first message is taken, and the others are found again and again
		receive(t, looks)
	}
	for len(waiting) > 0 {
		m := receive(t, all)
		if !waiting[m.id] {
			t.Errorf("%+v came twice", m)
		}
		delete(waiting, m.id)
	}
	say("more")
	if m := receive(t, all); m.Topic != "more" {
		t.Errorf("heard %+v", m)
	}
	if len(done) > 0 {
		t.Errorf("it ended with %v", <-done)
	}
}
