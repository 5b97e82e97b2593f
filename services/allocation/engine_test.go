package allocation_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berth-dev/berth/pkg/errs"
	attemptv1 "github.com/berth-dev/berth/pkg/gen/berth/attempt/v1"
	"github.com/berth-dev/berth/pkg/redisx"
	"github.com/berth-dev/berth/pkg/redisx/redistest"
	"github.com/berth-dev/berth/sdk/go/bootstrap"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/internal/allocator"
	"github.com/berth-dev/berth/services/allocation/internal/redisstore"
)

// each runs a test on every store.
func each(t *testing.T, test func(t *testing.T, r *rig)) {
	redistest.Each(t, func(t *testing.T, s *redisx.Store) { test(t, newRig(t, s)) })
}

func TestHappyPath(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		var log syncBuffer
		r.log = slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		rep := r.start(func(c *allocator.WorkerConfig) { c.Sweep = time.Hour }) // nothing waits for a sweep
		w := wish(1)
		w.Traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
		r.create(rep, w)
		bound := r.settled(w, allocator.Bound)
		if bound.Provider != "farm" || bound.Region != "eu" || bound.ExternalID != "vm-1" || len(bound.Endpoints) != 1 || bound.Endpoints[0].Port != 7777 {
			t.Errorf("bound: %+v", bound)
		}
		r.farm.mu.Lock()
		order := r.farm.order
		r.farm.mu.Unlock()
		doc, err := bootstrap.Parse(order.GetBootstrap())
		if err != nil {
			t.Fatal(err)
		}
		if doc.Game.Reveal() != gameToken || doc.Social.Reveal() != socialToken || doc.Instance != instance || doc.Server != bound.ServerID() ||
			doc.Gateway != "http://127.0.0.1:7001" || doc.Traceparent != w.Traceparent || doc.Namespace != "default" {
			t.Errorf("bootstrap: %+v", doc)
		}
		if order.GetLabels()["mode"] != "duel" || order.GetInstanceId() != instance || order.GetBuild() != "demo" {
			t.Errorf("order: %v", order)
		}
		r.peer.mu.Lock()
		allocated := r.peer.reports[0].GetAllocated()
		r.peer.mu.Unlock()
		if allocated.GetProvider() != "farm" || allocated.GetRegion() != "eu" || allocated.GetEndpoints()[0].GetHost() != "play.example.com" {
			t.Errorf("report: %v", allocated)
		}
		r.release(rep, w)
		r.settled(w, allocator.Released)
		if got := r.peer.told(); got != "allocated released" {
			t.Errorf("the instance was told %q", got)
		}
		if _, servers, started := r.farm.count("allocate", w.ID); servers != 0 || started != 1 {
			t.Errorf("%d servers left, %d started", servers, started)
		}
		rep.stop()
		for where, text := range map[string]string{"log": log.String(), "store": dump(t, r.redis)} {
			if strings.Contains(text, gameToken) || strings.Contains(text, socialToken) {
				t.Errorf("a token is in the %s", where)
			}
		}
		if !strings.Contains(log.String(), `"state":"BOUND"`) {
			t.Errorf("the log does not tell of the states: %s", log.String())
		}
	})
}

type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// dump returns everything that is in the store.
func dump(t *testing.T, s *redisx.Store) string {
	t.Helper()
	ctx := t.Context()
	keys, err := s.Keys(ctx, "*").Result()
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, key := range keys {
		switch s.Type(ctx, key).Val() {
		case "hash":
			fmt.Fprintln(&all, key, s.HGetAll(ctx, key).Val())
		case "zset":
			fmt.Fprintln(&all, key, s.ZRange(ctx, key, 0, -1).Val())
		default:
			t.Errorf("key %s is of a type that this test does not read", key)
		}
	}
	return all.String()
}

// A replica that is killed before or after any single thing that it does is succeeded by one that brings the allocation to the same end.
func TestKilledAtAnyPoint(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		points := 0
		for attempt, point := 1, 0; ; attempt++ {
			w := wish(attempt)
			reached := killedAt(r, w, point)
			if reached < point {
				points = point
				break
			}
			point++
		}
		if points < 15 {
			t.Errorf("only %d points were tried", points)
		}
	})
}

