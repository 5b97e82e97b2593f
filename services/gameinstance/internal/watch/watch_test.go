package watch_test

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/services/gameinstance/internal/instance"
	"github.com/berth-dev/berth/services/gameinstance/internal/watch"
)

// recheck is the default, and enough for it to happen.
const recheck = 2*time.Second + time.Millisecond

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestHintsAreFollowedAtOnceAndReadOnce(t *testing.T) {
	bubble(t, watch.Config{}, func(t *testing.T, s *store, h *watch.Hub) {
		i := s.put(made("a"))
		var all []*watcher
		for range 10 {
			all = append(all, one(t, h, i.ID, 0), many(t, h, instance.Filter{}))
		}
		for n, w := range all {
			if n%2 == 0 {
				w.expect(i.ID + " a")
			} else {
				w.expect(i.ID+" a", "complete")
			}
		}
		s.counts()
		began := time.Now()
		s.put(with(i, "b"))
		for _, w := range all {
			w.expect(i.ID + " b")
		}
		s.remove(i.ID, true)
		for n, w := range all {
			if n%2 == 1 {
				w.expect("removed " + i.ID)
				w.stop()
			} else {
				w.failed(errs.InstanceDeleted)
			}
		}
		if time.Since(began) > 0 {
			t.Errorf("it took %v", time.Since(began))
		}
		if loads, heads := s.counts(); loads != 12 || heads != 0 { // each change once; and each watcher of one looked at the end whether it was deleted
			t.Errorf("%d full reads and %d of heads", loads, heads)
		}
	})
}

func TestWhatNoHintTellsIsFoundByARecheck(t *testing.T) {
	bubble(t, watch.Config{}, func(t *testing.T, s *store, h *watch.Hub) {
		i, other := s.put(made("a")), s.put(made("x"))
		w, ws := one(t, h, i.ID, 0), many(t, h, instance.Filter{})
		w.expect(i.ID + " a")
		if got := ws.sent(); len(got) != 3 {
			t.Errorf("snapshot %q", got)
		}
		s.set(func(s *store) { s.silent = true })
		for _, message := range []string{"b", "c", "d"} {
			s.put(with(i, message))
			time.Sleep(recheck)
			w.expect(i.ID + " " + message)
			ws.expect(i.ID + " " + message)
		}
		s.remove(other.ID, true)
		time.Sleep(recheck)
		ws.expect("removed " + other.ID)
		// What was told once is not read again, although rechecks overlap.
		time.Sleep(10 * recheck)
		s.counts()
		for range 20 {
			s.put(made("y"))
			time.Sleep(recheck / 10)
		}
		time.Sleep(10 * recheck)
		if loads, heads := s.counts(); loads != 0 || heads != 20 {
			t.Errorf("%d full reads and %d of heads for 20 changes", loads, heads)
		}
		w.stop()
		ws.stop()
	})
}

// A subscription that was lost and made again may have lost hints: nobody waits for the next recheck.
func TestARenewedSubscriptionIsFollowedByALook(t *testing.T) {
	bubble(t, watch.Config{Recheck: time.Hour}, func(t *testing.T, s *store, h *watch.Hub) {
		i := s.put(made("a"))
		w, ws := one(t, h, i.ID, 0), many(t, h, instance.Filter{})
		w.expect(i.ID + " a")
		ws.expect(i.ID+" a", "complete")
		s.set(func(s *store) { s.silent = true })
		s.put(with(i, "b"))
		w.expect()
		s.subscribe()
		w.expect(i.ID + " b")
		ws.expect(i.ID + " b")
		w.stop()
		ws.stop()
	})
}

// A failover to a machine whose clock is behind: revisions of other instances begin below what was seen.
func TestAClockThatIsPutBackHidesNothing(t *testing.T) {
	bubble(t, watch.Config{}, func(t *testing.T, s *store, h *watch.Hub) {
		s.put(made("a"))
		ws := many(t, h, instance.Filter{})
		ws.sent()
		time.Sleep(recheck)
		s.set(func(s *store) { s.silent, s.skew = true, -time.Minute })
		i := s.put(made("b"))
		time.Sleep(recheck)
		ws.expect(i.ID + " b")
		s.put(with(i, "c"))
		time.Sleep(recheck)
		ws.expect(i.ID + " c")
		ws.stop()
	})
}

