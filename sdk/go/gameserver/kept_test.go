package gameserver

import (
	"testing"
	"time"

	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"
)

// ids returns the numbers of calls.
func ids(calls []*call) []int64 {
	out := make([]int64, 0, len(calls))
	for _, c := range calls {
		out = append(out, c.id)
	}
	return out
}

func wantKept(t *testing.T, k *kept, above, first, last int64, wantForgotten bool) {
	t.Helper()
	calls, forgotten := k.take(above)
	got := ids(calls)
	if len(got) != int(last-first+1) || len(got) > 0 && (got[0] != first || got[len(got)-1] != last) {
		t.Errorf("kept are %v, want %d to %d", got, first, last)
	}
	if forgotten != wantForgotten {
		t.Errorf("forgotten: %v", forgotten)
	}
}

func TestKeptAreTheNewest(t *testing.T) {
	now := time.Now()
	add := func(k *kept, id int64, size int, at time.Time) {
		k.add(&call{id: id, revision: 100 + id, payload: make([]byte, size/2), result: make([]byte, size-size/2)}, at)
	}
	t.Run("in number", func(t *testing.T) {
		var k kept
		for id := int64(1); id <= maxKept+10; id++ {
			add(&k, id, 1, now)
		}
		wantKept(t, &k, 0, 11, maxKept+10, true)
	})
	t.Run("in bytes", func(t *testing.T) {
		var k kept
		for id := int64(1); id <= 6; id++ {
			add(&k, id, 1<<20, now)
		}
		wantKept(t, &k, 0, 3, 6, true)
		add(&k, 7, maxKeptBytes+1, now) // taken calls take no room, and one that is too large has none
		wantKept(t, &k, 0, 1, 0, true)
		add(&k, 8, maxKeptBytes, now)
		wantKept(t, &k, 0, 8, 8, false)
	})
	t.Run("in time", func(t *testing.T) {
		var k kept
		add(&k, 1, 1, now)
		add(&k, 2, 1, now.Add(time.Second))
		add(&k, 3, 1, now.Add(keptFor+time.Millisecond))
		wantKept(t, &k, 102, 3, 3, false) // what is forgotten is below that
		wantKept(t, &k, 0, 2, 2, true)
	})
	t.Run("by number, not by when they were answered", func(t *testing.T) {
		var k kept
		add(&k, 3, 1, now)
		add(&k, 1, 1, now)
		add(&k, 2, 1, now)
		if calls, _ := k.take(0); ids(calls)[0] != 1 || ids(calls)[1] != 2 || ids(calls)[2] != 3 {
			t.Errorf("taken: %v", ids(calls))
		}
	})
}

// A repair holds up whatever is newer until it has its answer, though there is room for more; what is older was under way with it.
func TestARepairHoldsUpWhatIsNewer(t *testing.T) {
	old, lost, lostToo := new(call), new(call), new(call)
	o := outboxOf(t, old, lost, lostToo)
	before := &socket{window: 64, open: make(map[int64]struct{})}
	for _, c := range []*call{old, lost, lostToo} {
		wantNext(t, o, before, c)
	}
	for n, c := range []*call{lost, lostToo} {
		c.apply = func([]byte) (int64, error) { return int64(10 + n), nil }
		o.answered(before, &linkv1.Response{Id: c.id})
	}
	newer := &call{of: lost.of, apply: lost.apply}
	if err := o.add(t.Context(), nil, newer); err != nil {
		t.Fatal(err)
	}
	repairs, _ := o.repair(lost.of, 0)
	if len(repairs) != 2 || repairs[0].id != lost.id || repairs[1].id != lostToo.id {
		t.Fatalf("to be repaired are %v", ids(repairs))
	}
	via := &socket{window: 64, open: make(map[int64]struct{})}
	wantNext(t, o, via, old)
	for _, c := range repairs { // the callers of the calls that were answered are still there, and do not matter
		wantNext(t, o, via, c)
		wantNext(t, o, via, nil)
		o.answered(via, &linkv1.Response{Id: c.id})
	}
	wantNext(t, o, via, newer)
	for _, c := range []*call{lost, lostToo} {
		o.remove(c)
	}
	if len(o.calls) != 2 || old.of.room.calls != 2 {
		t.Errorf("%d calls and %d places are taken, want old and newer", len(o.calls), old.of.room.calls)
	}
}

// A repair that Berth has put off waits for as long as Berth says, and so does what is newer.
func TestARepairIsPutOff(t *testing.T) {
	lost := new(call)
	o := outboxOf(t, lost)
	via := &socket{window: 64, open: make(map[int64]struct{})}
	wantNext(t, o, via, lost)
	lost.apply = func([]byte) (int64, error) { return 10, nil }
	o.answered(via, &linkv1.Response{Id: lost.id})
	o.remove(lost)
	if err := o.add(t.Context(), nil, &call{of: lost.of}); err != nil {
		t.Fatal(err)
	}
	repairs, _ := o.repair(lost.of, 0)
	wantNext(t, o, via, repairs[0])
	o.answered(via, &linkv1.Response{Id: lost.id, Outcome: &linkv1.Response_Error{Error: &linkv1.Error{
		Code: int32(codes.Unavailable), RetryAfter: durationpb.New(time.Minute),
	}}})
	if c, in := o.next(via); c != nil || in < maxRetryAfter-time.Second || in > maxRetryAfter+time.Second {
		t.Errorf("next is %v in %s, want nothing for half a minute", c, in)
	}
}

// Two losses of the link that the game has not heard of yet are one for it; that writes were lost must not be lost with the first.
func TestRelinkedTellsOfLostWritesThatItReplaces(t *testing.T) {
	in := newInbox(func() {}, make(chan struct{}, 1))
	for _, lost := range []bool{false, true, false} {
		in.relink(1, &Relinked{LostWrites: lost})
	}
	if len(in.queue) != 2 {
		t.Fatalf("%d events wait, want 2", len(in.queue))
	}
	if e, ok := in.queue[1].event.(Relinked); !ok || !e.LostWrites {
		t.Errorf("the last is %v", in.queue[1].event)
	}
}

// What came while a Link was on its way happened after the start data, perhaps. It comes again then, and must not be acknowledged before: what follows would be missed
// for ever.
func TestWhatOvertookTheStartDataIsNotAcknowledgedForIt(t *testing.T) {
	in := newInbox(func() {}, make(chan struct{}, 1))
	apply := func(*gameserverv1.InstanceEvent) {}
	in.relink(1, nil)
	for offset := int64(2); offset <= 3; offset++ {
		if got := in.accept(&linkv1.Notification{Offset: offset, Previous: offset - 1}, apply); got != queued {
			t.Fatalf("%d: %v", offset, got)
		}
	}
	if _, ok := in.head(t.Context()); !ok { // on its way to the game
		t.Fatal("nothing waits")
	}
	in.relink(2, &Relinked{})
	in.took()
	in.took()
	if got := in.offset(); got != 2 {
		t.Errorf("%d is acknowledged; the start data stands for 2", got)
	}
	if got := in.accept(&linkv1.Notification{Offset: 3, Previous: 2}, apply); got != queued {
		t.Errorf("when it comes again: %v", got)
	}
}