// killedAt plays a match and kills the replica at the n-th point, counted from 1; 0: never. It returns how many points it came by.
func killedAt(r *rig, w allocator.Wish, n int) int {
	r.t.Helper()
	r.peer.set(func() { r.peer.reports = nil })
	var passed atomic.Int64
	killed := make(chan struct{})
	var first *replica
	point := func() {
		if int(passed.Add(1)) == n {
			first.queue.dead.Store(true)
			first.cancel()
			close(killed)
		}
	}
	hook := func(string, string) { point() }
	dead := func(call string) error { // what a dead replica calls does not happen, and what it is answered it does not hear
		point()
		if first.queue.dead.Load() {
			return provider.Failure(provider.Ambiguous, "%s: killed", call)
		}
		return nil
	}
	r.farm.mu.Lock()
	r.farm.onCall = func(_ context.Context, call, _ string) error { return dead(call) }
	r.farm.onAnswer = func(call, _ string) error { return dead(call) }
	r.farm.mu.Unlock()
	r.peer.set(func() {
		r.peer.onIssue = func() error { point(); return nil }
		r.peer.onReport = func(*attemptv1.ReportAttemptRequest) error { point(); return nil }
	})
	first = r.start(func(c *allocator.WorkerConfig) {
		q, _ := c.Queue.(*mortal)
		q.on = hook
		c.Providers[0].Info.PollInterval = time.Hour // keeps the number of points the same
	})
	r.create(first, w)
	steps := func(rep *replica) {
		r.settledOr(w, killed, rep, allocator.Bound)
		r.release(rep, w)
		r.settledOr(w, killed, rep, allocator.Released)
	}
	steps(first)
	first.stop()
	count := int(passed.Load())

	r.farm.mu.Lock()
	r.farm.onCall, r.farm.onAnswer = nil, nil
	r.farm.mu.Unlock()
	r.peer.set(func() { r.peer.onIssue, r.peer.onReport = nil, nil })
	if first.queue.dead.Load() {
		second := r.start(nil)
		r.settled(w, allocator.Released)
		second.stop()
	}
	if _, servers, started := r.farm.count("", w.ID); servers != 0 || started > 1 {
		r.t.Fatalf("killed at point %d: %d servers left, %d started", n, servers, started)
	}
	if got := r.peer.told(); !strings.HasSuffix(got, "released") || strings.Contains(got, "failed") || strings.Contains(got, "exited") {
		r.t.Fatalf("killed at point %d: the instance was told %q", n, got)
	}
	return count
}

// settledOr is settled, unless the replica is killed.
func (r *rig) settledOr(w allocator.Wish, killed <-chan struct{}, _ *replica, want allocator.State) {
	r.t.Helper()
	eventually(r.t, func() (bool, any) {
		select {
		case <-killed:
			return true, nil
		default:
		}
		a := r.stored(w)
		return a.State == want && a.Report == allocator.ReportNone, a
	})
}

// The same in each state in which an allocation can rest.
func TestRestartInEachState(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		for n, test := range []struct {
			name  string
			rest  allocator.State
			block func()
		}{
			{"queued", allocator.Queued, func() { r.peer.set(func() { r.peer.onIssue = unavailable }) }},
			{"placing", allocator.Placing, func() {
				r.farm.set(func(context.Context, string, string) error { return provider.Failure(provider.Ambiguous, "no answer") })
			}},
			{"ready", allocator.Ready, func() { r.peer.set(func() { r.peer.verdict = attemptv1.ReportAttemptResponse_VERDICT_OPEN }) }},
			{"bound", allocator.Bound, func() {}},
		} {
			r.t.Logf("at rest in %s", test.name)
			w := wish(n + 1)
			test.block()
			first := r.start(nil)
			r.create(first, w)
			eventually(t, func() (bool, any) { a := r.stored(w); return a.State == test.rest && (a.Tries > 0 || a.State > allocator.Placing), a })
			first.kill()
			r.farm.set(nil)
			r.peer.set(func() { r.peer.onIssue, r.peer.verdict = nil, attemptv1.ReportAttemptResponse_VERDICT_ACCEPTED })
			second := r.start(nil)
			r.settled(w, allocator.Bound)
			r.farm.set(func(_ context.Context, call, _ string) error {
				if call == "release" {
					return provider.Failure(provider.Unavailable, "away")
				}
				return nil
			})
			r.release(second, w)
			eventually(t, func() (bool, any) { a := r.stored(w); return a.State == allocator.Releasing && a.Tries > 0, a })
			second.kill()
			r.farm.set(nil)
			third := r.start(nil)
			r.settled(w, allocator.Released)
			third.stop()
			if _, servers, started := r.farm.count("", w.ID); servers != 0 || started != 1 {
				t.Errorf("%s: %d servers left, %d started", test.name, servers, started)
			}
		}
	})
}