func TestAWatchGoesOnWhenTheStoreIsBack(t *testing.T) {
	bubble(t, watch.Config{}, func(t *testing.T, s *store, h *watch.Hub) {
		i := s.put(made("a"))
		w, ws := one(t, h, i.ID, 0), many(t, h, instance.Filter{})
		w.expect(i.ID + " a")
		ws.expect(i.ID+" a", "complete")
		s.set(func(s *store) { s.away = true })
		s.put(with(i, "b"))
		time.Sleep(10 * time.Minute)
		w.expect()
		ws.expect()
		one(t, h, i.ID, 0).failed(errs.StoreUnavailable)
		many(t, h, instance.Filter{}).failed(errs.StoreUnavailable)
		s.set(func(s *store) { s.away = false })
		time.Sleep(recheck)
		w.expect(i.ID + " b")
		ws.expect(i.ID + " b")
		w.stop()
		ws.stop()
	})
}

// The reader finds an instance gone, and the store goes away before the watcher can look whether it was deleted.
func TestAStoreThatGoesAwayAtTheEndIsWaitedFor(t *testing.T) {
	bubble(t, watch.Config{}, func(t *testing.T, s *store, h *watch.Hub) {
		i := s.put(made("a"))
		w := one(t, h, i.ID, 0)
		w.expect(i.ID + " a")
		s.set(func(s *store) { s.forgetful = true })
		s.remove(i.ID, true)
		time.Sleep(10 * recheck)
		if len(w.ended) > 0 {
			t.Fatalf("the watch ended with %v", <-w.ended)
		}
		s.set(func(s *store) { s.forgetful = false })
		w.failed(errs.InstanceDeleted)
	})
}

func TestAWatchOfOneGoesOnAfterARevision(t *testing.T) {
	bubble(t, watch.Config{}, func(t *testing.T, s *store, h *watch.Hub) {
		i := s.put(made("a"))
		w := one(t, h, i.ID, i.Revision)
		w.expect()
		s.put(with(i, "b"))
		w.expect(i.ID + " b")
		w.stop()
		one(t, h, i.ID, i.Revision+1e9).failed(errs.StateRolledBack)
		over := made("over")
		over.State = instance.Ended
		end := s.put(over)
		all := one(t, h, end.ID, 0)
		all.expect(end.ID + " over")
		all.failed("")
		nothing := one(t, h, end.ID, end.Revision)
		nothing.expect()
		nothing.failed("")
	})
}

func TestAWatchOfOneSaysWhatBecameOfTheInstance(t *testing.T) {
	bubble(t, watch.Config{}, func(t *testing.T, s *store, h *watch.Hub) {
		foreign := made("a")
		foreign.Namespace = "other"
		one(t, h, s.put(foreign).ID, 0).failed(errs.InstanceUnknown)
		one(t, h, made("never").ID, 0).failed(errs.InstanceUnknown)
		for tombstone, want := range map[bool]errs.Reason{true: errs.InstanceDeleted, false: errs.InstanceUnknown} {
			i := s.put(made("a"))
			w := one(t, h, i.ID, 0)
			w.expect(i.ID + " a")
			s.remove(i.ID, tombstone)
			w.failed(want)
			one(t, h, i.ID, 0).failed(want)
			one(t, h, i.ID, i.Revision).failed(want)
		}
	})
}

// A store that took over from another one may have lost writes that watchers were sent.
func TestAStoreThatWentBackIsNotHidden(t *testing.T) {
	bubble(t, watch.Config{}, func(t *testing.T, s *store, h *watch.Hub) {
		before := s.put(made("a"))
		time.Sleep(time.Minute)
		s.put(with(before, "b"))
		lost := s.put(made("x"))
		w, ws, wl := one(t, h, before.ID, 0), many(t, h, instance.Filter{}), one(t, h, lost.ID, 0)
		w.expect(before.ID + " b")
		ws.sent()
		wl.sent()
		fine := many(t, h, instance.Filter{PlayerID: "nobody"})
		fine.expect("complete")
		s.force(before)
		s.set(func(s *store) { delete(s.instances, lost.ID) })
		time.Sleep(10 * recheck)
		w.expect() // nothing tells
		s.subscribe()
		w.failed(errs.StateRolledBack)
		wl.failed(errs.InstanceUnknown)
		ws.failed(errs.StateRolledBack)
		fine.stop()
	})
}

