package instance_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/berth-dev/berth/pkg/errs"
	. "github.com/berth-dev/berth/services/gameinstance/internal/instance"
)

// memory is a store of one instance, whose loads wait until they are let through.
type memory struct {
	Store
	let chan struct{} // nil: at once

	mu      sync.Mutex
	inst    *Instance
	done    map[CommandID]Done
	commits int
	fail    error
}

func (m *memory) Load(_ context.Context, _ string, _ Needs, commands []CommandID) (Loaded, error) {
	if m.let != nil {
		<-m.let
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	l := Loaded{Now: start, Done: map[CommandID]Done{}}
	if m.inst != nil {
		inst := *m.inst
		l.Instance = &inst
	}
	for _, c := range commands {
		if d, ok := m.done[c]; ok {
			l.Done[c] = d
		}
	}
	return l, nil
}

func (m *memory) Commit(_ context.Context, c *Change, kept []Kept) (Committed, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return Committed{}, m.fail
	}
	m.commits++
	m.inst = c.After
	revision := int64(m.commits)
	for _, k := range kept {
		m.done[k.ID] = Done{Digest: k.Digest, Revision: revision}
	}
	return Committed{Revision: revision}, nil
}

func (m *memory) Confirm(context.Context, string) error { return m.fail }

type nobody struct{}

func (nobody) Deliver(string, []Delivery) {}
func (nobody) Kick(string)                {}

func serve(m *memory) *Service {
	m.done = map[CommandID]Done{}
	m.inst = begin(&testing.T{}).inst
	s := NewService(Config{Store: m, Courier: nobody{}})
	s.SetDriver(nobody{})
	return s
}

func adding(player string) AddPlayers { return AddPlayers{Players: []Player{{ID: player}}} }

func named(name, digest string) Envelope {
	return Envelope{ID: CommandID{Name: name}, Digest: []byte(digest)}
}

// Commands that wait while one is under way are committed together, each with its own outcome.
func TestCommandsThatWaitAreFolded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{let: make(chan struct{})}
		s := serve(m)
		var all sync.WaitGroup
		outcomes := make([]error, 6)
		revisions := make([]int64, 6)
		apply := func(n int, env Envelope, cmd Command) {
			all.Go(func() {
				inst, err := s.Apply(t.Context(), "default", id, env, cmd)
				if outcomes[n] = err; err == nil {
					revisions[n] = inst.Revision
				}
			})
			synctest.Wait() // so that they come in this order
		}
		apply(0, Envelope{}, adding("a"))
		apply(1, named("x", "d"), adding("b"))
		apply(2, Envelope{}, adding("a"))                 // is there by then
		apply(3, named("x", "d"), adding("b"))            // a repeat of one that waits with it
		apply(4, named("x", "other"), adding("c"))        // not the same request
		apply(5, Envelope{}, UpdateGameData{Expected: 1}) // upon the revision that the first makes, which is not the newest any more
		close(m.let)
		all.Wait()
		want := []errs.Reason{"", "", errs.PlayerExists, "", errs.RequestIDReused, errs.RevisionMismatch}
		for n, err := range outcomes {
			if errs.ReasonOf(err) != want[n] {
				t.Errorf("command %d: %v, want %q", n, err, want[n])
			}
		}
		if m.commits != 2 || m.inst.PlayerCount != 4 || fmt.Sprint(revisions) != "[1 2 0 2 0 0]" {
			t.Errorf("%d commits, %d players, revisions %v", m.commits, m.inst.PlayerCount, revisions)
		}
	})
}

// A server that came back in the very moment in which somebody else wrote was taken for one that knows more than the store, and the store for one that has lost
// writes.
func TestAReconnectThatIsFoldedLosesNothing(t *testing.T) {
	for revision, attached := range map[int64]bool{1: true, 5: false} { // what the server knows of; the store has 1 by then
		synctest.Test(t, func(t *testing.T) {
			m := &memory{let: make(chan struct{})}
			s := serve(m)
			m.inst = begin(t).do(link, ConnectPlayers{Server: me}).inst
			epoch := m.inst.Link.Epoch
			var all sync.WaitGroup
			apply := func(cmd Command) {
				all.Go(func() {
					if _, err := s.Apply(t.Context(), "default", id, Envelope{}, cmd); err != nil {
						t.Error(err)
					}
				})
				synctest.Wait()
			}
			apply(adding("a"))
			apply(adding("b")) // waits, and with it
			apply(AttachSession{ServerID: server1, SessionEpoch: 2, GatewayID: "b", LinkEpoch: epoch, Revision: revision})
			close(m.let)
			all.Wait()
			if got := m.inst.Link.SessionEpoch == 2; m.commits != 2 || got != attached {
				t.Errorf("revision %d: %d commits, attached: %v", revision, m.commits, got)
			}
		})
	}
}

