package incarnation_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/berth-dev/berth/services/gateway/internal/incarnation"
	"github.com/berth-dev/berth/services/gateway/internal/metrics"
)

// stage plays both the subscription and the leases.
type stage struct {
	mu       sync.Mutex
	silent   bool     // the subscription does not prove itself
	answers  []answer // of the renewals, in order; afterwards all is well
	ids      []string // of the lives, in order
	reminded []string
	lapses   int
	forgets  int
	released string
}

type answer struct {
	incarnation.Renewal
	err error
}

func (s *stage) Run(ctx context.Context, id string, proven func()) {
	s.mu.Lock()
	s.ids = append(s.ids, id)
	silent := s.silent
	s.mu.Unlock()
	if !silent {
		proven()
		proven()
	}
	<-ctx.Done()
}

func (s *stage) Renew(context.Context, string, time.Duration) (incarnation.Renewal, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.answers) == 0 {
		return incarnation.Renewal{}, nil
	}
	a := s.answers[0]
	s.answers = s.answers[1:]
	return a.Renewal, a.err
}

func (s *stage) Release(_ context.Context, id string, _ time.Duration) error {
	s.released = id
	return nil
}

// play runs a keeper on the stage, with a lease of 10 s that is renewed every 2 s, on a clock that stands while the test computes.
func play(t *testing.T, s *stage, test func(t *testing.T, k *incarnation.Keeper)) {
	synctest.Test(t, func(t *testing.T) {
		k := incarnation.New(incarnation.Config{
			Subscription: s, Leases: s, Log: slog.New(slog.DiscardHandler), Metrics: metrics.New(prometheus.NewRegistry()),
			Remind: func(ids []string) {
				s.mu.Lock()
				defer s.mu.Unlock()
				s.reminded = append(s.reminded, ids...)
			},
			Lapse: func() func(context.Context) {
				s.mu.Lock()
				defer s.mu.Unlock()
				s.lapses++
				return func(ctx context.Context) { <-ctx.Done() }
			},
			Forgotten: func() func(context.Context) {
				s.mu.Lock()
				defer s.mu.Unlock()
				s.forgets++
				return func(ctx context.Context) { <-ctx.Done() }
			},
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- k.Run(ctx) }()
		synctest.Wait()
		test(t, k)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// pass lets time pass; afterwards the test may look at what has come of it.
func (s *stage) pass(d time.Duration) {
	time.Sleep(d) // of the bubble's clock
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock() //nolint:staticcheck // what was written under it is seen from now on
}

func TestALifeNeedsASubscriptionFirst(t *testing.T) {
	s := &stage{silent: true}
	play(t, s, func(t *testing.T, k *incarnation.Keeper) {
		s.pass(time.Hour)
		if _, err := k.Current(); err == nil || k.Ready(t.Context()) == nil {
			t.Error("it lives without a subscription")
		}
	})
}

func TestRenewalsThatFailAreForgivenForAsLongAsTheLeaseLasts(t *testing.T) {
	away := errors.New("away")
	s := &stage{answers: []answer{{}, {err: away}, {err: away}, {Renewal: incarnation.Renewal{Undelivered: []string{"i"}}}, {err: away}, {err: away}, {err: away}, {err: away}, {err: away}, {err: away}}}
	play(t, s, func(t *testing.T, k *incarnation.Keeper) {
		id, err := k.Current()
		if err != nil || id != s.ids[0] || k.Ready(t.Context()) != nil {
			t.Fatalf("%q, %v", id, err)
		}
		s.pass(7 * time.Second) // renewed at 6 s
		if _, err := k.Current(); err != nil || !slices.Equal(s.reminded, []string{"i"}) {
			t.Errorf("%v, reminded of %v", err, s.reminded)
		}
		s.pass(9500 * time.Millisecond) // at 16.5 s, 10.5 s after it
		if _, err := k.Current(); err == nil || k.Ready(t.Context()) == nil {
			t.Error("it relies on a lease that may have run out")
		}
		s.pass(4 * time.Second) // answered at 20 s
		if again, err := k.Current(); err != nil || again != id || s.lapses != 0 {
			t.Errorf("%q, %v, %d lapses", again, err, s.lapses)
		}
	})
}

func TestALapseEndsTheLife(t *testing.T) {
	lapsed := answer{Renewal: incarnation.Renewal{Lapsed: true}}
	s := &stage{answers: []answer{lapsed, {}, lapsed}} // the first says nothing: that lease is only being taken
	play(t, s, func(t *testing.T, k *incarnation.Keeper) {
		first, err := k.Current()
		if err != nil {
			t.Fatal(err)
		}
		s.pass(5 * time.Second)
		second, err := k.Current()
		if err != nil || second == first || s.lapses != 1 || !slices.Equal(s.ids, []string{first, second}) {
			t.Errorf("%q after %q, %v, %d lapses", second, first, err, s.lapses)
		}
	})
}

// A store that has lost the lease has lost the sockets' servers, too; the life itself goes on.
func TestALeaseThatTheStoreHasLost(t *testing.T) {
	known := func(since int64) answer { return answer{Renewal: incarnation.Renewal{Known: time.UnixMicro(since)}} }
	lost := answer{err: errors.New("the answer is lost")}
	s := &stage{answers: []answer{known(1), known(1), lost, known(2), known(2), {}}} // the last is of a replica that does not say
	play(t, s, func(t *testing.T, k *incarnation.Keeper) {
		first, err := k.Current()
		s.mu.Lock()
		forgets := s.forgets
		s.mu.Unlock()
		if err != nil || forgets != 0 {
			t.Fatalf("%v, %d losses", err, forgets)
		}
		s.pass(11 * time.Second)
		if now, err := k.Current(); err != nil || now != first || s.forgets != 1 || s.lapses != 0 {
			t.Errorf("%q after %q, %v, %d losses, %d lapses", now, first, err, s.forgets, s.lapses)
		}
	})
}

func TestReleaseEndsTheLifeAndRunWaits(t *testing.T) {
	s := &stage{}
	play(t, s, func(t *testing.T, k *incarnation.Keeper) {
		id, _ := k.Current()
		if err := k.Release(t.Context()); err != nil || s.released != id {
			t.Errorf("released %q of %q: %v", s.released, id, err)
		}
		s.pass(time.Hour)
		if len(s.ids) != 1 {
			t.Error("another life began")
		}
	})
}

func TestReleaseWithoutALife(t *testing.T) {
	if err := incarnation.New(incarnation.Config{}).Release(t.Context()); err != nil {
		t.Error(err)
	}
}
