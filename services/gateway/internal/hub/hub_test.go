package hub_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	eventv1 "github.com/berth-dev/berth/pkg/gen/berth/event/v1"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"

	"github.com/berth-dev/berth/services/gateway/internal/hub"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeSocket notes what it is told. With leaves it removes itself from the hub when it is closed, and else only when it is killed.
type fakeSocket struct {
	hub    *hub.Hub
	leaves bool
	obeys  bool // removes itself when it is asked to move
	young  bool // has no session
	pooled bool

	mu       sync.Mutex
	got      []int64
	reminded []string
	assigned []string
	code     linkv1.CloseCode
	closedAt time.Time
	said     []string
	movedAt  time.Time
	within   time.Duration
	killed   bool
}

func (f *fakeSocket) Deliver(d *eventv1.Delivery) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.got = append(f.got, d.GetOffset())
}

func (f *fakeSocket) Remind(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reminded = append(f.reminded, id)
}

func (f *fakeSocket) Assign(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.assigned = append(f.assigned, id)
}

func (f *fakeSocket) Close(code linkv1.CloseCode, _ string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.code == 0 {
		f.code, f.closedAt = code, time.Now()
	}
	if f.leaves {
		go f.hub.Remove(f, "", nil)
	}
}

func (f *fakeSocket) Message(instance, topic, data []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.said = append(f.said, string(instance)+" "+string(topic)+" "+string(data))
}

func (f *fakeSocket) Move(within time.Duration) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.young {
		return false
	}
	f.movedAt, f.within = time.Now(), within
	if f.obeys {
		go f.hub.Remove(f, "", nil)
	}
	return true
}

func (f *fakeSocket) Pooled() bool { return f.pooled }

func (f *fakeSocket) Replace() { f.Close(linkv1.CloseCode_CLOSE_CODE_REPLACED, "") }

func (f *fakeSocket) Kill() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.killed = true
	go f.hub.Remove(f, "", nil)
}

func register(t *testing.T, h *hub.Hub, s hub.Socket, server string, epoch int64, instances ...string) error {
	t.Helper()
	if !h.Add(s) {
		t.Fatal("the hub is full")
	}
	o := h.Open(server)
	defer o.Done()
	return o.Register(s, epoch, instances)
}

func deliver(h *hub.Hub, instance string, offset int64) {
	h.Deliver(&eventv1.Envelope{Deliveries: []*eventv1.Delivery{{InstanceId: instance, Offset: offset}}})
}

func replaced(h *hub.Hub, server string, epoch int64) {
	h.Deliver(&eventv1.Envelope{Replaced: []*eventv1.SessionReplaced{{ServerId: server, SessionEpoch: epoch}}})
}

func TestDeliveriesGoToTheSocketOfTheInstance(t *testing.T) {
	h := hub.New(10)
	a, b := &fakeSocket{hub: h}, &fakeSocket{hub: h}
	if err := errors.Join(register(t, h, a, "sa", 1, "ia"), register(t, h, b, "sb", 1)); err != nil {
		t.Fatal(err)
	}
	h.Link(b, "sb", "ib")
	h.Link(a, "sb", "ia2") // a is not sb's socket
	deliver(h, "ia", 1)
	deliver(h, "ib", 2)
	deliver(h, "ia2", 3)
	deliver(h, "nobody's", 4)
	h.Remind([]string{"ib", "nobody's"})
	if len(a.got) != 1 || a.got[0] != 1 || len(b.got) != 1 || b.got[0] != 2 || len(b.reminded) != 1 || len(a.reminded) != 0 {
		t.Errorf("a got %v %v, b %v %v", a.got, a.reminded, b.got, b.reminded)
	}
	h.Unlink(a, "ib") // not a's
	h.Remove(a, "sa", []string{"ia", "ib"})
	deliver(h, "ia", 5)
	deliver(h, "ib", 6)
	if len(a.got) != 1 || len(b.got) != 2 {
		t.Errorf("after a is gone: a got %v, b %v", a.got, b.got)
	}
}