func TestAmbiguousAnswersAreResolvedByLooking(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		rep := r.start(nil)
		// The answer is lost: the server is there.
		lost := true
		r.farm.mu.Lock()
		r.farm.onAnswer = func(call, _ string) error {
			if call == "allocate" && lost {
				return context.DeadlineExceeded
			}
			return nil
		}
		r.farm.mu.Unlock()
		r.create(rep, wish(1))
		r.settled(wish(1), allocator.Bound)
		if calls, _, started := r.farm.count("allocate", wish(1).ID); calls != 1 || started != 1 {
			t.Errorf("allocate was called %d times and started %d", calls, started)
		}
		// The call is lost: the server is not there.
		r.farm.mu.Lock()
		r.farm.onAnswer, r.farm.calls = nil, nil
		r.farm.mu.Unlock()
		var failed atomic.Bool
		r.farm.set(func(_ context.Context, call, _ string) error {
			if call == "allocate" && !failed.Swap(true) {
				return context.DeadlineExceeded
			}
			return nil
		})
		r.create(rep, wish(2))
		r.settled(wish(2), allocator.Bound)
		r.farm.mu.Lock()
		calls := strings.Join(r.farm.calls, " ")
		r.farm.mu.Unlock()
		if i, j := strings.Index(calls, "allocate"), strings.LastIndex(calls, "allocate"); i == j || !strings.Contains(calls[i:j], "get") {
			t.Errorf("repeated without looking: %s", calls)
		}
	})
}

func TestFailuresEndWhereTheyMust(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		rep := r.start(nil)
		r.farm.set(func(context.Context, string, string) error {
			return provider.Failure(provider.Invalid, "command /nowhere does not exist")
		})
		r.create(rep, wish(1))
		if a := r.settled(wish(1), allocator.Failed); a.Message != `provider "farm": command /nowhere does not exist` {
			t.Errorf("message %q", a.Message)
		}
		if got := r.peer.told(); got != `failed: provider "farm": command /nowhere does not exist` {
			t.Errorf("the instance was told %q", got)
		}
		if calls, _, _ := r.farm.count("allocate", wish(1).ID); calls != 1 {
			t.Errorf("asked %d times for what cannot work", calls)
		}

		// Away for a moment is no failure.
		var calls atomic.Int64
		r.farm.set(func(_ context.Context, call, _ string) error {
			if call == "allocate" && calls.Add(1) <= 2 {
				return provider.Failure(provider.Unavailable, "away")
			}
			return nil
		})
		r.create(rep, wish(2))
		r.settled(wish(2), allocator.Bound)

		// Away until the deadline is one.
		r.peer.set(func() { r.peer.reports = nil })
		r.farm.set(func(context.Context, string, string) error { return provider.Failure(provider.Unavailable, "away") })
		w := wish(3)
		w.Deadline = time.Now().Add(300 * time.Millisecond)
		r.create(rep, w)
		r.settled(w, allocator.Failed)
		if got := r.peer.told(); !strings.Contains(got, "failed: no server before the deadline") || !strings.Contains(got, "away") {
			t.Errorf("the instance was told %q", got)
		}
	})
}

// A provider that hangs is left at the deadline; the instance is told, and what the provider may have started goes back.
func TestHangingProvider(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		rep := r.start(nil)
		r.farm.set(func(ctx context.Context, call, _ string) error {
			if call == "allocate" {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		})
		w := wish(1)
		w.Deadline = time.Now().Add(300 * time.Millisecond)
		r.create(rep, w)
		r.settled(w, allocator.Failed)
		if got := r.peer.told(); !strings.HasPrefix(got, "failed: no server before the deadline") {
			t.Errorf("the instance was told %q", got)
		}
		if calls, _, _ := r.farm.count("release", w.ID); calls == 0 {
			t.Error("nothing was given back")
		}
	})
}