// Nothing that was decided upon the outcome of a commit that failed may be told as certain.
func TestAFailedCommitIsEverybodys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{let: make(chan struct{}), fail: errs.New(errs.StoreUnavailable, "away")}
		s := serve(m)
		var all sync.WaitGroup
		for _, cmd := range []Command{LoseGateway{GatewayID: "first, alone"}, adding("a"), adding("a")} {
			all.Go(func() {
				if _, err := s.Apply(t.Context(), "default", id, Envelope{}, cmd); err != nil && !errs.Is(err, errs.StoreUnavailable) {
					t.Errorf("%T: %v", cmd, err)
				}
			})
			synctest.Wait()
		}
		close(m.let)
		all.Wait()
	})
}

// Whoever goes away holds nobody up, whether it waits or has its turn.
func TestACallerWhoGoesAwayHoldsNobodyUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{let: make(chan struct{})}
		s := serve(m)
		ctx, leave := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() { _, _ = s.Apply(t.Context(), "default", id, Envelope{}, adding("first")) })
		synctest.Wait()
		all.Go(func() {
			if _, err := s.Apply(ctx, "default", id, Envelope{}, adding("gone")); !errors.Is(err, context.Canceled) {
				t.Errorf("who went away: %v", err)
			}
		})
		synctest.Wait()
		all.Go(func() {
			if _, err := s.Apply(t.Context(), "default", id, Envelope{}, adding("last")); err != nil {
				t.Errorf("who came after: %v", err)
			}
		})
		synctest.Wait()
		leave()
		synctest.Wait()
		close(m.let)
		all.Wait()
		if _, in := m.inst.Players["last"]; !in {
			t.Errorf("players %v", m.inst.Players)
		}
		if _, in := m.inst.Players["gone"]; in {
			t.Error("a command was decided whose caller had gone before its turn")
		}
	})
}

// hung is a store that answers nothing until whoever asks gives up.
type hung struct {
	Store
	asked, givenUp atomic.Int64
}

func (h *hung) Load(ctx context.Context, _ string, _ Needs, _ []CommandID) (Loaded, error) {
	h.asked.Add(1)
	<-ctx.Done()
	h.givenUp.Add(1)
	return Loaded{}, ctx.Err()
}

// Nobody waits at a store that hangs for a caller who has gone, be it the one that serves the batch or not; and for one who had gone before, nobody asks it. A stop
// depends on it.
func TestNothingIsDoneForNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &hung{}
		s := NewService(Config{Store: store, Courier: nobody{}})
		s.SetDriver(nobody{})
		began := time.Now()
		ctx, leave := context.WithCancel(t.Context())
		var all sync.WaitGroup
		for n := range 3 { // the first is served alone, the others together
			all.Go(func() {
				if _, err := s.Apply(ctx, "default", id, Envelope{}, adding(fmt.Sprint(n))); !errors.Is(err, context.Canceled) {
					t.Errorf("%d: %v", n, err)
				}
			})
			synctest.Wait()
		}
		leave()
		all.Wait()
		asked := store.asked.Load()
		for range 50 {
			if _, err := s.Apply(ctx, "default", id, Envelope{}, adding("late")); !errors.Is(err, context.Canceled) {
				t.Errorf("late: %v", err)
			}
		}
		if got := store.asked.Load(); got != asked || time.Since(began) != 0 {
			t.Errorf("the store was asked %d times for who had gone before; all took %v", got-asked, time.Since(began))
		}
	})
}

// A batch goes on as long as one of those in it waits.
func TestABatchIsServedForWhoStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &hung{}
		s := NewService(Config{Store: store, Courier: nobody{}})
		s.SetDriver(nobody{})
		first, leaveFirst := context.WithCancel(t.Context())
		gone, leave := context.WithCancel(t.Context())
		stays, end := context.WithCancel(t.Context())
		var all sync.WaitGroup
		for _, ctx := range []context.Context{first, gone, stays} {
			all.Go(func() { _, _ = s.Apply(ctx, "default", id, Envelope{}, adding("a")) })
			synctest.Wait()
		}
		leaveFirst()
		synctest.Wait() // the other two are served together now
		leave()
		synctest.Wait()
		if asked, givenUp := store.asked.Load(), store.givenUp.Load(); asked != 2 || givenUp != 1 {
			t.Errorf("of %d batches %d were given up, want 1 of 2", asked, givenUp)
		}
		end()
		synctest.Wait()
		if givenUp := store.givenUp.Load(); givenUp != 2 {
			t.Errorf("%d batches were given up; the second outlives the last of those in it", givenUp)
		}
		all.Wait()
	})
}

// A crowd of commands is served to the last one, by those who came with them.
func TestACrowdIsServed(t *testing.T) {
	m := &memory{}
	s := serve(m)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var all sync.WaitGroup
	for n := range 500 {
		all.Go(func() {
			if _, err := s.Apply(ctx, "default", id, Envelope{}, adding(fmt.Sprint(n))); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if m.inst.PlayerCount != 502 {
		t.Errorf("%d players", m.inst.PlayerCount)
	}
}