func TestAWatchOfManySendsWhatMatches(t *testing.T) {
	bubble(t, watch.Config{}, func(t *testing.T, s *store, h *watch.Hub) {
		label := func(i instance.Instance, mode string) instance.Instance {
			i.Labels = map[string]string{"mode": mode}
			return i
		}
		first := s.put(label(made("1"), "duel"))
		time.Sleep(time.Second)
		s.put(label(made("2"), "race"))
		time.Sleep(time.Second)
		third := s.put(label(made("3"), "duel"))
		foreign := label(made("4"), "duel")
		foreign.Namespace = "other"
		s.put(foreign)
		ws := many(t, h, instance.Filter{Labels: map[string]string{"mode": "duel"}})
		ws.expect(third.ID+" 3", first.ID+" 1", "complete")
		s.put(label(with(first, "1b"), "race"))
		ws.expect("removed " + first.ID)
		s.put(label(with(first, "1c"), "race"))
		ws.expect()
		s.put(label(with(first, "1d"), "duel"))
		ws.expect(first.ID + " 1d")
		s.put(foreign)
		s.remove(foreign.ID, true)
		ws.expect()
		ws.stop()
	})
}

// The page was read with the instance as it was, the change came before the page was sent: it must not stay as it was.
func TestAChangeWhileThePageIsOnItsWayIsNotLost(t *testing.T) {
	bubble(t, watch.Config{Recheck: time.Hour}, func(t *testing.T, s *store, h *watch.Hub) {
		ended := s.put(made("a"))
		time.Sleep(time.Second)
		deleted := s.put(made("b"))
		s.set(func(s *store) {
			s.beforeOne = func() {
				over := with(ended, "over")
				over.State = instance.Ended
				s.put(over)
				s.remove(deleted.ID, true)
				time.Sleep(time.Millisecond) // of the bubble's clock: the reader is done
			}
		})
		ws := many(t, h, instance.Filter{States: []instance.State{instance.Running}})
		time.Sleep(time.Second)
		got := ws.sent()
		slices.Sort(got[3:])
		want := []string{"removed " + ended.ID, "removed " + deleted.ID}
		slices.Sort(want)
		if want = append([]string{deleted.ID + " b", ended.ID + " a", "complete"}, want...); !slices.Equal(got, want) {
			t.Errorf("sent %q, want %q", got, want)
		}
		ws.stop()
	})
}

// The reader's load began without the newcomer's player, and ends after the newcomer's snapshot: it says nothing about the player.
func TestALoadUnderWayDoesNotMisleadANewcomer(t *testing.T) {
	bubble(t, watch.Config{}, func(t *testing.T, s *store, h *watch.Hub) {
		i := s.put(made("a"))
		all := many(t, h, instance.Filter{})
		all.expect(i.ID+" a", "complete")
		s.set(func(s *store) { s.slow = time.Millisecond })
		s.put(with(i, "b"))
		synctest.Wait()
		ann := many(t, h, instance.Filter{PlayerID: "ann"})
		ann.expect(i.ID+" b", "complete")
		time.Sleep(recheck)
		all.expect(i.ID + " b")
		ann.expect()
		// The load reads what came after the snapshot, and the hint of that is lost.
		s.put(with(i, "c"))
		synctest.Wait()
		bob := many(t, h, instance.Filter{PlayerID: "ann"})
		bob.expect(i.ID+" c", "complete")
		s.set(func(s *store) { s.silent = true })
		s.put(with(i, "d"))
		time.Sleep(2 * recheck)
		all.expect(i.ID + " d")
		bob.expect(i.ID + " d")
		all.stop()
		ann.stop()
		bob.stop()
	})
}

// A thousand changes while a snapshot of 1,200 is being sent are no reason to drop a watcher that reads.
func TestALongSnapshotDropsNobodyWhoReads(t *testing.T) {
	bubble(t, watch.Config{MaxPending: 600}, func(t *testing.T, s *store, h *watch.Hub) {
		var all []*instance.Instance
		for range 1200 {
			all = append(all, s.put(made("a")))
			time.Sleep(time.Millisecond)
		}
		slices.Reverse(all) // as they are sent
		change := func(some []*instance.Instance) func() {
			return func() {
				for _, i := range some {
					s.put(with(i, "b"))
				}
				time.Sleep(time.Millisecond) // of the bubble's clock: the reader is done
			}
		}
		var late *instance.Instance
		s.beforeOne = func() {
			late = s.put(made("late"))
			change(all[:500])()
			s.set(func(s *store) { s.beforeOne = change(all[500:1000]) })
		}
		ws := many(t, h, instance.Filter{})
		time.Sleep(time.Second)
		last := map[string]string{}
		for _, u := range ws.sent() {
			if id, message, ok := cut(u); ok {
				if last[id] == message {
					t.Errorf("%s was sent twice", u)
				}
				last[id] = message
			}
		}
		if last[late.ID] != "late" {
			t.Error("what was created meanwhile is missing")
		}
		for n, i := range all {
			if want := map[bool]string{true: "b", false: "a"}[n < 1000]; last[i.ID] != want {
				t.Errorf("instance %d is %q in the end, want %q", n, last[i.ID], want)
			}
		}
		ws.stop()
	})
}

