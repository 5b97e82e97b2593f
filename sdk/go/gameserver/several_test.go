package gameserver

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-dev/berth/sdk/go/bootstrap"
	gameserverv1 "github.com/berth-dev/berth/sdk/go/gen/berth/gameserver/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
	"google.golang.org/grpc/codes"
)

// socketOf returns a socket over which the instances of the ledgers are linked.
func socketOf(window int, ledgers ...*ledger) *socket {
	via := &socket{window: window, open: make(map[int64]struct{}), cut: func(error) {}}
	for _, l := range ledgers {
		l.via = via
	}
	return via
}

func add(t *testing.T, o *outbox, l *ledger) *call {
	t.Helper()
	c := &call{of: l, apply: func([]byte) (int64, error) { return 0, nil }}
	if err := o.add(t.Context(), nil, c); err != nil {
		t.Fatal(err)
	}
	return c
}

func sendsNext(t *testing.T, o *outbox, via *socket, want *call) {
	t.Helper()
	if got, _ := o.next(via); got != want {
		t.Fatalf("next is %+v, want %+v", got, want)
	}
}

// Berth remembers a window of each instance's requests. A call of one that is not answered for long holds up no other, and is still
// remembered when the others have used up many numbers.
func TestTheWindowOfNumbersIsAnInstancesOwn(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	a, b := newLedger(log, testQueue), newLedger(log, testQueue)
	o, via := newOutbox(make(chan struct{}, 1)), socketOf(2, a, b)
	stuck := add(t, o, a)
	sendsNext(t, o, via, stuck)
	for range 10 {
		c := add(t, o, b)
		sendsNext(t, o, via, c)
		o.answered(via, &linkv1.Response{Id: c.id})
		o.remove(c)
	}
	second := add(t, o, a)
	sendsNext(t, o, via, second)
	o.answered(via, &linkv1.Response{Id: second.id})
	o.remove(second)
	third := add(t, o, a)
	sendsNext(t, o, via, nil)
	o.answered(via, &linkv1.Response{Id: stuck.id})
	o.remove(stuck)
	sendsNext(t, o, via, third)
}

// The gateway counts the open requests of all instances, and those that link.
func TestTheWindowOfOpenRequestsIsShared(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	a, b, c := newLedger(log, testQueue), newLedger(log, testQueue), newLedger(log, testQueue)
	o, via := newOutbox(make(chan struct{}, 1)), socketOf(2, a, b)
	link := &call{of: c, settle: func(*socket, *linkv1.Response) error { return nil }}
	o.addLink(link)
	first, second := add(t, o, a), add(t, o, b)
	sendsNext(t, o, via, link)
	sendsNext(t, o, via, first)
	sendsNext(t, o, via, nil)
	o.answered(via, &linkv1.Response{Id: link.id})
	sendsNext(t, o, via, second)
}

// Nothing is fetched for an instance that is over.
func TestAnInboxThatIsOverFetchesNothing(t *testing.T) {
	for _, over := range []bool{false, true} {
		refetch := make(chan struct{}, 1)
		in := newInbox(func() {}, refetch)
		for n := int64(1); n <= maxEvents+1; n++ {
			in.accept(&linkv1.Notification{Offset: n, Previous: n - 1}, func(*gameserverv1.InstanceEvent) {})
		}
		if over {
			in.end()
		}
		for range maxEvents {
			_, _ = in.head(t.Context())
			in.took()
		}
		if (len(refetch) == 0) != over {
			t.Errorf("over: %v; asked for more: %d", over, len(refetch))
		}
	}
}

// What waits for its instance to be linked lets others past, and keeps the order of the numbers.
func TestCallsWaitForTheirOwnLink(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	a, b := newLedger(log, testQueue), newLedger(log, testQueue)
	o := newOutbox(make(chan struct{}, 1))
	before := socketOf(64, a)
	sent := add(t, o, a)
	sendsNext(t, o, before, sent)
	unsent, other := add(t, o, a), add(t, o, b)
	via := socketOf(64, b)
	sendsNext(t, o, via, other)
	sendsNext(t, o, via, nil)
	link := &call{of: a, settle: func(*socket, *linkv1.Response) error { return nil }}
	o.addLink(link)
	o.addLink(&call{of: a, settle: link.settle}) // one is enough
	sendsNext(t, o, via, link)
	sendsNext(t, o, via, nil)
	o.answered(via, &linkv1.Response{Id: link.id})
	o.forgetLink(a)
	o.resumed(a, via, 7)
	for n, want := range []*call{sent, unsent} {
		sendsNext(t, o, via, want)
		if want.epoch != 7 || want.id != []int64{1, 4}[n] {
			t.Errorf("number %d goes out with epoch %d", want.id, want.epoch)
		}
	}
	sendsNext(t, o, via, nil)
}

