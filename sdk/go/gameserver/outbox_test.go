package gameserver

import (
	"log/slog"
	"testing"

	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
)

var testQueue = QueuePolicy{MaxCalls: 1024, MaxBytes: 1 << 20}

func outboxOf(t *testing.T, calls ...*call) *outbox {
	t.Helper()
	o, l := newOutbox(make(chan struct{}, 1)), newLedger(slog.New(slog.DiscardHandler), testQueue)
	for _, c := range calls {
		c.of, c.apply = l, func([]byte) (int64, error) { return 0, nil }
		if err := o.add(t.Context(), nil, c); err != nil {
			t.Fatal(err)
		}
	}
	return o
}

func wantNext(t *testing.T, o *outbox, via *socket, want *call) {
	t.Helper()
	for _, c := range o.calls {
		c.of.via = via // the instance goes on over it
	}
	if got, _ := o.next(via); got != want {
		t.Fatalf("next is %+v, want %+v", got, want)
	}
}

// The gateway counts requests that it has not answered, whether somebody here still waits for the answer or not.
func TestAbandonedCallsCountAgainstTheWindow(t *testing.T) {
	a, b := new(call), new(call)
	o := outboxOf(t, a, b)
	via := &socket{window: 1, open: make(map[int64]struct{})}
	wantNext(t, o, via, a)
	o.remove(a)
	wantNext(t, o, via, nil)
	o.answered(via, &linkv1.Response{Id: a.id})
	wantNext(t, o, via, b)
}

// A call whose caller gave up may take effect all the same, and then has to here, too, also when it has to be sent again.
func TestAnAbandonedCallStillTakesEffect(t *testing.T) {
	a := new(call)
	o := outboxOf(t, a)
	applied := 0
	a.apply = func([]byte) (int64, error) { applied++; return 0, nil }
	first, second := &socket{window: 1, open: make(map[int64]struct{})}, &socket{window: 1, open: make(map[int64]struct{})}
	wantNext(t, o, first, a)
	o.remove(a)
	wantNext(t, o, second, a)
	o.answered(second, &linkv1.Response{Id: a.id, Outcome: &linkv1.Response_Result{}})
	if applied != 1 || len(o.calls) != 0 || a.of.room.calls != 0 {
		t.Errorf("applied %d times; %d calls and %d places are still taken", applied, len(o.calls), a.of.room.calls)
	}
}

// Berth remembers the last window of numbers. A call that waits for its repeat must not fall out of it.
func TestNumbersStayWithinTheWindow(t *testing.T) {
	a, b, c := new(call), new(call), new(call)
	o := outboxOf(t, a, b, c)
	via := &socket{window: 2, open: make(map[int64]struct{})}
	wantNext(t, o, via, a)
	o.answered(via, &linkv1.Response{Id: a.id, Outcome: &linkv1.Response_Error{Error: &linkv1.Error{}}})
	<-a.answer // refused for now: its caller waits
	wantNext(t, o, via, b)
	o.answered(via, &linkv1.Response{Id: b.id})
	o.remove(b)
	wantNext(t, o, via, nil)
	o.repeat(a)
	wantNext(t, o, via, a)
	wantNext(t, o, via, nil)
	o.remove(a)
	wantNext(t, o, via, nil) // it was sent: until it is answered its number counts
	o.answered(via, &linkv1.Response{Id: a.id})
	wantNext(t, o, via, c)
	if a.id != 1 || b.id != 2 || c.id != 3 {
		t.Errorf("numbers are %d, %d, %d", a.id, b.id, c.id)
	}
}