func TestReleaseBeforeCreate(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		rep := r.start(nil)
		w := wish(1)
		r.release(rep, w)
		r.create(rep, w)
		r.settled(w, allocator.Released)
		if calls, _, _ := r.farm.count("allocate", w.ID); calls != 0 {
			t.Error("a server was asked for after the release")
		}
		if got := r.peer.told(); got != "released" {
			t.Errorf("the instance was told %q", got)
		}
	})
}

// Released while the provider is being asked: what it starts goes back.
func TestReleaseWhileTheProviderIsAsked(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		rep := r.start(nil)
		asked, answer := make(chan struct{}), make(chan struct{})
		r.farm.set(func(_ context.Context, call, _ string) error {
			if call == "allocate" {
				close(asked)
				<-answer
			}
			return nil
		})
		w := wish(1)
		r.create(rep, w)
		<-asked
		r.release(rep, w)
		close(answer)
		r.settled(w, allocator.Released)
		if _, servers, started := r.farm.count("", w.ID); servers != 0 || started != 1 {
			t.Errorf("%d servers left, %d started", servers, started)
		}
		if got := r.peer.told(); got != "released" {
			t.Errorf("the instance was told %q", got)
		}
	})
}

// A worker that was away for longer than its lease while it asked a provider finds the allocation settled by another one, and gives back what it started.
func TestServerOfAWorkerThatLostItsLease(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		asked, answer := make(chan struct{}), make(chan struct{})
		var once sync.Once
		r.farm.set(func(_ context.Context, call, _ string) error {
			if call == "allocate" {
				once.Do(func() { close(asked); <-answer }) // deaf to its context, as a paused process is
			}
			return nil
		})
		slow := r.start(func(c *allocator.WorkerConfig) {
			q, _ := c.Queue.(*mortal)
			c.Queue = paused{q}
		})
		w := wish(1)
		r.create(slow, w)
		<-asked
		other := r.start(nil)
		r.release(other, w)
		r.settled(w, allocator.Released)
		close(answer)
		eventually(t, func() (bool, any) {
			_, servers, started := r.farm.count("", w.ID)
			return servers == 0 && started == 1, fmt.Sprint(servers, " servers left, ", started, " started")
		})
		r.settled(w, allocator.Released)
	})
}

// paused is a queue whose leases are never renewed.
type paused struct{ *mortal }

func (paused) Renew(context.Context, string, string, time.Duration) (bool, error) {
	return false, nil
}

func TestReportsAreRepeatedUntilAnswered(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		rep := r.start(nil)
		tries := make(map[string]int)
		r.peer.set(func() {
			r.peer.onReport = func(req *attemptv1.ReportAttemptRequest) error { // under the peer's lock
				if tries[kindOf(req)]++; tries[kindOf(req)] < 3 {
					return unavailable()
				}
				return nil
			}
		})
		w := wish(1)
		r.create(rep, w)
		r.settled(w, allocator.Bound)
		r.release(rep, w)
		r.settled(w, allocator.Released)
		if got := r.peer.told(); got != "allocated released" {
			t.Errorf("the instance was told %q", got)
		}
		r.peer.set(func() {
			if tries["allocated"] != 3 || tries["released"] != 3 {
				t.Errorf("tries: %v", tries)
			}
		})
	})
}

func TestAbandonedServersGoBack(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		r.peer.set(func() { r.peer.verdict = attemptv1.ReportAttemptResponse_VERDICT_ABANDONED })
		rep := r.start(nil)
		r.create(rep, wish(1))
		r.settled(wish(1), allocator.Released)
		if _, servers, started := r.farm.count("", wish(1).ID); servers != 0 || started != 1 {
			t.Errorf("%d servers left, %d started", servers, started)
		}
	})
}

// An instance that has not decided is asked again until it has.
func TestUndecidedInstanceIsAskedAgain(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		r.peer.set(func() { r.peer.verdict = attemptv1.ReportAttemptResponse_VERDICT_OPEN })
		rep := r.start(nil)
		r.create(rep, wish(1))
		r.settled(wish(1), allocator.Ready)
		r.peer.set(func() { r.peer.verdict = attemptv1.ReportAttemptResponse_VERDICT_ACCEPTED })
		r.settled(wish(1), allocator.Bound)
	})
}