func cut(u string) (id, message string, ok bool) {
	_, err := fmt.Sscan(u, &id, &message)
	return id, message, err == nil
}

func TestAWatcherThatTakesNothingIsDroppedAndHoldsUpNobody(t *testing.T) {
	bubble(t, watch.Config{}, func(t *testing.T, s *store, h *watch.Hub) {
		i := s.put(made("a"))
		slow, quick, w := many(t, h, instance.Filter{}), many(t, h, instance.Filter{}), one(t, h, i.ID, 0)
		slow.sent()
		quick.sent()
		w.sent()
		release := slow.stuck()
		s.put(with(i, "b"))
		quick.expect(i.ID + " b")
		w.expect(i.ID + " b")
		time.Sleep(29 * time.Second)
		s.put(with(i, "c"))
		quick.expect(i.ID + " c")
		w.expect(i.ID + " c")
		if len(slow.ended) > 0 {
			t.Error("dropped too early")
		}
		time.Sleep(2 * time.Second)
		slow.failed(errs.WatchTooSlow)
		s.put(with(i, "d"))
		quick.expect(i.ID + " d")
		w.expect(i.ID + " d")
		release() // as the end of its stream does
		quick.stop()
		w.stop()
	})
}

func TestAWatcherForWhichTooMuchWaitsIsDropped(t *testing.T) {
	bubble(t, watch.Config{MaxPending: 10}, func(t *testing.T, s *store, h *watch.Hub) {
		slow, quick := many(t, h, instance.Filter{}), many(t, h, instance.Filter{})
		slow.sent()
		release := slow.stuck()
		defer release()
		for n := range 11 { // one is on its way, ten wait
			s.put(made(fmt.Sprint(n)))
			quick.sent()
		}
		if len(slow.ended) > 0 {
			t.Error("dropped too early")
		}
		again := s.put(made("x"))
		synctest.Wait()
		if len(slow.ended) != 1 { // at once, and not because it takes nothing
			t.Error("more waits than may")
		}
		slow.failed(errs.WatchTooSlow)
		quick.expect(again.ID + " x")
		quick.stop()
	})
}

// What changes again while it waits takes no more room.
func TestChangesOfOneInstanceAreFolded(t *testing.T) {
	bubble(t, watch.Config{MaxPending: 2}, func(t *testing.T, s *store, h *watch.Hub) {
		i := s.put(made("a"))
		ws := many(t, h, instance.Filter{})
		ws.sent()
		release := ws.stuck()
		for n := range 100 {
			s.put(with(i, fmt.Sprint(n)))
			synctest.Wait()
		}
		release()
		ws.expect(i.ID+" 0", i.ID+" 99")
		ws.stop()
	})
}

func TestWatchersAndWhatTheyKeepAreBounded(t *testing.T) {
	bubble(t, watch.Config{MaxWatchers: 3, MaxTracked: 5}, func(t *testing.T, s *store, h *watch.Hub) {
		i := s.put(made("a"))
		s.put(made("b"))
		all := []*watcher{one(t, h, i.ID, 0), many(t, h, instance.Filter{}), many(t, h, instance.Filter{})} // keep four
		synctest.Wait()
		one(t, h, i.ID, 0).failed(errs.LimitExceeded)
		many(t, h, instance.Filter{}).failed(errs.LimitExceeded)
		s.put(made("c")) // there is room for one of the two
		synctest.Wait()
		if len(all[1].ended)+len(all[2].ended) != 1 {
			t.Fatalf("%d and %d were dropped", len(all[1].ended), len(all[2].ended))
		}
		if len(all[1].ended) == 1 {
			all[1], all[2] = all[2], all[1]
		}
		all[2].failed(errs.LimitExceeded)
		all[0].stop()
		all[1].stop()
		for range 3 { // all of it comes back
			ws := many(t, h, instance.Filter{})
			if got := ws.sent(); len(got) != 4 {
				t.Errorf("sent %q", got)
			}
			ws.stop()
		}
	})
}
