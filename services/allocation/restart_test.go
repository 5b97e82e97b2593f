package allocation_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	attemptv1 "github.com/berth-dev/berth/pkg/gen/berth/attempt/v1"
	"github.com/berth-dev/berth/sdk/go/provider"
	"github.com/berth-dev/berth/services/allocation/internal/allocator"
	"github.com/berth-dev/berth/services/allocation/internal/redisstore"
)

// A replica that is killed before or after any single thing that it does is succeeded by one that brings the allocation to the same end.
func TestKilledAtAnyPoint(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		attempt := 0
		for _, givenUp := range []bool{false, true} {
			for point := 0; ; point++ {
				attempt++
				if killedAt(r, wish(attempt), point, givenUp) >= point {
					continue
				}
				if point < 15 {
					t.Errorf("only %d points were tried", point)
				}
				break
			}
		}
	})
}

// killedAt plays a match and kills the replica at the n-th point, counted from 1; 0: never. Then the instance goes on to wait for its server, or has
// given it up. It returns how many points the replica came by.
func killedAt(r *rig, w allocator.Wish, n int, givenUp bool) int {
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
	rep := first
	next := func(end ...allocator.State) {
		r.settledOr(w, killed, end...)
		if rep == first && first.queue.dead.Load() {
			first.stop()
			r.unhook()
			rep = r.start(nil)
			if givenUp {
				return
			}
		}
		r.settledOr(w, nil, end...)
	}
	next(allocator.Bound)
	r.release(rep, w)
	next(allocator.Released, allocator.Cancelled)
	r.settledOr(w, nil, allocator.Released, allocator.Cancelled)
	rep.stop()
	r.unhook()
	_, servers, started := r.farm.count("", w.ID)
	told := r.peer.told()
	if servers != 0 || started > 1 || (!givenUp && (started != 1 || told != "allocated released")) || (givenUp && !strings.HasSuffix(told, "released")) {
		r.t.Fatalf("killed at point %d, given up %v: %d servers left, %d started, the instance was told %q", n, givenUp, servers, started, told)
	}
	return int(passed.Load())
}

func (r *rig) unhook() {
	r.farm.mu.Lock()
	r.farm.onCall, r.farm.onAnswer = nil, nil
	r.farm.mu.Unlock()
	r.peer.set(func() { r.peer.onIssue, r.peer.onReport = nil, nil })
}

// settledOr waits until the allocation has one of the states and owes no report, or the replica is killed.
func (r *rig) settledOr(w allocator.Wish, killed <-chan struct{}, want ...allocator.State) {
	r.t.Helper()
	eventually(r.t, func() (bool, any) {
		select {
		case <-killed:
			return true, nil
		default:
		}
		a := r.stored(w)
		return slices.Contains(want, a.State) && a.Report == allocator.ReportNone, a
	})
}

// A replica is killed after the provider started the server, and succeeded after the deadline; the server has linked meanwhile: it stays.
func TestKilledUntilAfterTheDeadline(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		first := r.start(nil)
		dead := make(chan struct{})
		r.farm.mu.Lock()
		r.farm.onAnswer = func(call, _ string) error {
			if call == "allocate" {
				first.queue.dead.Store(true)
				close(dead)
			}
			return nil
		}
		r.farm.mu.Unlock()
		w := wish(1)
		w.Deadline = time.Now().Add(time.Hour)
		r.create(first, w)
		<-dead
		first.kill()
		r.unhook()
		r.peer.set(func() { r.peer.linked = true })
		a := r.stored(w)
		if a.State != allocator.Placing {
			t.Fatalf("left behind: %+v", a)
		}
		a.Deadline = time.Now().Add(-time.Second) // instead of waiting for it
		if _, err := redisstore.New(r.redis).Save(t.Context(), a); err != nil {
			t.Fatal(err)
		}
		r.keepsLinked(r.start(nil), w)
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
			eventually(t, func() (bool, any) {
				a := r.stored(w)
				return a.State == test.rest && (a.Tries > 0 || a.State > allocator.Placing), a
			})
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

// A stopping replica lets go of what it holds, so that the next one need not wait for a lease to run out.
func TestStopLetsGo(t *testing.T) {
	each(t, func(t *testing.T, r *rig) {
		asked, answer := make(chan struct{}), make(chan struct{})
		defer close(answer)
		r.peer.set(func() { r.peer.onIssue = func() error { close(asked); <-answer; return unavailable() } })
		first := r.start(func(c *allocator.WorkerConfig) { c.Lease = time.Hour })
		w := wish(1)
		r.create(first, w)
		<-asked
		first.stop() // in the middle of a call
		r.peer.set(func() { r.peer.onIssue = nil })
		r.start(nil)
		r.settled(w, allocator.Bound)
	})
}