// An instance that is over leaves nothing behind: no call, no number, and no place in the window but that of what is under way.
func TestAClosedLedgerIsEmpty(t *testing.T) {
	l := newLedger(slog.New(slog.DiscardHandler), testQueue)
	o, via := newOutbox(make(chan struct{}, 1)), socketOf(64, l)
	sent, unsent := add(t, o, l), add(t, o, l)
	sendsNext(t, o, via, sent)
	o.close(l)
	if len(o.calls) != 0 || l.room.calls != 0 || len(via.open) != 1 {
		t.Errorf("%d calls, %d places and %d requests are left", len(o.calls), l.room.calls, len(via.open))
	}
	o.remove(sent)
	o.remove(unsent)
	if c := o.answered(via, &linkv1.Response{Id: sent.id}); c != nil || len(via.open) != 0 {
		t.Errorf("the answer was taken for one to %v", c)
	}
	if err := o.add(t.Context(), nil, &call{of: l}); !errors.Is(err, ErrClosed) || l.room.calls != 0 {
		t.Errorf("a call was taken: %v", err)
	}
}

// An answer that comes while the caller is giving up is an answer; whoever has it does not have to be given it again.
func TestAnAnswerAtTheLastMoment(t *testing.T) {
	l := newLedger(slog.New(slog.DiscardHandler), testQueue)
	o, via := newOutbox(make(chan struct{}, 1)), socketOf(64, l)
	early, late := add(t, o, l), add(t, o, l)
	for _, c := range []*call{early, late} {
		sendsNext(t, o, via, c)
		o.hold(via, c.id, false)
	}
	if !o.hand(early, &linkv1.Response{Id: early.id}) || o.remove(early) == nil {
		t.Error("the answer that was handed over is lost")
	}
	if o.remove(late) != nil || o.hand(late, &linkv1.Response{Id: late.id}) {
		t.Error("an answer was handed to nobody")
	}
}

// A gateway that lives but does not answer Link is left.
func TestALinkThatIsNotAnswered(t *testing.T) {
	for _, answered := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			l := newLedger(slog.New(slog.DiscardHandler), testQueue)
			o, via := newOutbox(make(chan struct{}, 1)), socketOf(64)
			ctx, cut := context.WithCancelCause(t.Context())
			via.cut = cut
			link := &call{of: l, settle: func(*socket, *linkv1.Response) error { return nil }}
			o.addLink(link)
			sendsNext(t, o, via, link)
			if answered {
				o.answered(via, &linkv1.Response{Id: link.id})
			}
			time.Sleep(handshakeTimeout)
			synctest.Wait()
			if why := context.Cause(ctx); (why == nil) != answered || why != nil && !errors.Is(why, errUnanswered) {
				t.Errorf("answered: %v; the connection was cut because of %v", answered, why)
			}
		})
	}
}

// A Link that Berth has put off waits for as long as Berth says, and holds up nobody.
func TestALinkIsPutOff(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	a, b := newLedger(log, testQueue), newLedger(log, testQueue)
	o, via := newOutbox(make(chan struct{}, 1)), socketOf(64, b)
	link := &call{of: a, settle: func(*socket, *linkv1.Response) error { return nil }}
	o.addLink(link)
	sendsNext(t, o, via, link)
	o.answered(via, &linkv1.Response{Id: link.id})
	o.putOff(link, &Error{Code: codes.Unavailable, RetryAfter: time.Minute})
	c := add(t, o, b)
	sendsNext(t, o, via, c)
	if c, in := o.next(via); c != nil || in < maxRetryAfter-time.Second || in > maxRetryAfter+time.Second {
		t.Errorf("next is %v in %s, want nothing for half a minute", c, in)
	}
}

// Several wait in Accept, and several instances come at once: each gets one.
func TestEachAcceptIsWoken(t *testing.T) {
	h, err := newHost(t.Context(), []Option{WithBootstrap(&bootstrap.Document{Gateway: "http://127.0.0.1:1"})})
	if err != nil {
		t.Fatal(err)
	}
	for _, in := range []string{"a", "b"} {
		h.offer(h.expect(in))
	}
	for range 2 {
		select {
		case <-h.offered:
		default:
			t.Fatal("there is an instance, and no signal")
		}
		if _, ok := h.takeOffer(); !ok {
			t.Fatal("there is a signal, and no instance")
		}
	}
	if _, ok := h.takeOffer(); ok || len(h.offered) > 0 {
		t.Error("there is more than was offered")
	}
}