func TestAssignmentsGoToTheSocketOfTheServer(t *testing.T) {
	h := hub.New(10)
	a, b := &fakeSocket{hub: h}, &fakeSocket{hub: h}
	if err := errors.Join(register(t, h, a, "sa", 1, "linked"), register(t, h, b, "sb", 1)); err != nil {
		t.Fatal(err)
	}
	o := h.Open("opening") // has no socket yet
	defer o.Done()
	h.Deliver(&eventv1.Envelope{Assignments: []*eventv1.ServerAssignment{
		{ServerId: "sb", InstanceId: "i"}, {ServerId: "opening", InstanceId: "i"}, {ServerId: "nobody's", InstanceId: "i"}, {ServerId: "sb", InstanceId: "linked"},
	}})
	h.Remove(b, "sb", nil)
	h.Deliver(&eventv1.Envelope{Assignments: []*eventv1.ServerAssignment{{ServerId: "sb", InstanceId: "late"}}})
	if len(a.assigned) != 0 || len(b.assigned) != 2 || b.assigned[0] != "i" || b.assigned[1] != "linked" {
		t.Errorf("a was assigned %v, b %v", a.assigned, b.assigned)
	}
}

func TestANewerSessionReplacesTheOlder(t *testing.T) {
	h := hub.New(10)
	old, young := &fakeSocket{hub: h}, &fakeSocket{hub: h}
	if err := errors.Join(register(t, h, old, "s", 1, "i"), register(t, h, young, "s", 2, "i")); err != nil {
		t.Fatal(err)
	}
	if old.code != linkv1.CloseCode_CLOSE_CODE_REPLACED || young.code != 0 {
		t.Errorf("old %v, young %v", old.code, young.code)
	}
	h.Remove(old, "s", []string{"i"}) // takes nothing away from the younger
	deliver(h, "i", 1)
	replaced(h, "s", 2)
	if len(young.got) != 1 || young.code != 0 {
		t.Errorf("young got %v, closed %v", young.got, young.code)
	}
	late := &fakeSocket{hub: h}
	if err := register(t, h, late, "s", 1, "i"); !errors.Is(err, hub.ErrReplaced) {
		t.Errorf("an older session took over: %v", err)
	}
}

func TestNewsOfASessionThatIsBeingOpenedIsKept(t *testing.T) {
	h := hub.New(10)
	s := &fakeSocket{hub: h}
	h.Add(s)
	o := h.Open("s")
	replaced(h, "s", 6)
	if err := o.Register(s, 5, nil); !errors.Is(err, hub.ErrReplaced) {
		t.Errorf("registered: %v", err)
	}
	o.Done()

	o = h.Open("s") // and is forgotten when nothing is being opened any more
	defer o.Done()
	if err := o.Register(s, 5, nil); err != nil {
		t.Error(err)
	}
}

func TestALapseClosesAllAndVoidsWhatIsBeingOpened(t *testing.T) {
	h := hub.New(10)
	a, b := &fakeSocket{hub: h}, &fakeSocket{hub: h}
	if err := register(t, h, a, "sa", 1); err != nil {
		t.Fatal(err)
	}
	o := h.Open("sb")
	defer o.Done()
	h.Lapse()(t.Context())
	h.Add(b)
	if a.code != linkv1.CloseCode_CLOSE_CODE_UNAVAILABLE {
		t.Errorf("closed with %v", a.code)
	}
	if err := o.Register(b, 1, nil); !errors.Is(err, hub.ErrLapsed) {
		t.Errorf("registered: %v", err)
	}
}

// Servers of pools that the store has lost are sent away to join again; all others stay.
func TestOnlyServersOfPoolsAreForgotten(t *testing.T) {
	h := hub.New(10)
	own, pooled := &fakeSocket{hub: h}, &fakeSocket{hub: h, pooled: true}
	h.Add(own)
	h.Add(pooled)
	h.Forgotten()(t.Context())
	if own.code != 0 || pooled.code != linkv1.CloseCode_CLOSE_CODE_UNAVAILABLE {
		t.Errorf("closed with %v, and the pool's with %v", own.code, pooled.code)
	}
}

