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

// In claim mode neither the provider nor this service ever has the tokens, and the code is nowhere but in the document.
func TestAProviderThatCarriesClaimCodes(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		var log syncBuffer
		r.log = slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		r.peer.set(func() { r.peer.onIssue = func() error { t.Error("a pair was minted"); return nil } })
		rep := r.start(func(c *allocator.WorkerConfig) { c.Providers[0].Info.Claims = true })
		w := wish(1)
		r.create(rep, w)
		bound := r.settled(w, allocator.Bound)
		r.farm.mu.Lock()
		doc, err := bootstrap.Parse(r.farm.order.GetBootstrap())
		r.farm.mu.Unlock()
		if err != nil || doc.Claim.Reveal() != claimCode || doc.Instance != instance || doc.Server != bound.ServerID() || doc.Gateway != "http://127.0.0.1:7001" {
			t.Errorf("bootstrap: %+v, %v", doc, err)
		}
		rep.stop()
		for where, text := range map[string]string{"log": log.String(), "store": dump(t, r.redis)} {
			if strings.Contains(text, claimCode) || !strings.Contains(text, instance) {
				t.Errorf("the code is in the %s, or the scan reads nothing", where)
			}
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
		case "none": // deleted meanwhile
		default:
			t.Errorf("key %s is of a type that this test does not read", key)
		}
	}
	return all.String()
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
		if a := r.settled(wish(1), allocator.Failed); a.Message != `provider "farm" in eu: command /nowhere does not exist (INVALID)` {
			t.Errorf("message %q", a.Message)
		}
		if got := r.peer.told(); got != `failed: provider "farm" in eu: command /nowhere does not exist (INVALID)` {
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

// A provider that hangs is left at the deadline; the instance is told, and once it has answered, what the provider may have started goes back.
func TestHangingProvider(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		rep := r.start(nil)
		r.farm.set(func(ctx context.Context, call, _ string) error {
			switch call {
			case "allocate":
				<-ctx.Done()
				return ctx.Err()
			case "release":
				if r.peer.told() == "" {
					t.Error("given back before the instance had answered")
				}
			}
			return nil
		})
		tries := 0
		r.peer.set(func() {
			r.peer.onReport = func(*attemptv1.ReportAttemptRequest) error { // under the peer's lock
				if tries++; tries < 3 {
					return unavailable()
				}
				return nil
			}
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

// The same, but the server did start, and is linked by the deadline: it stays.
func TestHangingProviderWhoseServerLinks(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		rep := r.start(nil)
		w := wish(1)
		w.Deadline = time.Now().Add(500 * time.Millisecond)
		r.farm.mu.Lock()
		r.farm.onAnswer = func(call, _ string) error {
			if call == "allocate" {
				r.peer.set(func() { r.peer.linked = true })
				<-time.After(time.Until(w.Deadline) + 100*time.Millisecond) // the hanging; clocks differ a little
				return context.DeadlineExceeded
			}
			return nil
		}
		r.farm.mu.Unlock()
		r.create(rep, w)
		r.keepsLinked(rep, w)
	})
}

// keepsLinked checks that a server which was linked before the allocation knew of it becomes the instance's, and goes back when the instance says so.
func (r *rig) keepsLinked(rep *replica, w allocator.Wish) {
	r.t.Helper()
	eventually(r.t, func() (bool, any) {
		a := r.stored(w)
		return a.State > allocator.Bound || (a.State == allocator.Bound && a.Report == allocator.ReportNone && a.ExternalID != ""), a
	})
	released, servers, _ := r.farm.count("release", w.ID)
	if a := r.stored(w); a.State != allocator.Bound || len(a.Endpoints) != 1 || released != 0 || servers != 1 {
		r.t.Errorf("given back %d times, %d servers left: %+v", released, servers, a)
	}
	if got := r.peer.told(); got != "failed: no server before the deadline; the last problem: provider \"farm\": no answer in time allocated" &&
		got != "failed: no server before the deadline allocated" {
		r.t.Errorf("the instance was told %q", got)
	}
	r.peer.set(func() {
		if e := r.peer.reports[len(r.peer.reports)-1].GetAllocated().GetEndpoints(); len(e) != 1 || e[0].GetPort() != 7777 {
			r.t.Errorf("the instance was told of the endpoints %v", e)
		}
	})
	r.release(rep, w)
	r.settled(w, allocator.Released)
	if calls, servers, started := r.farm.count("allocate", w.ID); calls != 1 || servers != 0 || started != 1 {
		r.t.Errorf("allocate was called %d times; %d servers left, %d started", calls, servers, started)
	}
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
		eventually(t, func() (bool, any) { return r.peer.told() == "allocated", nil })
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