func TestExitIsObserved(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		rep := r.start(nil)
		w := wish(1)
		r.create(rep, w)
		r.settled(w, allocator.Bound)
		r.farm.exit(w.ID, "exit status 3")
		if a := r.settled(w, allocator.Released); a.Message != "exit status 3" {
			t.Errorf("message %q", a.Message)
		}
		if got := r.peer.told(); got != "allocated exited: exit status 3 released" {
			t.Errorf("the instance was told %q", got)
		}
	})
}

func TestCreateIsOnce(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		one, two := r.start(nil), r.start(nil) // two replicas on one store
		w := wish(1)
		var callers sync.WaitGroup
		for i := range 16 {
			callers.Go(func() {
				if _, err := []*replica{one, two}[i%2].Create(t.Context(), w); err != nil {
					t.Error(err)
				}
			})
		}
		callers.Wait()
		r.settled(w, allocator.Bound)
		if calls, _, started := r.farm.count("allocate", w.ID); calls != 1 || started != 1 {
			t.Errorf("allocate was called %d times and started %d", calls, started)
		}
		other := w
		other.Placement.Labels = map[string]string{"mode": "else"}
		if _, err := one.Create(t.Context(), other); !errs.Is(err, errs.RequestIDReused) {
			t.Errorf("another wish of the same name: %v", err)
		}
		stranger := w
		stranger.ID = "6c1f9a52-6f3e-4c64-9d5c-000000000000-1"
		if _, err := one.Create(t.Context(), stranger); !errs.Is(err, errs.ValidationFailed) {
			t.Errorf("an allocation of another instance's attempt: %v", err)
		}
		unknown := wish(2)
		unknown.Placement.Build = "nope"
		if _, err := one.Create(t.Context(), unknown); !errs.Is(err, errs.BuildUnknown) {
			t.Errorf("an unknown build: %v", err)
		}
	})
}

// Many at once, more than the worker takes at a time.
func TestManyAllocations(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		rep := r.start(func(c *allocator.WorkerConfig) { c.Concurrency = 4 })
		const many = 40
		for n := range many {
			r.create(rep, wish(n))
		}
		for n := range many {
			r.settled(wish(n), allocator.Bound)
		}
		for n := range many {
			r.release(rep, wish(n))
		}
		for n := range many {
			r.settled(wish(n), allocator.Released)
		}
		if _, servers, _ := r.farm.count("", ""); servers != 0 {
			t.Errorf("%d servers left", servers)
		}
	})
}

// A stopping replica lets go of what it holds, so that the next one need not wait for a lease to run out.
func TestStopLetsGo(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		r.peer.set(func() { r.peer.onIssue = unavailable })
		first := r.start(func(c *allocator.WorkerConfig) { c.Lease = time.Hour })
		w := wish(1)
		r.create(first, w)
		eventually(t, func() (bool, any) { a := r.stored(w); return a.Tries > 0, a })
		first.stop()
		r.peer.set(func() { r.peer.onIssue = nil })
		r.start(nil)
		r.settled(w, allocator.Bound)
	})
}

// A final allocation is deleted with all that leads to it.
func TestFinalAllocationsAreForgotten(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		rep := r.start(nil)
		w := wish(1)
		r.release(rep, w)
		a := r.settled(w, allocator.Released)
		if left := time.Until(a.ExpireAt); left < 59*time.Minute || left > 61*time.Minute {
			t.Errorf("kept for %v", left)
		}
		eventually(t, func() (bool, any) { // the worker has let go of it
			_, err := redisstore.New(r.redis).Save(t.Context(), a)
			return err == nil, err
		})
		a = r.stored(w)
		a.ExpireAt = time.Now().Add(-time.Second)
		if _, err := redisstore.New(r.redis).Save(t.Context(), a); err != nil {
			t.Fatal(err)
		}
		rep.worker.Wake(w.ID)
		eventually(t, func() (bool, any) { all := dump(t, r.redis); return !strings.Contains(all, w.ID), all })
	})
}