// The servers of a gateway whose lease ran out come back one after the other, and not only much later.
func TestTheClosesOfALapseArePaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := hub.New(10_000)
		var all []*fakeSocket
		for range 5000 {
			s := &fakeSocket{hub: h, leaves: true}
			h.Add(s)
			all = append(all, s)
		}
		began := time.Now()
		h.Lapse()(t.Context())
		slots := make(map[time.Duration]int)
		for _, s := range all {
			slots[s.closedAt.Sub(began).Truncate(100*time.Millisecond)]++
		}
		for slot, n := range slots {
			if n > 300 || slot < 0 || slot > 2*time.Second {
				t.Errorf("%d closed within 100 ms at %v", n, slot)
			}
		}
	})
}

func TestTheHubIsBounded(t *testing.T) {
	h := hub.New(1)
	if !h.Add(&fakeSocket{}) || !h.Full() || h.Add(&fakeSocket{}) {
		t.Error("a hub for one socket took another number")
	}
}

func TestDrainIsPacedAndInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := hub.New(10_000)
		var all []*fakeSocket
		for range 5000 {
			s := &fakeSocket{hub: h, leaves: true} // do not know Move
			h.Add(s)
			all = append(all, s)
		}
		stubborn := &fakeSocket{hub: h}
		h.Add(stubborn)
		ctx, cancel := context.WithTimeout(t.Context(), 6*time.Second)
		defer cancel()
		began := time.Now()
		if err := h.Drain(ctx); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("it took %v", took)
		}
		if h.Add(&fakeSocket{}) {
			t.Error("a draining hub took a socket")
		}
		moves, goodbyes := make(map[time.Duration]int), make(map[time.Duration]int)
		for _, s := range all {
			if s.code != linkv1.CloseCode_CLOSE_CODE_GOING_AWAY || s.killed {
				t.Fatalf("closed with %v, killed %v", s.code, s.killed)
			}
			if s.within < time.Second || s.closedAt.Sub(s.movedAt) < s.within {
				t.Fatalf("told to leave within %v, and was sent away after %v", s.within, s.closedAt.Sub(s.movedAt))
			}
			moves[s.movedAt.Sub(began).Truncate(100*time.Millisecond)]++
			goodbyes[s.closedAt.Sub(began).Truncate(100*time.Millisecond)]++
		}
		for _, slots := range []map[time.Duration]int{moves, goodbyes} {
			for slot, n := range slots {
				if n > 300 {
					t.Errorf("%d servers sent elsewhere within 100 ms at %v", n, slot)
				}
			}
		}
		if !stubborn.killed {
			t.Error("who did not leave was not cut")
		}
	})
}

// Servers that leave when they are asked to are not sent away, and nobody waits for the rest of the time.
func TestADrainEndsWithTheLastServerThatMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := hub.New(100)
		var all []*fakeSocket
		for range 50 {
			s := &fakeSocket{hub: h, obeys: true}
			h.Add(s)
			all = append(all, s)
		}
		young := &fakeSocket{hub: h, young: true, leaves: true}
		h.Add(young)
		ctx, cancel := context.WithTimeout(t.Context(), 6*time.Second)
		defer cancel()
		began := time.Now()
		if err := h.Drain(ctx); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took > 600*time.Millisecond { // 51 slots of 10 ms
			t.Errorf("it took %v", took)
		}
		for _, s := range all {
			if s.code != 0 || s.killed {
				t.Fatalf("closed with %v, killed %v", s.code, s.killed)
			}
		}
		if young.code != linkv1.CloseCode_CLOSE_CODE_GOING_AWAY {
			t.Error("who has no session to move was not sent away")
		}
	})
}

func TestADrainWithLittleTimeKeepsItsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := hub.New(100)
		for range 50 {
			h.Add(&fakeSocket{hub: h})
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := h.Drain(ctx); err != nil {
			t.Error(err)
		}
	})
}
